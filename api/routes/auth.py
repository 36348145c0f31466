"""Log-in, tickets and tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from api import errors
from api.context import Administrator, ContextDep, Reader
from api.middleware import client_address
from api.models.auth import LoginIn, LoginOut, NewToken, Preferences, Ticket, TokenIn, TokenOut, Verified
from api.models.base import Identifier
from api.responses import problems
from api.security.scopes import Scope

router = APIRouter(prefix="/api/auth", tags=["auth"])


@router.post("/login", summary="Log in with the password", responses=problems(body=True))
async def login(context: ContextDep, request: Request, body: LoginIn) -> LoginOut:
    """A bearer token of all scopes for 24 hours. Five wrong passwords lock an address out for 15 minutes."""
    wait = context.login_limiter.take(client_address(request.scope))
    if wait:
        raise errors.RateLimitedError(wait)
    return await context.auth.login(body.password, client_address(request.scope))


@router.get("/verify", summary="What this token may do", responses=problems())
async def verify(actor: Reader) -> Verified:
    """401 when the token is not valid."""
    return Verified(
        name=actor.name,
        scopes=[Scope(scope) for scope in actor.scope.held()],
        gateways=None if actor.gateways is None else sorted(actor.gateways),
    )


@router.post("/ticket", summary="A ticket for one live connection", responses=problems())
async def ticket(context: ContextDep, actor: Reader) -> Ticket:
    """For browsers, which cannot set a header on a WebSocket: `?ticket=…`, once, within 30 seconds."""
    return await context.auth.ticket(actor)


@router.post("/logout", status_code=204, summary="Log out", responses=problems())
async def logout(context: ContextDep, actor: Reader) -> None:
    """Ends the token of a log-in at once, its live connections within 10 seconds. A token that was made with
    `POST /api/auth/tokens` goes on: an administrator revokes it."""
    await context.auth.logout(actor)


@router.get("/preferences", summary="What you chose for our pages", responses=problems())
async def preferences(context: ContextDep, actor: Reader) -> Preferences:
    """Of the user whose token this is, on every device."""
    return await context.auth.preferences(actor)


@router.put("/preferences", summary="Choose for our pages", responses=problems(body=True))
async def choose(context: ContextDep, actor: Reader, body: Preferences) -> Preferences:
    """Changes nothing for anybody else."""
    return await context.auth.choose(actor, body)


@router.get("/tokens", summary="All tokens", responses=problems())
async def tokens(context: ContextDep, _: Administrator) -> list[TokenOut]:
    """Without their values: those are stored nowhere."""
    return await context.auth.tokens()


@router.post("/tokens", status_code=201, summary="Make a token", responses=problems(body=True))
async def create_token(context: ContextDep, actor: Administrator, body: TokenIn) -> NewToken:
    """Its value is in this answer and never shown again."""
    return await context.auth.create_token(actor, body)


@router.delete("/tokens/{token_id}", status_code=204, summary="Revoke a token", responses=problems(404))
async def revoke_token(context: ContextDep, actor: Administrator, token_id: Annotated[Identifier, Path()]) -> None:
    """It ends at once; its live connections within 10 seconds."""
    await context.auth.revoke(actor, token_id)
