"""Whether there is a newer version of the gateway: it says so at the connect, and with an event when it learns of one.

`update.status` would need the scope operator.admin.
"""

from __future__ import annotations

from collections.abc import Iterable

from lobservatory.metrics.exposition import Sample
from openclaw.client import GatewayClient
from openclaw.fields import mapping
from openclaw.protocol import Hello, NotReadyError, Pushed


class UpdateCollector:
    """Looks at the hello of the present connection at every interval; `pushed` listens in between."""

    name = "update"

    def __init__(self, gateway: str, client: GatewayClient, *, interval: float = 60.0) -> None:
        self.interval = interval
        self.deadline = 5.0
        self._gateway = gateway
        self._client = client
        self._told: tuple[Hello, bool] | None = None  # whether there is one, told at or after this hello

    def pushed(self, event: Pushed) -> None:
        """A listener for the client."""
        hello = self._client.hello
        if event.event == "update.available" and hello is not None:
            payload = mapping(event.payload)
            told = mapping(payload, "updateAvailable") if "updateAvailable" in payload else payload
            self._told = (hello, bool(told))

    async def refresh(self) -> None:
        """Raises NotReadyError while there is no connection that could tell."""
        hello = self._client.hello
        if hello is None:
            raise NotReadyError("the gateway is not connected: nobody tells of updates")
        if self._told is None or self._told[0] is not hello:
            self._told = (hello, bool(mapping(mapping(hello.payload, "snapshot"), "updateAvailable")))

    def render(self) -> Iterable[Sample]:
        """What this connection told; nothing without one."""
        if self._told is not None and self._told[0] is self._client.hello:
            yield Sample("claw_gateway_update_available", (self._gateway,), float(self._told[1]))
