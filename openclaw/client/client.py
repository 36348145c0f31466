"""What the users of a gateway have of it: its state, its events and its answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from openclaw.client.calls import Called, Calls
from openclaw.client.link import Link, Terms
from openclaw.client.news import PushedNews
from openclaw.client.presence import Presence
from openclaw.client.stats import Stats
from openclaw.protocol import MAX_FRAME_BYTES, READ_SCOPES, Hello, Pushed

CONNECT_TIMEOUT = 10.0  # from the first packet to hello-ok
AUTH_RETRY = 60.0
SILENCE = 180.0


class GatewayClient:
    """One connection to one gateway, kept for ever: the parts that keep it, put together for those who use it. Changes
    with what users need.

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
        self.stats = Stats()
        self._presence = Presence(url)
        self._calls = Calls(self.stats, clock)
        self._news = PushedNews(self.stats, wall_clock)
        terms = Terms(
            url=url,
            token=token if callable(token) else lambda: token,
            scopes=tuple(scopes),
            capabilities=tuple(capabilities),
            subscribe_sessions=subscribe_sessions,
            connect_timeout=connect_timeout,
            silence=silence,
            auth_retry=auth_retry,
            max_frame_bytes=max_frame_bytes,
            clock=clock,
            rng=rng,
            sleep=sleep,
        )
        self._link = Link(terms, self._presence, self._calls, self._news, self.stats)
        self._task: asyncio.Task[None] | None = None

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

    async def run(self) -> None:
        """Connect for ever. Ends only by cancellation."""
        await self._link.run()

    # --- state --------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """`disconnected`, `connecting`, `authenticating`, `connected` or `reconnecting`."""
        return self._presence.state

    @property
    def hello(self) -> Hello | None:
        """What the gateway said at the beginning of the present connection; None while there is none."""
        return self._presence.hello

    @property
    def last_failure(self) -> str:
        """The reason of the last failed connect (`failure_reason`), empty after a good one."""
        return self._presence.last_failure

    @property
    def tried(self) -> bool:
        """Whether a connect has ended, well or not: before, nobody knows how the gateway is."""
        return self._presence.tried

    @property
    def connected(self) -> bool | None:
        """Whether the gateway is there; None while nobody knows: until a connect has ended, and after `stop`."""
        return self._presence.connected

    async def wait_connected(self, timeout: float = CONNECT_TIMEOUT) -> Hello:  # noqa: ASYNC109 - the caller's deadline
        """The hello of the present or next connection. Raises NotReadyError."""
        return await self._presence.wait(timeout)

    # --- use ----------------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[Pushed], None]) -> Callable[[], None]:
        """Call back for every pushed event; the answer ends the subscription."""
        return self._news.events.add(callback)

    def on_refetch(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with `connected` or `gap` when events may have been missed, so that polls must run now."""
        return self._news.refetch.add(callback)

    def on_lost(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back, with the kind of failure, when a connection that was there is lost or the client is stopped."""
        return self._news.lost.add(callback)

    def on_call(self, callback: Callable[[Called], None]) -> Callable[[], None]:
        """Call back, in the task that called, when a call has ended; the answer ends the subscription."""
        return self._calls.ended.add(callback)

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
        return await self._calls.call(method, params, seconds=timeout, final=final)
