"""Counters on `/metrics` beside the totals of the ledger: raised by what was committed, lowered by nothing, not even by
a ledger that was restored from a backup."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from exporter.accounting import EXACT
from exporter.ingest.state import Stage
from exporter.metrics.registry import Registry
from store.ledger.shown import ShownTotals
from store.rows import Total

Key = tuple[str, tuple[str, ...]]
Duration = tuple[str, tuple[str, ...], float]  # histogram, labels, seconds
OnRegistry = Callable[..., Awaitable[Any]]  # runs a method of the registry where it belongs


class Counters:
    """The registry's counters of accounting. `committed` is called after every commit, where the registry belongs."""

    def __init__(
        self,
        registry: Registry,
        on_registry: OnRegistry,
        stage: Stage,
        *,
        declare: Iterable[Key],
        committed: Callable[[], None],
        shown: ShownTotals | None,
    ) -> None:
        self._registry = registry
        self._on_registry = on_registry
        self._stage = stage
        self._declare = tuple(declare)
        self._committed = committed
        self._file = shown
        self._shown: dict[Key, Decimal] = {}  # the highest that every counter was shown with
        self._totals: dict[Key, Decimal] = {}  # as the ledger has them

    def close(self) -> None:
        """Close the file of what was shown."""
        if self._file is not None:
            self._file.close()

    async def take_over(self, totals: Sequence[Total], *, scanned: bool) -> int:
        """Show no less than these. Tells how many counters were shown with more, as after a restore.

        `scanned`: a first scan has ended over this ledger; one that is empty begins anew.
        """
        self._totals = {(total.metric, total.labels): total.value for total in totals}
        if self._file is not None and not self._shown:
            self._shown = self._file.load()
        if not self._stage.state.shown and not scanned:
            self._shown = {}
        lacking = self.lacking()
        if lacking and not self._stage.state.shown:
            shown = [Total(*key, value) for key, value in self._shown.items()]
            await self._on_registry(self._registry.restore, shown)
        await self._on_registry(self._registry.restore, totals)
        return len(lacking)

    def lacking(self) -> dict[Key, Decimal]:
        """What counters were shown with and the ledger does not have."""
        return {
            key: EXACT.subtract(value, self._totals.get(key, Decimal(0)))
            for key, value in self._shown.items()
            if self._totals.get(key, 0) < value
        }

    async def begin(self) -> None:
        """Show them from now on."""

        def begin() -> None:
            for metric, labels in self._declare:
                self._registry.declare(metric, labels)
            self._registry.begin()

        await self._on_registry(begin)
        self._keep_shown(self._totals, instead=not self._shown)

    async def admit(self, raised: Mapping[Key, Any]) -> Mapping[Key, Decimal | int]:
        """What of this may be counted under its labels, and what under those of the overflow."""
        admitted: Mapping[Key, Decimal | int] = await self._on_registry(self._registry.admit, raised)
        return admitted

    async def add(self, admitted: Mapping[Key, Decimal | int], durations: Sequence[Duration]) -> None:
        """Raise them by what was committed; durations count only of what happens live."""
        self._raise_totals(admitted)
        await self._on_registry(self._raise, admitted, durations if self._stage.state.shown else [])

    async def make_up(self, lost: Mapping[Key, Decimal], totals: Sequence[Total]) -> None:
        """`lost` was added to the ledger, which has these totals now; it was shown all the time."""
        await self._on_registry(self._registry.restore, totals)
        self._raise_totals(lost)

    def _raise(self, admitted: Mapping[Key, Any], durations: Sequence[Duration]) -> None:
        self._registry.add(admitted)
        self._committed()
        for metric, labels, seconds in durations:
            self._registry.observe(metric, labels, seconds)

    def _raise_totals(self, admitted: Mapping[Key, Decimal | int]) -> None:
        for key, value in admitted.items():
            self._totals[key] = EXACT.add(self._totals.get(key, Decimal(0)), Decimal(value))
        if self._stage.state.shown:
            self._keep_shown(admitted)

    def _keep_shown(self, keys: Iterable[Key], *, instead: bool = False) -> None:
        if self._file is None:
            return
        higher = {key: self._totals[key] for key in keys if self._totals[key] > self._shown.get(key, -1)}
        if higher or instead:
            self._shown.update(higher)
            self._file.keep(higher, instead=instead)
