"""Silence is not health: an event stream that went quiet while polls see activity.

Pushed events may stop although the connection lives (a lost subscription, a gateway that forgets a client). Polls do
not: when they see sessions change and no event tells of it, the two drift apart, and that is what is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from lobservatory.metrics.exposition import Sample
from openclaw.fields import instant
from openclaw.protocol import Pushed

# Events that come by themselves and tell nothing of what agents do.
HEARTBEATS = frozenset({"tick", "health", "presence", "heartbeat", "update.available", "shutdown", "connect.challenge"})


class Silence:
    """Listens to pushed events, to (re)connects and to what the collector `sessions` lists. `clock`: epoch seconds."""

    def __init__(self, gateway: str, *, clock: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._clock = clock
        self._last_event: float | None = None
        self._since = clock()  # before this, an event may have been missed for a good reason
        self._polled: float | None = None

    def pushed(self, event: Pushed) -> None:
        """A listener for the client."""
        if event.event not in HEARTBEATS:
            self._last_event = self._clock()

    def refetch(self, _why: str) -> None:
        """A listener for (re)connects and gaps: what was missed then is repaired by the polls."""
        self._since = self._clock()

    def listed(self, sessions: Sequence[Mapping[str, Any]], _asked_at: datetime) -> None:
        """A listener for the collector `sessions`."""
        times = [at.timestamp() for session in sessions if (at := instant(session.get("updatedAt"))) is not None]
        # A clock that is ahead of ours must not look like a silence that never ends.
        self._polled = min(max(times), self._clock()) if times else None

    def lag(self) -> float | None:
        """Seconds by which the newest change that polls saw is newer than the newest event; None before a poll."""
        if self._polled is None:
            return None
        return max(0.0, self._polled - max(self._last_event or 0.0, self._since))

    def render(self) -> Iterable[Sample]:
        """The newest of each, and their distance."""
        lag = self.lag()
        if lag is not None:
            yield Sample("claw_event_stream_lag_seconds", (self._gateway,), lag)
        if self._polled is not None:
            yield Sample("claw_polled_activity_timestamp_seconds", (self._gateway,), self._polled)
        if self._last_event is not None:
            yield Sample("claw_pushed_activity_timestamp_seconds", (self._gateway,), self._last_event)
