"""What the monitoring pages of the API show: the same views that the boards query, and no second formula for money.

Functions give rows of the views, typed; `gateways` None is all of them.
"""

# ruff: noqa: S608 - what is put into statements is names, expressions and constants of ours
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar

from store.pool import Connection
from store.reading import columns, of, read
from store.rows import AlertEvent, CronJob, HostSample
from store.sorting import Key, Order

Gateways = Sequence[str] | None
_Row = TypeVar("_Row")
Range = Literal["24h", "7d", "30d", "all"]
Group = Literal["model", "agent", "kind", "channel", "day"]

_ZONE: Final = "(SELECT value FROM lobs.settings WHERE key = 'timezone')"
# A day range is whole days of the zone: today and those before it, as in public.cost_windows.
_STARTS: Final = {
    "24h": "now() - interval '24 hours'",
    "7d": f"((now() AT TIME ZONE {_ZONE})::date - 6)::timestamp AT TIME ZONE {_ZONE}",
    "30d": f"((now() AT TIME ZONE {_ZONE})::date - 29)::timestamp AT TIME ZONE {_ZONE}",
    "all": "'-infinity'::timestamptz",
}
_GROUPS: Final = {
    "model": "u.provider || '/' || u.model",
    "agent": "u.agent",
    "kind": "u.kind",
    "channel": "u.channel",
    "day": f"(u.bucket AT TIME ZONE {_ZONE})::date::text",
}
_MOST_GROUPS: Final = 1_000
_TOKENS: Final = "input_tokens + output_tokens + cache_read_tokens + cache_write_tokens"
SESSION_SORTS: Final[Mapping[str, Key]] = {
    "updated_at": Key("updated_at", "timestamptz"),
    "started_at": Key("coalesce(started_at, '-infinity')", "timestamptz"),
    "cost": Key("coalesce(cost_usd, 0)", "numeric"),
    "tokens": Key(f"coalesce({_TOKENS}, 0)::bigint", "bigint"),
    "calls": Key("coalesce(calls, 0)::bigint", "bigint"),
    "context_ratio": Key("coalesce(context_ratio, 0)::numeric", "numeric"),
}

_NEVER: Final = "'-infinity'"
JOB_SORTS: Final[Mapping[str, Key]] = {
    "name": Key("name", "text"),
    "next_run_at": Key("coalesce(next_run_at, 'infinity')", "timestamptz"),  # one that will not run: last
    "last_run_at": Key(f"coalesce(last_run_at, {_NEVER})", "timestamptz"),
    "last_duration": Key("coalesce(last_duration_ms, 0)", "bigint"),
    "consecutive_errors": Key("consecutive_errors::bigint", "bigint"),
}
RUN_SORTS: Final[Mapping[str, Key]] = {
    "started_at": Key("started_at", "timestamptz"),
    "duration": Key("coalesce(duration_ms, 0)", "bigint"),
    "status": Key("status", "text"),
}
CHANNEL_SORTS: Final[Mapping[str, Key]] = {
    "channel": Key("channel", "text"),
    "last_inbound_at": Key(f"coalesce(last_inbound_at, {_NEVER})", "timestamptz"),
    "last_outbound_at": Key(f"coalesce(last_outbound_at, {_NEVER})", "timestamptz"),
}
APPROVAL_SORTS: Final[Mapping[str, Key]] = {
    "requested_at": Key(f"coalesce(requested_at, {_NEVER})", "timestamptz"),
    "expires_at": Key(f"coalesce(expires_at, {_NEVER})", "timestamptz"),
    "status": Key("status", "text"),
}


@dataclass(frozen=True, slots=True)
class CostGroup:
    """Calls, tokens and money of one model, agent, kind, channel or day."""

    name: str
    calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: Decimal
    equivalent_cost_usd: Decimal
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class CostWindow:
    """Money of a window."""

    window_name: str
    cost_usd: Decimal
    equivalent_cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Session:
    """A session, with the sums of its calls."""

    gateway: str
    agent: str
    session_id: str
    session_key: str | None
    kind: str | None
    channel: str | None
    parent_session_key: str | None
    label: str | None
    status: str | None
    provider: str | None
    model: str | None
    context_tokens: int | None
    context_limit: int | None
    context_ratio: float | None
    archived: bool | None
    calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: Decimal
    equivalent_cost_usd: Decimal
    unpriced_calls: int
    started_at: datetime | None
    updated_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class HubSession:
    """A session in the words of the task hub."""

    id: str
    openclaw_session_id: str
    agent_name: str | None
    session_type: str
    status: str
    task_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class SessionCount:
    """Sessions of a kind and status."""

    kind: str
    status: str
    number: int


