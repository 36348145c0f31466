"""One prompt for several agents; 403 unless LOBS_COMMANDS=true."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api import errors
from api.context import Commander, ContextDep
from api.models.base import Identifier
from api.models.dispatch import MOST_AGENTS, Dispatched, DispatchIn, Result
from api.responses import problems
from api.routes.operations import IdempotencyKey
from api.security.scopes import Scope

router = APIRouter(prefix="/api/dispatch", tags=["commands"])


@router.post(
    "", status_code=202, summary="Give several agents the same work", responses=problems(404, 409, 502, body=True)
)
async def dispatch(
    context: ContextDep, actor: Commander, body: DispatchIn, idempotency_key: IdempotencyKey = None
) -> list[Dispatched]:
    """At most 8, each in a session of its own; one that is refused says why. Counts as so many commands."""
    for _ in body.agent_ids[1:]:
        wait = context.limiters[Scope.COMMAND].take(actor.token_id)
        if wait:
            raise errors.RateLimitedError(wait)
    return await context.dispatch.dispatch(actor, body, idempotency_key)


@router.get("/results", summary="The results side by side", responses=problems(404, 502))
async def results(
    context: ContextDep,
    actor: Commander,
    operation_id: Annotated[
        list[Identifier], Query(alias="operationId", min_length=1, max_length=MOST_AGENTS, description="Repeated.")
    ],
) -> list[Result]:
    """Status, time, tokens and money of each, and its reply when it has ended."""
    return await context.dispatch.results(actor, operation_id)
