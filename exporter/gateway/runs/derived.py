"""What events and polls gave: the rows that are to be kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from store.operations import DerivedOperation
from store.rows import AgentEvent, AgentState


@dataclass(frozen=True, slots=True)
class Derived:
    """What one event or poll gave. Operations are whole as far as known; upserting them again changes nothing."""

    operations: tuple[DerivedOperation, ...] = ()
    agent_events: tuple[AgentEvent, ...] = ()
    states: tuple[AgentState, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self.operations or self.agent_events or self.states)


def merged(parts: Iterable[Derived]) -> Derived:
    """Several as one: the last word on an operation with the steps of all, every event, the last state of an agent."""
    operations: dict[str, DerivedOperation] = {}
    events: list[AgentEvent] = []
    states: dict[str, AgentState] = {}
    for part in parts:
        for operation in part.operations:
            before = operations.get(operation.id)
            steps = {step.id: step for step in (*(before.steps if before else ()), *operation.steps)}
            operations[operation.id] = replace(operation, steps=tuple(steps.values()))
        events += part.agent_events
        states.update({state.agent: state for state in part.states})
    return Derived(tuple(operations.values()), tuple(events), tuple(states.values()))
