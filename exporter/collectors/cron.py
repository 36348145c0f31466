"""Scheduled jobs: state, plan and run history; from the gateway, else from what it stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import CRON_STATUSES
from openclaw.client import GatewayClient
from openclaw.fields import flag, instant, items, mapping, text, whole
from openclaw.schedule import describe, period_seconds
from openclaw.state_records import ASK_RECORDS, NoRecordsError, StateRecords
from store.rows import CronJob, CronRun

MAX_PAGES = 50
RUNS = 200
FLAPS_OF = 24 * 3600.0  # seconds
MOST_OUTCOMES = 100  # of each job
# How receipts and run entries name what the catalogue names otherwise.
_STATUSES = {"interrupted": "error", "superseded": "skipped", "timeout": "error", "failed": "error"}

_DELIVERIES = frozenset({"delivered", "not-delivered", "not-requested"})  # and "unknown", which tells nothing

# Told the names of the jobs by id and the entries of finished runs.
Listener = Callable[[Mapping[str, str], Sequence[Mapping[str, Any]]], None]
SaveJobs = Callable[[Sequence[CronJob]], Awaitable[None]]
SaveRuns = Callable[[Sequence[CronRun]], Awaitable[None]]


def status_of(job: Mapping[str, Any]) -> str:
    """One of the catalogue's statuses for the last run of a job."""
    state = mapping(job, "state")
    if whole(state.get("runningAtMs")):
        return "running"
    status = text(state.get("lastRunStatus")) or text(state.get("lastStatus"))
    if status is None:
        return "never"
    status = _STATUSES.get(status, status)
    return status if status in CRON_STATUSES else "error"


def to_job(gateway: str, job: Mapping[str, Any], now: datetime) -> CronJob | None:
    """The row of one item of `cron.list`; None without an id."""
    job_id = text(job.get("id"), 128)
    if job_id is None:
        return None
    state, schedule = mapping(job, "state"), mapping(job, "schedule")
    status = status_of(job)
    return CronJob(
        gateway=gateway,
        job_id=job_id,
        agent=text(job.get("agentId")) or text(job.get("effectiveAgentId")),
        name=text(job.get("name"), 200) or job_id,
        schedule=describe(schedule),
        enabled=flag(job.get("enabled")) is not False,
        period_seconds=period_seconds(schedule, now),
        next_run_at=instant(state.get("nextRunAtMs")),
        last_run_at=instant(state.get("runningAtMs")) or instant(state.get("lastRunAtMs")),
        last_status=None if status == "never" else status,
        last_duration_ms=whole(state.get("lastDurationMs")),
        consecutive_errors=whole(state.get("consecutiveErrors")) or 0,
        last_error=text(state.get("lastError")) if status == "error" else None,
        delivery_status=text(state.get("lastDeliveryStatus"), 64),
    )


def to_run(gateway: str, run: Mapping[str, Any]) -> CronRun | None:
    """The row of one entry of `cron.runs`; None without a job or a start."""
    job_id, started = text(run.get("jobId"), 128), instant(run.get("runAtMs"))
    if job_id is None or started is None:
        return None
    duration = whole(run.get("durationMs"))
    status = text(run.get("status"), 32) or "unknown"
    return CronRun(
        gateway=gateway,
        job_id=job_id,
        started_at=started,
        finished_at=None if duration is None else started + timedelta(milliseconds=duration),
        status=status,
        error=text(run.get("error")),
        session_id=text(run.get("sessionId")),
    )


