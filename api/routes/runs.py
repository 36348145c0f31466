"""Runs that were asked for: pipelines, the queue, what a run says, its end; 403 unless LOBS_COMMANDS=true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from api.context import Commander, ContextDep, Reader
from api.live.events import server_sent_event
from api.live.streams import STREAM_HEADERS
from api.models.base import Identifier
from api.models.commands import Run
from api.models.runs import Cancelled, RequestedRun, RequestedRuns, RunIn, RunStatus
from api.responses import problems
from api.routes.operations import IdempotencyKey

router = APIRouter(prefix="/api/runs", tags=["commands"])
RunId = Annotated[Identifier, Path(description="Of `POST /api/runs`, `POST /api/agents/spawn` and the like.")]


@router.post(
    "",
    status_code=202,
    summary="Start a pipeline",
    responses=problems(404, 409, 502, body=True),
)
async def start(context: ContextDep, actor: Commander, body: RunIn, idempotency_key: IdempotencyKey = None) -> Run:
    """One stage or several, in order, each an operation; who has LOBS_RUNS_PER_USER runs already waits."""
    return await context.runs.requests.start(actor, body, idempotency_key)


@router.get("", summary="What was asked for", responses=problems())
async def runs(
    context: ContextDep,
    actor: Reader,
    mine: Annotated[bool, Query(description="Only your own.")] = False,  # noqa: FBT002 - a query parameter
    status: Annotated[RunStatus | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> RequestedRuns:
    """The newest first, without the texts of tasks; kept for 30 days."""
    return RequestedRuns(runs=await context.runs.requests.every(actor, mine=mine, status=status, limit=limit))


@router.get("/{run_id}", summary="How one stands", responses=problems(404))
async def run(context: ContextDep, actor: Reader, run_id: RunId) -> RequestedRun:
    """Its stages with their operations, its place in the queue, its delivery."""
    return await context.runs.requests.one(actor, run_id)


@router.post(
    "/{run_id}/cancel",
    summary="Take it out of the queue, or stop it",
    responses=problems(404, 409, 502),
)
async def cancel(
    context: ContextDep, actor: Commander, run_id: RunId, idempotency_key: IdempotencyKey = None
) -> Cancelled:
    """With all stages that were to come."""
    return await context.runs.requests.cancel(actor, run_id, idempotency_key)


@router.get(
    "/{run_id}/reply",
    summary="What the agent says, as it comes",
    response_class=StreamingResponse,
    responses={
        **problems(404, 409),
        200: {
            "description": "Server-sent events of the stage at hand: `delta` with the text that is new, then `final`"
            " with all of it, `aborted` or `error`.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: 1\nevent: delta\ndata: {"type":"delta","payload":{"text":"So far"}}\n\n',
                }
            },
        },
    },
)
async def reply(context: ContextDep, actor: Commander, run_id: RunId) -> StreamingResponse:
    """Asked of the gateway at this moment and stored nowhere. Who comes late gets all that was said so far."""
    events = await context.runs.replies.follow(actor, run_id)

    async def stream() -> AsyncIterator[str]:
        number = 0
        async for event in events:
            if event is None:
                yield ": keep-alive\n\n"  # no proxy ends the connection while the model thinks
                continue
            number += 1
            yield server_sent_event(event.type, event.payload(), number)

    return StreamingResponse(stream(), headers=STREAM_HEADERS)
