"""The figures of the boards over HTTP: from the same SQL, for programs and for our own pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from api.models.agents import CronJob, CronRun, HubSession, Session, SessionPage
from api.models.base import order_of
from api.models.monitoring import (
    AlertEvent,
    Alerts,
    Approval,
    AuditRow,
    Channel,
    Costs,
    CronsSummary,
    Host,
    LogLine,
    LogSignature,
    Notification,
    SessionCount,
    SessionsSummary,
    Summary,
    System,
)
from api.security.scopes import Actor
from api.services.agents import AgentService, gateways_of
from api.services.alerts import WATCHDOG
from store import agents as agent_rows
from store import alerts as alert_rows
from store import logs as log_rows
from store import monitoring as rows
from store.monitoring import Group, Range
from store.pool import Pool

_FRESH = 5.0  # seconds for which a summary is given as it is
_USABLE = 60.0  # seconds for which an older one is given while a newer one is made
_LATEST = 50  # rows of a kind in a summary
_MOST_SUMMARIES = 100
_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal")


class MonitoringService:
    """Costs, sessions, jobs, hosts, alerts."""

    def __init__(self, pool: Pool, agents: AgentService, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._agents = agents
        self._clock = clock
        self._summaries: dict[frozenset[str] | None, tuple[float, Summary]] = {}
        self._refreshing: dict[frozenset[str] | None, asyncio.Task[Summary]] = {}

    async def costs(self, actor: Actor, range_: Range, group: Group) -> Costs:
        """Money of a range by group, and by window."""
        gateways = gateways_of(actor)
        async with self._pool.connection() as connection:
            groups = await rows.cost_groups(connection, range_, group, gateways)
            windows = await rows.cost_windows(connection, gateways)
        return Costs.of(range_, group, groups, windows)

    async def sessions(
        self,
        actor: Actor,
        *,
        agent: str | None,
        kind: str | None,
        status: str | None,
        channel: str | None,
        sort: str,
        cursor: str | None,
        limit: int,
    ) -> SessionPage:
        """A page of sessions in an order of `store.monitoring.SESSION_SORTS`."""
        async with self._pool.connection() as connection:
            found, following = await rows.sessions(
                connection,
                gateways=gateways_of(actor),
                agent=agent,
                kind=kind,
                status=status,
                channel=channel,
                sort=order_of(sort),
                cursor=cursor,
                limit=limit,
            )
        return SessionPage(sessions=[Session.of(row) for row in found], next_cursor=following)

    async def hub_sessions(
        self, actor: Actor, session_type: str | None, status: str | None, limit: int
    ) -> list[HubSession]:
        """Sessions in the words of the task hub."""
        async with self._pool.connection() as connection:
            found = await rows.hub_sessions(
                connection, gateways=gateways_of(actor), session_type=session_type, status=status, limit=limit
            )
        return [HubSession.model_validate(row) for row in found]

    async def sessions_summary(self, actor: Actor, range_: Range) -> SessionsSummary:
        """How many sessions of what, and those that changed last within the range."""
        gateways = gateways_of(actor)
        async with self._pool.connection() as connection:
            counts = await rows.session_counts(connection, gateways)
            active = await agent_rows.active_subagents(connection, gateways=gateways)
            since = await rows.starts(connection, range_)
            found, _ = await rows.sessions(connection, gateways=gateways, since=since, limit=_LATEST)
        return SessionsSummary(
            counts=[SessionCount.model_validate(row) for row in counts],
            active_subagents=active,
            sessions=[Session.of(row) for row in found],
        )

    async def cron_jobs(self, actor: Actor, sort: str = "name") -> list[CronJob]:
        """Every scheduled job, in an order of `store.monitoring.JOB_SORTS`."""
        async with self._pool.connection() as connection:
            found = await rows.cron_jobs(connection, gateways_of(actor), order_of(sort))
        return [CronJob.of(row) for row in found]

    async def cron_runs(
        self,
        actor: Actor,
        *,
        job_id: str | None = None,
        before: datetime | None = None,
        sort: str = "-startedAt",
        cursor: str | None = None,
        limit: int,
    ) -> tuple[list[CronRun], str | None]:
        """Runs in an order of `store.monitoring.RUN_SORTS`, and the cursor of the next page."""
        async with self._pool.connection() as connection:
            found, following = await rows.cron_runs(
                connection,
                gateways=gateways_of(actor),
                job_id=job_id,
                before=before,
                sort=order_of(sort),
                cursor=cursor,
                limit=limit,
            )
        return [CronRun.of(row) for row in found], following

    async def crons_summary(self, actor: Actor) -> CronsSummary:
        """Jobs and their last runs."""
        runs, _ = await self.cron_runs(actor, limit=_LATEST)
        return CronsSummary(jobs=await self.cron_jobs(actor), runs=runs)

    async def channels(self, actor: Actor, sort: str) -> list[Channel]:
        """Every channel account, in an order of `store.monitoring.CHANNEL_SORTS`."""
        async with self._pool.connection() as connection:
            return [
                Channel.model_validate(row)
                for row in await rows.channels(connection, gateways_of(actor), order_of(sort))
            ]

    async def system(self, actor: Actor) -> System:
        """Hosts and channels."""
        gateways = gateways_of(actor)
        async with self._pool.connection() as connection:
            return System(
                hosts=[Host.model_validate(row) for row in await rows.hosts(connection, gateways)],
                channels=[Channel.model_validate(row) for row in await rows.channels(connection, gateways)],
            )

    async def approvals(
        self, actor: Actor, *, status: str | None, sort: str, cursor: str | None, limit: int
    ) -> tuple[list[Approval], str | None]:
        """Requests to run commands in an order of `store.monitoring.APPROVAL_SORTS`, without the command, which is
        content; and the cursor of the next page."""
        async with self._pool.connection() as connection:
            found, following = await rows.approvals(
                connection, gateways=gateways_of(actor), status=status, sort=order_of(sort), cursor=cursor, limit=limit
            )
        now = datetime.now(UTC)
        return [Approval.of(row, now) for row in found], following

    async def log_lines(
        self,
        actor: Actor,
        *,
        level: str | None,
        session: str | None,
        text: str | None,
        before: int | None,
        limit: int,
    ) -> list[LogLine]:
        """Lines of the log at a level or worse, newest first."""
        levels = None if level is None else [*_LEVELS[_LEVELS.index(level) :], "unknown"]
        async with self._pool.connection() as connection:
            found = await log_rows.lines(
                connection,
                gateways=gateways_of(actor),
                levels=levels,
                session=session,
                contains=text,
                before=before,
                limit=limit,
            )
        return [LogLine.model_validate(row) for row in found]

    async def error_groups(self, actor: Actor, *, by_count: bool, hours: int, limit: int) -> list[LogSignature]:
        """Errors of the log that are alike."""
        async with self._pool.connection() as connection:
            found = await rows.log_signatures(
                connection,
                gateways=gateways_of(actor),
                order="count" if by_count else "last_seen",
                hours=hours,
                limit=limit,
            )
        return [LogSignature.model_validate(row) for row in found]

    async def alerts(self, actor: Actor, range_: Range, status: str | None, limit: int) -> Alerts:
        """Alerts that began or ended within the range, newest first."""
        async with self._pool.connection() as connection:
            since = await rows.starts(connection, range_)
            found = await rows.alerts(connection, gateways=gateways_of(actor), status=status, since=since, limit=limit)
        shown = [AlertEvent.of(row) for row in found]
        return Alerts(firing=sum(one.status == "firing" for one in shown), alerts=shown)

    async def record_alerts(self, notification: Notification) -> int:
        """Keep what Alertmanager tells; the same again changes nothing. The watchdog is heard, not kept."""
        async with self._pool.connection() as connection:
            if any(one.labels.get("alertname") == WATCHDOG and one.status == "firing" for one in notification.alerts):
                await alert_rows.hear_watchdog(connection)
            kept = [one.row() for one in notification.alerts if one.labels.get("alertname") != WATCHDOG]
            return await alert_rows.record(connection, kept)

    async def audit(self, before: int | None, limit: int) -> list[AuditRow]:
        """The audit log, newest first."""
        async with self._pool.connection() as connection:
            return [
                AuditRow.model_validate(row) for row in await rows.audit_rows(connection, before=before, limit=limit)
            ]

    async def summary(self, actor: Actor) -> Summary:
        """One document for a page: fresh, or a little old while a newer one is made. One refresh at a time."""
        key = actor.gateways
        made_at, known = self._summaries.get(key, (0.0, None))
        age = self._clock() - made_at
        if known is not None and age < _FRESH:
            return known
        task = self._refreshing.get(key)
        if task is None or task.done():
            task = self._refreshing[key] = asyncio.create_task(self._refresh(actor), name="refresh the summary")
        if known is not None and age < _USABLE:
            return known.model_copy(update={"stale": True})
        return await asyncio.shield(task)

    async def _refresh(self, actor: Actor) -> Summary:
        made = Summary(
            generated_at=datetime.now(UTC),
            stale=False,
            costs=await self.costs(actor, "30d", "model"),
            sessions=await self.sessions_summary(actor, "30d"),
            crons=await self.crons_summary(actor),
            agents=await self._agents.agents(actor),
            system=await self.system(actor),
            alerts=await self.alerts(actor, "7d", None, _LATEST),
        )
        if len(self._summaries) >= _MOST_SUMMARIES:
            self._summaries.clear()
        self._summaries[actor.gateways] = (self._clock(), made)
        return made
