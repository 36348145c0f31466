"""The feed of operations: from pushed events and polls, through the tracker of runs, to rows, counts and traces."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exporter.gateway.rows import DerivedRows
from exporter.gateway.runs.book import HISTORY
from exporter.gateway.runs.derived import Derived, merged
from exporter.gateway.runs.tracker import RunTracker
from exporter.gateway.traces import Traces
from lobservatory import logging
from lobservatory.errors import one_line
from openclaw.fields import mapping, number
from openclaw.protocol import Hello, Pushed
from store.pool import Pool
from store.rows import AgentEvent, AgentState

log = logging.get(__name__)

MAX_QUEUED = 10_000  # pushed events; when it is full, the oldest are dropped and the next poll repairs it
MAX_BATCH = 200
MAX_COUNTED = 2_000
_RETRY = (0.5, 10.0)  # seconds: first and longest wait after a failed write
_AGENT_EVENTS = frozenset({"agent", "session.tool", "cron"})


class OperationsFeed:
    """Queues pushed events and polls, and derives from them in order, within milliseconds while the database is there.
    Changes with when signs are taken in and who is told. Without a pool only states and counts are kept."""

    def __init__(
        self, gateway: str, pool: Pool | None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.tracker = RunTracker(gateway)
        self.looked = False  # whether a list of sessions was gone through
        self.on_looked: Callable[[], None] = lambda: None  # once: from now on it is known which agents are at rest
        self.dropped = 0
        self.traces: Traces | None = None
        self._now = now
        self._queue: deque[Pushed | Callable[[], Derived]] = deque(maxlen=MAX_QUEUED)
        self._filled = asyncio.Event()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._rows = DerivedRows(gateway, pool) if pool is not None else None
        self._restored = self._rows is None

    # --- what collectors and metrics see ------------------------------------------------------------------

    @property
    def states(self) -> Mapping[str, AgentState]:
        """The present state of each agent that was seen."""
        return self.tracker.states

    @property
    def event_counts(self) -> Mapping[tuple[str, str], int]:
        """How often each (agent, event) was seen."""
        return self._counts

    def pushed(self, event: Pushed) -> None:
        """A listener for the client."""
        if event.event in _AGENT_EVENTS:
            self._put(event)

    def connected(self, hello: Hello | None) -> None:
        """A listener for the client: a gateway that tells how long it is up tells what died before."""
        uptime = number(mapping(hello.payload if hello else None, "snapshot").get("uptimeMs"))
        if uptime is not None:
            started = self._now() - timedelta(milliseconds=uptime)
            self._put(lambda: self.tracker.gateway_started(started))

    def sessions_listed(self, listed: Sequence[Mapping[str, Any]], asked_at: datetime) -> None:
        """A listener for the collector `sessions`."""

        def derive() -> Derived:
            if not self.looked:
                self.looked = True
                self.on_looked()
            return self.tracker.sessions(listed, asked_at, self._now())

        self._put(derive)

    def cron_listed(self, names: Mapping[str, str], runs: Sequence[Mapping[str, Any]]) -> None:
        """A listener for the collector `cron`."""

        def derive() -> Derived:
            self.tracker.jobs(names)
            return merged([self.tracker.cron_run(run, self._now()) for run in runs])

        self._put(derive)

    def _put(self, item: Pushed | Callable[[], Derived]) -> None:
        self.dropped += len(self._queue) == MAX_QUEUED
        self._queue.append(item)
        self._filled.set()

    # --- the task -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Derive and write until cancelled; what is left is written at the end, if that works at once."""
        delay = _RETRY[0]
        try:
            while True:
                if not self._unsaved:
                    await self._filled.wait()
                if await self.step():
                    delay = _RETRY[0]
                else:
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _RETRY[1])
        finally:
            try:
                async with asyncio.timeout(2):
                    await self.step()
            except Exception as error:  # noqa: BLE001 - whatever it is, a stop goes on
                log.warning("the last operations could not be written", error=one_line(error))

    @property
    def _unsaved(self) -> bool:
        return self._rows is not None and self._rows.unsaved

    async def step(self) -> bool:
        """Take what is queued and write what is unsaved; whether that worked."""
        if not await self._restore():
            return False
        self._filled.clear()
        parts: list[Derived] = []
        while self._queue and len(parts) < MAX_BATCH:
            item = self._queue.popleft()
            parts.append(self.tracker.event(item, self._now()) if isinstance(item, Pushed) else item())
        if self._queue:
            self._filled.set()
        derived = merged(parts)
        if self.traces is not None:
            self.traces.add(derived.operations)
        self._count(derived.agent_events)
        if self._rows is None:
            return True
        self._rows.keep(derived)
        return await self._rows.write()

    def _count(self, events: Iterable[AgentEvent]) -> None:
        self._counts.update(
            (event.agent, event.event)
            for event in events
            if (event.agent, event.event) in self._counts or len(self._counts) < MAX_COUNTED
        )

    async def _restore(self) -> bool:
        """Once: what was in progress before a restart, and what has ended. Events wait for it in the queue."""
        if self._rows is None or self._restored:
            return True
        known = await self._rows.known(self._now() - HISTORY - timedelta(hours=1))
        if known is None:
            return False
        self.tracker.restore(known.operations, self._now())
        if self.traces is not None:
            self.traces.restore(known.operations, known.sent_to)
        self._restored = True
        return True
