"""The gateway client: a thin asyncio shell around `openclaw.protocol`.

One task connects for ever (next attempt after 1 s, 1.5 s, … up to 10 s, with jitter; 60 s after a refused token),
everything that waits has a deadline, and whatever happens is visible in `state` and `stats`. There is no keep-alive
ping: a gateway that blocks its event loop for a minute (2026.4.27 does at its first turn) is slow, not gone. A
connection that is silent for `silence` seconds, although the gateway ticks every 30 s, is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

import structlog
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidHandshake, InvalidURI

from openclaw.protocol import (
    MAX_FRAME_BYTES,
    READ_SCOPES,
    AuthFailedError,
    CallTimeoutError,
    Connection,
    Dropped,
    Failed,
    Gap,
    GatewayError,
    GatewayUnavailableError,
    Happening,
    Hello,
    NotReadyError,
    Pushed,
    Ready,
    Refused,
    RefusedError,
    Reply,
    RpcError,
    Send,
)

CONNECT_TIMEOUT = 10.0  # from the first packet to hello-ok
AUTH_RETRY = 60.0
SILENCE = 180.0
MAX_EVENT_NAMES = 150
# Why a connect can fail, as `failure_reason` names it.
FAILURES = ("auth", "protocol", "starting", "refused", "timeout", "handshake", "closed", "unreachable", "other")
_TOO_BIG = 1009

log = structlog.get_logger("gateway")


@dataclass(slots=True)
class Stats:
    """Counters of one client since its start; the collector `gateway` renders them."""

    reconnects: int = 0
    gaps: int = 0
    callback_errors: int = 0
    connect_failures: Counter[str] = field(default_factory=Counter)
    frames_dropped: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    rpc_errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    rpc_latency: dict[str, float] = field(default_factory=dict)  # seconds of the last call by method
    last_event_at: float | None = None  # epoch seconds


@dataclass(frozen=True, slots=True)
class Called:
    """A call that has ended: how long it took in seconds, and `error_code` when it failed ("" when it did not)."""

    method: str
    seconds: float
    code: str = ""


def backoff(
    rng: Callable[[], float], first: float = 1.0, factor: float = 1.5, ceiling: float = 10.0
) -> Iterator[float]:
    """Seconds to wait before each next attempt: growing to the ceiling, each 15 % more or less, for ever."""
    delay = first
    while True:
        yield min(ceiling, delay * (0.85 + 0.3 * rng()))
        delay = min(ceiling, delay * factor)


def failure_reason(error: BaseException) -> str:  # noqa: PLR0911 - a table in the form of code
    """The label for a failed connect: a small fixed set, so that it can be a metric's label."""
    match error:
        case AuthFailedError():
            return "auth"
        case RefusedError(code="PROTOCOL_MISMATCH"):
            return "protocol"
        case RefusedError(code="UNAVAILABLE"):
            return "starting"
        case RefusedError():
            return "refused"
        case TimeoutError():
            return "timeout"
        case InvalidURI() | InvalidHandshake():
            return "handshake"
        case ConnectionClosed():
            return "closed"
        case OSError():
            return "unreachable"
    return "other"


def error_code(error: GatewayError) -> str:
    """The label for a failed call."""
    if isinstance(error, RpcError):
        return error.code
    return "TIMEOUT" if isinstance(error, CallTimeoutError) else "UNAVAILABLE"


def _version() -> str:
    try:
        return version("lobservatory")
    except PackageNotFoundError:
        return "0"


