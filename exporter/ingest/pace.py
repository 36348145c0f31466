"""When all sources are looked at, and until when to wait for a write."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from exporter.ingest.watch import RECONCILE, Watch

CHEAP_LOOK: Final = 0.02  # seconds; what takes no longer is done again at once
LONGEST_PAUSE: Final = 0.1  # seconds between two looks while writes go on
LOOK_SHARE: Final = (
    400  # times as long as a look took, until the next one that nothing asked for: 0.25 % of a processor
)
LONGEST_RECONCILE: Final = 300.0


class Pace:
    """Looks at all sources come at once, but no more often than their cost allows: where a look is dear (thousands of
    sessions) and writes never end, it takes about half of a processor."""

    def __init__(self, watch: Watch, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch = watch
        self._clock = clock
        self._due = 0.0  # infinity: nothing asks for a look
        self._not_before = 0.0  # of the next one
        self._took = 0.0  # seconds of the last one

    @property
    def due(self) -> bool:
        """Whether it is time for a look at all."""
        return self._clock() >= self._due

    def want(self) -> None:
        """Ask for a look at all as soon as it may be."""
        self._due = self._not_before

    def looked(self, started: float) -> None:
        """A look that began then has ended."""
        now = self._clock()
        self._took = now - started
        self._not_before = now + min(LONGEST_PAUSE, max(0.0, self._took - CHEAP_LOOK))
        self._due = math.inf

    async def wait(self) -> set[str]:
        """Until something was written, or a look is due. Gives the paths that were written."""
        self._watch.ensure()
        if self._due == math.inf:
            reconcile = min(LONGEST_RECONCILE, max(RECONCILE, LOOK_SHARE * self._took))
            if not await self._watch.wait(reconcile=reconcile):
                self.want()  # in vain: time to look by itself
        elif not self.due:
            await self._watch.wait(self._due - self._clock())
        return self._watch.take()
