"""Callbacks, none of which can harm another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from openclaw.client.stats import Stats

News = TypeVar("News")

log = structlog.get_logger("gateway")


class Listeners(Generic[News]):
    """Those who want to hear of one kind of news. They are called on the event loop and must not block; what one raises
    is logged and counted, and harms nobody else."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._callbacks: list[Callable[[News], None]] = []

    def __len__(self) -> int:
        """How many listen."""
        return len(self._callbacks)

    def add(self, callback: Callable[[News], None]) -> Callable[[], None]:
        """Call back from now on; the answer ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def tell(self, news: News) -> None:
        """Call everyone who listens now."""
        for callback in tuple(self._callbacks):
            try:
                callback(news)
            except Exception:
                self._stats.callback_errors += 1
                name = getattr(callback, "__qualname__", type(callback).__name__)
                log.exception("a listener failed", listener=name)
