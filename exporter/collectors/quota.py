"""How much of the providers' allowances is used, as the gateway tells it (`usage.status`).

Only providers whose plugin can ask for it are listed; an API key has no allowance. For each question the gateway asks
the provider over the network, so it is asked seldom.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lobservatory.metrics.exposition import Sample
from openclaw.client import GatewayClient
from openclaw.fields import items, mapping, number, text

PER_CENT = 100.0


def used(answer: Any) -> dict[tuple[str, str], float]:
    """(provider, name of the window) → used share. Shape: the gateway's `ProviderUsageSnapshot` (package types of
    2026.9.6; where the samples were made, no provider had an allowance)."""
    shares: dict[tuple[str, str], float] = {}
    for provider in items(answer, "providers"):
        name = text(provider.get("provider"), 64)
        for window in items(mapping(provider), "windows"):
            label, share = text(window.get("label"), 32), number(window.get("usedPercent"))
            if name and label and share is not None and share >= 0:
                group = text(window.get("groupLabel"), 30)
                key = (name, f"{group} {label}" if group else label)
                shares[key] = max(share / PER_CENT, shares.get(key, 0.0))
    return shares


class QuotaCollector:
    """Polls `usage.status`."""

    name = "quota"

    def __init__(self, gateway: str, client: GatewayClient, *, interval: float = 300.0) -> None:
        self.interval = interval
        self.deadline = 60.0
        self._gateway = gateway
        self._client = client
        self._used: dict[tuple[str, str], float] = {}

    async def refresh(self) -> None:
        """Raises GatewayError."""
        self._used = {}
        self._used = used(await self._client.call("usage.status", timeout=45.0))

    def render(self) -> Iterable[Sample]:
        """One sample for each allowance."""
        for (provider, quota), share in self._used.items():
            yield Sample("claw_provider_quota_used_ratio", (self._gateway, provider, quota), share)
