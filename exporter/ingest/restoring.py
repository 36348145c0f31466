"""Ledger → memory: taking over what it holds, at start and after any doubt, so that a commit whose answer was lost
neither loses nor doubles anything; and making up for what a restored one lacks."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from exporter.ingest.counters import Counters, Key
from exporter.ingest.positions import Positions
from exporter.ingest.sessions import Sessions
from exporter.ingest.state import State
from exporter.ingest.status import ListPrices, Status
from lobservatory import logging
from store.ledger.contract import Ledger

log = logging.get(__name__)


class Restoring:
    """Brings memory and counters in step with the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        status: Status,
        *,
        positions: Positions,
        sessions: Sessions,
        counters: Counters,
        prices: ListPrices,
    ) -> None:
        self._ledger = ledger
        self._status = status
        self._positions = positions
        self._sessions = sessions
        self._counters = counters
        self._prices = prices

    async def take_over(self) -> None:
        """Take over what the ledger holds. Raises LedgerUnavailableError."""
        stage = self._status.stage
        self._positions.take_over(await self._ledger.positions())
        totals = await self._ledger.totals()
        self._sessions.clear()
        scanned = self._positions.scanned
        lacking = await self._counters.take_over(totals, scanned=scanned)
        if lacking and stage.state is not State.BEHIND_IN_DOUBT:
            log.warning(
                "the ledger knows less than was shown before, as after a restore: counters stand still until all"
                " session stores have been read again",
                counters=lacking,
            )
        self._prices.look_up((total.metric, total.labels) for total in totals)
        self._status.ledger_found()
        if not stage.state.shown:
            if not scanned:
                stage.to(State.RESUMING if self._positions.by_key else State.SCANNING)
                return
            # The first scan ended in an earlier life: its totals are complete, and what came since was born live.
            await self._counters.begin()
        stage.to(State.BEHIND if lacking else State.LIVE)

    async def make_up(self) -> None:
        """Give a restored ledger what was shown and no store can tell again: what was counted stays counted. Raises
        LedgerUnavailableError."""
        stage, lost = self._status.stage, self._counters.lacking()
        if lost:
            with stage.in_doubt():
                async with self._ledger.transaction() as transaction:
                    await transaction.add_totals(lost)
                await self._counters.make_up(lost, await self._ledger.totals())
            log.warning(
                "totals keep what was counted before a restore and no session store holds any more; rows do not",
                calls=int(_sum_of(lost, "claw_model_calls_total")),
                billed_usd=f"{_sum_of(lost, 'claw_cost_usd_total'):.8f}",
            )
        stage.to(State.LIVE)


def _sum_of(totals: Mapping[Key, Decimal], metric: str) -> Decimal:
    return sum((value for (name, _), value in totals.items() if name == metric), Decimal(0))
