"""The exporter's web server: `/metrics`, a landing page and `/healthz`. Reads only; loopback unless told otherwise."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import html
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn

from lobservatory.errors import LobservatoryError
from lobservatory.metrics.exposition import Format, accepts_gzip, negotiate
from lobservatory.settings import Listen

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

RenderScrape = Callable[[Format, bool], str]
Health = Callable[[], Mapping[str, Any]]

_GZIP_FROM = 1_400  # bytes: one packet is not worth compressing
_DRAIN_SECONDS = 3


class PortTakenError(LobservatoryError):
    """Nothing can listen at the address. The text says which and what to do."""


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.4rem;margin-bottom:.2rem}p{margin:.4rem 0}a{color:#b3261e}code{background:#f2f2f2;padding:.1em .3em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:#57606a}dd{margin:0}
@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#14171a}a{color:#ff8a80}code{background:#24292e}}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"interest-cohort=()"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'".encode(),
    ),
)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def landing_page(health: Mapping[str, Any]) -> str:
    """A small page for people: what this is, and where its metrics are."""
    facts = "".join(
        f"<dt>{html.escape(str(name).replace('_', ' '))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in health.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Lobservatory exporter</title><style>{_STYLE}</style></head><body>"
        "<h1>Lobservatory exporter</h1><p>What OpenClaw's agents do, cost and break, for Prometheus.</p>"
        '<p><a href="/metrics"><code>/metrics</code></a> for Prometheus · '
        '<a href="/healthz"><code>/healthz</code></a> for supervisors</p>'
        f"<dl>{facts}</dl></body></html>\n"
    )


class Application:
    """The ASGI application. `render` makes the text of a scrape without waiting; `health` gives a few plain facts."""

    def __init__(self, render: RenderScrape, health: Health) -> None:
        self._render = render
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's start and end."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] != "http":  # a WebSocket: refused before the upgrade
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            text = value.decode("latin-1")
            headers[name] = f"{headers[name]},{text}" if name in headers else text
        answer = await self._answer(scope["method"], scope["path"], headers)
        body = answer.body
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", answer.content_type.encode()),
                    (b"content-length", str(len(body)).encode()),
                    *answer.headers,
                    *_SECURITY_HEADERS,
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, method: str, path: str, headers: Mapping[bytes, str]) -> _Answer:
        pages: dict[str, Callable[[Mapping[bytes, str]], Awaitable[_Answer]]] = {
            "/metrics": self._metrics,
            "/": self._landing,
            "/healthz": self._healthz,
        }
        page = pages.get(path)
        if page is None:
            return _Answer(404, "text/plain; charset=utf-8", b"Not found. Metrics are at /metrics.\n")
        if method not in {"GET", "HEAD"}:
            text = b"Only GET and HEAD.\n"
            return _Answer(405, "text/plain; charset=utf-8", text, ((b"allow", b"GET, HEAD"),))
        return await page(headers)

    async def _metrics(self, headers: Mapping[bytes, str]) -> _Answer:
        text_format = negotiate(headers.get(b"accept", ""))
        # Prometheus and everything built on its scraper announce their patience with this header; people do not.
        prometheus = b"x-prometheus-scrape-timeout-seconds" in headers
        body = self._render(text_format, prometheus).encode()
        extra: tuple[tuple[bytes, bytes], ...] = ((b"vary", b"Accept, Accept-Encoding"),)
        if len(body) >= _GZIP_FROM and accepts_gzip(headers.get(b"accept-encoding", "")):
            # zlib lets the event loop go on meanwhile. Level 1: 3 % larger, a third of the time.
            body = await asyncio.to_thread(gzip.compress, body, 1, mtime=0)
            extra = (*extra, (b"content-encoding", b"gzip"))
        return _Answer(200, text_format.value, body, extra)

    async def _landing(self, _headers: Mapping[bytes, str]) -> _Answer:
        return _Answer(200, "text/html; charset=utf-8", landing_page(self._health()).encode())

    async def _healthz(self, _headers: Mapping[bytes, str]) -> _Answer:
        return _Answer(200, "application/json", json.dumps({"status": "ok", **self._health()}).encode() + b"\n")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: this process stops its parts in order."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Wakes once a second, for the Date header; uvicorn's own loop wakes ten times to look at a flag."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    def stop(self) -> None:
        """End the loop."""
        self.should_exit = True
        self._stopping.set()


def bind(listen: Listen, setting: str = "LOBS_METRICS_LISTEN") -> socket.socket:
    """A listening socket at the address (port 0: a free one). Raises PortTakenError with one clear line."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise PortTakenError(f"{setting}={listen}: the host is not known: {error.strerror}") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise PortTakenError(
            f"{setting}={listen}: cannot listen there: {error.strerror}. Stop what uses it or choose another port"
        ) from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


class MetricsServer:
    """Serves an application on a bound socket inside the running event loop."""

    def __init__(self, application: Application, bound: socket.socket) -> None:
        self._socket = bound
        self._server = _Server(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                lifespan="off",
                ws="none",
                limit_concurrency=100,
                timeout_keep_alive=75,  # longer than usual scrape intervals, so that connections are used again
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Serve from now on."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="metrics server")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise RuntimeError("the metrics server ended while it started")
            await asyncio.sleep(0.005)

    async def wait(self) -> None:
        """Until the server ends."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Finish the requests at hand (at most 3 s) and close the port."""
        self._server.stop()
        if self._task is not None:
            await self._task
        self._socket.close()
