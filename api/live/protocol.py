"""uvicorn's WebSocket protocol, made to let go of clients that do not read.

A client that has stopped reading leaves uvicorn waiting: a close is queued behind what the client does not take, and
`transport.close()` waits for it to be taken. Here a close is always written at once, and the connection is cut when it
was not answered in time.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CUT_AFTER = 5.0  # seconds from a close to the cut


class LiveProtocol(WebSocketsSansIOProtocol):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = CUT_AFTER

    async def send(self, message: Any) -> None:
        """ASGI send."""
        if message["type"] == "websocket.close" and self.handshake_complete and not self.disconnected:
            self.writable.set()
            self.loop.call_later(CUT_AFTER, self.transport.abort)
        await super().send(message)

    def keepalive_timeout(self) -> None:
        """The peer did not answer a ping."""
        super().keepalive_timeout()
        self.loop.call_later(1.0, self.transport.abort)
