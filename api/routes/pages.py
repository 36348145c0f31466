"""Our web pages and the health checks: what needs no token, and says nothing that does."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from api import errors, web
from api.context import Context, ContextDep, Reader
from api.responses import problems
from lobservatory.errors import NotFoundError
from store.health import ensure_answers

router = APIRouter()
_READY_SECONDS = 3.0


class Health(BaseModel):
    """The process lives."""

    ok: bool = True
    status: str = "live"


class Readiness(BaseModel):
    """Whether requests can be answered, and what is missing when not."""

    ok: bool
    checks: dict[str, bool] = Field(
        description="One per dependency; `false`: missing.", examples=[{"database": True, "gateway_commands": True}]
    )


@router.get("/health", tags=["health"], summary="Liveness")
@router.get("/healthz", tags=["health"], summary="Liveness")
@router.get("/api/health", tags=["health"], summary="Liveness")
async def health() -> Health:
    """The process lives; says nothing of what it depends on."""
    return Health()


@router.get("/readyz", tags=["health"], summary="Readiness", responses={503: {"model": Readiness}})
async def ready(context: ContextDep, response: Response) -> Readiness:
    """Whether requests can be answered; names the dependency that is missing, and nothing else. Without a connection to
    the gateway only commands and chat fail: that is told, and no reason to send other requests elsewhere."""
    checks = {"database": await _database(context)}
    ok = all(checks.values())
    if not ok:
        response.status_code = 503
    return Readiness(ok=ok, checks=checks | context.counts.connected())


async def _database(context: Context) -> bool:
    try:
        async with asyncio.timeout(_READY_SECONDS), context.pool.connection(_READY_SECONDS) as connection:
            await ensure_answers(connection)
    except (TimeoutError, *errors.DATABASE_AWAY):
        return False
    return True


@router.get("/", include_in_schema=False)
async def landing(context: ContextDep) -> Response:
    """The landing page."""
    page = web.landing(context.settings)
    return Response(page.content, media_type=page.media_type)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The interactive reference; it loads nothing from anywhere else."""
    page = web.docs()
    return Response(page.content, media_type=page.media_type)


@router.get("/board", include_in_schema=False)
@router.get("/live", include_in_schema=False)
@router.get("/office", include_in_schema=False)
async def application() -> Response:
    """The task board, live operations, the office: a page that holds nothing until somebody signs in."""
    page = web.application()
    return Response(page.content, media_type=page.media_type)


@router.get("/favicon.ico", include_in_schema=False)
@router.get("/static/{name}", include_in_schema=False)
async def static(name: str = "icon.svg") -> Response:
    """A file of our pages."""
    page = web.static_files().get(name)
    if page is None:
        raise NotFoundError(f"There is no file {name}.")
    return Response(page.content, media_type=page.media_type, headers={"Cache-Control": "max-age=300"})


@router.get("/runbooks/{name}", include_in_schema=False)
async def runbook(name: str) -> Response:
    """What to do about an alert."""
    page = web.runbook(name)
    if page is None:
        raise NotFoundError(f"There is no runbook {name}.")
    return Response(page.content, media_type=page.media_type)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> dict[str, object]:
    """The OpenAPI document."""
    document: dict[str, object] = request.app.openapi()
    return document


@router.get(
    "/metrics",
    tags=["health"],
    summary="Metrics of this service",
    response_class=PlainTextResponse,
    responses=problems(),
)
async def metrics(context: ContextDep, _: Reader) -> PlainTextResponse:
    """Requests, live clients, calls to the gateway and their times: Prometheus text, for a scrape with a token."""
    return PlainTextResponse(context.counts.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
