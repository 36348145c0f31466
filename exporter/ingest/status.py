"""What others see of an ingest: its state, that of the sources and of the ledger, and the samples of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from exporter.accounting import PriceBook
from exporter.accounting.prices import Price
from exporter.ingest.state import Stage
from lobservatory import logging
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import SOURCES, TOKEN_TYPES
from openclaw.stores import Discovery, Store
from store.ledger.contract import LedgerUnavailableError

log = logging.get(__name__)

MOST_PROBLEMS: Final = 200  # remembered, so that each is said once


@dataclass(slots=True)
class Status:
    """What others may look at, from any thread: containers are replaced, never changed."""

    stage: Stage = field(default_factory=Stage)
    looked: bool = False  # all sources were read in this life: what lies in the stores is counted
    scanned: float = 0.0  # share of the first scan
    ledger_up: bool | None = None  # None: not tried yet
    failures: Counter[str] = field(default_factory=Counter)  # of commits, by reason
    files: dict[str, int] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)
    schema_known: dict[str, bool] = field(default_factory=dict)
    up: dict[str, bool] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)  # where → what, as last logged

    @property
    def first_scan(self) -> str:
        """`waiting`, `running` or `done`."""
        return self.stage.state.first_scan

    @property
    def progress(self) -> float:
        """Of the first scan, 0 to 1."""
        return 1.0 if self.stage.state.shown else self.scanned

    @property
    def complete(self) -> bool:
        """Whether the last look could read everything."""
        return all(self.up.values()) and not any(self.lag.values())

    def ledger_lost(self, error: LedgerUnavailableError) -> None:
        """It cannot be reached."""
        self.failures["unavailable"] += 1
        if self.ledger_up or self.failures["unavailable"] == 1:
            log.warning("rows cannot be kept now: reading waits, metrics go on", error=str(error))
        self.ledger_up = False

    def ledger_found(self) -> None:
        """It told what it holds."""
        if not self.ledger_up and self.failures["unavailable"]:
            log.info("rows can be kept again")
        self.ledger_up = True

    def tell(self, discovery: Discovery, broken: Mapping[str, tuple[Store, str]], unread: dict[str, int]) -> None:
        """How a look at all sources went. `broken`: by source key, its store and what is wrong."""
        problems = {f"{problem.path}": problem.text for problem in discovery.problems}
        problems.update({key: text for key, (_, text) in broken.items()})
        for where, text in problems.items():
            if self.problems.get(where) != text:
                log.warning("a session store cannot be read as it should", where=where, error=text)
        for where in self.problems.keys() - problems.keys():
            log.info("a session store can be read again", where=where)
        self.problems = dict(list(problems.items())[:MOST_PROBLEMS])
        down = {problem.store for problem in discovery.problems if problem.fatal}
        down |= {store for store, _ in broken.values()}
        unknown = {problem.store for problem in discovery.problems if problem.schema}
        self.files = dict[str, int](discovery.files.items())
        self.up = {store: store not in down for store in SOURCES}
        self.schema_known = {store: store not in unknown for store in SOURCES}
        self.lag = unread

    def samples(self, gateway: str, newest: Mapping[str, float]) -> Iterable[Sample]:
        """The state of the sources. `newest`: the times of their newest entries."""
        yield Sample("claw_ingest_progress_ratio", (gateway,), self.progress)
        gauges: tuple[tuple[str, Mapping[str, float]], ...] = (
            ("claw_source_files", self.files),
            ("claw_source_lag_bytes", self.lag),
            ("claw_source_last_entry_timestamp_seconds", newest),
            ("claw_source_schema_known", self.schema_known),
            ("claw_source_up", self.up),
        )
        for metric, values in gauges:
            for source, value in values.items():
                yield Sample(metric, (gateway, source), float(value))
        for reason in ("unavailable", "error"):
            yield Sample("lobservatory_commit_failures_total", (reason,), self.failures[reason])


class ListPrices:
    """The list prices of the models that were called."""

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices
        self._found: Mapping[tuple[str, str], Price | None] = {}  # replaced, never changed

    def look_up(self, counted: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        """Those of the models whose calls are among these counters."""
        called = {(labels[2], labels[3]) for metric, labels in counted if metric == "claw_model_calls_total"}
        names = called - self._found.keys()
        if names:
            self._found = {**self._found, **{name: self._prices.price(*name) for name in names}}

    def samples(self, gateway: str) -> Iterable[Sample]:
        """A token's price by model and type; from any thread."""
        for (provider, model), price in self._found.items():
            if price is None:
                continue
            for token_type in TOKEN_TYPES:
                dollars: Decimal | None = getattr(price, token_type)  # a million of them
                if dollars is not None:
                    labels = (gateway, provider, model, token_type)
                    yield Sample("claw_model_token_price_usd", labels, float(dollars.scaleb(-6)))
