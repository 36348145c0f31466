"""Operations: what agents do, step by step."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import JSONResponse

from api.context import ContextDep, Reader, Writer
from api.models.base import Identifier, InstantIn, ShortText
from api.models.operations import (
    MetricsPatch,
    Operation,
    OperationIn,
    OperationPatch,
    OperationSort,
    OperationStatus,
    OperationType,
    StepPatch,
)
from api.responses import PAGED, problems
from api.routes.conditional import IfMatch, NextCursor, page, version, with_etag

router = APIRouter(prefix="/api/operations", tags=["operations"])

IdempotencyKey = Annotated[
    Identifier | None,
    Header(description="The same key again gives the first answer and creates nothing; kept for 24 hours."),
]
OperationId = Annotated[Identifier, Path(description="For example op_1.")]


@router.get(
    "",
    summary="Operations",
    response_model=list[Operation],
    responses={**problems(), **PAGED},
)
async def operations(
    *,
    context: ContextDep,
    actor: Reader,
    status: OperationStatus | None = None,
    kind: Annotated[OperationType | None, Query(alias="type")] = None,
    agent_id: Annotated[ShortText | None, Query(alias="agentId")] = None,
    tag: Annotated[ShortText | None, Query()] = None,
    sort: Annotated[
        OperationSort, Query(description="With `-`: falling. What runs still comes last by `completedAt`.")
    ] = "-createdAt",
    cursor: NextCursor = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    since: Annotated[
        InstantIn | None,
        Query(
            description="Those created or changed at this instant or later: what a WebSocket client missed. Clocks and "
            "commits differ by a little, so ask from some seconds before the last `updatedAt` that you have.",
            examples=["2026-01-29T10:00:00Z"],
        ),
    ] = None,
) -> JSONResponse:
    """Newest first unless sorted. Filters combine. At most 1,000; `limit` is 100 unless given."""
    found, following = await context.operations.operations(
        actor,
        status=status,
        kind=kind,
        agent=agent_id,
        tag=tag,
        sort=sort,
        cursor=cursor,
        limit=limit,
        since=since,
    )
    return page(found, following)


@router.post("", status_code=201, summary="Create", response_model=Operation, responses=problems(409, body=True))
async def create(
    context: ContextDep, actor: Writer, body: OperationIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """It starts as `pending`."""
    made = await context.operations.create(actor, body, idempotency_key)
    return with_etag(made, 201, Location=f"/api/operations/{made['id']}")


@router.get("/{operation_id}", summary="One operation", response_model=Operation, responses=problems(404))
async def operation(context: ContextDep, actor: Reader, operation_id: OperationId) -> JSONResponse:
    """With its steps and metrics. Its ETag is for `If-Match`."""
    return with_etag(await context.operations.operation(actor, operation_id))


@router.patch(
    "/{operation_id}", summary="Change", response_model=Operation, responses=problems(404, 409, 412, body=True)
)
async def patch(
    context: ContextDep, actor: Writer, operation_id: OperationId, body: OperationPatch, if_match: IfMatch = None
) -> JSONResponse:
    """Pending → in_progress → completed, failed or cancelled; what has ended stays so (409). Instants, duration and
    disposition that a status implies are filled in where they are not given."""
    return with_etag(await context.operations.patch(actor, operation_id, body, version(if_match)))


@router.patch(
    "/{operation_id}/steps/{step_id}",
    summary="Change a step",
    response_model=Operation,
    responses=problems(404, 409, 412, body=True),
)
async def patch_step(
    *,
    context: ContextDep,
    actor: Writer,
    operation_id: OperationId,
    step_id: Annotated[Identifier, Path()],
    body: StepPatch,
    if_match: IfMatch = None,
) -> JSONResponse:
    """Pending → running → completed, failed or skipped. The duration is the difference of the instants."""
    return with_etag(await context.operations.patch_step(actor, operation_id, step_id, body, version(if_match)))


@router.patch(
    "/{operation_id}/metrics",
    summary="Report tokens and cost",
    response_model=Operation,
    responses=problems(404, 412, body=True),
)
async def patch_metrics(
    context: ContextDep, actor: Writer, operation_id: OperationId, body: MetricsPatch, if_match: IfMatch = None
) -> JSONResponse:
    """Replaces the earlier figures."""
    return with_etag(await context.operations.patch_metrics(actor, operation_id, body, version(if_match)))
