"""A metric family, declared as data. Everything that treats families differently asks a field of it, never its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricType = Literal["counter", "gauge", "histogram", "info"]

ALL_SERIES = 2_000  # bound of a family whose labels come from outside


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `labels` in the order in which values are given; `bound` is its largest number of series.

    `accounting`: absent until the first scan has ended; restored from the committed totals.
    `has_past`: a counter that is somebody else's, as the kernel's: its first value is nobody's increase. Every other
    counter begins with the process, so that all of its first value is new.
    `merge`: what several series are that the label guard folds into one: their sum, or the largest (instant, ratio,
    maximum).
    """

    name: str
    type: MetricType
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    bound: int = ALL_SERIES
    buckets: tuple[float, ...] = ()
    accounting: bool = False
    has_past: bool = False
    merge: Literal["sum", "max"] = "sum"
