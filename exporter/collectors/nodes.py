"""Nodes: devices that are paired with the gateway and lend it a screen, a camera or a shell (`node.list`).

Devices that only operate the gateway (`device.pair.list`) need the scope operator.pairing, which is not asked for: it
could approve them. Their tables hold tokens and are not read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from lobservatory.metrics.exposition import Sample
from openclaw.client import GatewayClient
from openclaw.fields import flag, instant, items, text
from store.rows import Node

SaveNodes = Callable[[Sequence[Node]], Awaitable[None]]


def to_nodes(gateway: str, answer: Any) -> list[Node]:
    """The rows of `node.list`, each node once. Shape of an entry: the gateway's package; no real node was seen."""
    found: dict[str, Node] = {}
    for node in items(answer, "nodes"):
        node_id = text(node.get("nodeId"), 128)
        if node_id is None:
            continue
        found[node_id] = Node(
            gateway=gateway,
            node_id=node_id,
            name=text(node.get("displayName"), 200),
            platform=text(node.get("platform"), 64),
            version=text(node.get("version"), 64),
            paired=flag(node.get("paired")),
            connected=flag(node.get("connected")),
            connected_at=instant(node.get("connectedAtMs")),
            last_seen_at=instant(node.get("lastSeenAtMs")),
        )
    return list(found.values())


class NodesCollector:
    """Polls `node.list`, for which `operator.read` is enough."""

    name = "nodes"

    def __init__(
        self, gateway: str, client: GatewayClient, *, interval: float = 60.0, save: SaveNodes | None = None
    ) -> None:
        self.interval = interval
        self.deadline = 30.0
        self._gateway = gateway
        self._client = client
        self._save = save
        self._nodes: list[Node] | None = None

    async def refresh(self) -> None:
        """Raises GatewayError."""
        try:
            nodes = to_nodes(self._gateway, await self._client.call("node.list", timeout=20.0))
        except BaseException:  # the deadline's too: nothing stale is shown
            self._nodes = None
            raise
        self._nodes = nodes
        if self._save is not None:
            await self._save(nodes)

    def render(self) -> Iterable[Sample]:
        """How many are known, paired, and connected now."""
        if self._nodes is None:
            return
        yield Sample("claw_nodes", (self._gateway,), len(self._nodes))
        yield Sample("claw_nodes_paired", (self._gateway,), sum(node.paired is True for node in self._nodes))
        yield Sample("claw_nodes_connected", (self._gateway,), sum(node.connected is True for node in self._nodes))
