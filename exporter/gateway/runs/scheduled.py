"""What the scheduler tells of its runs: events `cron`, and polls of jobs and of their finished runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from exporter.gateway.runs.book import HISTORY, MAX_ERROR_TEXT, RunBook
from exporter.gateway.runs.derived import Derived
from exporter.gateway.runs.jobs import SAME_RUN
from exporter.gateway.runs.origin import agent_of
from exporter.gateway.runs.run import Outcome, Run
from openclaw.fields import instant, mapping, text, whole

NEWS = timedelta(minutes=1)  # of what ended longer ago nobody is told; it only becomes a row


class ScheduledRuns:
    """The runs of jobs. Changes with what the gateway's scheduler tells."""

    def __init__(self, book: RunBook) -> None:
        self._book = book

    def event(self, payload: Mapping[str, Any], now: datetime) -> Derived:
        """An event `cron`."""
        job_id = text(payload.get("jobId"), 128)
        if job_id is None:
            return Derived()
        name = text(mapping(payload, "job").get("name"), 200)
        if name:
            self._book.jobs.keep(job_id, name)
        if payload.get("action") != "finished":
            return Derived()
        return self.finished(payload, now)

    def finished(self, told: Mapping[str, Any], now: datetime) -> Derived:
        """A finished run of a job: an event `cron` or an entry of `cron.runs`."""
        book = self._book
        job_id, started = text(told.get("jobId"), 128), instant(told.get("runAtMs"))
        if job_id is None or started is None:
            return Derived()
        session_id = text(told.get("sessionId"))
        key = book.id_of(f"session:{session_id}" if session_id else f"cron:{job_id}:{whole(told.get('runAtMs'))}")
        ended = started + timedelta(milliseconds=whole(told.get("durationMs")) or 0)
        if book.has_ended(key) or started < now - HISTORY:
            return Derived()
        if book.jobs.has_run(job_id, started, ended, session=session_id is not None):
            return Derived()
        run = book.get(key) or (None if session_id else self._in_progress(job_id, started, ended))
        if run is None:
            agent = text(told.get("agentId")) or agent_of(text(told.get("sessionKey")))
            shape = {"sessionKey": told.get("sessionKey"), "sessionId": session_id, "agentId": agent}
            run = book.begin(key, shape, started, now)
            run.news = ended > now - NEWS
            run.operation = replace(
                run.operation,
                type="scheduled",
                source="cron",
                cron_job_id=job_id,
                run_id=None,
                started_at=started,
                name=book.jobs.name(job_id) or text(told.get("jobName"), 200) or f"Scheduled run of {agent}",
            )
        status = text(told.get("status")) or "unknown"
        if status in {"ok", "skipped"}:
            return book.finish(run, Outcome(ended, "completed" if status == "ok" else "cancelled", status, status))
        code = text(told.get("errorReason"), 64) or status
        return book.finish(run, Outcome(ended, "failed", code, text(told.get("error"), MAX_ERROR_TEXT) or status))

    def _in_progress(self, job_id: str, started: datetime, ended: datetime) -> Run | None:
        """The run of a job that goes on as far as we know, of which a record without its session is."""
        for run in self._book.in_progress():
            began = run.operation.started_at
            if run.operation.cron_job_id != job_id or began is None:
                continue
            if started - SAME_RUN <= began <= ended + SAME_RUN:
                return run
        return None
