"""Samples of the catalogue's families, and their rendering. No I/O: a snapshot is immutable once it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family of the catalogue. `labels` in the catalogue's order; a histogram has one sample with
    `buckets` (cumulative counts, one per bound of the catalogue and +Inf) and its sum in `value`."""

    metric: str
    labels: tuple[str, ...]
    value: float
    buckets: tuple[int, ...] = ()
