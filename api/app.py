"""The application, built in a function: `create_app(settings, password)`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import errors, openapi
from api.context import Context, of_app
from api.counts import Counts
from api.live.hub import Hub
from api.live.source import OutboxSource
from api.live.status import broadcast_agent_status
from api.middleware import Authentication, BodyLimit, Envelope, OriginCheck
from api.routes import ROUTERS
from api.security import scopes
from api.security.limits import Limits, RateLimiter
from api.services import chat
from api.services.agents import AgentService
from api.services.alerts import AlertService
from api.services.auth import AuthService
from api.services.boards import BoardService
from api.services.budgets import BudgetService
from api.services.commands import Commands
from api.services.control import Control
from api.services.dispatch import DispatchService
from api.services.gateway import gateway_client
from api.services.monitoring import MonitoringService
from api.services.operations import OperationService
from api.services.runs import Runs
from api.services.tasks import TaskService
from api.services.webhooks import WebhookService
from api.tracing import Traced, Tracing
from lobservatory import __version__, otlp
from lobservatory.errors import StartError
from lobservatory.password import PasswordFile
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from store import pool as database
from store.migrate import MigrateError, check_schema

log = structlog.get_logger(__name__)

Watch = Callable[[str, GatewayClient], None]

_HOUSEKEEPING_SECONDS = 5.0
_POOL_SECONDS = 4.0  # for a free connection; then 503


def check_start(settings: Settings) -> None:
    """Refuse to start without a database or with a schema that is not ours. Raises StartError."""
    dsn = settings.database_url.get_secret_value()
    if not dsn:
        raise StartError(
            "LOBS_DATABASE_URL is not set: the API needs a database", remedy="`lobservatory up` starts one and sets it"
        )
    try:
        check_schema(dsn)
    except MigrateError as error:
        raise StartError(f"LOBS_DATABASE_URL: {error}") from None


async def _chat(
    stack: contextlib.AsyncExitStack,
    pool: database.Pool,
    settings: Settings,
    watch: Watch,
    around: database.Around | None,
) -> chat.ChatService:
    """The chat, with connections of its own to the gateway and, as the reader's role, to the database."""
    if not settings.chat:
        return chat.ChatService(pool, None, settings, None)
    dsn = settings.reader_url.get_secret_value()
    if not dsn:
        raise StartError("LOBS_READER_URL is not set: with LOBS_CHAT, the database as the role lobs_reader is needed")
    reader = await stack.enter_async_context(
        database.open_pool(dsn, name="lobservatory chat", max_size=2, wait_seconds=_POOL_SECONDS, around=around)
    )
    client = await stack.enter_async_context(gateway_client(settings, chat.SCOPES))
    watch("chat", client)
    service = chat.ChatService(pool, reader, settings, chat.ModelConnection(client))
    stack.push_async_callback(service.close)
    return service


