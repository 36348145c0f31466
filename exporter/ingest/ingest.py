"""Sources → accounting → ledger → totals → snapshot: the first scan, then the live tail.

What was read goes into the ledger in one transaction with the totals that it raised and the positions up to which it
was read; only then do the counters on `/metrics` rise. When the ledger is away, reading waits: the session stores are
the buffer, and nothing is lost. After any failed commit the ledger is asked what it holds, and reading goes on from
there, so a commit whose answer was lost neither loses nor doubles anything.

All of this runs in a thread of its own with its own event loop (`IngestThread`), so that decoding never holds up a
scrape; what changes the registry is sent to the main loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, Protocol, TypeVar, get_args

import uvloop

from exporter.accounting import EXACT, Accountant, Facts, increments, session_row
from exporter.accounting.prices import Price
from exporter.ingest.positions import for_ledger, from_ledger
from exporter.ingest.watch import RECONCILE, Watch
from exporter.metrics.registry import Registry
from lobservatory import logging
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import SOURCES, TOKEN_TYPES
from openclaw.stores import Chunk, Discovery, Place, Position, SessionInfo, Source, Store, StoreError, place
from store.ledger.contract import Ledger, LedgerHeldError, LedgerUnavailableError, Transaction
from store.ledger.shown import ShownTotals
from store.rows import Session, Total

log = logging.get(__name__)

BATCH_ROWS: Final = 10_000
BATCH_BYTES: Final = 32 * 1024 * 1024
FIRST_RETRY: Final = 0.5  # seconds; doubled up to
LAST_RETRY: Final = 10.0
HELD_PATIENCE: Final = 5.0  # seconds that a lock may still be held by a predecessor that was just killed
MOST_PROBLEMS: Final = 200  # remembered, so that each is said once
CHEAP_LOOK: Final = 0.02  # seconds; what takes no longer is done again at once
LONGEST_PAUSE: Final = 0.1  # seconds between two looks while writes go on
LOOK_SHARE: Final = (
    400  # times as long as a look took, until the next one that nothing asked for: 0.25 % of a processor
)
LONGEST_RECONCILE: Final = 300.0
PROGRESS_LOG: Final = 5.0  # seconds between two lines of a long first scan
_ROW_WEIGHT: Final = 1_500  # bytes that a row of a database counts for in the progress
# Kept among the positions: that the first scan has ended once. `#` keeps it apart from names of files.
_SCANNED: Final = "#first-scan"
_ARCHIVED: Final = "#archived:"  # and agent/session: counted from an archive whose name does not tell its session
_NEWEST: Final = "#newest:"  # and the source: the time of its newest entry, epoch milliseconds

T = TypeVar("T")


class SessionStores(Protocol):
    """What is used of `openclaw.stores.Stores`."""

    def discover(self) -> Discovery:
        """All sources, in reading order."""

    def sessions(self) -> Mapping[tuple[str, str], SessionInfo]:
        """What the indexes know."""

    def changed(self, source: Source, position: Position | None) -> bool:
        """Whether a read could give anything."""

    def followed(self, discovery: Discovery, positions: Mapping[str, Position]) -> dict[str, Position]:
        """Positions, with those of renamed files."""

    def read(self, source: Source, position: Position | None, *, max_bytes: int | None = None) -> Chunk:
        """The next entries. Raises StoreError."""

    def close(self) -> None:
        """Close what is open."""


Key = tuple[str, tuple[str, ...]]
OnRegistry = Callable[..., Awaitable[Any]]


@dataclass(slots=True)
class _Batch:
    """What the next transaction keeps."""

    facts: list[Facts] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    infos: list[SessionInfo] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.facts or self.positions or self.infos)

    def clear(self) -> None:
        """After its commit."""
        self.facts, self.positions, self.infos, self.rows, self.bytes = [], {}, [], 0, 0

    @property
    def full(self) -> bool:
        """Whether it should be committed before more is read."""
        return self.rows >= BATCH_ROWS or self.bytes >= BATCH_BYTES


@dataclass(slots=True)
class Status:
    """What others may look at, from any thread: containers are replaced, never changed."""

    first_scan: str = "waiting"  # waiting, running, done
    looked: bool = False  # all sources were read in this life: what lies in the stores is counted
    progress: float = 0.0
    ledger_up: bool | None = None  # None: not tried yet
    files: dict[str, int] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)
    newest: dict[str, float] = field(default_factory=dict)
    schema_known: dict[str, bool] = field(default_factory=dict)
    up: dict[str, bool] = field(default_factory=dict)
    prices: dict[tuple[str, str], Price | None] = field(default_factory=dict)  # of models that were called


class Ingest:
    """Reads, accounts and commits, for ever. `on_registry(function, *arguments)` runs a method of the registry where
    it belongs; `committed` is called there after every commit; `poke()` makes it look at once. `shown`:
    what the counters said, so that a ledger that was restored from a backup is noticed and lowers none."""

    def __init__(
        self,
        *,
        gateway: str,
        stores: SessionStores,
        accountant: Accountant,
        ledger: Ledger,
        watch: Watch,
        registry: Registry,
        on_registry: OnRegistry | None = None,
        declare: Iterable[tuple[str, tuple[str, ...]]] = (),
        committed: Callable[[], None] = lambda: None,
        shown: ShownTotals | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.status = Status()
        self._gateway = gateway
        self._stores = stores
        self._accountant = accountant
        self._ledger = ledger
        self._watch = watch
        self._registry = registry
        self._on_registry = on_registry or _directly
        self._declare = tuple(declare)
        self._committed = committed
        self._shown_file = shown
        self._shown: dict[Key, Decimal] = {}  # the highest that every counter was shown with
        self._totals: dict[Key, Decimal] = {}  # as the ledger has them
        self._behind = False  # the ledger knows less than was shown
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._positions: dict[str, Position] = {}
        self._places: set[Place] = set()  # where sessions were read
        self._new = True  # the ledger was empty
        self._forgotten: dict[tuple[str, str], SessionInfo | None] = {}  # what the ledger knows of lost sessions
        self._known: dict[tuple[str, str], SessionInfo] = {}  # sessions as the ledger has them
        self._in_step = False  # positions and counters are those of the ledger
        self._begun = False
        self._files: dict[str, Source] = {}  # known transcripts by path
        self._wanted = True  # a look at everything
        self._not_before = 0.0  # of the next one
        self._look_seconds = 0.0  # of the last one
        self._problems: dict[str, str] = {}  # where → what, as last logged
        self.failures: Counter[str] = Counter()  # by reason
        self._work = 0.0  # of the first scan, in bytes
        self._done = 0.0
        self._started = 0.0
        self._told = 0.0

    def poke(self) -> None:
        """Look for new entries at once; from any thread."""
        self._watch.poke()

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Raises LedgerHeldError when another exporter keeps these books."""
        try:
            await self._open()
            while True:
                await self._turn()
        finally:
            self._watch.stop()
            self._stores.close()
            if self._shown_file is not None:
                self._shown_file.close()
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
                self._away(error)
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
        now = self._clock()
        self._watch.ensure()
        if not self._wanted:
            reconcile = min(LONGEST_RECONCILE, max(RECONCILE, LOOK_SHARE * self._look_seconds))
            self._wanted = not await self._watch.wait(reconcile=reconcile)  # in vain: time to look by itself
        elif now < self._not_before:
            await self._watch.wait(self._not_before - now)
        files, others = self._files_written(self._watch.take())
        self._wanted = self._wanted or others
        if files:
            await self._until_committed(lambda: self.glance(files))
        if self._wanted and self._clock() >= self._not_before:
            started = self._clock()
            await self._until_committed(self.look)
            self._wanted = False
            # Where a look is dear (thousands of sessions) and writes never end, it takes about half of a processor.
            self._look_seconds = self._clock() - started
            self._not_before = self._clock() + min(LONGEST_PAUSE, max(0.0, self._look_seconds - CHEAP_LOOK))

    def _files_written(self, paths: set[str]) -> tuple[list[Source], bool]:
        """The known transcripts among them as they are now, and whether there was anything else."""
        files = []
        for path in paths:
            source = self._files.get(path)
            if source is None:
                continue
            try:
                status = os.stat(path)  # noqa: PTH116 - a name as the kernel gave it
            except OSError:
                continue
            if source.fingerprint == f"{status.st_dev}:{status.st_ino}":
                files.append(replace(source, size=status.st_size, mtime_ns=status.st_mtime_ns))
        return files, len(files) < len(paths)

    async def _until_committed(self, step: Callable[[], Awaitable[None]]) -> None:
        delays = self._delays()
        while True:
            try:
                await step()
            except LedgerUnavailableError as error:
                step = self.look
                self._away(error)
                await self._sleep(next(delays))
            except Exception:
                # A fault of ours: said in full, tried again, and metrics go on meanwhile.
                step = self.look
                self._in_step = False
                self.failures["error"] += 1
                log.exception("ingest failed; it is tried again")
                await self._sleep(LAST_RETRY)
            else:
                return

    def _away(self, error: LedgerUnavailableError) -> None:
        self._in_step = False
        self.failures["unavailable"] += 1
        if self.status.ledger_up or self.failures["unavailable"] == 1:
            log.warning("rows cannot be kept now: reading waits, metrics go on", error=str(error))
        self.status.ledger_up = False

    # --- one look ---------------------------------------------------------------------------------------------

    async def glance(self, files: Sequence[Source]) -> None:
        """Read and commit what was appended to known transcripts. Raises LedgerUnavailableError."""
        if not self._in_step or not self._begun:
            await self.look()
            return
        sessions = self._stores.sessions()
        batch = _Batch()
        for source in files:
            try:
                await self._read(source, self._positions.get(source.key), batch, sessions)
            except StoreError:
                self._wanted = True  # a look at all tells what is wrong with it
        if batch:
            await self._commit(batch)

    async def look(self) -> None:
        """Read and commit everything that is there now. Raises LedgerUnavailableError."""
        if not self._in_step:
            await self._get_in_step()
        discovery = self._stores.discover()
        self._files = {str(one.path): one for one in discovery.sources if one.store == "jsonl"}
        sessions = self._stores.sessions()
        positions = self._stores.followed(discovery, self._positions)
        pending = [one for one in discovery.sources if self._stores.changed(one, positions.get(one.key))]
        if not self._begun:
            self._plan(discovery, pending, positions)
        unread: dict[str, int] = dict.fromkeys(SOURCES, 0)
        broken: dict[str, tuple[Store, str]] = {}
        batch = _Batch()
        for source in pending:
            try:
                unread[source.store] += await self._read(source, positions.get(source.key), batch, sessions)
            except StoreError as error:
                broken[source.key] = (source.store, str(error))
        known = self._known
        batch.infos = [
            info for key, info in sessions.items() if (before := known.get(key)) is not info and before != info
        ]
        if not self._begun:
            batch.positions[_SCANNED] = Position(_SCANNED, 1)
        if batch:
            await self._commit(batch)
        self._report(discovery, broken, unread)
        if self._behind and not broken and all(self.status.up.values()) and not any(unread.values()):
            await self._make_up()
        if not self._begun:
            await self._end_first_scan(discovery)
        self.status.looked = True

    async def _read(
        self,
        source: Source,
        position: Position | None,
        batch: _Batch,
        sessions: Mapping[tuple[str, str], SessionInfo],
    ) -> int:
        """Read one source to its present end into the batch, committing it whenever it is full. Tells how much could
        not be read yet. Raises StoreError; what was read before it stays in the batch."""
        while True:
            chunk = self._stores.read(source, position)
            self._take(batch, chunk, await self._with_forgotten(chunk, sessions))
            if batch.full:
                await self._commit(batch)
                batch.clear()
            if chunk.done:
                return chunk.lag
            position = chunk.position
            await asyncio.sleep(0)  # where a stop can reach us

    async def _with_forgotten(
        self, chunk: Chunk, sessions: Mapping[tuple[str, str], SessionInfo]
    ) -> Mapping[tuple[str, str], SessionInfo]:
        """`sessions`, with what we know of the chunk's session where the gateway knows nothing of it any more.

        Of one that was deleted or reset, an archive is left, which does not hold its key.
        """
        session = (chunk.source.agent, chunk.session_id)
        if session in sessions or not chunk.entries or (self._new and not self._begun):
            return sessions
        if session not in self._forgotten:
            found = await self._ledger.session(*session)
            self._forgotten[session] = None if found is None else _info_of(found)
        known = self._forgotten[session]
        if known is None:
            return sessions
        return {session: replace(known, archived=True) if chunk.source.store == "archive" else known}

    def _take(self, batch: _Batch, chunk: Chunk, sessions: Mapping[tuple[str, str], SessionInfo]) -> None:
        source = chunk.source
        if not self._begun:
            self._advance(chunk)
        if not chunk.entries and not chunk.rejects and chunk.position == self._positions.get(source.key):
            return
        facts = self._accountant.facts(chunk, sessions)
        others = (Place(source.agent, chunk.session_id, store) for store in get_args(Store) if store != source.store)
        facts.moved = any(place in self._places for place in others)
        batch.facts.append(facts)
        batch.positions[source.key] = chunk.position
        if facts.calls and place(source.key) is None:
            key = f"{_ARCHIVED}{source.agent}/{chunk.session_id}"
            batch.positions[key] = Position(key, 1)
        batch.rows += len(chunk.entries)
        batch.bytes += chunk.bytes_read

    # --- the ledger -------------------------------------------------------------------------------------------

    async def _get_in_step(self) -> None:
        """Take over what the ledger holds."""
        self._positions = from_ledger(await self._ledger.positions())
        self._places = set(filter(None, map(_place, self._positions)))
        self._new, self._forgotten = not self._positions, {}
        totals = await self._ledger.totals()
        self._known = {}
        self.status.newest = {
            key.removeprefix(_NEWEST): position.offset / 1000
            for key, position in self._positions.items()
            if key.startswith(_NEWEST)
        }
        self._totals = {(total.metric, total.labels): total.value for total in totals}
        self._find_behind()
        if self._behind and not self._begun:
            shown = [Total(*key, value) for key, value in self._shown.items()]
            await self._on_registry(self._registry.restore, shown)
        await self._on_registry(self._registry.restore, totals)
        self._look_up_prices((total.metric, total.labels) for total in totals)
        if not self.status.ledger_up and self.failures["unavailable"]:
            log.info("rows can be kept again")
        self.status.ledger_up = True
        self._in_step = True
        if not self._begun and _SCANNED in self._positions:
            # The first scan ended in an earlier life: its totals are complete, and what came since was born live.
            await self._show()

    def _find_behind(self) -> None:
        """Whether the ledger was put back to an older state. Books that are empty begin anew."""
        if self._shown_file is not None and not self._shown:
            self._shown = self._shown_file.load()
        if not self._begun and _SCANNED not in self._positions:
            self._shown = {}
        lacking = self._lacking()
        if lacking and not self._behind:
            log.warning(
                "the ledger knows less than was shown before, as after a restore: counters stand still until all"
                " session stores have been read again",
                counters=len(lacking),
            )
        self._behind = bool(lacking)

    def _lacking(self) -> dict[Key, Decimal]:
        """What counters were shown with and the ledger does not have."""
        return {
            key: EXACT.subtract(value, self._totals.get(key, Decimal(0)))
            for key, value in self._shown.items()
            if self._totals.get(key, 0) < value
        }

    async def _make_up(self) -> None:
        """Give a restored ledger what was shown and no store can tell again: what was counted stays counted."""
        lost = self._lacking()
        if lost:
            self._in_step = False
            async with self._ledger.transaction() as transaction:
                await transaction.add_totals(lost)
            await self._on_registry(self._registry.restore, await self._ledger.totals())
            self._in_step = True
            self._raise_totals(lost)
            log.warning(
                "totals keep what was counted before a restore and no session store holds any more; rows do not",
                calls=int(_sum_of(lost, "claw_model_calls_total")),
                billed_usd=f"{_sum_of(lost, 'claw_cost_usd_total'):.8f}",
            )
        self._behind = False

    def _raise_totals(self, admitted: Mapping[Key, Decimal | int]) -> None:
        for key, value in admitted.items():
            self._totals[key] = EXACT.add(self._totals.get(key, Decimal(0)), Decimal(value))
        if self._begun:
            self._keep_shown(admitted)

    def _keep_shown(self, keys: Iterable[Key], *, instead: bool = False) -> None:
        if self._shown_file is None:
            return
        higher = {key: self._totals[key] for key in keys if self._totals[key] > self._shown.get(key, -1)}
        if higher or instead:
            self._shown.update(higher)
            self._shown_file.keep(higher, instead=instead)

    async def _show(self) -> None:
        def begin() -> None:
            for metric, labels in self._declare:
                self._registry.declare(metric, labels)
            self._registry.begin()

        await self._on_registry(begin)
        self._begun = True
        self._keep_shown(self._totals, instead=not self._shown)
        self.status.first_scan, self.status.progress = "done", 1.0

    async def _commit(self, batch: _Batch) -> None:
        self._in_step = False  # until the commit is known to have worked
        async with self._ledger.transaction() as transaction:
            raised, durations = await _keep(transaction, batch.facts)
            admitted = await self._on_registry(self._registry.admit, raised)
            await transaction.add_totals(admitted)
            self._look_up_prices(admitted)
            rows = [session for facts in batch.facts for session in facts.sessions]
            rows += [session_row(self._gateway, info) for info in batch.infos]
            await transaction.upsert_sessions(_last_of_each(rows))
            newest = _newest(batch.facts, self.status.newest)
            batch.positions.update({_NEWEST + store: _instant(store, at) for store, at in newest.items()})
            await transaction.save_positions(for_ledger(self._gateway, batch.positions.values()))
        self._in_step = True
        self.status.ledger_up = True
        self._positions.update(batch.positions)
        self._places.update(filter(None, map(_place, batch.positions)))
        self._raise_totals(admitted)
        for info in batch.infos:
            self._known[info.agent, info.session_id] = info
            self._forgotten.pop((info.agent, info.session_id), None)
        self.status.newest = newest
        await self._on_registry(self._raise, admitted, durations if self._begun else [])

    def _raise(self, admitted: Mapping[Key, Any], durations: Sequence[tuple[str, tuple[str, ...], float]]) -> None:
        self._registry.add(admitted)
        self._committed()
        for metric, labels, seconds in durations:
            self._registry.observe(metric, labels, seconds)

    # --- the first scan ---------------------------------------------------------------------------------------

    def _plan(self, discovery: Discovery, pending: Sequence[Source], positions: Mapping[str, Position]) -> None:
        self._started = self._told = self._clock()
        self._done = 0.0
        self._work = sum(_weight(source, positions.get(source.key)) for source in pending)
        self.status.first_scan = "running"
        log.info(
            "first scan begins" if not self._positions else "first scan goes on",
            sources=len(discovery.sources),
            unread=len(pending),
            megabytes=round(self._work / 1e6, 1),
        )

    def _advance(self, chunk: Chunk) -> None:
        self._done += chunk.bytes_read
        self.status.progress = min(0.999, self._done / self._work) if self._work else 0.999
        now = self._clock()
        if now - self._told >= PROGRESS_LOG:
            self._told = now
            rate = self._done / (now - self._started)
            log.info(
                "first scan goes on",
                percent=round(100 * self.status.progress, 1),
                seconds_left=round(max(0.0, self._work - self._done) / rate) if rate else None,
            )

    async def _end_first_scan(self, discovery: Discovery) -> None:
        await self._show()
        calls, cost = Decimal(0), Decimal(0)
        for total in await self._ledger.totals():
            if total.metric == "claw_model_calls_total":
                calls += total.value
            elif total.metric == "claw_cost_usd_total":
                cost = EXACT.add(cost, total.value)
        log.info(
            "first scan has ended",
            seconds=round(self._clock() - self._started, 2),
            sources=len(discovery.sources),
            calls=int(calls),
            billed_usd=f"{cost:.8f}",
        )

    # --- what others see --------------------------------------------------------------------------------------

    def _look_up_prices(self, counted: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        called = {(labels[2], labels[3]) for metric, labels in counted if metric == "claw_model_calls_total"}
        names = called - self.status.prices.keys()
        if names:
            found = {name: self._accountant.prices.price(*name) for name in names}
            self.status.prices = {**self.status.prices, **found}

    def _report(self, discovery: Discovery, broken: Mapping[str, tuple[Store, str]], unread: dict[str, int]) -> None:
        """`broken`: by source key, its store and what is wrong."""
        problems = {f"{problem.path}": problem.text for problem in discovery.problems}
        problems.update({key: text for key, (_, text) in broken.items()})
        for where, text in problems.items():
            if self._problems.get(where) != text:
                log.warning("a session store cannot be read as it should", where=where, error=text)
        for where in self._problems.keys() - problems.keys():
            log.info("a session store can be read again", where=where)
        self._problems = dict(list(problems.items())[:MOST_PROBLEMS])
        down = {problem.store for problem in discovery.problems if problem.fatal}
        down |= {store for store, _ in broken.values()}
        unknown = {problem.store for problem in discovery.problems if problem.schema}
        self.status.files = dict[str, int](discovery.files.items())
        self.status.up = {store: store not in down for store in SOURCES}
        self.status.schema_known = {store: store not in unknown for store in SOURCES}
        self.status.lag = unread

    def samples(self) -> Iterable[Sample]:
        """The state of sources and of the ledger."""
        gateway, status = self._gateway, self.status
        yield Sample("claw_ingest_progress_ratio", (gateway,), status.progress)
        gauges: tuple[tuple[str, Mapping[str, float]], ...] = (
            ("claw_source_files", status.files),
            ("claw_source_lag_bytes", status.lag),
            ("claw_source_last_entry_timestamp_seconds", status.newest),
            ("claw_source_schema_known", status.schema_known),
            ("claw_source_up", status.up),
        )
        for metric, values in gauges:
            for source, value in values.items():
                yield Sample(metric, (gateway, source), float(value))
        for (provider, model), price in status.prices.items():
            if price is None:
                continue
            for token_type in TOKEN_TYPES:
                dollars: Decimal | None = getattr(price, token_type)  # a million of them
                if dollars is not None:
                    labels = (gateway, provider, model, token_type)
                    yield Sample("claw_model_token_price_usd", labels, float(dollars.scaleb(-6)))
        for reason in ("unavailable", "error"):
            yield Sample("lobservatory_commit_failures_total", (reason,), self.failures[reason])
        yield Sample("lobservatory_poison_rows_total", (), float(getattr(self._ledger, "poison_rows", 0)))
        for table, rows in dict(getattr(self._ledger, "rows_written", {})).items():
            yield Sample("lobservatory_rows_written_total", (table,), rows)


async def _keep(
    transaction: Transaction, batch: Sequence[Facts]
) -> tuple[dict[Key, Any], list[tuple[str, tuple[str, ...], float]]]:
    """Insert the rows of a batch; what the new ones among them add to counters, and how long they took."""
    for facts in batch:
        if facts.moved and facts.calls:
            await transaction.never_count(*facts.leave_out(await transaction.counted_before(facts.calls)))
    calls = await _new(transaction.insert_model_calls, [row for facts in batch for row in facts.calls])
    tool_calls = await _new(transaction.insert_tool_calls, [row for facts in batch for row in facts.tool_calls])
    results = await _new(transaction.insert_tool_results, [row for facts in batch for row in facts.tool_results])
    events = await _new(transaction.insert_session_events, [row for facts in batch for row in facts.events])
    answers = iter(calls), iter(tool_calls), iter(results), iter(events)
    new = [
        (
            list(itertools.islice(answers[0], len(facts.calls))),
            list(itertools.islice(answers[1], len(facts.tool_calls))),
            list(itertools.islice(answers[2], len(facts.tool_results))),
            list(itertools.islice(answers[3], len(facts.events))),
        )
        for facts in batch
    ]
    refused = [facts.rejects(flags[0]) for facts, flags in zip(batch, new, strict=True)]
    rejects = iter(await _new(transaction.insert_rejects, [row for rows in refused for row in rows]))
    raised: dict[Key, Any] = {}
    durations: list[tuple[str, tuple[str, ...], float]] = []
    for facts, flags, rows in zip(batch, new, refused, strict=True):
        totals = increments(
            facts,
            new_calls=flags[0],
            new_tool_calls=flags[1],
            new_results=flags[2],
            new_events=flags[3],
            new_rejects=list(itertools.islice(rejects, len(rows))),
        )
        for key, value in totals.items():
            raised[key] = EXACT.add(Decimal(raised[key]), Decimal(value)) if key in raised else value
        durations += [
            ("claw_model_call_duration_seconds", (call.gateway, call.provider, call.model), call.duration_ms / 1000)
            for call in itertools.compress(facts.calls, flags[0])
            if call.duration_ms is not None
        ]
        durations += [
            ("claw_tool_call_duration_seconds", (result.gateway, result.tool), result.duration_ms / 1000)
            for result in itertools.compress(facts.tool_results, flags[2])
            if result.duration_ms is not None
        ]
    return raised, durations


async def _new(insert: Callable[[Sequence[T]], Awaitable[list[bool]]], rows: Sequence[T]) -> list[bool]:
    """Which rows were new. Without rows the ledger is not asked: the live tail mostly has one kind."""
    return await insert(rows) if rows else []


def _place(key: str) -> Place | None:
    """Where the session lay that was read up to this position."""
    if not key.startswith(_ARCHIVED):
        return place(key)
    agent, _, session_id = key.removeprefix(_ARCHIVED).partition("/")
    return Place(agent, session_id, "archive")


def _sum_of(totals: Mapping[Key, Decimal], metric: str) -> Decimal:
    return sum((value for (name, _), value in totals.items() if name == metric), Decimal(0))


def _info_of(row: Session) -> SessionInfo:
    return SessionInfo(
        agent=row.agent,
        session_id=row.session_id,
        session_key=row.session_key,
        kind=row.kind or "unknown",
        channel=row.channel,
        parent_session_key=row.parent_session_key,
    )


def _last_of_each(rows: Sequence[Session]) -> list[Session]:
    """Of equal rows one: chunks of one session say the same again and again."""
    return list(dict.fromkeys(rows))


def _newest(batch: Sequence[Facts], before: Mapping[str, float]) -> dict[str, float]:
    newest = dict(before)
    for facts in batch:
        for rows in (facts.calls, facts.tool_results, facts.events):
            if rows:
                newest[facts.source] = max(newest.get(facts.source, 0.0), rows[-1].ts.timestamp())
    return newest


def _instant(store: str, at: float) -> Position:
    return Position(_NEWEST + store, round(at * 1000))


def _weight(source: Source, position: Position | None) -> float:
    """Roughly how many bytes there are to read."""
    unread = max(0, source.size - (position.offset if position is not None else 0))
    return unread * (_ROW_WEIGHT if source.store == "sqlite" else 1)


async def _directly(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


class IngestThread:
    """Runs an ingest in a thread with its own event loop. Made and stopped on the main loop."""

    def __init__(self, make: Callable[[OnRegistry], Ingest]) -> None:
        self._main = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.ended: asyncio.Future[None] = self._main.create_future()
        self.ingest = make(self._on_registry)
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    def start(self) -> None:
        """Begin. `ended` is done when it is over, with its error if there was one."""
        self._thread.start()

    async def _on_registry(self, function: Callable[..., T], *arguments: Any) -> T:
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            awaited = answer.set_running_or_notify_cancel()  # False: the other thread is being stopped
            try:
                result = function(*arguments)
            except BaseException as error:
                if not awaited:
                    raise
                answer.set_exception(error)  # handed over to the caller in the other thread
            else:
                if awaited:
                    answer.set_result(result)

        self._main.call_soon_threadsafe(call)
        return await asyncio.wrap_future(answer)

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._supervise())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed over to whoever waits for `ended`
            failure = error
        with contextlib.suppress(RuntimeError):  # the main loop has ended already
            self._main.call_soon_threadsafe(self._report, failure)

    async def _supervise(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if not self._stopping:
            await self.ingest.run()

    def _report(self, failure: BaseException | None) -> None:
        if self.ended.done():
            return
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)

    async def stop(self, seconds: float) -> bool:
        """Let the transaction at hand be rolled back or committed; tells whether that was done in time."""
        self._stopping = True
        if not self._thread.is_alive():
            return True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        done, _ = await asyncio.wait([self.ended], timeout=seconds)
        return bool(done)
