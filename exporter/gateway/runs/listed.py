"""What lists of sessions tell of runs that began or ended without us noticing. A list is the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from exporter.gateway.runs.activities import THINKING
from exporter.gateway.runs.book import HISTORY, MAX_ERROR_TEXT, POLL_SLACK, RunBook
from exporter.gateway.runs.derived import Derived, merged
from exporter.gateway.runs.run import Outcome, Run
from openclaw.fields import instant, text

# A busy gateway lists a run late, and a run may be silent for long: only after this much silence is a run that is not
# listed, and whose end nobody tells, taken for ended.
SILENCE = timedelta(minutes=5)
_SESSION_STATUS = {"done": "completed", "failed": "failed", "killed": "cancelled", "timeout": "failed"}


class ListedRuns:
    """Runs as `sessions.list` shows them. Changes with what the gateway lists of a session."""

    def __init__(self, book: RunBook) -> None:
        self._book = book

    def sessions(self, listed: Sequence[Mapping[str, Any]], asked_at: datetime, now: datetime) -> Derived:
        """What a list that was asked for at `asked_at` gives."""
        found: list[Derived] = []
        seen: dict[str, tuple[Mapping[str, Any], bool]] = {}
        for session in listed:
            active = [run for run in session.get("activeRunIds") or () if isinstance(run, str)]
            last = text(session.get("lastRunId"))
            for run_id in active:
                seen[self._key(session, run_id)] = (session, True)
            if last and last not in active:
                seen.setdefault(self._key(session, last), (session, False))
            found += [self._still_running(session, run_id, now) for run_id in active]
        where = {text(session.get(name)): session for session in listed for name in ("sessionId", "key")}
        where.pop(None, None)
        for run in self._book.in_progress():
            if run.touched > asked_at - POLL_SLACK or seen.get(run.id, (None, False))[1]:
                continue
            own = where.get(run.operation.session_id) or where.get(run.operation.session_key)
            found.append(self._lost(run, own, asked_at))
        found += [self._unseen(key, session, now) for key, (session, running) in seen.items() if not running]
        return merged(found)

    def _key(self, session: Mapping[str, Any], run_id: str) -> str:
        return self._book.id_of_payload(_as_payload(session, run_id))

    def _still_running(self, session: Mapping[str, Any], run_id: str, now: datetime) -> Derived:
        shape = _as_payload(session, run_id)
        # A session tells when its last run began, and while a run begins that is still the one before.
        run, new = self._book.find(shape, now, now)
        if run is None or not new:
            return Derived()
        run.polled = True
        return self._book.changed(run, now, [self._book.agents.event(run, now, "thinking", THINKING)])

    def _lost(self, run: Run, session: Mapping[str, Any] | None, asked_at: datetime) -> Derived:
        """A run that is no longer active and whose end was not told."""
        finish = self._book.finish
        if run.outcome is not None:
            return finish(run, run.outcome)
        silent = run.touched <= asked_at - SILENCE
        if session is None:
            gone = Outcome(asked_at, "cancelled", "session_gone", "its session is no longer listed")
            return finish(run, gone) if silent else Derived()
        if session.get("hasActiveRun") is None and text(session.get("status")) == "running":
            run.touched = asked_at  # before 2026.9 only the status tells
            return Derived()
        status = _SESSION_STATUS.get(text(session.get("status")) or "")
        last = text(session.get("lastRunId"))
        if status is None or (last is not None and last != run.operation.run_id):
            unseen = Outcome(asked_at, "cancelled", "end_not_seen", "it ended while nobody was looking")
            return finish(run, unseen) if silent else Derived()
        return finish(run, _outcome(session, status, instant(session.get("endedAt")) or asked_at))

    def _unseen(self, key: str, session: Mapping[str, Any], now: datetime) -> Derived:
        """The last run of a session, which began and ended while we were not there."""
        ended, started = instant(session.get("endedAt")), instant(session.get("startedAt"))
        status = _SESSION_STATUS.get(text(session.get("status")) or "")
        if self._book.has_ended(key) or self._book.get(key) is not None or status is None:
            return Derived()
        if ended is None or started is None or not now - HISTORY <= ended <= now + POLL_SLACK:
            return Derived()
        run = self._book.begin(key, _as_payload(session, text(session.get("lastRunId"))), started, now)
        run.news = False
        return self._book.finish(run, _outcome(session, status, ended))


def _outcome(session: Mapping[str, Any], status: str, ended: datetime) -> Outcome:
    if status == "completed":
        return Outcome(ended, status)
    word = text(session.get("status"), 32) or status
    return Outcome(ended, status, word, text(session.get("lastRunError"), MAX_ERROR_TEXT) or word)


def _as_payload(session: Mapping[str, Any], run_id: str | None) -> dict[str, Any]:
    """A session and one of its runs in the names of events."""
    return {
        "runId": run_id,
        "sessionKey": session.get("key"),
        "sessionId": session.get("sessionId"),
        "agentId": session.get("agentId"),
        "createdVia": session.get("createdVia"),
        "spawnedBy": session.get("spawnedBy"),
    }
