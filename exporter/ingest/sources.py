"""The session stores as the exporter reads them: everything that their ingest needs, and when it can begin."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from exporter.accounting import Accountant, BillingPolicy, PricesError, price_book
from exporter.ingest.counters import OnRegistry
from exporter.ingest.ingest import Ingest
from exporter.ingest.thread import IngestThread
from exporter.ingest.watch import Watch
from exporter.metrics.registry import Registry
from exporter.surroundings import Missing, StateDirectory, found_ledger
from lobservatory import logging
from lobservatory.errors import StartError
from lobservatory.metrics.labels import CALL_OUTCOMES, REJECT_REASONS, SOURCES, TOKEN_TYPES
from lobservatory.settings import Settings
from openclaw.state_dir import OpenClawConfig, load_config
from openclaw.stores import Stores
from store.ledger.contract import LedgerHeldError
from store.ledger.shown import ShownTotals

log = logging.get(__name__)

INGEST_STOP: Final = 5.0  # seconds, of the 10 that a stop may take
_OF_SOURCES: Final = ("claw_source_entries_total", "claw_source_bytes_total", "claw_duplicate_entries_total")
_MOST_DECLARED: Final = 200  # series known from configuration; beyond it they come when they come


class Sources:
    """The ingest of one gateway's session stores. Changes with what an ingest is made of and what it waits for.
    `committed` is called after every commit; `ingest` is None until state directory and database are there."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        state_dir: StateDirectory,
        missing: Missing,
        committed: Callable[[], None],
    ) -> None:
        self.ingest: Ingest | None = None
        self._settings = settings
        self._registry = registry
        self._state_dir = state_dir
        self._missing = missing
        self._committed = committed

    @property
    def looked(self) -> bool:
        """Whether all sources were read in this life."""
        return self.ingest is not None and self.ingest.status.looked

    @property
    def complete(self) -> bool:
        """Whether the first scan has ended: before, sums are too small."""
        return self.ingest is not None and self.ingest.status.first_scan == "done"

    async def run(self, stack: contextlib.AsyncExitStack) -> None:
        """Wait for the state directory and for the database, then ingest for ever. What the stack holds at its end
        stops the ingest. Raises StartError."""
        state_dir = await self._state_dir.found(stack)
        ledger = await found_ledger(self._settings, self._missing)
        config = load_config(state_dir)
        if config.problem:
            log.warning("prices and subscriptions of the gateway are not known", error=config.problem)
        accountant = self._accountant(config)
        gateway = self._settings.gateway_name
        shown = self._settings.data_dir / f"shown-{sha256(gateway.encode()).hexdigest()[:12]}.sqlite"

        def make(on_registry: OnRegistry) -> Ingest:
            return Ingest(
                gateway=gateway,
                stores=Stores(state_dir),
                accountant=accountant,
                ledger=ledger,
                watch=Watch(state_dir),
                registry=self._registry,
                on_registry=on_registry,
                declare=configured_series(gateway, config),
                committed=self._committed,
                shown=ShownTotals(shown),
            )

        thread = IngestThread(make)
        self.ingest = thread.ingest
        stack.push_async_callback(thread.stop, INGEST_STOP)
        thread.start()
        try:
            await asyncio.shield(thread.ended)
        except LedgerHeldError as error:
            raise StartError(str(error)) from error

    def _accountant(self, config: OpenClawConfig) -> Accountant:
        try:
            return Accountant(
                self._settings.gateway_name,
                price_book(config.prices, self._settings.prices_file),
                BillingPolicy(self._settings.billing, config.subscription_providers),
            )
        except PricesError as error:
            raise StartError(str(error)) from error


def configured_series(gateway: str, config: OpenClawConfig) -> list[tuple[str, tuple[str, ...]]]:
    """Counters that are known beforehand: those of the sources, and of each configured agent with each model that has
    a price."""
    series: list[tuple[str, tuple[str, ...]]] = []
    for source in SOURCES:
        series += [(metric, (gateway, source)) for metric in _OF_SOURCES]
        series += [("claw_rejected_entries_total", (gateway, source, reason)) for reason in REJECT_REASONS]
    models = {(price.provider, price.model) for price in config.prices}
    if len(models) * len(config.agents) > _MOST_DECLARED:
        return series
    series += [("claw_compactions_total", (gateway, name)) for name in config.agents]
    for agent in config.agents:
        for provider, model in sorted(models):
            labels = (gateway, agent, provider, model, "main")
            series += [("claw_cost_usd_total", labels)]
            series += [("claw_tokens_total", (*labels, token_type)) for token_type in TOKEN_TYPES]
            series += [("claw_model_calls_total", (*labels, outcome)) for outcome in CALL_OUTCOMES]
    return series