class CronCollector:
    """Polls `cron.list`, `cron.status` and `cron.runs`; reads the state directory while the gateway is away."""

    name = "cron"

    def __init__(
        self,
        gateway: str,
        client: GatewayClient,
        *,
        interval: float = 15.0,
        records: StateRecords | None = None,
        save_jobs: SaveJobs | None = None,
        save_runs: SaveRuns | None = None,
        listener: Listener | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.interval = interval
        self.deadline = 30.0
        self._gateway = gateway
        self._client = client
        self._records = records
        self._save_jobs = save_jobs
        self._save_runs = save_runs
        self._listener = listener
        self._now = now
        self._jobs: list[CronJob] = []
        self._statuses: dict[str, str] = {}
        self._enabled: bool | None = None
        self._agents: dict[str, str] = {}  # of each job, as the gateway told: its records name only a chosen one
        self._outcomes: dict[str, dict[float, bool]] = {}  # job → start of a run → whether it succeeded
        self._succeeded: dict[str, float] = {}  # job → start of its last run that succeeded, epoch seconds

    async def refresh(self) -> None:
        """Raises GatewayError, or StateRecordsError when neither the gateway nor its records can be read."""
        raw: Sequence[Mapping[str, Any]]
        runs: Sequence[Mapping[str, Any]]
        try:
            raw, enabled, runs = await self._from_gateway()
        except ASK_RECORDS:
            self._jobs, self._statuses, self._enabled = [], {}, None
            if self._records is None:
                raise
            try:
                raw = await asyncio.to_thread(self._records.cron_jobs)
            except NoRecordsError:
                return  # a new installation, in which no job was ever made
            runs = await asyncio.to_thread(self._records.cron_runs, RUNS)
            enabled = None
        except Exception:
            self._jobs, self._statuses, self._enabled = [], {}, None
            raise
        now = self._now()
        rows = [row for row in (to_job(self._gateway, job, now) for job in raw) if row is not None]
        self._jobs = [replace(row, agent=row.agent or self._agents.get(row.job_id)) for row in rows]
        self._agents = {row.job_id: row.agent for row in self._jobs if row.agent is not None}
        self._statuses = {row.job_id: row.last_status or "never" for row in self._jobs}
        self._enabled = enabled
        self._note_successes(raw, runs)
        self._note_outcomes(runs, now)
        if self._listener is not None:
            self._listener({job.job_id: job.name for job in self._jobs}, runs)
        if self._save_jobs is not None:
            await self._save_jobs(self._jobs)
        if self._save_runs is not None:
            await self._save_runs([row for row in (to_run(self._gateway, run) for run in runs) if row is not None])

    def _note_successes(self, jobs: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> None:
        """From the history and from the jobs themselves; what was seen once is kept while the job exists."""
        seen = [(text(run.get("jobId"), 128), run.get("status"), run.get("runAtMs")) for run in runs]
        seen += [(text(job.get("id"), 128), status_of(job), mapping(job, "state").get("lastRunAtMs")) for job in jobs]
        for job_id, status, at in seen:
            started = instant(at)
            if job_id in self._statuses and status == "ok" and started is not None:
                self._succeeded[job_id] = max(started.timestamp(), self._succeeded.get(job_id, 0.0))
        self._succeeded = {job_id: at for job_id, at in self._succeeded.items() if job_id in self._statuses}

    def _note_outcomes(self, runs: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Add the history, which of a busy gateway reaches back less far than a day, to what was seen before."""
        for run in runs:
            job_id, started = text(run.get("jobId"), 128), instant(run.get("runAtMs"))
            status = text(run.get("status"), 32)
            status = _STATUSES.get(status or "", status)
            if job_id is not None and started is not None and status in {"ok", "error"}:
                self._outcomes.setdefault(job_id, {})[started.timestamp()] = status == "ok"
        since = now.timestamp() - FLAPS_OF
        kept = {job_id: sorted(self._outcomes.get(job_id, {}).items())[-MOST_OUTCOMES:] for job_id in self._statuses}
        self._outcomes = {job_id: {at: ok for at, ok in outcomes if at > since} for job_id, outcomes in kept.items()}

    def _flaps(self, job_id: str) -> int:
        outcomes = [ok for _, ok in sorted(self._outcomes.get(job_id, {}).items())]
        return sum(before != after for before, after in pairwise(outcomes))

    async def _from_gateway(self) -> tuple[list[Mapping[str, Any]], bool | None, list[Mapping[str, Any]]]:
        jobs: dict[str, Mapping[str, Any]] = {}
        params: dict[str, Any] = {"includeDisabled": True}
        for _ in range(MAX_PAGES):
            answer = await self._client.call("cron.list", params)
            jobs.update({str(job.get("id")): job for job in items(answer, "jobs")})
            following = whole(mapping(answer).get("nextOffset"))
            if mapping(answer).get("hasMore") is not True or not following:
                break
            params = {"includeDisabled": True, "offset": following}
        status = await self._client.call("cron.status")
        runs = await self._client.call("cron.runs", {"limit": RUNS})
        return list(jobs.values()), flag(mapping(status).get("enabled")), list(items(runs, "entries"))

    def render(self) -> Iterable[Sample]:
        """Every job, with all statuses as 0 and 1."""
        if self._enabled is not None:
            yield Sample("claw_cron_enabled", (self._gateway,), float(self._enabled))
        for job in self._jobs:
            yield from self._job(job)

    def _job(self, job: CronJob) -> Iterator[Sample]:
        labels = (self._gateway, job.job_id)
        yield Sample("claw_cron_job_info", (*labels, job.name, job.agent or ""), 1)
        yield Sample("claw_cron_job_enabled", labels, float(job.enabled))
        yield Sample("claw_cron_job_consecutive_errors", labels, job.consecutive_errors)
        yield Sample("claw_cron_job_flaps", labels, self._flaps(job.job_id))
        for status in CRON_STATUSES:
            yield Sample("claw_cron_job_status", (*labels, status), float(self._statuses[job.job_id] == status))
        for metric, at in (("last", job.last_run_at), ("next", job.next_run_at)):
            if at is not None:
                yield Sample(f"claw_cron_job_{metric}_run_timestamp_seconds", labels, at.timestamp())
        if job.job_id in self._succeeded:
            yield Sample("claw_cron_job_last_success_timestamp_seconds", labels, self._succeeded[job.job_id])
        if job.last_status == "ok" and job.delivery_status in _DELIVERIES:
            failed = float(job.delivery_status == "not-delivered")
            yield Sample("claw_cron_job_delivery_failed", labels, failed)
        if job.last_duration_ms is not None:
            yield Sample("claw_cron_job_last_duration_seconds", labels, job.last_duration_ms / 1000)
        if job.period_seconds is not None:
            yield Sample("claw_cron_job_period_seconds", labels, job.period_seconds)
