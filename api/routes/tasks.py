"""Tasks, the task hub, and the feed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from api.context import ContextDep, Reader, Writer
from api.models.base import Cursor, Identifier, InstantIn, ShortText
from api.models.tasks import (
    Activity,
    ActivityIn,
    Comment,
    CommentIn,
    Deliverable,
    DeliverableIn,
    FeedPage,
    FeedStats,
    Flow,
    Priority,
    StatusChange,
    Subagent,
    SubagentIn,
    SubagentPatch,
    Task,
    TaskIn,
    TaskPage,
    TaskPatch,
    TaskSort,
    TaskStatus,
)
from api.responses import problems
from api.routes.conditional import IfMatch, version, with_etag
from api.routes.operations import IdempotencyKey

router = APIRouter(prefix="/api", tags=["tasks"])

TaskId = Annotated[Identifier, Path(description="For example task_1.")]
Limit = Annotated[int, Query(ge=1, le=500)]
Before = Annotated[int | None, Query(ge=1, le=2**62, description="Only rows with a lower id: the next page.")]


@router.get("/tasks", summary="Tasks", response_model=TaskPage, responses=problems())
async def tasks(
    *,
    context: ContextDep,
    actor: Reader,
    status: TaskStatus | None = None,
    priority: Priority | None = None,
    assigned_agent: Annotated[ShortText | None, Query(alias="assignedAgent")] = None,
    tag: Annotated[ShortText | None, Query()] = None,
    board: Annotated[ShortText | None, Query()] = None,
    search: Annotated[ShortText | None, Query(description="Text in title or description, in any case.")] = None,
    sort: Annotated[
        TaskSort, Query(description="With `-`: falling. Tasks without a due date come last of the rising order.")
    ] = "-createdAt",
    cursor: Annotated[Cursor | None, Query(description="`nextCursor` of the page before, of the same `sort`.")] = None,
    limit: Limit = 100,
) -> JSONResponse:
    """Newest first unless sorted. Filters combine. A cursor stays right while tasks come and go."""
    return JSONResponse(
        await context.tasks.tasks(
            actor,
            status=status,
            priority=priority,
            assigned_agent=assigned_agent,
            tag=tag,
            board=board,
            search=search,
            sort=sort,
            cursor=cursor,
            limit=limit,
        )
    )


@router.post("/tasks", status_code=201, summary="Create", response_model=Task, responses=problems(409, body=True))
async def create(
    context: ContextDep, actor: Writer, body: TaskIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Status `todo` and priority `medium` unless given."""
    return with_etag(await context.tasks.create(actor, body, idempotency_key), 201)


@router.get("/tasks/flow", summary="Throughput and cycle time", response_model=Flow, responses=problems())
async def flow(
    context: ContextDep,
    _: Reader,
    since: Annotated[InstantIn | None, Query(description="30 days ago unless given.")] = None,
    until: Annotated[InstantIn | None, Query(description="Now unless given.")] = None,
) -> JSONResponse:
    """From the append-only history: the past never changes."""
    end = until or datetime.now(UTC)
    return JSONResponse(await context.tasks.flow(since or end - timedelta(days=30), end))


@router.get("/tasks/{task_id}", summary="One task with its comments", response_model=Task, responses=problems(404))
async def task(context: ContextDep, actor: Reader, task_id: TaskId) -> JSONResponse:
    """Its ETag is for `If-Match`."""
    return with_etag(await context.tasks.task(actor, task_id))


@router.put("/tasks/{task_id}", summary="Replace", response_model=Task, responses=problems(404, 409, 412, body=True))
async def replace(
    context: ContextDep, actor: Writer, task_id: TaskId, body: TaskIn, if_match: IfMatch = None
) -> JSONResponse:
    """Every field anew; what is absent gets its default."""
    return with_etag(await context.tasks.replace(actor, task_id, body, version(if_match)))


@router.patch("/tasks/{task_id}", summary="Change", response_model=Task, responses=problems(404, 409, 412, body=True))
async def patch(
    context: ContextDep, actor: Writer, task_id: TaskId, body: TaskPatch, if_match: IfMatch = None
) -> JSONResponse:
    """What is absent stays."""
    return with_etag(await context.tasks.patch(actor, task_id, body, version(if_match)))


@router.delete("/tasks/{task_id}", status_code=204, summary="Delete", responses=problems(404, 412))
async def delete(context: ContextDep, actor: Writer, task_id: TaskId, if_match: IfMatch = None) -> None:
    """With its comments, activities, deliverables and sessions; its status history stays."""
    await context.tasks.delete(actor, task_id, version(if_match))


