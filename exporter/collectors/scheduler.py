"""Keeps collectors fresh: each in its own task, with its own interval, deadline and back-off.

A failed refresh is counted and tried again later; it costs nobody else anything. One line is logged when a collector
starts to fail or works again, never one per try.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging as stdlib_logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from exporter.collectors import Collector
from exporter.metrics.registry import Registry
from lobservatory import logging
from lobservatory.metrics.exposition import Sample
from openclaw.protocol import GatewayUnavailableError

log = logging.get(__name__)

SLOWEST = 60.0  # seconds: longest wait after failures of a collector whose interval is shorter than that
JITTER = 0.1  # of an interval, so that collectors do not march in step


def wait_after(interval: float, failures: int, random_unit: float) -> float:
    """Seconds until the next refresh: the interval, doubled for each failure in a row up to `SLOWEST` (never less than
    the interval), 10 % more or less."""
    backed_off = interval * float(1 << min(failures, 16))
    return min(backed_off, max(SLOWEST, interval)) * (1 + JITTER * (2 * random_unit - 1))


@dataclass(slots=True)
class _State:
    failures: int = 0
    said: bool = False  # that it fails
    success: float | None = None  # None: no refresh has ended yet
    duration: float = 0.0
    last_success: float | None = None  # epoch seconds
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Runner:
    """Runs collectors until it is cancelled, and renders how they do."""

    def __init__(
        self,
        registry: Registry,
        gateway: str,
        collectors: Sequence[Collector],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] | None = None,
    ) -> None:
        self._registry = registry
        self._gateway = gateway
        self._collectors = tuple(collectors)
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng
        self._wait = _wait if wait is None else wait
        self._states = {collector.name: _State() for collector in collectors}
        self._soon: set[str] = set()
        for collector in collectors:
            registry.register(collector.name, collector.render)
            registry.count("lobservatory_collector_failures_total", (gateway, collector.name), 0)
        registry.register("runner", self.render)

    async def run(self) -> None:
        """Refresh every collector now and then at its interval."""
        async with asyncio.TaskGroup() as group:
            for collector in self._collectors:
                group.create_task(self._keep(collector), name=f"collector {collector.name}")

    def wake(self, *names: str) -> None:
        """Refresh these collectors (none named: all) at once, because something is known to have changed."""
        for name, state in self._states.items():
            if not names or name in names:
                state.wake.set()

    def wake_soon(self, name: str, seconds: float) -> None:
        """Refresh this collector that long from now, once, however often it is asked for until then."""
        if name not in self._soon:
            self._soon.add(name)
            asyncio.get_running_loop().call_later(seconds, self._wake_now, name)

    def _wake_now(self, name: str) -> None:
        self._soon.discard(name)
        self.wake(name)

    async def _keep(self, collector: Collector) -> None:
        state = self._states[collector.name]
        while True:
            state.wake.clear()
            await self.refresh(collector)
            await self._wait(state.wake, wait_after(collector.interval, state.failures, self._rng()))

    async def refresh(self, collector: Collector) -> bool:
        """One refresh with its deadline; tells whether it worked."""
        state = self._states[collector.name]
        started = self._clock()
        try:
            async with asyncio.timeout(collector.deadline):
                await collector.refresh()
        except Exception as error:  # noqa: BLE001 - the one boundary of all collectors
            failure = f"no result within {collector.deadline:g} s" if isinstance(error, TimeoutError) else str(error)
            self._failed(collector, state, failure or type(error).__name__, error)
        else:
            if state.said:
                log.info("collector works again", collector=collector.name)
            state.failures, state.said = 0, False
            state.success = 1.0
            state.last_success = self._wall_clock()
        state.duration = self._clock() - started
        return state.failures == 0

    def _failed(self, collector: Collector, state: _State, text: str, error: Exception) -> None:
        if not state.failures:
            # That the gateway is away is said once, by its client, and not by every collector that asks it.
            level = stdlib_logging.DEBUG if isinstance(error, GatewayUnavailableError) else stdlib_logging.WARNING
            kind = type(error).__name__
            log.log(level, "collector fails; it is tried again", collector=collector.name, error=text, kind=kind)
            state.said = level > stdlib_logging.DEBUG
        state.failures += 1
        state.success = 0.0
        self._registry.count("lobservatory_collector_failures_total", (self._gateway, collector.name))

    def render(self) -> Iterable[Sample]:
        """Success, duration and last success of every collector that has been tried."""
        for name, state in self._states.items():
            if state.success is None:
                continue
            labels = (self._gateway, name)
            yield Sample("lobservatory_collector_success", labels, state.success)
            yield Sample("lobservatory_collector_duration_seconds", labels, state.duration)
            if state.last_success is not None:
                yield Sample("lobservatory_collector_last_success_timestamp_seconds", labels, state.last_success)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
