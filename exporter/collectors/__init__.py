"""Collectors: one file each.

`exporter.gateway.watch` makes those that ask the gateway, `exporter.collectors.local` the others; `exporter.app` gives
those that are on to the runner of `exporter.collectors.scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lobservatory.metrics.exposition import Sample


class Collector(Protocol):
    """Refreshes what it knows on its own schedule; renders without I/O, so that a scrape is never slow.

    The runner gives each its interval, jitter, deadline and back-off, and reports success, duration and the last
    success. `refresh` may raise: that is one failed refresh of this collector and nothing else. After a failure
    `render` gives only what is still true (never stale values dressed as fresh ones).
    """

    name: str  # one of lobservatory.metrics.labels.COLLECTORS
    interval: float  # seconds between two refreshes
    deadline: float  # seconds that one refresh may take

    async def refresh(self) -> None:
        """Learn the present state. Raises on failure; the runner counts it."""

    def render(self) -> Iterable[Sample]:
        """What is known now, as samples of the catalogue."""
