"""Nodes: devices that lend the gateway a screen, a camera or a shell (`node.list`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exporter.collectors.poll import PollCollector
from exporter.exposition import Sample
from openclaw.client import GatewayClient
from openclaw.fields import items


def samples(gateway: str, answer: Any) -> Iterable[Sample]:
    """How many are known, and how many of them are connected now. Shape of an entry (`nodeId`, `paired`, `connected`):
    the gateway's package; where the samples were made there was no node."""
    nodes = list(items(answer, "nodes"))
    yield Sample("claw_nodes", (gateway,), len(nodes))
    yield Sample("claw_nodes_connected", (gateway,), sum(node.get("connected") is True for node in nodes))


def collector(gateway: str, client: GatewayClient, interval: float) -> PollCollector:
    """Needs `operator.read` only."""
    return PollCollector("nodes", gateway, client, "node.list", samples, interval=interval)
