"""The book of a gateway's runs: which are in progress, which have ended, and what a change of one gives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from exporter.gateway.runs.agents import Agents
from exporter.gateway.runs.derived import Derived
from exporter.gateway.runs.jobs import Jobs
from exporter.gateway.runs.origin import new_run
from exporter.gateway.runs.run import Outcome, Run
from openclaw.fields import text
from openclaw.stores.keys import session_kind
from store.operations import DerivedOperation, DerivedStep, run_operation_id
from store.rows import AgentEvent

MAX_RUNS = 2_000  # in progress at once; beyond it the longest untouched is let go
MAX_ENDED = 10_000  # remembered, so that a poll does not write them anew each time
POLL_SLACK = timedelta(seconds=5)  # a poll may have been answered just before the run began or an event was sent
MAX_ERROR_TEXT = 300  # characters of what the gateway says of a failure
HISTORY = timedelta(hours=24)  # a poll makes operations of runs that ended so long ago, not of older ones


class RunBook:
    """The runs of one gateway, found by the id of their operation. Changes with how runs are told apart and for how
    long they are remembered."""

    def __init__(self, gateway: str) -> None:
        self.agents = Agents(gateway)
        self.jobs = Jobs()
        self._gateway = gateway
        self._in_progress: OrderedDict[str, Run] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def in_progress(self) -> list[Run]:
        """The runs that have not ended, the longest untouched first."""
        return list(self._in_progress.values())

    def get(self, key: str) -> Run | None:
        """A run in progress."""
        return self._in_progress.get(key)

    def has_ended(self, key: str) -> bool:
        """Whether this run is known to have ended."""
        return key in self._ended

    def restore(self, known: Iterable[DerivedOperation], now: datetime) -> None:
        """Go on after a restart from the operations of the last day, as `store.operations.derived_since` gives them."""
        for operation in known:
            if operation.id in self._in_progress or operation.id in self._ended:
                continue
            if operation.status != "in_progress":
                self._remember(operation.id)
                self.jobs.remember(operation)
                continue
            began = operation.started_at or now
            run = Run.restored(replace(operation, started_at=began), now - POLL_SLACK * 2)
            self._in_progress[run.id] = run
            # At work until a poll or an event says otherwise.
            self.agents.changed(run, began, self._in_progress.values())

    def id_of_payload(self, payload: Mapping[str, Any]) -> str:
        """The id of the operation. One cron or webhook run has a session of its own, and maybe several run ids (and the
        history of the scheduler none that the agent knows)."""
        key, session_id = text(payload.get("sessionKey")) or "", text(payload.get("sessionId"))
        if ":run:" in key and session_kind(key) in {"cron", "hook"}:
            return self.id_of(f"session:{session_id or key.rsplit(':', 1)[1]}")
        return self.id_of(text(payload.get("runId")) or f"session:{session_id}")

    def id_of(self, run: str) -> str:
        """The id of the operation of a run that is named so."""
        return run_operation_id(self._gateway, run)

    def find(self, payload: Mapping[str, Any], at: datetime, now: datetime) -> tuple[Run | None, bool]:
        """The run of an event, begun if it is new (then True); None when it has ended before."""
        key = self.id_of_payload(payload)
        known = self._in_progress.get(key)
        if known is not None:
            known.touched = now
            if known.operation.session_id is None:  # not every event tells it
                known.operation = replace(known.operation, session_id=text(payload.get("sessionId")))
            self._in_progress.move_to_end(key)
            return known, False
        if key in self._ended:
            return None, False
        return self.begin(key, payload, at, now), True

    def begin(self, key: str, payload: Mapping[str, Any], at: datetime, now: datetime) -> Run:
        """A new run (see `new_run`)."""
        run = new_run(self._gateway, self.jobs, key, payload, at=at, now=now)
        self._in_progress[key] = run
        while len(self._in_progress) > MAX_RUNS:
            self._in_progress.popitem(last=False)
        return run

    def changed(
        self, run: Run, at: datetime, told: Sequence[AgentEvent] = (), steps: Sequence[DerivedStep] = ()
    ) -> Derived:
        """What is to be kept of a run that has changed, with these of its steps."""
        state = self.agents.changed(run, at, self._in_progress.values())
        return Derived((replace(run.operation, steps=tuple(steps)),), tuple(told), (state,) if state else ())

    def finish(self, run: Run, outcome: Outcome) -> Derived:
        """End a run."""
        self._in_progress.pop(run.id, None)
        self._remember(run.id)
        open_steps = run.end(outcome)
        self.jobs.remember(run.operation)
        if not run.news:
            return Derived((run.operation,))
        at, tell, told = outcome.at, self.agents.event, []
        if outcome.status == "failed":
            told.append(tell(run, at, "error", f"Failed: {outcome.code}"))
        elif outcome.status == "completed" and run.operation.type == "agent_task":
            told.append(tell(run, at, "message_out", "Sent a reply"))
        if run.kind == "subagent":
            told.append(tell(run, at, "subagent_ended", "A sub-agent ended"))
        if not any(other.agent == run.agent for other in self._in_progress.values()):
            told.append(tell(run, at, "idle", "Idle"))
        return self.changed(run, at, told, open_steps)

    def _remember(self, key: str) -> None:
        self._ended[key] = None
        self._ended.move_to_end(key)
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
