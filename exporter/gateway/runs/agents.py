"""What agents do: their events and their present states."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from exporter.gateway.runs.run import Run
from store.rows import AgentEvent, AgentState

MAX_AGENTS = 1_000
HEAT = timedelta(seconds=60)  # of the messages that are counted as an agent's heat
MAX_HEAT = 1_000
_BUSIEST_FIRST = ("waiting", "tool", "thinking")


class Agents:
    """The state and the heat of each agent. Changes with what people see of an agent."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._states: dict[str, AgentState] = {}
        self._messages: OrderedDict[str, deque[datetime]] = OrderedDict()  # by agent: when

    @property
    def states(self) -> Mapping[str, AgentState]:
        """The present state of each agent that was seen."""
        return self._states

    def event(self, run: Run, at: datetime, event: str, activity: str, tool: str | None = None) -> AgentEvent:
        """Something that the agent of a run did."""
        return AgentEvent(
            gateway=self._gateway,
            agent=run.agent,
            heat=self._heat(run.agent, at, event),
            ts=at,
            event=event,
            activity=activity,
            tool=tool,
            session_key=run.operation.session_key,
            run_id=run.operation.run_id,
        )

    def _heat(self, agent: str, at: datetime, event: str) -> int:
        """How many messages went to and from an agent in the last 60 s, this one included."""
        messages = self._messages.setdefault(agent, deque(maxlen=MAX_HEAT))
        self._messages.move_to_end(agent)
        while len(self._messages) > MAX_AGENTS:
            self._messages.popitem(last=False)
        if event in {"message_in", "message_out"}:
            messages.append(at)
        return sum(at - HEAT < one <= at for one in messages)

    def changed(self, run: Run, at: datetime, in_progress: Iterable[Run]) -> AgentState | None:
        """The state of the run's agent, when it has changed: the busiest of its runs in progress decides."""
        agent = run.agent
        at_work = [other for other in in_progress if other.agent == agent]
        busiest = min(at_work, key=lambda other: _BUSIEST_FIRST.index(other.state), default=None)
        if busiest is not None:
            state, activity = busiest.state, busiest.operation.activity
        else:
            state, activity = ("error" if run.operation.status == "failed" else "idle"), run.operation.activity
        before = self._states.get(agent)
        if before is not None and (before.state, before.activity) == (state, activity):
            self._states[agent] = replace(before, at=max(before.at, at))
            return None
        if before is None and len(self._states) >= MAX_AGENTS:
            return None
        self._states[agent] = AgentState(self._gateway, agent, state, at, activity)
        return self._states[agent]
