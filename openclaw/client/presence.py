"""Whether the gateway is there, for whoever looks, waits or reads the log."""

from __future__ import annotations

import asyncio

import structlog
import websockets

from openclaw.client.stats import failure_reason
from openclaw.protocol import GatewayError, Hello, NotReadyError

log = structlog.get_logger("gateway")


class Presence:
    """The visible state of a connection: `disconnected` → `connecting` → `authenticating` → `connected`; from each of
    them `reconnecting` when it fails and `disconnected` when it is stopped. Changes with what is shown and said of it.
    A gateway that stays away is one line of the log, not one for each attempt."""

    def __init__(self, url: str) -> None:
        self.state = "disconnected"
        self.hello: Hello | None = None
        self.last_failure = ""
        self.tried = False
        self._url = url
        self._ready = asyncio.Event()
        self._said: tuple[str, str] = ("", "")

    @property
    def connected(self) -> bool | None:
        """See `GatewayClient.connected`."""
        if self.state == "connected":
            return True
        return False if self.tried and self.state != "disconnected" else None

    async def wait(self, seconds: float) -> Hello:
        """See `GatewayClient.wait_connected`."""
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            reason = f" ({self.last_failure})" if self.last_failure else ""
            raise NotReadyError(f"{self._url}: not connected after {seconds:g} s{reason}") from None
        if self.hello is None:  # lost again between the event and our turn
            raise NotReadyError(f"{self._url}: the connection was lost")
        return self.hello

    def connecting(self) -> None:
        """The first attempt begins."""
        self.state = "connecting"

    def authenticating(self) -> None:
        """There is a socket, and no hello yet."""
        self.state = "authenticating"

    def arrived(self, hello: Hello) -> None:
        """The gateway has said hello."""
        self.hello = hello
        self.tried = True
        self.last_failure = ""
        self._ready.set()
        self.state = "connected"
        if self._is_new():
            log.info("gateway connected", url=self._url, version=hello.version)

    def gone(self) -> bool:
        """A connection or an attempt has ended; whether the gateway had been there."""
        was_there = self._ready.is_set()
        self.hello = None
        self._ready.clear()
        return was_there

    def failed(self, failure: BaseException, *, was_there: bool) -> None:
        """Why it ended; the next attempt follows."""
        self.tried = True
        if not was_there:
            self.last_failure = failure_reason(failure)
        self.state = "reconnecting"
        reason = "lost" if was_there else self.last_failure
        if self._is_new(reason):
            log.warning("gateway not connected", url=self._url, reason=reason, error=_plain(failure))

    def stopped(self) -> None:
        """No further attempt follows."""
        self.state = "disconnected"
        self._is_new()

    def _is_new(self, reason: str = "") -> bool:
        """Whether that was not the last thing said."""
        before, self._said = self._said, (self.state, reason)
        return before != self._said


def _plain(failure: BaseException) -> str:
    """A short text of a failure. Frames are never part of it: one of them holds the token."""
    match failure:
        case TimeoutError():
            return "no answer within the deadline"
        case GatewayError() | OSError() | websockets.exceptions.WebSocketException():
            return str(failure)[:200]
    return type(failure).__name__
