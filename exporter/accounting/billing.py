"""Whether a provider's money is billed or only an equivalent (a subscription pays). Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from store.rows import BillingMode

if TYPE_CHECKING:
    from lobservatory.settings import Billing


class BillingPolicy:
    """The decision per provider, in this order: `[billing]` of our settings, then what the gateway says.

    `subscriptions`: providers whose profile in `openclaw.json` is `oauth` or `token`, or of which the RPC
    `models.authStatus` says so.
    """

    def __init__(self, settings: Billing | None = None, subscriptions: Collection[str] = ()) -> None:
        self._equivalent = frozenset(settings.equivalent if settings is not None else ())
        self._billed = frozenset(settings.billed if settings is not None else ())
        self._subscriptions = frozenset(subscriptions)
        self._modes: dict[str, BillingMode] = {}

    def mode(self, provider: str) -> BillingMode:
        """`equivalent` or `billed`."""
        mode = self._modes.get(provider)
        if mode is None:
            mode = self._modes[provider] = self.explain(provider)[0]
        return mode

    def explain(self, provider: str) -> tuple[BillingMode, str]:
        """The decision and its reason, in words for people."""
        if provider in self._equivalent:
            return "equivalent", "[billing] equivalent in lobservatory.toml"
        if provider in self._billed:
            return "billed", "[billing] billed in lobservatory.toml"
        if provider in self._subscriptions:
            return "equivalent", "its profile at the gateway is a subscription"
        return "billed", "the default"