@router.get(
    "/tasks/{task_id}/history", summary="Status history", response_model=list[StatusChange], responses=problems(404)
)
async def history(context: ContextDep, actor: Reader, task_id: TaskId) -> JSONResponse:
    """Append-only, oldest first; of deleted tasks too."""
    return JSONResponse(await context.tasks.history(actor, task_id))


@router.post(
    "/tasks/{task_id}/comment",
    status_code=201,
    summary="Comment",
    response_model=Comment,
    responses=problems(404, 409, body=True),
)
async def comment(
    context: ContextDep, actor: Writer, task_id: TaskId, body: CommentIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Shown with the task."""
    return JSONResponse(await context.tasks.comment(actor, task_id, body, idempotency_key), status_code=201)


@router.get("/tasks/{task_id}/activities", summary="Activities", response_model=list[Activity], responses=problems(404))
async def activities(
    context: ContextDep, actor: Reader, task_id: TaskId, before: Before = None, limit: Limit = 100
) -> JSONResponse:
    """Newest first."""
    return JSONResponse(await context.tasks.activities(actor, task_id, before, limit))


@router.post(
    "/tasks/{task_id}/activities",
    status_code=201,
    summary="Log an activity",
    response_model=Activity,
    responses=problems(404, 409, body=True),
)
async def add_activity(
    context: ContextDep, actor: Writer, task_id: TaskId, body: ActivityIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """What an agent did for a task."""
    return JSONResponse(await context.tasks.add_activity(actor, task_id, body, idempotency_key), status_code=201)


@router.get(
    "/tasks/{task_id}/deliverables",
    summary="Deliverables",
    response_model=list[Deliverable],
    responses=problems(404),
)
async def deliverables(
    context: ContextDep, actor: Reader, task_id: TaskId, before: Before = None, limit: Limit = 100
) -> JSONResponse:
    """Newest first."""
    return JSONResponse(await context.tasks.deliverables(actor, task_id, before, limit))


@router.post(
    "/tasks/{task_id}/deliverables",
    status_code=201,
    summary="Add a deliverable",
    response_model=Deliverable,
    responses=problems(404, 409, body=True),
)
async def add_deliverable(
    context: ContextDep, actor: Writer, task_id: TaskId, body: DeliverableIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """A file by its path, a URL, or an artifact."""
    return JSONResponse(await context.tasks.add_deliverable(actor, task_id, body, idempotency_key), status_code=201)


@router.get(
    "/tasks/{task_id}/subagent", summary="Sub-agent sessions", response_model=list[Subagent], responses=problems(404)
)
async def subagents(context: ContextDep, actor: Reader, task_id: TaskId) -> JSONResponse:
    """Newest first."""
    return JSONResponse(await context.tasks.subagents(actor, task_id))


@router.post(
    "/tasks/{task_id}/subagent",
    status_code=201,
    summary="Register a sub-agent session",
    response_model=Subagent,
    responses=problems(404, 409, body=True),
)
async def add_subagent(
    context: ContextDep, actor: Writer, task_id: TaskId, body: SubagentIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """It starts as `active`."""
    return JSONResponse(await context.tasks.add_subagent(actor, task_id, body, idempotency_key), status_code=201)


@router.patch(
    "/tasks/{task_id}/subagent/{openclaw_session_id}",
    summary="End a sub-agent session",
    response_model=Subagent,
    responses=problems(404, 409, body=True),
)
async def patch_subagent(
    context: ContextDep,
    actor: Writer,
    task_id: TaskId,
    openclaw_session_id: Annotated[Identifier, Path()],
    body: SubagentPatch,
) -> JSONResponse:
    """Active → completed or failed; sets `ended_at` and `duration_ms`."""
    return JSONResponse(await context.tasks.set_subagent_status(actor, task_id, openclaw_session_id, body.status))


@router.get("/feed", tags=["feed"], summary="Who did what, newest first", response_model=FeedPage, responses=problems())
async def feed(
    context: ContextDep, _: Reader, cursor: Annotated[ShortText | None, Query()] = None, limit: Limit = 100
) -> JSONResponse:
    """A cursor stays right while rows are added."""
    return JSONResponse(await context.tasks.feed(cursor, limit))


@router.get("/feed/stats", tags=["feed"], summary="Figures of the feed", response_model=FeedStats, responses=problems())
async def feed_stats(context: ContextDep, _: Reader) -> JSONResponse:
    """In all, of 24 hours, and those of 30 days by type, action and actor."""
    return JSONResponse(await context.tasks.feed_statistics())
