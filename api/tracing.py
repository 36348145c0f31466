"""The service's own requests as OpenTelemetry traces, by the HTTP, RPC and database conventions.

On when `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set; off, not even the SDK is imported. A request is a
server span, named by its method and its route's template; its calls to the gateway and its database transactions are
client spans below it. W3C `traceparent` is honoured, also when it says that a trace is not sampled. A span has names,
numbers and times: no path with an identifier in it, no query, no header, no body, no parameter, no text of an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lobservatory.logging import REDACTOR
from lobservatory.otlp import secrets
from openclaw.client import Called, GatewayClient

if TYPE_CHECKING:  # off costs nothing
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)

NAME = "lobservatory-api"
ENDLESS = frozenset({"/api/events/stream"})  # its span ends when the stream begins, as a WebSocket's does
_CARRIERS = ("traceparent", "tracestate", "baggage")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_STOP_SECONDS = 3.0  # for spans that wait when the service stops
_SERVER_ERROR = 500


class RequestSpan:
    """The span of one request, from `Tracing.request` to `end`; a second end changes nothing."""

    def __init__(self, span: Span, detach: Callable[[], None]) -> None:
        self._span = span
        self._detach = detach
        self._ended = False

    def end(self, scope: Scope, status: int, error: BaseException | None = None) -> None:
        """End it. `status` 0: there was no answer, because the client went away or `error` came."""
        if self._ended:
            return
        self._ended = True
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - off costs nothing

        span, method, route = self._span, _method(scope), _route(scope)
        span.update_name(f"{method} {route}" if route else method)
        if route:
            span.set_attribute("http.route", route)
            # A path could hold anything: the address of a person in a session's key, a title. Its template cannot.
            span.set_attribute("url.path", route)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERROR or error is not None:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", str(status) if error is None else type(error).__name__)
        span.end()

    def leave(self) -> None:
        """What comes after is no part of it."""
        self._detach()


class Tracing:
    """Makes and sends spans between the beginning and the end of `running`."""

    def __init__(self, environment: Mapping[str, str], version: str) -> None:
        REDACTOR.learn(*secrets(environment))
        self._version = version
        self._tracer: Any = None
        self.sent = 0
        self.not_sent = 0
        self._failing = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Spans are sent in a thread, some seconds after they ended; at the end of the block, what waits has three."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - as above
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 - as above
            BatchSpanProcessor,
            SpanExporter,
            SpanExportResult,
        )

        tracing, backend = self, OTLPSpanExporter()

        class Counting(SpanExporter):
            def export(self, spans: Any) -> SpanExportResult:
                result = backend.export(spans)
                tracing.exported(spans, taken=result is SpanExportResult.SUCCESS)
                return result

            def shutdown(self) -> None:
                backend.shutdown()  # type: ignore[no-untyped-call]  # the SDK's

        resource = Resource.create({"service.version": self._version, "service.instance.id": str(uuid.uuid4())})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": NAME}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(Counting()))
        self._tracer = provider.get_tracer("lobservatory", self._version)
        try:
            yield
        finally:
            self._tracer = None
            # A thread of its own: a backend that does not answer must not keep the process from ending.
            stopping = threading.Thread(target=provider.shutdown, name="send the last spans", daemon=True)
            stopping.start()
            await asyncio.to_thread(stopping.join, _STOP_SECONDS)

    def exported(self, spans: tuple[ReadableSpan, ...], *, taken: bool) -> None:
        """A batch was sent, or given up; in the sender's thread."""
        if taken:
            self.sent += len(spans)
        else:
            self.not_sent += len(spans)
        if taken == self._failing:  # a line for each change
            self._failing = not taken
            if taken:
                log.info("traces are sent again")
            else:
                log.warning("traces cannot be sent", hint="see OTEL_EXPORTER_OTLP_ENDPOINT")

    def request(self, scope: Scope) -> RequestSpan | None:
        """Begin the span of a request."""
        if self._tracer is None:
            return None
        from opentelemetry import context, propagate, trace  # noqa: PLC0415 - as above

        headers = Headers(scope=scope)
        given = {name: headers[name] for name in _CARRIERS if name in headers}
        method = _method(scope)
        attributes: dict[str, str | int] = {
            "http.request.method": method if method != "HTTP" else "_OTHER",
            "url.scheme": {"ws": "http", "wss": "https"}.get(scope["scheme"], str(scope["scheme"])),
            "network.protocol.version": str(scope.get("http_version", "1.1")),
        }
        server = scope.get("server")
        if server and server[1] is not None:
            attributes["server.address"] = str(server[0])
            attributes["server.port"] = int(server[1])
        span = self._tracer.start_span(
            method, propagate.extract(given, context.Context()), kind=trace.SpanKind.SERVER, attributes=attributes
        )
        token = context.attach(trace.set_span_in_context(span))
        return RequestSpan(span, lambda: context.detach(token))

    def follow(self, connection: str, client: GatewayClient) -> None:
        """Make spans of the calls to a gateway that requests make."""

        def ended(called: Called) -> None:
            self._client(
                called.method,
                called.seconds,
                {"rpc.system.name": "openclaw", "rpc.method": called.method, "lobservatory.connection": connection},
                called.code,
            )

        client.on_call(ended)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """The span of a database transaction, with the wait for its connection."""
        started, error = time.perf_counter(), ""
        try:
            yield
        except Exception as raised:
            error = type(raised).__name__
            raise
        finally:
            self._client("transaction", time.perf_counter() - started, {"db.system.name": "postgresql"}, error)

    def _client(self, name: str, seconds: float, attributes: dict[str, str], error: str) -> None:
        """A span that ends now, below the request that is at work; nothing without one."""
        if self._tracer is None:
            return
        from opentelemetry import trace  # noqa: PLC0415 - as above

        if not trace.get_current_span().is_recording():
            return
        if error:
            attributes = {**attributes, "error.type": error[:64]}
        now = time.time_ns()
        span = self._tracer.start_span(
            name, kind=trace.SpanKind.CLIENT, attributes=attributes, start_time=now - int(seconds * 1e9)
        )
        if error:
            span.set_status(trace.StatusCode.ERROR)
        span.end(now)


class Traced:
    """Outermost, where traces are wanted: a span for each request, and for the opening of each WebSocket."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        span = self.tracing.request(scope) if scope["type"] in {"http", "websocket"} else None
        if span is None:
            await self.app(scope, receive, send)
            return
        status = 0

        async def outgoing(message: Message) -> None:
            nonlocal status
            status = _status(message) or status
            if status and (scope["type"] == "websocket" or _route(scope) in ENDLESS):
                span.end(scope, status)  # what follows lasts as long as a client stays
            await send(message)

        failure: BaseException | None = None
        try:
            await self.app(scope, receive, outgoing)
        except BaseException as error:
            failure = error
            raise
        finally:
            span.end(scope, status, failure)
            span.leave()


def _status(message: Message) -> int:
    """The status that a message of an application says, 0 when it says none."""
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return 101
        case "websocket.close":
            return 403  # before the upgrade; after it, the span has ended
    return 0


def _route(scope: Scope) -> str | None:
    """The route's template, known once the router has run."""
    return getattr(scope.get("route"), "path", None)


def _method(scope: Scope) -> str:
    """The request's method, `HTTP` for one that nobody knows; a WebSocket begins as a GET."""
    method = str(scope.get("method", "GET"))
    return method if method in _METHODS else "HTTP"
