"""What `/metrics` shows: counters that never fall, the label guard, and the snapshot that is rendered.

Everything here happens on the event loop and none of it waits: a scrape reads what is in memory.

**Counters of accounting** hold committed totals only. They are absent until `begin()`, then at their all-time values,
so that Prometheus has no earlier sample to see a jump from. A series that is born after that is shown as 0 to
Prometheus until it has been scraped once (at most `zero_hold` seconds), then in full, so that `increase()` sees its
first call. Everybody else sees the full value at once.

**The label guard** lets a value through when it is short and plainly printable, and a series while its family has
room; the rest is folded into the value `other` and counted. For accounting it is asked *before* the ledger
(`admit`), so the ledger stores the outcome: a full family is still full after a restart, and nothing moves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Final

from exporter.accounting import EXACT
from lobservatory import logging
from lobservatory.metrics.catalogue import CATALOGUE, METRICS, TOTAL_SERIES
from lobservatory.metrics.exposition import EOF, Format, Sample, header, number, prefixes, sample_lines
from lobservatory.metrics.family import Metric
from lobservatory.metrics.labels import CLOSED_LABELS
from store.ledger.contract import Increments
from store.rows import Total

log = logging.get(__name__)

OTHER: Final = "other"
LONGEST_VALUE: Final = 64
_ALIASES_KEPT: Final = 4  # times the bound: raw names that we remember having folded; beyond it they are looked up anew

Render = Callable[[], Iterable[Sample]]


def plain(value: str) -> bool:
    """Whether a label value may be shown as it is: at most 64 printable characters of any script. Control and
    formatting characters (line ends, right-to-left marks), quotes and backslashes are not."""
    return len(value) <= LONGEST_VALUE and value.isprintable() and '"' not in value and "\\" not in value


class _Series:
    """One series: its text, and the value of the snapshot being made."""

    __slots__ = ("folded", "line", "prefixes", "round", "value")

    def __init__(self, series_prefixes: tuple[str, ...], *, folded: bool) -> None:
        self.prefixes = series_prefixes
        self.folded = folded  # may stand for several raw series
        self.round = -1  # the snapshot that last had a value for it
        self.value: float | int | Decimal = 0
        self.line = ""  # of `value`; empty: not made yet


class _Family:
    """The series of one metric, and which raw label values lead to which of them."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.headers = {text_format: header(metric, text_format) for text_format in Format}
        self.series: dict[tuple[str, ...], _Series] = {}
        self.alias: dict[tuple[str, ...], tuple[str, ...]] = {}
        # What the guard may need for `other` itself is kept free.
        reserve = math.prod(CLOSED_LABELS.get(label, 1) for label in metric.labels)
        self.reserve = reserve + 1 if reserve < metric.bound else 1
        self.limit = max(1, metric.bound - self.reserve)
        self.folds = 0  # series that the guard made for `other`
        self.block = ""  # accounting: all lines, while nothing changed
        self.open_labels = [label not in CLOSED_LABELS for label in metric.labels]
        if not any(self.open_labels):
            self.open_labels = [label != "gateway" for label in metric.labels]
        self.from_zero = metric.type == "counter" and not metric.accounting and not metric.has_past
        self.adds_up = metric.merge == "sum"

    def fold(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The series that takes in what finds no room of its own."""
        return tuple(OTHER if is_open else value for value, is_open in zip(labels, self.open_labels, strict=True))

    def get(self, labels: tuple[str, ...], *, folded: bool = False) -> _Series:
        """The series of labels that have passed the guard, made when it is new."""
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = _Series(prefixes(self.metric, labels), folded=folded)
        elif folded:
            series.folded = True
        return series


class Registry:
    """All series of this process."""

    def __init__(self, *, zero_hold: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._zero_hold = zero_hold
        self._clock = clock
        self._families = {metric.name: _Family(metric) for metric in METRICS}
        self._limit = TOTAL_SERIES - sum(family.reserve for family in self._families.values())
        self._renders: list[tuple[str, Render]] = []
        self._round = 0
        self._begun = False
        # Series of accounting at 0 that Prometheus has not seen yet, and since when (monotonic) they are more than 0.
        self._unseen: dict[tuple[str, tuple[str, ...]], float | None] = {}
        # By how much series are ahead of a ledger that was put back to an older state.
        self._ahead: dict[tuple[str, tuple[str, ...]], Decimal] = {}
        # The same for counters of this process, once Prometheus has been here.
        self._newcomers: dict[_Series, float] = {}
        self._scraped = False
        self._overflow: dict[str, int] = {}
        self._counts: dict[tuple[str, tuple[str, ...]], float] = {}
        self._histograms: dict[tuple[str, tuple[str, ...]], tuple[list[int], float]] = {}
        self._broken: set[str] = set()
        self._render_seconds = 0.0

    # --- the label guard ----------------------------------------------------------------------------------

    def _settle(self, family: _Family, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The labels under which a raw series is shown; decided once, then remembered."""
        if len(labels) != len(family.metric.labels):
            raise ValueError(f"{family.metric.name} has the labels {family.metric.labels}, not {labels!r}")
        cleaned = tuple(value if plain(value) else OTHER for value in labels)
        if cleaned in family.series or not (self._full(family) or self._crowded()):
            settled = cleaned
        else:
            settled = family.fold(cleaned)
            if settled not in family.series:
                family.folds += 1
                if family.folds >= family.reserve:  # a label that should be ours has values that are not
                    settled = (OTHER,) * len(cleaned)
        folded = settled != labels
        if folded:
            self._overflow[family.metric.name] = self._overflow.get(family.metric.name, 0) + 1
            if len(family.alias) > _ALIASES_KEPT * family.metric.bound:
                family.alias = {raw: known for raw, known in family.alias.items() if raw == known}
        if settled not in family.series and family.metric.accounting:
            self._unseen[family.metric.name, settled] = None
            family.block = ""
        family.get(settled, folded=folded)
        family.alias[labels] = settled
        return settled

    def _full(self, family: _Family) -> bool:
        if len(family.series) < family.limit:
            return False
        if family.metric.type in {"counter", "histogram"}:
            return True
        # A gauge that is no longer given leaves its place.
        gone = {labels for labels, series in family.series.items() if series.round < self._round - 1}
        family.series = {labels: series for labels, series in family.series.items() if labels not in gone}
        family.alias = {raw: labels for raw, labels in family.alias.items() if labels not in gone}
        return len(family.series) >= family.limit

    def _crowded(self) -> bool:
        return sum(len(family.series) for family in self._families.values()) >= self._limit

    # --- accounting: committed totals -----------------------------------------------------------------------

    def admit(self, increments: Increments) -> dict[tuple[str, tuple[str, ...]], Decimal | int]:
        """The same increments under labels that have passed the guard. Ask before the ledger, commit the answer,
        then `add` it. Raises KeyError for a metric that the catalogue does not have."""
        admitted: dict[tuple[str, tuple[str, ...]], Decimal | int] = {}
        for (metric, labels), value in increments.items():
            family = self._families[metric]
            settled = family.alias.get(labels) or self._settle(family, labels)
            key = (metric, settled)
            admitted[key] = EXACT.add(Decimal(admitted[key]), Decimal(value)) if key in admitted else value
        return admitted

    def restore(self, totals: Iterable[Total]) -> None:
        """Take over the committed totals, at start and whenever the ledger was away. A metric that the catalogue no
        longer has is left out.

        A ledger that was itself restored from a backup lowers nothing; what it then counts again is not added again.
        """
        changes: dict[tuple[str, tuple[str, ...]], Decimal] = {}
        self._ahead = {
            (name, labels): Decimal(series.value)
            for name, family in self._families.items()
            if family.metric.accounting
            for labels, series in family.series.items()
            if series.value
        }
        for total in totals:
            family = self._families.get(total.metric)
            if family is None or len(total.labels) != len(family.metric.labels):
                log.warning("a stored total is unknown to this version and not shown", metric=total.metric)
                continue
            if self._begun and total.labels not in family.series:
                self._unseen[total.metric, total.labels] = None
            missing = total.value - Decimal(family.get(total.labels).value)
            family.alias[total.labels] = total.labels
            self._ahead.pop((total.metric, total.labels), None)
            if missing > 0:
                changes[total.metric, total.labels] = missing
            elif missing < 0:
                self._ahead[total.metric, total.labels] = -missing
        self.add(changes)

    def declare(self, metric: str, labels: tuple[str, ...]) -> None:
        """A counter of accounting that is known from configuration: 0 until something is counted."""
        family = self._families[metric]
        if labels not in family.alias:
            self._settle(family, labels)

    def begin(self) -> None:
        """Show accounting: the first scan has ended. Series that come from now on are born live."""
        self._begun = True

    def add(self, committed: Increments) -> None:
        """Raise counters by what has just been committed (labels as `admit` gave them)."""
        now = self._clock()
        for key, value in committed.items():
            metric, labels = key
            family = self._families[metric]
            series = family.get(labels)
            if key in self._ahead:
                value = self._not_shown_yet(key, Decimal(value))  # noqa: PLW2901 - less of the same
            if key in self._unseen and value:
                if not self._begun:
                    del self._unseen[key]
                elif self._unseen[key] is None:
                    self._unseen[key] = now
            series.value = EXACT.add(Decimal(series.value), Decimal(value))
            series.line = ""
            family.block = ""

    def _not_shown_yet(self, key: tuple[str, tuple[str, ...]], value: Decimal) -> Decimal:
        """What of an increment is more than was shown before the ledger was put back."""
        ahead = self._ahead.pop(key)
        if value < ahead:
            self._ahead[key] = EXACT.subtract(ahead, value)
        return max(Decimal(0), EXACT.subtract(value, ahead))

    def total(self, metric: str, labels: tuple[str, ...]) -> Decimal:
        """The present total of one series of accounting; 0 when there is none."""
        series = self._families[metric].series.get(labels)
        return Decimal(series.value) if series else Decimal(0)

    # --- our own counts, and samples of others --------------------------------------------------------------

    def count(self, metric: str, labels: tuple[str, ...] = (), by: float = 1) -> None:
        """Raise a counter that lives in this process only (it starts at 0 with it)."""
        key = (metric, labels)
        self._counts[key] = self._counts.get(key, 0) + by

    def observe(self, metric: str, labels: tuple[str, ...], value: float) -> None:
        """Put one value into a histogram that lives in this process only."""
        bounds = CATALOGUE[metric].buckets
        family = self._families[metric]
        settled = family.alias.get(labels) or self._settle(family, labels)
        buckets, total = self._histograms.get((metric, settled), ([0] * (len(bounds) + 1), 0.0))
        for index, bound in enumerate((*bounds, math.inf)):
            buckets[index] += value <= bound
        self._histograms[metric, settled] = (buckets, total + value)

    def register(self, name: str, render: Render) -> None:
        """Ask `render` for samples at every scrape. When it raises, its samples are missing and nothing else."""
        self._renders.append((name, render))

    def _own(self) -> Iterable[Sample]:
        for (metric, labels), value in self._counts.items():
            yield Sample(metric, labels, value)
        for (metric, labels), (buckets, total) in self._histograms.items():
            yield Sample(metric, labels, total, tuple(buckets))
        yield Sample("lobservatory_scrape_duration_seconds", (), self._render_seconds)

    def _overflows(self) -> Iterable[Sample]:
        for metric, value in self._overflow.items():
            yield Sample("lobservatory_label_overflow_total", (metric,), value)

    # --- the snapshot ---------------------------------------------------------------------------------------

    def render(self, text_format: Format = Format.TEXT, *, prometheus: bool = False) -> str:
        """The text of a scrape. `prometheus`: it is Prometheus that asks, to which newborn counters are 0 once."""
        started = time.perf_counter()
        self._round += 1
        present: dict[str, list[_Series | str]] = {}
        for name, render in (*self._renders, ("registry", self._own), ("overflow", self._overflows)):
            try:
                self._collect(list(render()), present)
            except Exception as error:  # noqa: BLE001 - one broken collector never breaks a scrape
                if name not in self._broken:
                    self._broken.add(name)
                    log.error("samples are missing: rendering failed", collector=name, error=repr(error))  # noqa: TRY400 - one line
            else:
                self._broken.discard(name)
        newborn = self._newborn() if prometheus else {}
        newcomers = self._released() if prometheus else frozenset()
        out: list[str] = []
        for metric_name, family in self._families.items():
            if family.metric.accounting:
                lines = self._accounting_block(family, newborn.get(metric_name, frozenset()))
            else:
                lines = "".join(
                    item
                    if isinstance(item, str)
                    else item.line
                    if item not in newcomers
                    else f"{item.prefixes[0]}0.0\n"
                    for item in present.get(metric_name, ())
                )
            if lines:
                out += (family.headers[text_format], lines)
        if text_format is Format.OPENMETRICS:
            out.append(EOF)
        self._render_seconds = time.perf_counter() - started
        return "".join(out)

    def _collect(self, samples: Iterable[Sample], present: dict[str, list[_Series | str]]) -> None:
        current = self._round
        families = self._families
        for metric, labels, value, buckets in samples:
            family = families[metric]
            settled = family.alias.get(labels)
            if settled is None:
                settled = self._settle(family, labels)
            series = family.series[settled]
            if buckets:
                present.setdefault(metric, []).append(sample_lines(series.prefixes, value, buckets))
                series.round = current
                continue
            shown = value
            if series.round == current:
                # Several raw series in one: counts add up, an instant or a ratio is the largest.
                if series.folded:
                    before = float(series.value)
                    shown = before + value if family.adds_up else max(before, value)
            else:
                if series.round < 0 and family.from_zero and self._scraped and value:
                    self._newcomers[series] = self._clock()
                series.round = current
                if metric in present:
                    present[metric].append(series)
                else:
                    present[metric] = [series]
            if shown != series.value or not series.line:
                series.value = shown
                series.line = f"{series.prefixes[0]}{number(shown)}\n"

    def _accounting_block(self, family: _Family, newborn: AbstractSet[tuple[str, ...]]) -> str:
        if not self._begun:
            return ""
        if family.block and not newborn:
            return family.block
        lines = []
        for labels, series in family.series.items():
            if not series.line:
                series.line = f"{series.prefixes[0]}{number(float(series.value))}\n"
            lines.append(f"{series.prefixes[0]}0.0\n" if labels in newborn else series.line)
        block = "".join(lines)
        if not newborn:
            family.block = block
        return block

    def _newborn(self) -> dict[str, set[tuple[str, ...]]]:
        """The series that this scrape by Prometheus shows as 0, by metric; after it they are held no more."""
        if not self._begun:
            return {}
        now = self._clock()
        newborn: dict[str, set[tuple[str, ...]]] = {}
        for (metric, labels), since in self._unseen.items():
            if since is not None and now - since < self._zero_hold:
                newborn.setdefault(metric, set()).add(labels)
        self._unseen.clear()
        return newborn

    def _released(self) -> AbstractSet[_Series]:
        """As `_newborn`, for counters of this process."""
        self._scraped = True
        now = self._clock()
        newcomers = {series for series, since in self._newcomers.items() if now - since < self._zero_hold}
        self._newcomers.clear()
        return newcomers
