"""How often one actor may ask: token buckets in this process, bounded in number."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` in the long run, `burst` at once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of the service. One person, one script and a few browsers stay far below."""

    read: Rate = Rate(100, 400)
    write: Rate = Rate(50, 200)
    command: Rate = Rate(0.5, 10)
    anonymous: Rate = Rate(5, 50)  # wrong tokens and log-ins, per address
    body_bytes: int = 512 * 1024
    body_seconds: float = 20.0
    websockets: int = 2_000  # per process
    client_queue: int = 512  # messages that wait for one client


class RateLimiter:
    """One bucket per key. Keys that have not been seen for longest are forgotten first."""

    def __init__(self, rate: Rate, *, clock: Callable[[], float] = time.monotonic, most_keys: int = 10_000) -> None:
        self._rate = rate
        self._clock = clock
        self._most_keys = most_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """0.0 when the request may pass, else the seconds until the next one may."""
        now = self._clock()
        level, seen = self._buckets.pop(key, (float(self._rate.burst), now))
        level = min(float(self._rate.burst), level + (now - seen) * self._rate.per_second)
        wait = 0.0
        if level >= 1.0:
            level -= 1.0
        else:
            wait = (1.0 - level) / self._rate.per_second
        self._buckets[key] = (level, now)
        while len(self._buckets) > self._most_keys:
            self._buckets.popitem(last=False)
        return wait
