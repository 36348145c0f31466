"""Webhooks from outside systems, authenticated by their signature instead of a token."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Request, Security
from fastapi.security import APIKeyHeader

from api import errors
from api.context import ContextDep
from api.middleware import SIGNATURE_HEADER, TIMESTAMP_HEADER, client_address
from api.models.base import Identifier
from api.models.webhooks import WebhookIn, WebhookReceipt
from api.responses import problems

router = APIRouter(prefix="/api/hooks", tags=["webhooks"])

_header = APIKeyHeader(
    name=SIGNATURE_HEADER,
    auto_error=False,
    scheme_name="signature",
    description="`sha256=` and the hex HMAC-SHA256 of `<X-Lobservatory-Timestamp>.<body>` with the webhook's secret.",
)


async def _verified(
    request: Request,
    context: ContextDep,
    name: Annotated[Identifier, Path(description="Name of the file in `secrets/webhooks/` that holds the secret.")],
    given: Annotated[str | None, Security(_header)],
    timestamp: Annotated[
        str | None, Header(alias=TIMESTAMP_HEADER, description="Seconds since 1970; within five minutes of now.")
    ] = None,
) -> str:
    """The signature, when it is right. Raises UnauthenticatedError and RateLimitedError."""
    wait = context.login_limiter.take(f"webhook {client_address(request.scope)}")
    if wait:
        raise errors.RateLimitedError(wait)
    context.webhooks.verify(name, timestamp or "", given or "", await request.body())
    return given or ""


@router.post(
    "/{name}",
    status_code=202,
    summary="Tell of an event",
    responses=problems(404, body=True),
)
async def receive(
    context: ContextDep, name: Identifier, given: Annotated[str, Depends(_verified)], body: WebhookIn
) -> WebhookReceipt:
    """It becomes an operation of type `webhook`. The same delivery again gives the same answer and no second one."""
    return await context.webhooks.accept(name, given, body.root)
