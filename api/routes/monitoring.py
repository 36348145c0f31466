"""Agents, sessions, jobs, and the figures of the boards."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from api.context import Administrator, Commander, ContextDep, Reader, Writer
from api.models.agents import (
    Agent,
    AgentDetail,
    AgentMetricsIn,
    AgentSort,
    ApprovalSort,
    ChannelSort,
    CronJob,
    CronRun,
    HubSession,
    JobSort,
    RunSort,
    SessionPage,
    SessionSort,
)
from api.models.base import Cursor, Identifier, InstantIn, ShortText
from api.models.control import Job
from api.models.monitoring import (
    Alerts,
    Approval,
    AuditRow,
    Banner,
    Channel,
    Costs,
    CronsSummary,
    LogLine,
    LogSignature,
    Notification,
    Recorded,
    SessionsSummary,
    Summary,
    System,
)
from api.responses import PAGED, problems
from api.routes.conditional import NextCursor, name_next, tagged
from api.routes.operations import IdempotencyKey

router = APIRouter(prefix="/api", tags=["monitoring"])

RangeIn = Annotated[
    Literal["24h", "7d", "30d", "all"],
    Query(description="24h: the last 24 hours; 7d, 30d: today and the 6 (29) days before, in LOBS_TIMEZONE."),
]
GroupIn = Annotated[Literal["model", "agent", "kind", "channel", "day"], Query()]
Limit = Annotated[int, Query(ge=1, le=500)]
Filter = Annotated[ShortText | None, Query()]


@router.get("/agents", tags=["agents"], summary="Agents with their figures", responses=problems())
async def agents(
    context: ContextDep, actor: Reader, sort: Annotated[AgentSort, Query(description="With `-`: falling.")] = "id"
) -> list[Agent]:
    """Those that are configured, and those that ever called a model."""
    return await context.agents.agents(actor, sort)


@router.get(
    "/agents/{agent_id}",
    tags=["agents"],
    summary="One agent with its history",
    responses=problems(404, 409),
)
async def agent(
    context: ContextDep,
    actor: Reader,
    response: Response,
    agent_id: Annotated[Identifier, Path()],
    gateway: Filter = None,
) -> AgentDetail:
    """`gateway` is needed when several have an agent of this id (409). Its ETag is for `If-Match`."""
    return tagged(response, await context.agents.agent(actor, agent_id, gateway))


@router.post(
    "/agents/{agent_id}/metrics",
    tags=["agents"],
    status_code=204,
    summary="Report figures of an agent",
    responses=problems(409, body=True),
)
async def report(
    context: ContextDep,
    actor: Writer,
    agent_id: Annotated[Identifier, Path()],
    body: AgentMetricsIn,
    idempotency_key: IdempotencyKey = None,
) -> None:
    """What an agent says of itself; kept apart from what is measured, so nothing counts twice."""
    await context.agents.report(actor, agent_id, body, idempotency_key)


@router.get("/sessions", tags=["sessions"], summary="Sessions", responses=problems())
async def sessions(
    *,
    context: ContextDep,
    actor: Reader,
    agent: Filter = None,
    kind: Filter = None,
    status: Filter = None,
    channel: Filter = None,
    sort: Annotated[SessionSort, Query(description="With `-`: falling.")] = "-updatedAt",
    cursor: Annotated[Cursor | None, Query(description="`nextCursor` of the page before, of the same `sort`.")] = None,
    limit: Limit = 100,
) -> SessionPage:
    """Last changed first unless sorted. Filters combine."""
    return await context.monitoring.sessions(
        actor, agent=agent, kind=kind, status=status, channel=channel, sort=sort, cursor=cursor, limit=limit
    )


@router.get("/openclaw/sessions", tags=["sessions"], summary="Sessions of the task hub", responses=problems())
async def hub_sessions(
    context: ContextDep,
    actor: Reader,
    session_type: Literal["persistent", "subagent"] | None = None,
    status: Literal["active", "completed", "failed"] | None = None,
    limit: Limit = 100,
) -> list[HubSession]:
    """Those of the gateway, with the task that they work on, and those that only a task tells of."""
    return await context.monitoring.hub_sessions(actor, session_type, status, limit)


@router.get("/crons", tags=["cron"], summary="Scheduled jobs", responses=problems())
async def crons(
    context: ContextDep, actor: Reader, sort: Annotated[JobSort, Query(description="With `-`: falling.")] = "name"
) -> list[CronJob]:
    """As they are now."""
    return await context.monitoring.cron_jobs(actor, sort)


@router.get(
    "/crons/runs",
    tags=["cron"],
    summary="Runs of scheduled jobs",
    responses={**problems(), **PAGED},
)
async def cron_runs(
    *,
    context: ContextDep,
    actor: Reader,
    response: Response,
    job_id: Annotated[ShortText | None, Query(alias="jobId")] = None,
    before: Annotated[InstantIn | None, Query(description="Only runs that started earlier.")] = None,
    sort: Annotated[RunSort, Query(description="With `-`: falling.")] = "-startedAt",
    cursor: NextCursor = None,
    limit: Limit = 100,
) -> list[CronRun]:
    """Of one job or of all, newest first unless sorted."""
    found, following = await context.monitoring.cron_runs(
        actor, job_id=job_id, before=before, sort=sort, cursor=cursor, limit=limit
    )
    name_next(response, following)
    return found


@router.get(
    "/crons/{job_id}",
    tags=["commands"],
    summary="One scheduled job, with its message",
    responses=problems(404, 502),
)
async def cron(context: ContextDep, actor: Commander, response: Response, job_id: Annotated[Identifier, Path()]) -> Job:
    """Asked of the gateway at this moment; 403 unless LOBS_COMMANDS=true. Its ETag is for `If-Match`."""
    return tagged(response, await context.control.jobs.one(actor, job_id))


@router.get("/channels", summary="Chat channels", responses=problems())
async def channels(
    context: ContextDep,
    actor: Reader,
    sort: Annotated[ChannelSort, Query(description="With `-`: falling.")] = "channel",
) -> list[Channel]:
    """Configured, connected, last message."""
    return await context.monitoring.channels(actor, sort)


@router.get(
    "/approvals",
    summary="Requests to run commands",
    responses={**problems(), **PAGED},
)
async def approvals(
    *,
    context: ContextDep,
    actor: Reader,
    response: Response,
    status: Literal["pending", "allowed", "denied", "expired", "cancelled"] | None = None,
    sort: Annotated[ApprovalSort, Query(description="With `-`: falling.")] = "-requestedAt",
    cursor: NextCursor = None,
    limit: Limit = 100,
) -> list[Approval]:
    """Newest first unless sorted; without the command itself, which may hold secrets."""
    found, following = await context.monitoring.approvals(actor, status=status, sort=sort, cursor=cursor, limit=limit)
    name_next(response, following)
    return found


@router.get("/monitoring/costs", summary="Money by group and by window", responses=problems())
async def costs(context: ContextDep, actor: Reader, range: RangeIn = "7d", group: GroupIn = "model") -> Costs:  # noqa: A002 - the name on the wire
    """Billed and list-price-equivalent money are never added; unpriced is never 0."""
    return await context.monitoring.costs(actor, range, group)


@router.get("/monitoring/sessions", summary="Sessions by kind and status", responses=problems())
async def monitored_sessions(context: ContextDep, actor: Reader, range: RangeIn = "7d") -> SessionsSummary:  # noqa: A002 - as above
    """And those that changed last."""
    return await context.monitoring.sessions_summary(actor, range)


@router.get("/monitoring/crons", summary="Jobs and their last runs", responses=problems())
async def monitored_crons(context: ContextDep, actor: Reader) -> CronsSummary:
    """As they are now."""
    return await context.monitoring.crons_summary(actor)


@router.get("/monitoring/system", summary="Hosts and channels", responses=problems())
@router.get("/system", summary="Hosts and channels", responses=problems())
async def system(context: ContextDep, actor: Reader) -> System:
    """The newest sample of each gateway's host."""
    return await context.monitoring.system(actor)