def create_app(settings: Settings, password: PasswordFile | None, *, limits: Limits | None = None) -> FastAPI:
    """The service. `password` None: only for its OpenAPI document; it cannot be started."""
    limits = limits or Limits()
    counts = Counts()
    tracing = Tracing(os.environ, __version__) if otlp.wanted(os.environ) else None
    around = None if tracing is None else tracing.transaction
    counts.tracing = tracing

    def watch(name: str, client: GatewayClient) -> None:
        counts.connection(name, client)
        if tracing is not None:
            tracing.follow(name, client)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if password is None:
            raise StartError("a password is needed to start")
        await asyncio.to_thread(check_start, settings)
        async with contextlib.AsyncExitStack() as stack:
            if tracing is not None:
                await stack.enter_async_context(tracing.running())
            dsn = settings.database_url.get_secret_value()
            pool = await stack.enter_async_context(
                database.open_pool(
                    dsn,
                    name="lobservatory api",
                    wait_seconds=_POOL_SECONDS,
                    around=around,
                )
            )
            source = await OutboxSource.from_now(pool, dsn)
            hub = Hub(source, counts, queue_size=limits.client_queue, most_clients=limits.websockets)
            auth = AuthService(pool, password, settings.data_dir, counts)
            await auth.adopt_service_token()
            agents = AgentService(pool)
            gateway = None
            if settings.commands:
                gateway = await stack.enter_async_context(gateway_client(settings))
                watch("commands", gateway)
            chat_service = await _chat(stack, pool, settings, watch, around)
            commands = Commands(pool, settings.gateway_name, gateway)
            control = Control.of(pool, commands, settings.gateway_service)
            runs = Runs.of(pool, commands, gateway, settings, counts)
            app.state.context = Context(
                settings=settings,
                limits=limits,
                counts=counts,
                pool=pool,
                hub=hub,
                auth=auth,
                agents=agents,
                operations=OperationService(pool),
                tasks=TaskService(pool),
                boards=BoardService(pool),
                budgets=BudgetService(pool, settings),
                webhooks=WebhookService(pool, settings.data_dir),
                monitoring=MonitoringService(pool, agents),
                alerts=(alerts := AlertService(pool, settings)),
                gateway=gateway,
                control=control,
                dispatch=DispatchService(runs.requests, control.sessions, OperationService(pool)),
                runs=runs,
                chat=chat_service,
                limiters={
                    scopes.Scope.READ: RateLimiter(limits.read),
                    scopes.Scope.WRITE: RateLimiter(limits.write),
                    scopes.Scope.COMMAND: RateLimiter(limits.command),
                    scopes.Scope.ADMIN: RateLimiter(limits.write),
                },
                login_limiter=RateLimiter(limits.anonymous),
            )
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(hub.run(), name="follow the outbox"),
                    tasks.create_task(_housekeeping(hub, auth), name="housekeeping"),
                    tasks.create_task(broadcast_agent_status(hub, agents), name="agent status"),
                    tasks.create_task(alerts.watch(), name="listen for the watchdog"),
                    tasks.create_task(runs.work(), name="start and follow runs"),
                ]
                try:
                    yield
                finally:
                    hub.close()
                    for task in background:
                        task.cancel()

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=_operation_id,
        separate_input_output_schemas=False,
        # Its own spans and logs would hold paths and texts of errors; api/tracing.py makes ours.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    openapi.install(app)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)

    _surround(app, settings, limits, counts)
    if tracing is not None:
        app.add_middleware(Traced, tracing=tracing)
    return app


def document() -> dict[str, Any]:
    """The OpenAPI document, without a database or a running service."""
    return create_app(Settings.model_construct(), None).openapi()


def _surround(app: FastAPI, settings: Settings, limits: Limits, counts: Counts) -> None:
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(
        Authentication,
        service=lambda: of_app(app).auth,  # there is none before the start
        allow_query_token=settings.allow_query_token,
        limits=limits,
    )
    app.add_middleware(OriginCheck, origins=settings.cors_origins)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-Match", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["ETag", "Retry-After", "X-Next-Cursor"],
            max_age=600,
        )
    app.add_middleware(Envelope, counts=counts)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))


async def _housekeeping(hub: Hub, auth: AuthService) -> None:
    """Every few seconds: end the streams of revoked tokens, forget what has expired."""
    while True:
        await asyncio.sleep(_HOUSEKEEPING_SECONDS)
        try:
            await hub.check_actors(auth.still_valid)
            await auth.forget_expired()
        except errors.DATABASE_AWAY as error:
            log.warning("housekeeping failed", error=type(error).__name__)


def _operation_id(route: APIRoute) -> str:
    """`POST /api/tasks/{task_id}/comment` → `post_tasks_task_id_comment`: stable, and unique as paths are."""
    words = route.path_format.replace("{", "").replace("}", "").replace("-", "_").strip("/").split("/")
    if words[0] == "api" and len(words) > 1 and words[1] != "health":
        words = words[1:]
    return "_".join([min(route.methods or {"get"}).lower(), *words])
