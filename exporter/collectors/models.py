"""Models that the gateway offers, by provider (`models.list`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from exporter.collectors.poll import PollCollector
from lobservatory.metrics.exposition import Sample
from openclaw.client import GatewayClient
from openclaw.fields import items, text


def samples(gateway: str, answer: Any) -> Iterable[Sample]:
    """All, and those that can be used now. Versions before 2026.9 do not tell which: all count as usable."""
    known: Counter[str] = Counter()
    usable: Counter[str] = Counter()
    for model in items(answer, "models"):
        provider = text(model.get("provider"), 64) or "unknown"
        known[provider] += 1
        usable[provider] += model.get("available") is not False
    for provider, count in sorted(known.items()):
        yield Sample("claw_models", (gateway, provider), count)
        yield Sample("claw_models_usable", (gateway, provider), usable[provider])


def collector(gateway: str, client: GatewayClient, interval: float) -> PollCollector:
    """Asked seldom: it changes with the configuration."""
    return PollCollector("models", gateway, client, "models.list", samples, interval=interval)
