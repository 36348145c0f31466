"""What the gateway tells by itself."""

from __future__ import annotations

from collections.abc import Callable

from openclaw.client.listeners import Listeners
from openclaw.client.stats import Stats
from openclaw.protocol import Dropped, Gap, Pushed

MAX_EVENT_NAMES = 150


class PushedNews:
    """Pushed events, counted and passed on. Changes with what is counted of them and who is told what.

    `events`: every pushed event. `refetch`: `connected` or `gap`, when events may have been missed. `lost`: the kind of
    failure, when a connection that was there has ended.
    """

    def __init__(self, stats: Stats, wall_clock: Callable[[], float]) -> None:
        self.events: Listeners[Pushed] = Listeners(stats)
        self.refetch: Listeners[str] = Listeners(stats)
        self.lost: Listeners[str] = Listeners(stats)
        self._stats = stats
        self._wall_clock = wall_clock

    def take(self, item: Pushed | Gap | Dropped) -> None:
        """Count and tell."""
        match item:
            case Pushed():
                self._push(item)
            case Gap():
                self._stats.gaps += 1
                self.refetch.tell("gap")
            case Dropped(reason=reason):
                self._stats.frames_dropped[reason] += 1

    def _push(self, item: Pushed) -> None:
        stats = self._stats
        known = item.event in stats.events or len(stats.events) < MAX_EVENT_NAMES
        stats.events[item.event[:64] if known else "other"] += 1
        stats.last_event_at = self._wall_clock()
        self.events.tell(item)
