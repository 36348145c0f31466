"""The first scan: how far it is, told now and then, and its end, from which on totals are shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from exporter.accounting import EXACT
from exporter.ingest.counters import Counters
from exporter.ingest.reading import Found
from exporter.ingest.state import State
from exporter.ingest.status import Status
from lobservatory import logging
from openclaw.stores import Chunk, Position, Source
from store.ledger.contract import Ledger

log = logging.get(__name__)

PROGRESS_LOG: Final = 5.0  # seconds between two lines of a long first scan
_ROW_WEIGHT: Final = 1_500  # bytes that a row of a database counts for in the progress


class FirstScan:
    """Measured in bytes."""

    def __init__(
        self, status: Status, counters: Counters, ledger: Ledger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._status = status
        self._counters = counters
        self._ledger = ledger
        self._clock = clock
        self._work = 0.0
        self._done = 0.0
        self._started = 0.0
        self._told = 0.0

    def plan(self, found: Found) -> None:
        """How much there is to read."""
        self._started = self._told = self._clock()
        self._done = 0.0
        self._work = sum(_weight(source, found.positions.get(source.key)) for source in found.pending)
        log.info(
            "first scan begins" if self._status.stage.state is State.SCANNING else "first scan goes on",
            sources=len(found.discovery.sources),
            unread=len(found.pending),
            megabytes=round(self._work / 1e6, 1),
        )

    def advance(self, chunk: Chunk) -> None:
        """A chunk was read; nothing to it once the scan has ended."""
        if self._status.stage.state.shown:
            return
        self._done += chunk.bytes_read
        self._status.scanned = min(0.999, self._done / self._work) if self._work else 0.999
        now = self._clock()
        if now - self._told >= PROGRESS_LOG:
            self._told = now
            rate = self._done / (now - self._started)
            log.info(
                "first scan goes on",
                percent=round(100 * self._status.scanned, 1),
                seconds_left=round(max(0.0, self._work - self._done) / rate) if rate else None,
            )

    async def end(self, found: Found) -> None:
        """Everything was read and committed: show it. Raises LedgerUnavailableError."""
        await self._counters.begin()
        self._status.stage.to(State.LIVE)
        calls, cost = Decimal(0), Decimal(0)
        for total in await self._ledger.totals():
            if total.metric == "claw_model_calls_total":
                calls += total.value
            elif total.metric == "claw_cost_usd_total":
                cost = EXACT.add(cost, total.value)
        log.info(
            "first scan has ended",
            seconds=round(self._clock() - self._started, 2),
            sources=len(found.discovery.sources),
            calls=int(calls),
            billed_usd=f"{cost:.8f}",
        )


def _weight(source: Source, position: Position | None) -> float:
    """Roughly how many bytes there are to read."""
    unread = max(0, source.size - (position.offset if position is not None else 0))
    return unread * (_ROW_WEIGHT if source.store == "sqlite" else 1)