@router.get("/monitoring/alerts", summary="Alerts, newest first", responses=problems())
async def alerts(
    context: ContextDep,
    actor: Reader,
    range: RangeIn = "7d",  # noqa: A002 - as above
    status: Literal["firing", "resolved"] | None = None,
    limit: Limit = 100,
) -> Alerts:
    """Those that began or ended within the range."""
    return await context.monitoring.alerts(actor, range, status, limit)


@router.get("/alerts/banner", summary="What fires now, for the top of a page", responses=problems())
async def banner(context: ContextDep, actor: Reader) -> Banner:
    """With links, and whether alerts come at all. Changes come as events of the topic `alerts`."""
    return await context.alerts.banner(actor)


@router.get("/logs", summary="The gateways' log, newest line first", responses=problems())
async def log_lines(  # noqa: PLR0917 - query parameters, given by name
    context: ContextDep,
    actor: Reader,
    level: Annotated[
        Literal["trace", "debug", "info", "warn", "error", "fatal"] | None, Query(description="This level and worse.")
    ] = None,
    session: Annotated[ShortText | None, Query(description="A session's key or id, as the line names it.")] = None,
    text: Annotated[ShortText | None, Query(description="Only lines that contain this; case does not matter.")] = None,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="An id: the next page.")] = None,
    limit: Limit = 100,
) -> list[LogLine]:
    """The newest lines of each gateway, secrets hidden; lines that agents wrote themselves are not kept."""
    return await context.monitoring.log_lines(
        actor, level=level, session=session, text=text, before=before, limit=limit
    )


@router.get("/errors", summary="Errors of the log by signature", responses=problems())
async def error_groups(
    context: ContextDep,
    actor: Reader,
    sort: Literal["count", "last_seen"] = "last_seen",
    window_hours: Annotated[int, Query(alias="windowHours", ge=1, le=8760)] = 24,
    limit: Limit = 100,
) -> list[LogSignature]:
    """Those seen within the window."""
    return await context.monitoring.error_groups(actor, by_count=sort == "count", hours=window_hours, limit=limit)


@router.get("/refresh", summary="Everything in one document", responses=problems())
async def refresh(context: ContextDep, actor: Reader) -> Summary:
    """At most 5 seconds old, or marked `stale` while a newer one is made; many askers cost one refresh."""
    return await context.monitoring.summary(actor)


@router.get("/audit", tags=["auth"], summary="The audit log, newest first", responses=problems())
async def audit(
    context: ContextDep,
    _: Administrator,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Limit = 100,
) -> list[AuditRow]:
    """Append-only: log-ins, tokens, commands."""
    return await context.monitoring.audit(before, limit)


@router.post("/webhooks/alertmanager", summary="Receive Alertmanager's notifications", responses=problems(body=True))
async def alertmanager(context: ContextDep, _: Writer, body: Notification) -> Recorded:
    """For a webhook receiver with `authorization: {credentials_file: …}`. The same again changes nothing."""
    return Recorded(recorded=await context.monitoring.record_alerts(body))
