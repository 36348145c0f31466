"""Sources → accounting → ledger → totals → snapshot: the first scan, then the live tail.

What was read goes into the ledger in one transaction with the totals that it raised and the positions up to which it
was read; only then do the counters on `/metrics` rise. When the ledger is away, reading waits: the session stores are
the buffer, and nothing is lost. After any failed commit the ledger is asked what it holds, and reading goes on from
there.

| module | what |
|---|---|
| `state` | where an ingest stands, and what may follow |
| `pace`, `watch` | when to look |
| `reading`, `batch` | sources → batches |
| `committing` | batches → ledger |
| `restoring` | ledger → memory |
| `first_scan` | its progress and its end |
| `positions`, `sessions`, `counters` | what memory knows of the ledger |
| `status` | what others see |
| `thread` | all of this beside the loop that serves `/metrics` |
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from exporter.accounting import Accountant
from exporter.ingest.batch import Batch
from exporter.ingest.committing import Committing
from exporter.ingest.counters import Counters, Key, OnRegistry
from exporter.ingest.first_scan import FirstScan
from exporter.ingest.pace import Pace
from exporter.ingest.positions import Positions, end_of_scan
from exporter.ingest.reading import Reading, SessionStores
from exporter.ingest.restoring import Restoring
from exporter.ingest.sessions import Sessions
from exporter.ingest.state import State
from exporter.ingest.status import ListPrices, Status
from exporter.ingest.watch import Watch
from exporter.metrics.registry import Registry
from lobservatory import logging
from lobservatory.metrics.exposition import Sample
from openclaw.stores import Source
from store.ledger.contract import Ledger, LedgerHeldError, LedgerUnavailableError
from store.ledger.shown import ShownTotals

log = logging.get(__name__)

FIRST_RETRY: Final = 0.5  # seconds; doubled up to
LAST_RETRY: Final = 10.0
HELD_PATIENCE: Final = 5.0  # seconds that a lock may still be held by a predecessor that was just killed

T = TypeVar("T")


async def _directly(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


class Ingest:
    """Looks and tries again, for ever. `on_registry(function, *arguments)` runs a method of the registry where it
    belongs; `committed` is called there after every commit. `shown`: what the counters said, so that a ledger that was
    restored from a backup is noticed and lowers none."""

    def __init__(
        self,
        *,
        gateway: str,
        stores: SessionStores,
        accountant: Accountant,
        ledger: Ledger,
        watch: Watch,
        registry: Registry,
        on_registry: OnRegistry = _directly,
        declare: Iterable[Key] = (),
        committed: Callable[[], None] = lambda: None,
        shown: ShownTotals | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.status = status = Status()
        self._stage = stage = status.stage
        self._gateway = gateway
        self._stores = stores
        self._ledger = ledger
        self._watch = watch
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._positions = positions = Positions()
        self._sessions = sessions = Sessions(ledger, stage)
        self._prices = prices = ListPrices(accountant.prices)
        self._counters = counters = Counters(
            registry, on_registry, stage, declare=declare, committed=committed, shown=shown
        )
        self._committing = Committing(
            gateway, ledger, stage, positions=positions, sessions=sessions, counters=counters, prices=prices
        )
        self._restoring = Restoring(
            ledger, status, positions=positions, sessions=sessions, counters=counters, prices=prices
        )
        self._first_scan = FirstScan(status, counters, ledger, clock)
        self._reading = Reading(
            stores,
            accountant,
            positions,
            sessions,
            commit=self._committing.commit,
            advanced=self._first_scan.advance,
        )
        self._pace = Pace(watch, clock)

    def poke(self) -> None:
        """Look for new entries at once; from any thread."""
        self._watch.poke()

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Raises LedgerHeldError when another exporter holds this ledger."""
        try:
            await self._open()
            while True:
                await self._turn()
        finally:
            self._watch.stop()
            self._stores.close()
            self._counters.close()
            with contextlib.suppress(LedgerUnavailableError):
                await self._ledger.close()

    async def _open(self) -> None:
        patience = self._clock() + HELD_PATIENCE
        delays = self._delays()
        while True:
            try:
                await self._ledger.open()
            except LedgerHeldError:
                if self._clock() >= patience:
                    raise
            except LedgerUnavailableError as error:
                self.status.ledger_lost(error)
            else:
                return
            await self._sleep(next(delays))

    def _delays(self) -> Iterator[float]:
        delay = FIRST_RETRY
        while True:
            yield delay * (0.85 + 0.3 * self._rng())
            delay = min(LAST_RETRY, delay * 2)

    async def _turn(self) -> None:
        """Wait for a write, then read what was written: a file that is known alone, anything else by a look at all."""
        paths = await self._pace.wait()
        files = self._reading.known(paths)
        if len(files) < len(paths):
            self._pace.want()
        if files:
            await self._until_committed(lambda: self.glance(files))
        if self._pace.due:
            started = self._clock()
            await self._until_committed(self.look)
            self._pace.looked(started)

    async def _until_committed(self, step: Callable[[], Awaitable[None]]) -> None:
        delays = self._delays()
        while True:
            try:
                await step()
            except LedgerUnavailableError as error:
                step = self.look
                self._stage.doubt()
                self.status.ledger_lost(error)
                await self._sleep(next(delays))
            except Exception:
                # A fault of ours: said in full, tried again, and metrics go on meanwhile.
                step = self.look
                self._stage.doubt()
                self.status.failures["error"] += 1
                log.exception("ingest failed; it is tried again")
                await self._sleep(LAST_RETRY)
            else:
                return

    # --- one look ---------------------------------------------------------------------------------------------

    async def glance(self, files: Sequence[Source]) -> None:
        """Read and commit what was appended to known transcripts. Raises LedgerUnavailableError."""
        if not (self._stage.state.in_step and self._stage.state.shown):
            await self.look()
            return
        batch = Batch()
        if not await self._reading.read_files(files, batch):
            self._pace.want()  # a look at all tells what is wrong
        if not batch.empty:
            await self._committing.commit(batch)

    async def look(self) -> None:
        """Read and commit everything that is there now. Raises LedgerUnavailableError."""
        if not self._stage.state.in_step:
            await self._restoring.take_over()
        found = self._reading.find()
        if not self._stage.state.shown:
            self._first_scan.plan(found)
        batch = Batch()
        left = await self._reading.read(found, batch)
        batch.infos = self._sessions.news(found.sessions)
        if not self._stage.state.shown:
            batch.mark([end_of_scan()])
        if not batch.empty:
            await self._committing.commit(batch)
        self.status.tell(found.discovery, left.broken, left.unread)
        if self._stage.state is State.BEHIND and not left.broken and self.status.complete:
            await self._restoring.make_up()
        if not self._stage.state.shown:
            await self._first_scan.end(found)
        self.status.looked = True

    # --- what others see --------------------------------------------------------------------------------------

    def samples(self) -> Iterable[Sample]:
        """The state of sources and of the ledger."""
        yield from self.status.samples(self._gateway, self._positions.newest)
        yield from self._prices.samples(self._gateway)
        yield Sample("lobservatory_poison_rows_total", (), float(getattr(self._ledger, "poison_rows", 0)))
        for table, rows in dict(getattr(self._ledger, "rows_written", {})).items():
            yield Sample("lobservatory_rows_written_total", (table,), rows)