@dataclass(frozen=True, slots=True)
class CronRun:
    """One run of a scheduled job."""

    gateway: str
    job_id: str
    started_at: datetime
    finished_at: datetime | None
    duration_ms: int | None
    status: str
    error: str | None
    session_id: str | None


@dataclass(frozen=True, slots=True)
class Channel:
    """An account of a chat channel."""

    gateway: str
    channel: str
    account: str
    configured: bool | None
    connected: bool | None
    last_inbound_at: datetime | None
    last_outbound_at: datetime | None
    last_error: str | None
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """A request to run a command, without the command, which is content."""

    gateway: str
    approval_id: str
    agent: str | None
    session_key: str | None
    status: str
    requested_at: datetime | None
    expires_at: datetime | None
    resolved_at: datetime | None
    resolved_by: str | None


@dataclass(frozen=True, slots=True)
class LogSignature:
    """Errors of a gateway's log that are alike."""

    gateway: str
    signature: str
    level: str
    sample: str
    count: int
    first_seen_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what."""

    id: int
    at: datetime
    request_id: str | None
    phase: str
    actor: str
    action: str
    gateway: str | None
    target: str | None
    detail: dict[str, Any]


async def _page(  # noqa: PLR0917 - the parts of one statement
    connection: Connection,
    kind: type[_Row],
    source: str,
    order: Order,
    conditions: str,
    values: dict[str, Any],
    cursor: str | None,
    limit: int,
) -> tuple[list[_Row], str | None]:
    """A page of the rows that may be seen, and the cursor of the next (None: there is none). `source` and `conditions`
    are statements of ours. Raises InvalidValueError for a cursor that is not of this order."""
    beyond, place = order.beyond(cursor)
    statement = (
        f"SELECT *, {order.value} FROM {source} WHERE {beyond}"
        f" AND (%(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s)){conditions}"
        f" ORDER BY {order.by} LIMIT %(limit)s"
    )
    answer = await connection.execute(statement.encode(), {**place, **values, "limit": limit + 1})
    found = await answer.fetchall()
    following = order.cursor(found[limit - 1]) if len(found) > limit else None
    return [of(kind, row) for row in found[:limit]], following


async def _every(connection: Connection, kind: type[_Row], source: str, order: Order, gateways: Gateways) -> list[_Row]:
    """All rows of a short list that may be seen."""
    return await read(
        connection,
        kind,
        f"SELECT {columns(kind)} FROM {source} WHERE %(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s)"
        f" ORDER BY {order.by}",
        {"gateways": gateways},
    )


async def cost_groups(connection: Connection, range_: Range, group: Group, gateways: Gateways) -> list[CostGroup]:
    """Calls, tokens and money of a range by group, dearest first (days: oldest first)."""
    order = "1" if group == "day" else "cost_usd DESC, 1"
    return await read(
        connection,
        CostGroup,
        f"SELECT {_GROUPS[group]} AS name, sum(u.calls)::bigint AS calls, sum(u.errors)::bigint AS errors,"
        " sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens,"
        " sum(u.cache_read_tokens)::bigint AS cache_read_tokens,"
        " sum(u.cache_write_tokens)::bigint AS cache_write_tokens,"
        " sum(u.reasoning_tokens)::bigint AS reasoning_tokens,"
        " coalesce(sum(u.cost_usd) FILTER (WHERE u.billing = 'billed'), 0) AS cost_usd,"
        " coalesce(sum(u.cost_usd) FILTER (WHERE u.billing = 'equivalent'), 0) AS equivalent_cost_usd,"
        " sum(u.unpriced_calls)::bigint AS unpriced_calls"
        f" FROM public.usage_15m AS u WHERE u.bucket >= {_STARTS[range_]}"
        " AND (%(gateways)s::text[] IS NULL OR u.gateway = ANY(%(gateways)s))"
        f" GROUP BY 1 ORDER BY {order} LIMIT {_MOST_GROUPS}",
        {"gateways": gateways},
    )


async def cost_windows(connection: Connection, gateways: Gateways) -> list[CostWindow]:
    """Billed and equivalent US dollars by window, over all agents: what the boards' top strip shows."""
    return await read(
        connection,
        CostWindow,
        "SELECT window_name, sum(cost_usd) AS cost_usd, sum(equivalent_cost_usd) AS equivalent_cost_usd"
        f" FROM public.cost_windows({_ZONE}) WHERE %(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s)"
        " GROUP BY 1",
        {"gateways": gateways},
    )