class GatewayClient:
    """One connection to one gateway, kept for ever.

    `token` is asked for at each attempt, so that a changed secret is used without a restart. Callbacks run on the event
    loop and must not block; what one raises is logged and counted, and harms nobody else.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str] | str = "",
        *,
        scopes: Sequence[str] = READ_SCOPES,
        capabilities: Sequence[str] = ("tool-events",),
        subscribe_sessions: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
        silence: float = SILENCE,
        auth_retry: float = AUTH_RETRY,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self.url = url
        self.state = "disconnected"
        self.hello: Hello | None = None  # of the present connection; None while there is none
        self.stats = Stats()
        self.last_failure: str = ""  # the reason of the last failed connect, empty after a good one
        self.tried = False  # whether a connect has ended, well or not: before, nobody knows how the gateway is
        self._token: Callable[[], str] = token if callable(token) else lambda: token
        self._scopes = tuple(scopes)
        self._capabilities = tuple(capabilities)
        self._subscribe_sessions = subscribe_sessions
        self._connect_timeout = connect_timeout
        self._silence = silence
        self._auth_retry = auth_retry
        self._max_frame_bytes = max_frame_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng
        self._sleep = sleep
        self._socket: ClientConnection | None = None
        self._core: Connection | None = None
        self._futures: dict[str, asyncio.Future[Any]] = {}
        self._on_event: list[Callable[[Pushed], None]] = []
        self._on_refetch: list[Callable[[str], None]] = []
        self._on_call: list[Callable[[Called], None]] = []
        self._on_lost: list[Callable[[str], None]] = []
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reported: tuple[str, str] = ("", "")

    # --- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect, in a task of the running loop. A second call changes nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self.run(), name="gateway-client")

    async def stop(self) -> None:
        """Close the connection and end the task; what waits fails with GatewayUnavailableError."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def __aenter__(self) -> Self:
        """Start, without waiting for the connection."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def wait_connected(self, timeout: float = CONNECT_TIMEOUT) -> Hello:  # noqa: ASYNC109 - the caller's deadline
        """The hello of the present or next connection. Raises NotReadyError."""
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            reason = f" ({self.last_failure})" if self.last_failure else ""
            raise NotReadyError(f"{self.url}: not connected after {timeout:g} s{reason}") from None
        if self.hello is None:  # lost again between the event and our turn
            raise NotReadyError(f"{self.url}: the connection was lost")
        return self.hello

    @property
    def connected(self) -> bool | None:
        """Whether the gateway is there; None while nobody knows: until a connect has ended, and after `stop`."""
        if self.state == "connected":
            return True
        return False if self.tried and self.state != "disconnected" else None

    # --- use ----------------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[Pushed], None]) -> Callable[[], None]:
        """Call back for every pushed event; the answer ends the subscription."""
        self._on_event.append(callback)
        return lambda: self._on_event.remove(callback)

    def on_refetch(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with `connected` or `gap` when events may have been missed, so that polls must run now."""
        self._on_refetch.append(callback)
        return lambda: self._on_refetch.remove(callback)

    def on_lost(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back, with the kind of failure, when a connection that was there is lost or the client is stopped."""
        self._on_lost.append(callback)
        return lambda: self._on_lost.remove(callback)

    def on_call(self, callback: Callable[[Called], None]) -> Callable[[], None]:
        """Call back, in the task that called, when a call has ended; the answer ends the subscription."""
        self._on_call.append(callback)
        return lambda: self._on_call.remove(callback)

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - a deadline of the protocol
        final: bool = False,
    ) -> Any:
        """The payload of the answer: an object, a list or None. `final` as in `Connection.request`.

        Raises RpcError (MissingScopeError, UnknownMethodError), CallTimeoutError, GatewayUnavailableError.
        """
        if not self._on_call:
            return await self._call(method, params, timeout=timeout, final=final)
        started, code = self._clock(), ""
        try:
            return await self._call(method, params, timeout=timeout, final=final)
        except GatewayError as error:
            code = error_code(error)
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            called = Called(method, self._clock() - started, code)
            for callback in tuple(self._on_call):
                self._guarded(callback, called)

    async def _call(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        *,
        timeout: float,  # noqa: ASYNC109 - as above
        final: bool,
    ) -> Any:
        core, socket = self._core, self._socket
        if core is None or socket is None:
            raise NotReadyError(f"{method}: the gateway is not connected")
        now = self._clock()
        request_id, frame = core.request(method, params, now=now, timeout=timeout, final=final)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._futures[request_id] = future
        try:
            async with asyncio.timeout(timeout):
                await socket.send(frame)
                return await future
        except TimeoutError:
            self.stats.rpc_errors[method, "TIMEOUT"] += 1
            raise CallTimeoutError(method) from None
        except ConnectionClosed:
            raise GatewayUnavailableError(f"{method}: the connection was lost") from None
        finally:
            self._futures.pop(request_id, None)
            core.cancel(request_id)

    # --- the connection -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect for ever. Ends only by cancellation."""
        delays = backoff(self._rng)
        self._set_state("connecting")
        try:
            while True:
                failure: BaseException
                try:
                    await self._connect_once()
                    failure = GatewayUnavailableError("the gateway closed the connection")
                except Exception as error:  # noqa: BLE001 - whatever it was, the answer is to try again
                    failure = error
                was_ready = self._ready.is_set()
                self.tried = True
                self._disconnected(failure)
                if was_ready:
                    self.stats.reconnects += 1
                    delays = backoff(self._rng)
                else:
                    self.last_failure = failure_reason(failure)
                    self.stats.connect_failures[self.last_failure] += 1
                self._set_state("reconnecting", "" if was_ready else str(self.last_failure), failure)
                await self._sleep(self._auth_retry if isinstance(failure, AuthFailedError) else next(delays))
        finally:
            self._disconnected(GatewayUnavailableError("the client was stopped"))
            self._set_state("disconnected")

    async def _connect_once(self) -> None:
        """From the TCP connection to its end. Raises whatever ended it; returns when the gateway closed it well."""
        core = Connection(
            token=self._token(),
            version=_version(),
            scopes=self._scopes,
            capabilities=self._capabilities,
            max_frame_bytes=self._max_frame_bytes,
        )
        async with self._open() as socket:
            async with asyncio.timeout(self._connect_timeout):
                while core.hello is None:
                    await self._handle(core, socket, core.receive(await socket.recv(), self._clock()))
            self._connected(core, socket)
            subscribing = asyncio.create_task(self._subscribe())
            try:
                while True:
                    async with asyncio.timeout(self._silence):
                        data = await socket.recv()
                    await self._handle(core, socket, core.receive(data, self._clock()))
            finally:
                subscribing.cancel()

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[ClientConnection]:
        if self.state == "disconnected":
            self._set_state("connecting")
        socket = await connect(
            self.url,
            open_timeout=self._connect_timeout,
            close_timeout=1.0,
            ping_interval=None,
            max_size=self._max_frame_bytes,
            max_queue=64,
            compression=None,
            proxy=None,
            user_agent_header=f"lobservatory/{_version()}",
        )
        self._set_state("authenticating")
        try:
            yield socket
        except ConnectionClosedError as error:
            if error.sent is not None and error.sent.code == _TOO_BIG:
                self.stats.frames_dropped["too_large"] += 1
            raise
        finally:
            await socket.close()

    async def _handle(self, core: Connection, socket: ClientConnection, happened: list[Happening]) -> None:
        for item in happened:
            match item:
                case Send(text=text):
                    await socket.send(text)
                case Refused(error=error):
                    raise error
                case Reply() | Failed():
                    self._settle(item)
                case Ready(hello=hello):
                    self.hello = hello
                case Pushed() | Gap() | Dropped():
                    self._note(item)
        for late in core.expire(self._clock()):
            if isinstance(late, Failed):
                self._settle(late)

    def _note(self, item: Pushed | Gap | Dropped) -> None:
        match item:
            case Pushed():
                self._push(item)
            case Gap():
                self.stats.gaps += 1
                self._refetch("gap")
            case Dropped(reason=reason):
                self.stats.frames_dropped[reason] += 1

    def _connected(self, core: Connection, socket: ClientConnection) -> None:
        self._core, self._socket = core, socket
        self.tried = True
        self.last_failure = ""
        self._ready.set()
        self._set_state("connected")
        self._refetch("connected")

    def _disconnected(self, failure: BaseException) -> None:
        core, self._core, self._socket, self.hello = self._core, None, None, None
        self._ready.clear()
        if core is not None:
            for callback in tuple(self._on_lost):
                self._guarded(callback, type(failure).__name__)
            for item in core.close(self._clock()):
                if isinstance(item, Failed):
                    self._settle(item)
        for future in self._futures.values():
            if not future.done():
                future.set_exception(GatewayUnavailableError(f"the connection was lost: {type(failure).__name__}"))

    async def _subscribe(self) -> None:
        """Ask for session events; a gateway that refuses still pushes runs, crons and tasks."""
        if not self._subscribe_sessions:
            return
        try:
            await self.call("sessions.subscribe", {}, timeout=30.0)
        except GatewayError as error:
            log.warning("no session events", error=str(error))

    def _settle(self, item: Reply | Failed) -> None:
        future = self._futures.get(item.request_id)
        self.stats.rpc_latency[item.method] = item.elapsed
        if isinstance(item, Failed):
            self.stats.rpc_errors[item.method, error_code(item.error)] += 1
            if future is not None and not future.done():
                future.set_exception(item.error)
        elif future is not None and not future.done():
            future.set_result(item.payload)

    def _push(self, item: Pushed) -> None:
        known = item.event in self.stats.events or len(self.stats.events) < MAX_EVENT_NAMES
        self.stats.events[item.event[:64] if known else "other"] += 1
        self.stats.last_event_at = self._wall_clock()
        for callback in tuple(self._on_event):
            self._guarded(callback, item)

    def _refetch(self, why: str) -> None:
        for callback in tuple(self._on_refetch):
            self._guarded(callback, why)

    def _guarded(self, callback: Callable[[Any], None], argument: Any) -> None:
        try:
            callback(argument)
        except Exception:
            self.stats.callback_errors += 1
            log.exception("a listener failed", listener=getattr(callback, "__qualname__", type(callback).__name__))

    def _set_state(self, state: str, reason: str = "", failure: BaseException | None = None) -> None:
        """Change the visible state. A gateway that stays away is one line, not one for each attempt."""
        self.state = state
        if state in {"connecting", "authenticating"} or (state, reason) == self._reported:
            return
        self._reported = (state, reason)
        if state == "connected":
            version_text = self.hello.version if self.hello else ""
            log.info("gateway connected", url=self.url, version=version_text)
        elif state == "reconnecting":
            log.warning("gateway not connected", url=self.url, reason=reason or "lost", error=_plain(failure))


def _plain(failure: BaseException | None) -> str:
    """A short text of a failure. Frames are never part of it: one of them holds the token."""
    match failure:
        case None:
            return ""
        case TimeoutError():
            return "no answer within the deadline"
        case GatewayError() | OSError() | websockets.exceptions.WebSocketException():
            return str(failure)[:200]
    return type(failure).__name__
