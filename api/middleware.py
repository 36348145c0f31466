"""What surrounds every request, as plain ASGI: headers, log and counts, body limit, origin check, authentication.

Authentication is here and not in the handlers: a route that forgets to ask for a token is refused, not open, and
nothing of a request's body is read before its sender is known.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.counts import Counts
from api.security.limits import Limits, RateLimiter
from api.security.scopes import Actor

log = structlog.get_logger(__name__)

# Everything else needs a token. Exact paths, and folders that end in a slash.
PUBLIC = frozenset(
    {
        "/",
        "/docs",
        "/board",
        "/live",
        "/office",
        "/openapi.json",
        "/favicon.ico",
        "/robots.txt",
        "/health",
        "/healthz",
        "/readyz",
        "/api/health",
        "/api/auth/login",
    }
)
PUBLIC_FOLDERS = ("/static/", "/runbooks/")
# Deliveries that carry a signature need no token: their route checks it before anything else. Without one: 401 here.
SIGNED_FOLDER = "/api/hooks/"
SIGNATURE_HEADER = "X-Lobservatory-Signature"
TIMESTAMP_HEADER = "X-Lobservatory-Timestamp"
# A browser's EventSource cannot send a header: there, too, a single-use ticket may open the stream.
TICKET_PATHS = frozenset({"/api/events/stream"})
SUBPROTOCOL = "lobservatory"
BEARER_SUBPROTOCOL = "bearer."
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    # No text can become markup or script, whatever a page of ours should do wrong one day.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Authenticator(Protocol):
    """Who knows tokens and tickets."""

    async def authenticate(self, token: str) -> Actor | None:
        """Who holds this token; None when it is not valid."""

    async def redeem(self, ticket: str) -> Actor | None:
        """Who was given this ticket, which is then used up; None when it is not valid."""


async def refuse(error: errors.ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a problem document; a WebSocket gets it in place of its upgrade."""
    answer = errors.response(error)
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})  # before the upgrade: servers make it a plain 403
        return
    await answer(scope, receive, send)


def client_address(scope: Scope) -> str:
    """The client's address in its usual form; one for all without one (a socket file, a proxy that says nonsense)."""
    client = scope.get("client")
    if not client:
        return "local"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return "unknown"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class Envelope:
    """Outermost: security headers on every answer, one log line and one count per request, never the query."""

    def __init__(self, app: ASGIApp, *, counts: Counts) -> None:
        self.app = app
        self.counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def outgoing(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = int(message["status"])
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and not status:
                status = 403
            await send(message)

        try:
            await self.app(scope, receive, outgoing)
        finally:
            seconds = time.perf_counter() - started
            method = scope.get("method", "WS")
            # The route's template, known once the router has run: a path could hold anything and be of any number.
            route = getattr(scope.get("route"), "path", None) or ("unknown" if status == 404 else "other")  # noqa: PLR2004
            self.counts.request(method, route, status, seconds)
            log.debug("request", method=method, route=route, status=status, ms=round(seconds * 1000, 2))


class BodyLimit:
    """Reads a body before anyone works on it, up to a size and for so long."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] not in UNSAFE:
            await self.app(scope, receive, send)
            return
        limit = self.limits.body_bytes
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            await refuse(errors.PayloadTooLargeError(limit), scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > limit:
                        await refuse(errors.PayloadTooLargeError(limit), scope, receive, send)
                        return
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            await refuse(errors.SlowBodyError(), scope, receive, send)
            return
        given = False

        async def incoming() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, incoming, send)


class OriginCheck:
    """Refuses what a page of another origin makes a browser send: every unsafe method, and every WebSocket."""

    def __init__(self, app: ASGIApp, *, origins: Iterable[str]) -> None:
        self.app = app
        self.origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] in {"http", "websocket"} and self._foreign(scope):
            await refuse(errors.CrossSiteError(), scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _foreign(self, scope: Scope) -> bool:
        if scope["type"] == "http" and scope["method"] not in UNSAFE:
            return False
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin in self.origins:
            return False
        site = headers.get("sec-fetch-site")
        if site is not None and site not in {"same-origin", "none"}:
            return True
        # "null" comes from sandboxed frames and files: foreign, like any origin that is not the one asked.
        return origin is not None and urlsplit(origin).netloc != headers.get("host")


class Authentication:
    """Finds out who asks, and refuses whoever cannot show it, for everything that is not PUBLIC."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Callable[[], Authenticator],
        allow_query_token: bool,
        limits: Limits,
    ) -> None:
        self.app = app
        self.service = service
        self.allow_query_token = allow_query_token
        self.failures = RateLimiter(limits.anonymous)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in {"http", "websocket"} or self._public(scope):
            await self.app(scope, receive, send)
            return
        try:
            actor = await self._actor(scope)
        except errors.DATABASE_AWAY:
            await refuse(errors.DatabaseUnavailableError(), scope, receive, send)
            return
        if actor is None:
            wait = self.failures.take(client_address(scope))
            error = errors.RateLimitedError(wait, "Too many wrong tokens.") if wait else errors.UnauthenticatedError()
            await refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["actor"] = actor
        await self.app(scope, receive, send)

    @staticmethod
    def _public(scope: Scope) -> bool:
        path: str = scope["path"]
        if scope["type"] != "http":
            return False
        signed = scope["method"] == "POST" and path.startswith(SIGNED_FOLDER) and "/" not in path[len(SIGNED_FOLDER) :]
        return (
            path in PUBLIC or path.startswith(PUBLIC_FOLDERS) or (signed and SIGNATURE_HEADER in Headers(scope=scope))
        )

    async def _actor(self, scope: Scope) -> Actor | None:
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme:
            return await self.service().authenticate(token.strip()) if scheme.lower() == "bearer" else None
        if scope["type"] == "websocket":
            for offered in scope.get("subprotocols", []):
                if offered.startswith(BEARER_SUBPROTOCOL):
                    return await self.service().authenticate(offered.removeprefix(BEARER_SUBPROTOCOL))
        elif scope["path"] not in TICKET_PATHS:
            return None
        query: dict[str, Any] = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        # Outside clients put it under `token`; what may stand there is a ticket all the same.
        for value in (query.get("ticket") or query.get("token") or [])[:1]:
            actor = await self.service().redeem(value)
            if actor is None and self.allow_query_token:
                actor = await self.service().authenticate(value)
            return actor
        return None
