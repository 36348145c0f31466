"""One run of an agent, from its first sign to its end, as the operation that tells it."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from exporter.gateway.runs.activities import THINKING, activity_text
from openclaw.stores.keys import session_kind
from openclaw.wrapped import TOOL_CALL
from store.operations import DerivedOperation, DerivedStep

MAX_STEPS = 500  # of one run
_SKILL = re.compile(r"([\w.-]{1,64})/SKILL\.md$")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How and when a run ended. `code` and `error`: why, when it was not completed."""

    at: datetime
    status: str
    code: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A sign that a tool call has begun or ended. `inner`: it is the call inside of another, which is the step."""

    step_id: str
    tool: str
    hint: str | None  # a path, or a text that ends with one
    inner: bool
    started_at: datetime
    ended_at: datetime | None = None  # None: it has begun
    failed: bool = False
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """A step that was begun or has ended, or of which more is known; `event` None: of which nobody is told."""

    step: DerivedStep
    event: str | None
    activity: str


@dataclass(slots=True)
class Run:
    """A run, its steps and what it does now. Changes with what an operation tells of a run; what signs of it look
    like, and which run they belong to, is known elsewhere."""

    operation: DerivedOperation
    kind: str  # of its session
    touched: datetime  # when it was last heard of
    steps: OrderedDict[str, DerivedStep] = field(default_factory=OrderedDict)
    tools: dict[str, str] = field(default_factory=dict)  # running steps → activity
    waiting: bool = False
    polled: bool = False  # a poll found it, and its start was not told yet
    news: bool = True  # False: it was over before we heard of it, so nobody is told and no state changes
    outcome: Outcome | None = None  # as the agent told; the scheduler's counts more

    @classmethod
    def restored(cls, operation: DerivedOperation, touched: datetime) -> Run:
        """A run that goes on, from what was kept of it. `started_at` must be known."""
        run = cls(replace(operation, steps=()), session_kind(operation.session_key), touched)
        for step in operation.steps:
            run.steps[step.id] = step
            if step.status == "running":
                run.tools[step.id] = activity_text(step.name)
        return run

    @property
    def id(self) -> str:
        """The id of its operation."""
        return self.operation.id

    @property
    def agent(self) -> str:
        """Whose run it is."""
        return self.operation.agent_id or "main"

    @property
    def state(self) -> str:
        """What its agent is at, as far as this run goes."""
        if self.waiting:
            return "waiting"
        return "tool" if self.tools else "thinking"

    def wait(self) -> None:
        """It waits for an approval."""
        self.waiting = True
        self.doing("Waiting for an approval")

    def go_on(self) -> None:
        """The approval was given or refused."""
        self.waiting = False
        self.doing(self._current())

    def doing(self, activity: str) -> None:
        """Say what it does."""
        self.operation = replace(self.operation, activity=activity)

    def began(self, at: datetime) -> None:
        """It began then, if not earlier."""
        self.operation = replace(self.operation, started_at=min(self.operation.started_at or at, at))

    def uses(self, provider: Any, model: Any) -> None:
        """Note the model."""
        found = {"provider": provider, "model": model}
        self.operation = replace(self.operation, metadata={**self.operation.metadata, **found})

    def use_tool(self, call: ToolCall) -> Used | None:
        """Take in a sign of a tool call; None when it tells nothing new."""
        before = self.steps.get(call.step_id)
        if before is None and len(self.steps) >= MAX_STEPS:
            return None
        unnamed = before is None or before.name == TOOL_CALL
        name = before.name if before is not None and not (call.inner or unnamed) else call.tool
        activity = activity_text(name, call.hint)
        started = (before.started_at if before else None) or call.started_at
        step = before or DerivedStep(id=call.step_id, name=name, started_at=started)
        step = replace(step, name=name)
        ended = call.ended_at is not None
        if call.ended_at is not None and not call.inner:
            if step.status != "running":
                return None  # told twice: by the streams `item` and `tool`
            step = _finished(step, call, call.ended_at)
            self.tools.pop(step.id, None)
        elif not ended:
            if before is not None and step.id in self.tools and not call.inner and name == before.name:
                return None
            self.tools[step.id] = activity
        self.steps[step.id] = step
        self._note_skill(name, call.hint)
        index = list(self.steps).index(step.id)
        self.operation = replace(self.operation, current_step=name, current_step_index=index, activity=self._current())
        told = (ended and not call.inner) or (not ended and unnamed and name != TOOL_CALL)
        return Used(step, ("tool_end" if ended else "tool_start") if told else None, activity)

    def end(self, outcome: Outcome) -> list[DerivedStep]:
        """It has ended; gives the steps that were left open, as skipped."""
        success = outcome.status == "completed"
        if success:
            disposition: dict[str, Any] = {"success": True, "result": {"steps": len(self.steps)}}
        else:
            error, code = outcome.error or outcome.status, outcome.code or outcome.status
            disposition = {"success": False, "error": error, "errorCode": code}
        self.operation = replace(
            self.operation,
            status=outcome.status,
            completed_at=max(outcome.at, self.operation.started_at or outcome.at),
            activity="Done" if success else "Stopped" if outcome.status == "cancelled" else "Failed",
            disposition=disposition,
        )
        return [replace(step, status="skipped") for step in self.steps.values() if step.status == "running"]

    def _note_skill(self, tool: str, hint: str | None) -> None:
        """A run whose first step reads a SKILL.md was started by that skill."""
        found = _SKILL.search(hint or "") if tool == "read" and len(self.steps) == 1 else None
        if found is not None and self.operation.type == "agent_task":
            name = found[1]
            self.operation = replace(self.operation, type="skill", name=f"Skill {name}", skill_name=name)

    def _current(self) -> str:
        return next(reversed(self.tools.values()), THINKING)


def _finished(step: DerivedStep, call: ToolCall, at: datetime) -> DerivedStep:
    """A step that has ended. Error texts may quote content: not kept."""
    failed = call.failed or bool(call.exit_code)
    started = step.started_at or at
    return replace(
        step,
        status="failed" if failed else "completed",
        completed_at=max(at, started),
        duration_ms=max(0, round((at - started).total_seconds() * 1000)),
        error=(f"exit status {call.exit_code}" if call.exit_code else "the tool reported an error") if failed else None,
    )
