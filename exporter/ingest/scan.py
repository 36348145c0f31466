"""All totals of a state directory in one pass: no database, no gateway, nothing written.

The same readers and the same accounting as the exporter, with sets in memory in the place of the ledger.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any, get_args

from exporter.accounting import EXACT, Accountant, BillingPolicy, Facts, PriceBook, price_book
from exporter.accounting.plain import Days, PlainTally, Seen, digest, first_time, identity
from openclaw.state_dir import load_config
from openclaw.stores import (
    Block,
    Chunk,
    Entry,
    LineReject,
    Lines,
    Position,
    Problem,
    Rows,
    SessionInfo,
    Source,
    SourceError,
    Store,
    Stores,
    decode_line,
    row_entry,
)
from store.rows import ModelCall

TOKEN_CLASSES = ("input", "output", "cache_read", "cache_write", "reasoning")

Progress = Callable[[int, int], None]  # bytes or rows done, in all


@dataclass(slots=True)
class Group:
    """Calls, tokens by class and money of one model, agent, kind or day."""

    calls: int = 0
    tokens: list[int] = field(default_factory=lambda: [0] * len(TOKEN_CLASSES))
    billed: Decimal = Decimal(0)
    equivalent: Decimal = Decimal(0)

    def add(self, call: ModelCall) -> None:
        """Add one call."""
        self.calls += 1
        tokens = self.tokens
        tokens[0] += call.input_tokens
        tokens[1] += call.output_tokens
        tokens[2] += call.cache_read_tokens
        tokens[3] += call.cache_write_tokens
        tokens[4] += call.reasoning_tokens
        if call.cost_usd:
            if call.billing == "billed":
                self.billed = EXACT.add(self.billed, call.cost_usd)
            else:
                self.equivalent = EXACT.add(self.equivalent, call.cost_usd)

    def include(self, other: Group) -> None:
        """Add all of another group."""
        self.calls += other.calls
        self.tokens = [one + more for one, more in zip(self.tokens, other.tokens, strict=True)]
        self.billed = EXACT.add(self.billed, other.billed)
        self.equivalent = EXACT.add(self.equivalent, other.equivalent)


@dataclass(slots=True)
class ToolCounts:
    """Calls of one tool, its errors, and the commands that ended with another status than 0."""

    calls: int = 0
    errors: int = 0
    nonzero_exits: int = 0


@dataclass(slots=True)
class SourceCounts:
    """What was read of one store. `bytes` are those of transcripts, decompressed."""

    files: int = 0
    entries: int = 0
    bytes: int = 0


@dataclass(slots=True)
class ScanResult:
    """The totals, in the words of `lobservatory scan --json`."""

    total: Group = field(default_factory=Group)
    unpriced_calls: int = 0
    duplicates: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    sessions: set[str] = field(default_factory=set)
    by_model: dict[str, Group] = field(default_factory=dict)
    by_agent: dict[str, Group] = field(default_factory=dict)
    by_kind: dict[str, Group] = field(default_factory=dict)
    by_day: dict[str, Group] = field(default_factory=dict)
    tools: dict[str, ToolCounts] = field(default_factory=dict)
    nested_tools: Counter[str] = field(default_factory=Counter)
    sources: dict[Store, SourceCounts] = field(
        default_factory=lambda: {store: SourceCounts() for store in get_args(Store)}
    )
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything that is there could be read."""
        return not any(problem.fatal for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """The documented keys. Money is a Decimal with all its digits."""
        return {
            "calls": self.total.calls,
            "tokens": dict(zip(TOKEN_CLASSES, self.total.tokens, strict=True)),
            "cost_usd": {"billed": _money(self.total.billed), "equivalent": _money(self.total.equivalent)},
            "unpriced_calls": self.unpriced_calls,
            "duplicates": self.duplicates,
            "rejected": dict(sorted(self.rejected.items())),
            "sessions": len(self.sessions),
            "by_model": _groups(self.by_model),
            "by_agent": _groups(self.by_agent),
            "by_kind": _groups(self.by_kind),
            "by_day": _groups(self.by_day),
            "tools": {
                name: {"calls": tool.calls, "errors": tool.errors, "nonzero_exits": tool.nonzero_exits}
                for name, tool in sorted(self.tools.items())
            },
            "nested_tools": dict(sorted(self.nested_tools.items())),
            "sources": {
                store: {"files": counts.files, "entries": counts.entries, "bytes": counts.bytes}
                for store, counts in self.sources.items()
            },
        }


def _money(value: Decimal) -> Decimal:
    """The same value without needless zeros."""
    return Decimal(format(value.normalize(EXACT), "f"))


def _groups(groups: Mapping[str, Group]) -> dict[str, Any]:
    return {
        name: {
            "calls": group.calls,
            "tokens": dict(zip(TOKEN_CLASSES, group.tokens, strict=True)),
            "cost_usd": _money(group.billed),
        }
        for name, group in sorted(groups.items())
    }


_Cell = tuple[str, str, str, str, str, str]  # agent, provider, model, kind, day, billing


@dataclass(slots=True)
class Tally:
    """What one source adds. Small enough to hand from a worker process to its parent."""

    store: Store
    agent: str
    entries: int = 0
    bytes_read: int = 0
    duplicates: int = 0
    unpriced_calls: int = 0
    sessions: set[str] = field(default_factory=set)
    cells: dict[_Cell, Group] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    tools: dict[str, ToolCounts] = field(default_factory=dict)
    nested_tools: Counter[str] = field(default_factory=Counter)
    seen: Seen | None = None  # of a source that was read by itself
    problem: Problem | None = None

    def cell(self, cell: _Cell) -> Group:
        """The group of a cell."""
        group = self.cells.get(cell)
        if group is None:
            group = self.cells[cell] = Group()
        return group

    def tool(self, name: str) -> ToolCounts:
        """The counts of a tool."""
        return self.tools.setdefault(name, ToolCounts())


class Reader:
    """Reads one source to its end and adds it up."""

    def __init__(
        self,
        stores: Stores,
        accountant: Accountant,
        sessions: Mapping[tuple[str, str], SessionInfo],
        days: Days,
        since: datetime | None,
    ) -> None:
        self._stores = stores
        self._accountant = accountant
        self._sessions = sessions
        self._since = since
        self._days = days

    def through(self, stores: Stores) -> Reader:
        """The same reader with stores of its own, for another process."""
        return Reader(stores, self._accountant, self._sessions, self._days, self._since)

    def read(self, source: Source, seen: Seen) -> Tally:
        """The tally of a source; what is in `seen` was counted before, what is new is added to it."""
        tally = Tally(source.store, source.agent)
        try:
            raw = self._stores.raw(source)
            if raw is None:
                self._read_entries(source, tally, seen)
            else:
                with localcontext(EXACT):
                    self._read_raw(source, raw, tally, seen)
        except SourceError as error:
            tally.problem = Problem(source.store, source.path, str(error))
        return tally

    def _read_entries(self, source: Source, tally: Tally, seen: Seen) -> None:
        position = None
        while True:
            chunk = self._stores.read(source, position)
            self._add(tally, self._accountant.facts(chunk, self._sessions), seen)
            position = chunk.position
            if chunk.done:
                return

    def _read_raw(self, source: Source, raw: Iterator[Block | Lines | Rows], tally: Tally, seen: Seen) -> None:
        def facts(entries: Sequence[Entry], rejects: Sequence[LineReject]) -> None:
            chunk = Chunk(source, source.session_id, entries, rejects, _NOWHERE, 0, written_ms, done=False, lag=0)
            self._add(tally, self._accountant.facts(chunk, self._sessions), seen)

        def odd(line: bytes) -> None:
            found = decode_line(line) if source.store != "sqlite" else row_entry(line, created)
            if isinstance(found, Entry):
                facts([found], ())
            elif found is not None:
                facts((), [LineReject(found, source.key)])

        written_ms, created = source.mtime_ns // 1_000_000, 0
        since = "" if self._since is None else first_time(self._since)
        plain = PlainTally(self._days, seen, since, odd)
        try:
            for piece in raw:
                if isinstance(piece, Block):
                    plain.block(piece.content, piece.end)
                    tally.bytes_read += piece.end
                elif isinstance(piece, Lines):
                    facts(piece.entries, piece.rejects)
                    tally.bytes_read += piece.size
                else:
                    for _seq, text, created in piece:  # noqa: B007 - `odd` asks for it
                        if isinstance(text, bytes):
                            plain.row(text)
                            tally.bytes_read += len(text)
                        else:
                            facts((), [LineReject(text, source.key)])
                            tally.bytes_read += 1
        finally:
            self._include(tally, plain, source)

    def _include(self, tally: Tally, plain: PlainTally, source: Source) -> None:
        """What the plain entries add."""
        tally.entries += plain.entries
        tally.duplicates += plain.duplicates
        info = self._sessions.get((source.agent, source.session_id))
        kind = info.kind if info is not None else "unknown"
        calls = 0
        for (provider, model, day), sums in plain.sums.items():
            if not sums.calls:
                continue
            calls += sums.calls
            billing = self._accountant.billing.mode(provider)
            group = tally.cell((source.agent, provider, model, kind, day, billing))
            group.calls += sums.calls
            tokens = (sums.input, sums.output, sums.cache_read, sums.cache_write, sums.reasoning)
            group.tokens = [one + more for one, more in zip(group.tokens, tokens, strict=True)]
            if billing == "billed":
                group.billed = EXACT.add(group.billed, sums.cost)
            else:
                group.equivalent = EXACT.add(group.equivalent, sums.cost)
        tally.outcomes.update(plain.failed)
        if calls:
            tally.outcomes["ok"] += calls - sum(plain.failed.values())
        for name, number in plain.started.items():
            tally.tool(name).calls += number
        for (name, outcome), number in plain.ended.items():
            tool = tally.tool(name)
            tool.errors += number * (outcome == "error")
            tool.nonzero_exits += number * (outcome == "nonzero_exit")
        if plain.entries and (self._since is None or plain.touched):
            tally.sessions.add(source.session_id)

    def _counts(self, ts: datetime) -> bool:
        return self._since is None or ts >= self._since

    def _add(self, tally: Tally, facts: Facts, seen: Seen) -> None:
        tally.entries += facts.entries
        tally.bytes_read += facts.bytes
        tally.duplicates += facts.shadowed_calls
        new_calls = []
        for call in facts.calls:
            new = seen.first(identity(call.entry_id, call.fingerprint))
            new_calls.append(new)
            if self._counts(call.ts):
                if new:
                    self._call(tally, call)
                else:
                    tally.duplicates += 1
        self._tools(tally, facts, seen)
        for reject in facts.rejects(new_calls):
            tally.rejected[reject.reason] += 1
        if facts.entries and (self._since is None or self._touched(facts)):
            tally.sessions.add(facts.session_id)

    def _tools(self, tally: Tally, facts: Facts, seen: Seen) -> None:
        for tool_call in facts.tool_calls:
            entry = identity(tool_call.entry_id, tool_call.fingerprint)
            if tool_call.position >= seen.tools.get(entry, 0):
                seen.tools[entry] = tool_call.position + 1
                if self._counts(tool_call.ts):
                    tally.tool(tool_call.through or tool_call.tool).calls += 1
        for tool_result in facts.tool_results:
            key = identity(tool_result.entry_id, tool_result.fingerprint)
            if seen.first(key) and self._counts(tool_result.ts):
                tool = tally.tool(tool_result.through or tool_result.tool)
                tool.errors += tool_result.outcome == "error"
                tool.nonzero_exits += tool_result.outcome == "nonzero_exit"
        for event in facts.events:
            if event.event == "nested_tool":
                key = identity(event.entry_id, event.fingerprint)
                if seen.first(key) and self._counts(event.ts):
                    tally.nested_tools[event.detail["tool"]] += 1

    def _touched(self, facts: Facts) -> bool:
        """Whether anything that counts happened since then."""
        rows: Iterable[Any] = (*facts.calls, *facts.tool_calls, *facts.tool_results, *facts.events)
        return any(self._counts(row.ts) for row in rows)

    def _call(self, tally: Tally, call: ModelCall) -> None:
        tally.outcomes[call.outcome] += 1
        tally.unpriced_calls += call.cost_usd is None
        day = self._days.of(call.ts)
        tally.cell((call.agent, call.provider, call.model, call.kind, day, call.billing)).add(call)


_NOWHERE = Position(key="", offset=0)


def _merge(result: ScanResult, tally: Tally) -> None:
    counts = result.sources[tally.store]
    counts.entries += tally.entries
    counts.bytes += tally.bytes_read
    result.duplicates += tally.duplicates
    result.unpriced_calls += tally.unpriced_calls
    result.sessions |= tally.sessions
    result.outcomes += tally.outcomes
    result.rejected += tally.rejected
    result.nested_tools += tally.nested_tools
    if tally.problem is not None:
        result.problems.append(tally.problem)
    for name, tool in tally.tools.items():
        known = result.tools.setdefault(name, ToolCounts())
        known.calls += tool.calls
        known.errors += tool.errors
        known.nonzero_exits += tool.nonzero_exits
    for (agent, provider, model, kind, day, _billing), cell in tally.cells.items():
        result.total.include(cell)
        for groups, name in (
            (result.by_model, f"{provider}/{model}"),
            (result.by_agent, agent),
            (result.by_kind, kind),
            (result.by_day, day),
        ):
            groups.setdefault(name, Group()).include(cell)


def scan(
    state_dir: Path,
    *,
    zone: tzinfo = UTC,
    since: datetime | None = None,
    billing: BillingPolicy | None = None,
    prices: PriceBook | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> ScanResult:
    """Read every store of a state directory and add up.

    `zone`: whose days `by_day` has. `since`: only what happened at or after this instant. `billing` and `prices`:
    by default from the gateway's own configuration. `workers`: processes; by default as many as pay for this size.
    What could not be read is in `problems`, never a silent zero.
    """
    config = load_config(state_dir)
    accountant = Accountant(
        gateway="scan",
        prices=prices if prices is not None else price_book(config.prices),
        billing=billing if billing is not None else BillingPolicy(None, config.subscription_providers),
        digest=digest,
    )
    stores = Stores(state_dir)
    try:
        discovery = stores.discover()
        result = ScanResult(problems=list(discovery.problems))
        for store, number in discovery.files.items():
            result.sources[store].files = number
        if config.problem is not None:
            result.warnings.append(f"{config.problem}: its prices and subscriptions are not known")
        if not discovery.sources and not discovery.problems:
            result.warnings.append("no session was found: neither transcripts nor databases under agents/")
        reader = Reader(stores, accountant, stores.sessions(), Days(zone, time.time()), since)
        sources = discovery.sources
        report = _Report(progress, sources)
        number = workers if workers is not None else _workers(sources)
        if number > 1:
            with parallel(reader, state_dir, sources, number) as tallies:
                _collect(result, reader, sources, tallies, report)
        else:
            _collect(result, reader, sources, None, report)
        return result
    finally:
        stores.close()


def _collect(
    result: ScanResult,
    reader: Reader,
    sources: Sequence[Source],
    tallies: Iterator[Tally] | None,
    report: _Report,
) -> None:
    """Add up in the order of discovery, which decides where a call is seen first.

    A worker knows only its own source. Where another source before has one of its calls, it is read here once more,
    against everything that was seen.
    """
    seen: dict[str, Seen] = {}
    for source in sources:
        known = seen.setdefault(source.agent, Seen())
        tally = next(tallies) if tallies is not None else None
        if tally is None or tally.seen is None or known.meets(tally.seen):
            tally = reader.read(source, known)
        else:
            known.include(tally.seen)
        _merge(result, tally)
        report.done(source)


class _Report:
    def __init__(self, progress: Progress | None, sources: Sequence[Source]) -> None:
        self._progress = progress
        self._total = sum(max(source.size, 1) for source in sources)
        self._done = 0

    def done(self, source: Source) -> None:
        self._done += max(source.size, 1)
        if self._progress is not None:
            self._progress(self._done, self._total)


_PAYS_FROM = 512 * 1024 * 1024  # bytes: below, forking costs more than it gives
_MOST_WORKERS = 4
_SOURCES_A_TASK = 8
_worker: Reader | None = None


def _workers(sources: Sequence[Source]) -> int:
    size = sum(source.size for source in sources if source.store != "sqlite")
    size += sum(path.stat().st_size for path in {source.path for source in sources if source.store == "sqlite"})
    if sys.platform != "linux" or size < _PAYS_FROM or len(sources) < 2:  # noqa: PLR2004 - nothing to share
        return 1
    with suppress(OSError, ValueError, IndexError):
        idle = idle_cores(Path("/proc/loadavg").read_text(encoding="ascii"), len(os.sched_getaffinity(0)))
        return max(1, min(_MOST_WORKERS, idle))
    return 1


def idle_cores(loadavg: str, cores: int) -> int:
    """Cores on which nobody else computes at this moment: where others do, workers only cost.

    `loadavg`: the text of /proc/loadavg, whose fourth field is `runnable/all` tasks, of which we are one (proc(5)).
    Its averages would not do: after a minute of work they still count what has ended.
    """
    return cores - int(loadavg.split()[3].partition("/")[0]) + 1


@contextmanager
def parallel(reader: Reader, state_dir: Path, sources: Sequence[Source], workers: int) -> Iterator[Iterator[Tally]]:
    """Tallies in the order of the sources, made by worker processes that are gone at the end."""

    def start() -> None:
        global _worker  # noqa: PLW0603 - one reader in each worker process
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends us
        stores = Stores(state_dir)
        stores.attach(sources)
        _worker = reader.through(stores)

    # Forked, so that nothing is imported or pickled again; no thread of ours runs yet.
    with multiprocessing.get_context("fork").Pool(workers, initializer=start) as pool:
        yield pool.imap(_tally, sources, chunksize=_SOURCES_A_TASK)


def _tally(source: Source) -> Tally:
    assert _worker is not None  # noqa: S101 - set by the initializer
    seen = Seen()
    tally = _worker.read(source, seen)
    tally.seen = seen
    return tally