async def sessions(
    connection: Connection,
    *,
    gateways: Gateways,
    agent: str | None = None,
    kind: str | None = None,
    status: str | None = None,
    channel: str | None = None,
    since: datetime | None = None,
    sort: str = "-updated_at",
    cursor: str | None = None,
    limit: int,
) -> tuple[list[Session], str | None]:
    """Sessions in an order of SESSION_SORTS, and the cursor of the next page (None: there is none). Raises
    InvalidValueError for an unknown order and for a cursor that is not of it."""
    return await _page(
        connection,
        Session,
        "public.sessions",
        Order.of(sort, SESSION_SORTS, ["gateway", "agent", "session_id"]),
        " AND updated_at IS NOT NULL"
        " AND (%(agent)s::text IS NULL OR agent = %(agent)s) AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
        " AND (%(status)s::text IS NULL OR status = %(status)s)"
        " AND (%(channel)s::text IS NULL OR channel = %(channel)s)"
        " AND (%(since)s::timestamptz IS NULL OR updated_at >= %(since)s)",
        {"gateways": gateways, "agent": agent, "kind": kind, "status": status, "channel": channel, "since": since},
        cursor,
        limit,
    )


async def hub_sessions(
    connection: Connection, *, gateways: Gateways, session_type: str | None, status: str | None, limit: int
) -> list[HubSession]:
    """Sessions in the words of the task hub: those that are known here, with the task that they work on, and those
    that only a task tells of. `failed`: ended otherwise than well; `completed`: ended, or at rest."""
    return await read(
        connection,
        HubSession,
        f"SELECT {columns(HubSession)} FROM (("
        "SELECT s.session_id AS id, coalesce(s.session_key, s.session_id) AS openclaw_session_id,"
        "  s.agent AS agent_name, h.session_type, h.status, t.task_id, s.started_at, s.ended_at,"
        "  (extract(epoch FROM s.ended_at - s.started_at) * 1000)::bigint AS duration_ms, s.updated_at"
        " FROM public.sessions AS s"
        " CROSS JOIN LATERAL (SELECT"
        "  CASE WHEN s.kind = 'subagent' THEN 'subagent' ELSE 'persistent' END AS session_type,"
        "  CASE WHEN s.status = 'running' THEN 'active' WHEN s.status IN ('failed', 'killed', 'timeout') THEN 'failed'"
        "       ELSE 'completed' END AS status) AS h"
        " LEFT JOIN public.task_sessions AS t ON t.openclaw_session_id = ANY(ARRAY[s.session_key, s.session_id])"
        " WHERE (%(gateways)s::text[] IS NULL OR s.gateway = ANY(%(gateways)s))"
        " AND (%(type)s::text IS NULL OR h.session_type = %(type)s)"
        " AND (%(status)s::text IS NULL OR h.status = %(status)s)"
        " ORDER BY s.updated_at DESC NULLS LAST, s.gateway DESC, s.agent DESC, s.session_id DESC LIMIT %(limit)s"
        ") UNION ALL ("
        "SELECT t.id::text, t.openclaw_session_id, t.agent_name, t.session_type, t.status, t.task_id, t.started_at,"
        "  t.ended_at, t.duration_ms, coalesce(t.ended_at, t.started_at) AS updated_at"
        " FROM public.task_sessions AS t"
        " WHERE NOT EXISTS (SELECT 1 FROM public.sessions AS s WHERE s.session_key = t.openclaw_session_id)"
        " AND NOT EXISTS (SELECT 1 FROM public.sessions AS s WHERE s.session_id = t.openclaw_session_id)"
        " AND (%(type)s::text IS NULL OR t.session_type = %(type)s)"
        " AND (%(status)s::text IS NULL OR t.status = %(status)s)"
        " ORDER BY updated_at DESC LIMIT %(limit)s"
        ")) AS every ORDER BY updated_at DESC NULLS LAST, id LIMIT %(limit)s",
        {"gateways": gateways, "type": session_type, "status": status, "limit": limit},
    )


async def session_counts(connection: Connection, gateways: Gateways) -> list[SessionCount]:
    """Sessions by kind and status."""
    return await read(
        connection,
        SessionCount,
        "SELECT coalesce(kind, 'unknown') AS kind, coalesce(status, 'unknown') AS status, count(*) AS number"
        " FROM public.sessions WHERE NOT archived AND (%(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s))"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        {"gateways": gateways},
    )


async def cron_jobs(connection: Connection, gateways: Gateways, sort: str = "name") -> list[CronJob]:
    """Every scheduled job that exists, in an order of JOB_SORTS."""
    order = Order.of(sort, JOB_SORTS, ["gateway", "job_id"])
    return await _every(connection, CronJob, "public.cron_jobs", order, gateways)


