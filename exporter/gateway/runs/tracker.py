"""Operations, agent events and agent states, derived from what the gateway pushes and from what polls tell. Pure.

A run of an agent becomes an operation without the agent's co-operation; its steps are its tool calls. A pushed event
is used at once; a poll is the truth and ends (or begins) what events did not tell, because they were missed or because
we were not there. The same run always has the same id, so that a restart or a second sight changes nothing.

No content passes: activities name a tool and at most the name of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from exporter.gateway.runs.book import RunBook
from exporter.gateway.runs.derived import Derived, merged
from exporter.gateway.runs.listed import ListedRuns
from exporter.gateway.runs.pushed import PushedRuns
from exporter.gateway.runs.run import Outcome
from exporter.gateway.runs.scheduled import ScheduledRuns
from openclaw.fields import mapping
from openclaw.protocol import Pushed
from store.operations import DerivedOperation
from store.rows import AgentState


class RunTracker:
    """Follows every run of one gateway: gives each sign to the part that understands it. Changes with the kinds of
    signs that there are. Not thread-safe; give it events in the order in which they came."""

    def __init__(self, gateway: str) -> None:
        self._book = RunBook(gateway)
        self._pushed = PushedRuns(self._book)
        self._scheduled = ScheduledRuns(self._book)
        self._listed = ListedRuns(self._book)

    @property
    def active(self) -> int:
        """How many runs are in progress."""
        return len(self._book.in_progress())

    @property
    def states(self) -> Mapping[str, AgentState]:
        """The present state of each agent that was seen."""
        return self._book.agents.states

    def operation_of(self, payload: Mapping[str, Any]) -> str:
        """The id of the operation that an event with this payload belongs to."""
        return self._book.id_of_payload(payload)

    def restore(self, known: Iterable[DerivedOperation], now: datetime) -> None:
        """Go on after a restart from the operations of the last day, as `store.operations.derived_since` gives them."""
        self._book.restore(known, now)

    def event(self, pushed: Pushed, now: datetime) -> Derived:
        """What a pushed event means; nothing for events that are not about runs."""
        payload = mapping(pushed.payload)
        match pushed.event:
            case "agent" | "session.tool":
                return self._pushed.event(payload, now)
            case "cron":
                return self._scheduled.event(payload, now)
        return Derived()

    def gateway_started(self, at: datetime) -> Derived:
        """The gateway's process began at `at`: what ran before died with the process before it. (What the gateway takes
        up again is a new run.)"""
        dead = [run for run in self._book.in_progress() if run.operation.started_at and run.operation.started_at < at]
        lost = Outcome(at, "failed", "gateway_restarted", "the gateway ended while it ran")
        return merged([self._book.finish(run, run.outcome or lost) for run in dead])

    def jobs(self, names: Mapping[str, str]) -> None:
        """The jobs that the gateway lists now, by id."""
        self._book.jobs.listed(names)

    def cron_run(self, run: Mapping[str, Any], now: datetime) -> Derived:
        """A finished run of a job, as `cron.runs` lists it."""
        return self._scheduled.finished(run, now)

    def sessions(self, listed: Sequence[Mapping[str, Any]], asked_at: datetime, now: datetime) -> Derived:
        """What `sessions.list`, asked at `asked_at`, tells of runs that began or ended without us noticing."""
        return self._listed.sessions(listed, asked_at, now)
