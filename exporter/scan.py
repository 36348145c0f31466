"""All totals of a state directory in one pass: no database, no gateway, nothing written.

The same readers and the same accounting as the exporter, with sets in memory in the place of the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, get_args

from exporter.accounting import EXACT, Accountant, BillingPolicy, Facts, PriceBook, price_book
from openclaw.state_dir import load_config
from openclaw.stores import Problem, SessionInfo, Source, Store, StoreError, Stores
from store import identities
from store.rows import ModelCall

_CENTS_OF_CENTS = Decimal("0.00000001")
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
        """The documented keys. Money is a Decimal, rounded to 1e-8."""
        return {
            "calls": self.total.calls,
            "tokens": dict(zip(TOKEN_CLASSES, self.total.tokens, strict=True)),
            "cost_usd": {"billed": money(self.total.billed), "equivalent": money(self.total.equivalent)},
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


def money(value: Decimal) -> Decimal:
    """Rounded to 1e-8 US dollars, without an exponent and without needless zeros."""
    rounded = value.quantize(_CENTS_OF_CENTS, rounding=ROUND_HALF_EVEN, context=EXACT).normalize(EXACT)
    return Decimal(format(rounded, "f"))


def _groups(groups: Mapping[str, Group]) -> dict[str, Any]:
    return {
        name: {
            "calls": group.calls,
            "tokens": dict(zip(TOKEN_CLASSES, group.tokens, strict=True)),
            "cost_usd": money(group.billed),
        }
        for name, group in sorted(groups.items())
    }


class Books:
    """What has been counted, in memory: the ledger of a scan."""

    def __init__(self, zone: tzinfo, since: datetime | None) -> None:
        self.result = ScanResult()
        self._zone = zone
        self._since = since
        self._seen: set[bytes] = set()

    def _new(self, identity: bytes) -> bool:
        before = len(self._seen)
        self._seen.add(identity)
        return len(self._seen) > before

    def _counts(self, ts: datetime) -> bool:
        return self._since is None or ts >= self._since

    def add(self, facts: Facts) -> None:
        """Count what is new in the rows of one chunk."""
        result = self.result
        counts = result.sources[facts.source]
        counts.entries += facts.entries
        counts.bytes += facts.bytes
        result.duplicates += facts.shadowed_calls
        new_calls = [self._new(identities.of_model_call(call)) for call in facts.calls]
        for call, new in zip(facts.calls, new_calls, strict=True):
            if self._counts(call.ts):
                if new:
                    self._call(call)
                else:
                    result.duplicates += 1
        self._tools(facts)
        for reject in facts.rejects(new_calls):
            result.rejected[reject.reason] += 1
        if facts.entries and (self._since is None or self._touched(facts)):
            result.sessions.add(facts.session_id)

    def _tools(self, facts: Facts) -> None:
        result = self.result
        for tool_call in facts.tool_calls:
            if self._new(identities.of_tool_call(tool_call)) and self._counts(tool_call.ts):
                result.tools.setdefault(tool_call.tool, ToolCounts()).calls += 1
        for tool_result in facts.tool_results:
            if self._new(identities.of_tool_result(tool_result)) and self._counts(tool_result.ts):
                tool = result.tools.setdefault(tool_result.tool, ToolCounts())
                tool.errors += tool_result.outcome == "error"
                tool.nonzero_exits += tool_result.outcome == "nonzero_exit"
        for event in facts.events:
            nested = event.event == "nested_tool" and self._new(identities.of_session_event(event))
            if nested and self._counts(event.ts):
                result.nested_tools[event.detail["tool"]] += 1

    def _touched(self, facts: Facts) -> bool:
        """Whether anything that counts happened since then."""
        rows: Iterable[Any] = (*facts.calls, *facts.tool_calls, *facts.tool_results, *facts.events)
        return any(self._counts(row.ts) for row in rows)

    def _call(self, call: ModelCall) -> None:
        result = self.result
        result.total.add(call)
        result.outcomes[call.outcome] += 1
        result.unpriced_calls += call.cost_usd is None
        day = call.ts.astimezone(self._zone).date().isoformat()
        for groups, name in (
            (result.by_model, f"{call.provider}/{call.model}"),
            (result.by_agent, call.agent),
            (result.by_kind, call.kind),
            (result.by_day, day),
        ):
            group = groups.get(name)
            if group is None:
                group = groups[name] = Group()
            group.add(call)


def scan(
    state_dir: Path,
    *,
    zone: tzinfo = UTC,
    since: datetime | None = None,
    billing: BillingPolicy | None = None,
    prices: PriceBook | None = None,
    progress: Progress | None = None,
) -> ScanResult:
    """Read every store of a state directory and add up.

    `zone`: whose days `by_day` has. `since`: only what happened at or after this instant. `billing` and `prices`:
    by default from the gateway's own configuration. What could not be read is in `problems`, never a silent zero.
    """
    config = load_config(state_dir)
    accountant = Accountant(
        gateway="scan",
        prices=prices if prices is not None else price_book(config.prices),
        billing=billing if billing is not None else BillingPolicy(None, config.subscription_providers),
    )
    stores = Stores(state_dir, gateway="scan")
    try:
        return _scan(stores, accountant, Books(zone, since), progress, config.problem)
    finally:
        stores.close()


def _scan(
    stores: Stores, accountant: Accountant, books: Books, progress: Progress | None, warning: str | None
) -> ScanResult:
    result = books.result
    discovery = stores.discover()
    sessions = stores.sessions()
    result.problems += discovery.problems
    for store, number in discovery.files.items():
        result.sources[store].files = number
    if warning is not None:
        result.warnings.append(f"{warning}: its prices and subscriptions are not known")
    if not discovery.sources and not discovery.problems:
        result.warnings.append("no session was found: neither transcripts nor databases under agents/")
    total = sum(max(source.size, 1) for source in discovery.sources)
    done = 0
    for source in discovery.sources:
        try:
            _read(stores, source, accountant, books, sessions)
        except StoreError as error:
            result.problems.append(Problem(source.store, source.path, str(error)))
        done += max(source.size, 1)
        if progress is not None:
            progress(done, total)
    return result


def _read(
    stores: Stores,
    source: Source,
    accountant: Accountant,
    books: Books,
    sessions: Mapping[tuple[str, str], SessionInfo],
) -> None:
    position = None
    while True:
        chunk = stores.read(source, position)
        books.add(accountant.facts(chunk, sessions))
        position = chunk.position
        if chunk.done:
            return