async def cron_runs(
    connection: Connection,
    *,
    gateways: Gateways,
    job_id: str | None,
    before: datetime | None,
    sort: str = "-started_at",
    cursor: str | None = None,
    limit: int,
) -> tuple[list[CronRun], str | None]:
    """Runs of jobs in an order of RUN_SORTS, and the cursor of the next page. Raises InvalidValueError."""
    return await _page(
        connection,
        CronRun,
        "(SELECT *, (extract(epoch FROM started_at) * 1000000)::bigint::text AS instant FROM public.cron_runs) AS runs",
        Order.of(sort, RUN_SORTS, ["gateway", "job_id", "instant"]),
        " AND (%(job)s::text IS NULL OR job_id = %(job)s)"
        " AND (%(before)s::timestamptz IS NULL OR started_at < %(before)s)",
        {"gateways": gateways, "job": job_id, "before": before},
        cursor,
        limit,
    )


async def hosts(connection: Connection, gateways: Gateways) -> list[HostSample]:
    """The newest sample of each gateway's host."""
    return await read(
        connection,
        HostSample,
        f"SELECT DISTINCT ON (gateway) {columns(HostSample)} FROM public.host_samples"
        " WHERE %(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s) ORDER BY gateway, ts DESC",
        {"gateways": gateways},
    )


async def channels(connection: Connection, gateways: Gateways, sort: str = "channel") -> list[Channel]:
    """Every channel account, in an order of CHANNEL_SORTS."""
    order = Order.of(sort, CHANNEL_SORTS, ["gateway", "channel", "account"])
    return await _every(connection, Channel, "public.channels", order, gateways)


async def approvals(
    connection: Connection,
    *,
    gateways: Gateways,
    status: str | None,
    sort: str = "-requested_at",
    cursor: str | None = None,
    limit: int,
) -> tuple[list[Approval], str | None]:
    """Requests to run commands in an order of APPROVAL_SORTS, and the cursor of the next page. Raises
    InvalidValueError."""
    return await _page(
        connection,
        Approval,
        "public.exec_approvals",
        Order.of(sort, APPROVAL_SORTS, ["gateway", "approval_id"]),
        " AND (%(status)s::text IS NULL OR status = %(status)s)",
        {"gateways": gateways, "status": status},
        cursor,
        limit,
    )


async def log_signatures(
    connection: Connection,
    *,
    gateways: Gateways,
    order: Literal["count", "last_seen"],
    hours: int,
    limit: int,
) -> list[LogSignature]:
    """Errors of the gateway's log grouped by signature, seen within the last hours."""
    by = {"count": "count DESC, last_seen_at DESC", "last_seen": "last_seen_at DESC, count DESC"}
    return await read(
        connection,
        LogSignature,
        f"SELECT {columns(LogSignature)} FROM public.log_signatures"
        " WHERE (%(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s))"
        " AND last_seen_at >= now() - make_interval(hours => %(hours)s)"
        f" ORDER BY {by[order]}, signature LIMIT %(limit)s",
        {"gateways": gateways, "hours": hours, "limit": limit},
    )


async def alerts(
    connection: Connection, *, gateways: Gateways, status: str | None, since: datetime | None, limit: int
) -> list[AlertEvent]:
    """Alerts as Alertmanager told them, newest first; those of no gateway are for everyone."""
    return await read(
        connection,
        AlertEvent,
        f"SELECT {columns(AlertEvent)} FROM public.alert_events"
        " WHERE (%(gateways)s::text[] IS NULL OR gateway IS NULL OR gateway = ANY(%(gateways)s))"
        " AND (%(status)s::text IS NULL OR status = %(status)s)"
        " AND (%(since)s::timestamptz IS NULL OR starts_at >= %(since)s OR ends_at >= %(since)s)"
        " ORDER BY starts_at DESC, id DESC LIMIT %(limit)s",
        {"gateways": gateways, "status": status, "since": since, "limit": limit},
    )


async def starts(connection: Connection, range_: Range) -> datetime | None:
    """When a range began; None for all."""
    if range_ == "all":
        return None
    answer = await connection.execute(f"SELECT {_STARTS[range_]} AS at".encode())
    row = await answer.fetchone()
    return row["at"] if row else None


async def audit_rows(connection: Connection, *, before: int | None, limit: int) -> list[AuditRow]:
    """The audit log, newest first."""
    return await read(
        connection,
        AuditRow,
        f"SELECT {columns(AuditRow)} FROM public.audit_log WHERE %(before)s::bigint IS NULL OR id < %(before)s"
        " ORDER BY id DESC LIMIT %(limit)s",
        {"before": before, "limit": limit},
    )
