"""What a running service holds, opened in order and closed in reverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security, WebSocket
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from api import errors
from api.counts import Counts
from api.live.hub import Hub
from api.security.limits import Limits, RateLimiter
from api.security.scopes import Actor, Scope
from api.services.agents import AgentService
from api.services.alerts import AlertService
from api.services.auth import AuthService
from api.services.boards import BoardService
from api.services.budgets import BudgetService
from api.services.chat import ChatService
from api.services.control import Control
from api.services.dispatch import DispatchService
from api.services.monitoring import MonitoringService
from api.services.operations import OperationService
from api.services.runs import Runs
from api.services.tasks import TaskService
from api.services.webhooks import WebhookService
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from store.pool import Pool


@dataclass(slots=True)
class Context:
    """Everything that handlers may need."""

    settings: Settings
    limits: Limits
    counts: Counts
    pool: Pool
    hub: Hub
    auth: AuthService
    agents: AgentService
    operations: OperationService
    tasks: TaskService
    boards: BoardService
    budgets: BudgetService
    webhooks: WebhookService
    monitoring: MonitoringService
    alerts: AlertService
    gateway: GatewayClient | None  # for commands; None: they are off
    control: Control
    dispatch: DispatchService
    runs: Runs
    chat: ChatService
    limiters: dict[Scope, RateLimiter]
    login_limiter: RateLimiter


def of_app(app: Any) -> Context:
    """The context of a running application."""
    return cast(Context, app.state.context)


def _context(request: Request) -> Context:
    return of_app(request.app)


ContextDep = Annotated[Context, Depends(_context)]

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="`Authorization: Bearer <token>`, with a token of `POST /api/auth/login` or `POST /api/auth/tokens`.",
)


async def _authorize(
    request: Request,
    scopes: SecurityScopes,
    context: ContextDep,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Actor:
    """Who asks, when they may. Raises MissingScopeError and RateLimitedError."""
    actor: Actor = request.state.actor
    needed = max((Scope(scope) for scope in scopes.scopes), key=lambda scope: len(scope.held()))
    if not actor.scope.includes(needed):
        raise errors.ScopeNeededError(needed)
    wait = context.limiters[needed].take(actor.token_id)
    if wait:
        raise errors.RateLimitedError(wait)
    return actor


Reader = Annotated[Actor, Security(_authorize, scopes=[Scope.READ])]
Writer = Annotated[Actor, Security(_authorize, scopes=[Scope.WRITE])]
Commander = Annotated[Actor, Security(_authorize, scopes=[Scope.COMMAND])]
Administrator = Annotated[Actor, Security(_authorize, scopes=[Scope.ADMIN])]


def websocket_actor(websocket: WebSocket) -> Actor:
    """Who opened a WebSocket; the middleware has let nobody else through."""
    return cast(Actor, websocket.state.actor)
