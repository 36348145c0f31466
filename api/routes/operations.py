"""Operations: what agents do, step by step."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from api.context import ContextDep, Reader, Writer
from api.models.base import Identifier
from api.models.operations import (
    MetricsPatch,
    Operation,
    OperationIn,
    OperationPatch,
    OperationQuery,
    StepPatch,
)
from api.responses import PAGED, problems
from api.routes.conditional import IfMatch, name_next, tagged, version

router = APIRouter(prefix="/api/operations", tags=["operations"])

IdempotencyKey = Annotated[
    Identifier | None,
    Header(description="The same key again gives the first answer and creates nothing; kept for 24 hours."),
]
OperationId = Annotated[Identifier, Path(description="For example op_1.")]


@router.get(
    "",
    summary="Operations",
    response_model_exclude_unset=True,
    responses={**problems(), **PAGED},
)
async def operations(
    context: ContextDep, response: Response, actor: Reader, wanted: Annotated[OperationQuery, Query()]
) -> list[Operation]:
    """Newest first unless sorted. Filters combine. At most 1,000; `limit` is 100 unless given."""
    found, following = await context.operations.operations(actor, wanted)
    name_next(response, following)
    return found


@router.post(
    "", status_code=201, summary="Create", response_model_exclude_unset=True, responses=problems(409, body=True)
)
async def create(
    context: ContextDep, response: Response, actor: Writer, body: OperationIn, idempotency_key: IdempotencyKey = None
) -> Operation:
    """It starts as `pending`."""
    made = await context.operations.create(actor, body, idempotency_key)
    response.headers["Location"] = f"/api/operations/{made.id}"
    return tagged(response, made)


@router.get("/{operation_id}", summary="One operation", response_model_exclude_unset=True, responses=problems(404))
async def operation(context: ContextDep, response: Response, actor: Reader, operation_id: OperationId) -> Operation:
    """With its steps and metrics. Its ETag is for `If-Match`."""
    return tagged(response, await context.operations.operation(actor, operation_id))


@router.patch(
    "/{operation_id}", summary="Change", response_model_exclude_unset=True, responses=problems(404, 409, 412, body=True)
)
async def patch(
    *,
    context: ContextDep,
    response: Response,
    actor: Writer,
    operation_id: OperationId,
    body: OperationPatch,
    if_match: IfMatch = None,
) -> Operation:
    """Pending → in_progress → completed, failed or cancelled; what has ended stays so (409). Instants, duration and
    disposition that a status implies are filled in where they are not given."""
    return tagged(response, await context.operations.patch(actor, operation_id, body, version(if_match)))


@router.patch(
    "/{operation_id}/steps/{step_id}",
    summary="Change a step",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, body=True),
)
async def patch_step(
    *,
    context: ContextDep,
    response: Response,
    actor: Writer,
    operation_id: OperationId,
    step_id: Annotated[Identifier, Path()],
    body: StepPatch,
    if_match: IfMatch = None,
) -> Operation:
    """Pending → running → completed, failed or skipped. The duration is the difference of the instants."""
    return tagged(response, await context.operations.patch_step(actor, operation_id, step_id, body, version(if_match)))


@router.patch(
    "/{operation_id}/metrics",
    summary="Report tokens and cost",
    response_model_exclude_unset=True,
    responses=problems(404, 412, body=True),
)
async def patch_metrics(
    *,
    context: ContextDep,
    response: Response,
    actor: Writer,
    operation_id: OperationId,
    body: MetricsPatch,
    if_match: IfMatch = None,
) -> Operation:
    """Replaces the earlier figures."""
    return tagged(response, await context.operations.patch_metrics(actor, operation_id, body, version(if_match)))
