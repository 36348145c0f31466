"""Tasks, the task hub, and the feed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.context import ContextDep, Reader, Writer
from api.models.base import Identifier, InstantIn, ShortText
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
    StatusChange,
    Subagent,
    SubagentIn,
    SubagentPatch,
    Task,
    TaskIn,
    TaskPage,
    TaskPatch,
    TaskQuery,
)
from api.responses import problems
from api.routes.conditional import IfMatch, tagged, version
from api.routes.operations import IdempotencyKey

router = APIRouter(prefix="/api", tags=["tasks"])

TaskId = Annotated[Identifier, Path(description="For example task_1.")]
Limit = Annotated[int, Query(ge=1, le=500)]
Before = Annotated[int | None, Query(ge=1, le=2**62, description="Only rows with a lower id: the next page.")]


@router.get("/tasks", summary="Tasks", response_model_exclude_unset=True, responses=problems())
async def tasks(context: ContextDep, actor: Reader, wanted: Annotated[TaskQuery, Query()]) -> TaskPage:
    """Newest first unless sorted. Filters combine. A cursor stays right while tasks come and go."""
    return await context.tasks.tasks(actor, wanted)


@router.post(
    "/tasks", status_code=201, summary="Create", response_model_exclude_unset=True, responses=problems(409, body=True)
)
async def create(
    context: ContextDep, response: Response, actor: Writer, body: TaskIn, idempotency_key: IdempotencyKey = None
) -> Task:
    """Status `todo` and priority `medium` unless given."""
    return tagged(response, await context.tasks.create(actor, body, idempotency_key))


@router.get("/tasks/flow", summary="Throughput and cycle time", responses=problems())
async def flow(
    context: ContextDep,
    _: Reader,
    since: Annotated[InstantIn | None, Query(description="30 days ago unless given.")] = None,
    until: Annotated[InstantIn | None, Query(description="Now unless given.")] = None,
) -> Flow:
    """From the append-only history: the past never changes."""
    end = until or datetime.now(UTC)
    return await context.tasks.flow(since or end - timedelta(days=30), end)


@router.get(
    "/tasks/{task_id}", summary="One task with its comments", response_model_exclude_unset=True, responses=problems(404)
)
async def task(context: ContextDep, response: Response, actor: Reader, task_id: TaskId) -> Task:
    """Its ETag is for `If-Match`."""
    return tagged(response, await context.tasks.task(actor, task_id))


@router.put(
    "/tasks/{task_id}",
    summary="Replace",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, body=True),
)
async def replace(
    *, context: ContextDep, response: Response, actor: Writer, task_id: TaskId, body: TaskIn, if_match: IfMatch = None
) -> Task:
    """Every field anew; what is absent gets its default."""
    return tagged(response, await context.tasks.replace(actor, task_id, body, version(if_match)))


@router.patch(
    "/tasks/{task_id}",
    summary="Change",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, body=True),
)
async def patch(
    *,
    context: ContextDep,
    response: Response,
    actor: Writer,
    task_id: TaskId,
    body: TaskPatch,
    if_match: IfMatch = None,
) -> Task:
    """What is absent stays."""
    return tagged(response, await context.tasks.patch(actor, task_id, body, version(if_match)))


@router.delete("/tasks/{task_id}", status_code=204, summary="Delete", responses=problems(404, 412))
async def delete(context: ContextDep, actor: Writer, task_id: TaskId, if_match: IfMatch = None) -> None:
    """With its comments, activities, deliverables and sessions; its status history stays."""
    await context.tasks.delete(actor, task_id, version(if_match))


@router.get("/tasks/{task_id}/history", summary="Status history", responses=problems(404))
async def history(context: ContextDep, actor: Reader, task_id: TaskId) -> list[StatusChange]:
    """Append-only, oldest first; of deleted tasks too."""
    return await context.tasks.history(actor, task_id)


@router.post(
    "/tasks/{task_id}/comment",
    status_code=201,
    summary="Comment",
    responses=problems(404, 409, body=True),
)
async def comment(
    context: ContextDep, actor: Writer, task_id: TaskId, body: CommentIn, idempotency_key: IdempotencyKey = None
) -> Comment:
    """Shown with the task."""
    return await context.tasks.comment(actor, task_id, body, idempotency_key)


@router.get("/tasks/{task_id}/activities", summary="Activities", responses=problems(404))
async def activities(
    context: ContextDep, actor: Reader, task_id: TaskId, before: Before = None, limit: Limit = 100
) -> list[Activity]:
    """Newest first."""
    return await context.tasks.activities(actor, task_id, before, limit)


@router.post(
    "/tasks/{task_id}/activities",
    status_code=201,
    summary="Log an activity",
    responses=problems(404, 409, body=True),
)
async def add_activity(
    context: ContextDep, actor: Writer, task_id: TaskId, body: ActivityIn, idempotency_key: IdempotencyKey = None
) -> Activity:
    """What an agent did for a task."""
    return await context.tasks.add_activity(actor, task_id, body, idempotency_key)


@router.get(
    "/tasks/{task_id}/deliverables",
    summary="Deliverables",
    responses=problems(404),
)
async def deliverables(
    context: ContextDep, actor: Reader, task_id: TaskId, before: Before = None, limit: Limit = 100
) -> list[Deliverable]:
    """Newest first."""
    return await context.tasks.deliverables(actor, task_id, before, limit)


@router.post(
    "/tasks/{task_id}/deliverables",
    status_code=201,
    summary="Add a deliverable",
    responses=problems(404, 409, body=True),
)
async def add_deliverable(
    context: ContextDep, actor: Writer, task_id: TaskId, body: DeliverableIn, idempotency_key: IdempotencyKey = None
) -> Deliverable:
    """A file by its path, a URL, or an artifact."""
    return await context.tasks.add_deliverable(actor, task_id, body, idempotency_key)


@router.get("/tasks/{task_id}/subagent", summary="Sub-agent sessions", responses=problems(404))
async def subagents(context: ContextDep, actor: Reader, task_id: TaskId) -> list[Subagent]:
    """Newest first."""
    return await context.tasks.subagents(actor, task_id)


@router.post(
    "/tasks/{task_id}/subagent",
    status_code=201,
    summary="Register a sub-agent session",
    responses=problems(404, 409, body=True),
)
async def add_subagent(
    context: ContextDep, actor: Writer, task_id: TaskId, body: SubagentIn, idempotency_key: IdempotencyKey = None
) -> Subagent:
    """It starts as `active`."""
    return await context.tasks.add_subagent(actor, task_id, body, idempotency_key)


@router.patch(
    "/tasks/{task_id}/subagent/{openclaw_session_id}",
    summary="End a sub-agent session",
    responses=problems(404, 409, body=True),
)
async def patch_subagent(
    context: ContextDep,
    actor: Writer,
    task_id: TaskId,
    openclaw_session_id: Annotated[Identifier, Path()],
    body: SubagentPatch,
) -> Subagent:
    """Active → completed or failed; sets `ended_at` and `duration_ms`."""
    return await context.tasks.set_subagent_status(actor, task_id, openclaw_session_id, body.status)


@router.get("/feed", tags=["feed"], summary="Who did what, newest first", responses=problems())
async def feed(
    context: ContextDep, _: Reader, cursor: Annotated[ShortText | None, Query()] = None, limit: Limit = 100
) -> FeedPage:
    """A cursor stays right while rows are added."""
    return await context.tasks.feed(cursor, limit)


@router.get("/feed/stats", tags=["feed"], summary="Figures of the feed", responses=problems())
async def feed_stats(context: ContextDep, _: Reader) -> FeedStats:
    """In all, of 24 hours, and those of 30 days by type, action and actor."""
    return await context.tasks.feed_statistics()
