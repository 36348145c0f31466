"""The link to a gateway: one WebSocket after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from openclaw.client.calls import Calls
from openclaw.client.news import PushedNews
from openclaw.client.presence import Presence
from openclaw.client.stats import Stats
from openclaw.protocol import (
    AuthFailedError,
    Connection,
    Dropped,
    Failed,
    Gap,
    GatewayError,
    GatewayUnavailableError,
    Happening,
    Pushed,
    Refused,
    Reply,
    Send,
)

_TOO_BIG = 1009

log = structlog.get_logger("gateway")


def backoff(
    rng: Callable[[], float], first: float = 1.0, factor: float = 1.5, ceiling: float = 10.0
) -> Iterator[float]:
    """Seconds to wait before each next attempt: growing to the ceiling, each 15 % more or less, for ever."""
    delay = first
    while True:
        yield min(ceiling, delay * (0.85 + 0.3 * rng()))
        delay = min(ceiling, delay * factor)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a connection is made and when it is given up. Times in seconds."""

    url: str
    token: Callable[[], str]  # asked for at each attempt
    scopes: Sequence[str]
    capabilities: Sequence[str]
    subscribe_sessions: bool
    connect_timeout: float  # from the first packet to hello-ok
    silence: float
    auth_retry: float
    max_frame_bytes: int
    clock: Callable[[], float]
    rng: Callable[[], float]
    sleep: Callable[[float], Any]


class Link:
    """Keeps one connection for ever: makes it, reads it, and gives what comes to `calls` and `news`. Changes with how
    a connection is made, kept and given up."""

    def __init__(self, terms: Terms, presence: Presence, calls: Calls, news: PushedNews, stats: Stats) -> None:
        self._terms = terms
        self._presence = presence
        self._calls = calls
        self._news = news
        self._stats = stats

    async def run(self) -> None:
        """Connect for ever. Ends only by cancellation."""
        terms, stats = self._terms, self._stats
        delays = backoff(terms.rng)
        self._presence.connecting()
        try:
            while True:
                failure: BaseException
                try:
                    await self._once()
                    failure = GatewayUnavailableError("the gateway closed the connection")
                except Exception as error:  # noqa: BLE001 - whatever it was, the answer is to try again
                    failure = error
                was_there = self._ended(failure)
                self._presence.failed(failure, was_there=was_there)
                if was_there:
                    stats.reconnects += 1
                    delays = backoff(terms.rng)
                else:
                    stats.connect_failures[self._presence.last_failure] += 1
                await terms.sleep(terms.auth_retry if isinstance(failure, AuthFailedError) else next(delays))
        finally:
            self._ended(GatewayUnavailableError("the client was stopped"))
            self._presence.stopped()

    async def _once(self) -> None:
        """From the TCP connection to its end. Raises whatever ended it; returns when the gateway closed it well."""
        terms = self._terms
        core = Connection(
            token=terms.token(),
            version=_version(),
            scopes=terms.scopes,
            capabilities=terms.capabilities,
            max_frame_bytes=terms.max_frame_bytes,
        )
        async with self._opened() as socket:
            async with asyncio.timeout(terms.connect_timeout):
                while core.hello is None:
                    await self._handle(core, socket, core.receive(await socket.recv(), terms.clock()))
            self._calls.attach(core, socket)
            self._presence.arrived(core.hello)
            self._news.refetch.tell("connected")
            subscribing = asyncio.create_task(self._subscribe())
            try:
                while True:
                    async with asyncio.timeout(terms.silence):
                        data = await socket.recv()
                    await self._handle(core, socket, core.receive(data, terms.clock()))
            finally:
                subscribing.cancel()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[ClientConnection]:
        socket = await connect(
            self._terms.url,
            open_timeout=self._terms.connect_timeout,
            close_timeout=1.0,
            ping_interval=None,
            max_size=self._terms.max_frame_bytes,
            max_queue=64,
            compression=None,
            proxy=None,
            user_agent_header=f"lobservatory/{_version()}",
        )
        self._presence.authenticating()
        try:
            yield socket
        except ConnectionClosedError as error:
            if error.sent is not None and error.sent.code == _TOO_BIG:
                self._news.take(Dropped("too_large"))
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
                    self._calls.settle(item)
                case Pushed() | Gap() | Dropped():
                    self._news.take(item)
        for late in core.expire(self._terms.clock()):
            if isinstance(late, Failed):
                self._calls.settle(late)

    async def _subscribe(self) -> None:
        """Ask for session events; a gateway that refuses still pushes runs, crons and tasks."""
        if not self._terms.subscribe_sessions:
            return
        try:
            await self._calls.call("sessions.subscribe", {}, seconds=30.0, final=False)
        except GatewayError as error:
            log.warning("no session events", error=str(error))

    def _ended(self, failure: BaseException) -> bool:
        """A connection or an attempt has ended: tell it, and end what waits. Whether the gateway had been there."""
        was_there = self._presence.gone()
        core = self._calls.detach()
        if core is not None:
            self._news.lost.tell(type(failure).__name__)
        self._calls.fail(core, failure)
        return was_there


def _version() -> str:
    try:
        return version("lobservatory")
    except PackageNotFoundError:
        return "0"
