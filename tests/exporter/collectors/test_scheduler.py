"""Collectors are kept fresh, and a broken one harms nobody."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.collectors.scheduler import SLOWEST, Runner, wait_after
from exporter.metrics.registry import Registry
from lobservatory.metrics.exposition import Sample


class Fake:
    def __init__(self, name="host", *, errors=(), hangs=False, interval=15.0, deadline=1.0):
        self.name, self.interval, self.deadline = name, interval, deadline
        self.errors = list(errors)
        self.hangs = hangs
        self.refreshed = 0

    async def refresh(self):
        self.refreshed += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.errors and (error := self.errors.pop(0)):
            raise error

    def render(self):
        yield Sample("claw_host_load1", ("g",), self.refreshed)


def samples(registry):
    return {
        (sample.name, sample.labels.get("collector")): sample.value
        for family in parse_text(registry.render())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("interval", "failures", "expected"),
    [(15, 0, 15), (15, 1, 30), (15, 2, SLOWEST), (15, 60, SLOWEST), (300, 0, 300), (300, 5, 300)],
)
def test_the_wait_doubles_after_failures_up_to_a_ceiling(interval, failures, expected):
    assert wait_after(interval, failures, 0.5) == pytest.approx(expected)
    assert wait_after(interval, failures, 0.0) == pytest.approx(expected * 0.9)
    assert wait_after(interval, failures, 1.0) == pytest.approx(expected * 1.1)


async def test_a_refresh_that_works_is_shown_with_its_time():
    registry, collector = Registry(), Fake()
    times = iter([10.0, 12.5])
    runner = Runner(registry, "g", [collector], clock=lambda: next(times), wall_clock=lambda: 1.8e9)
    assert ("lobservatory_collector_success", "host") not in samples(registry)
    assert await runner.refresh(collector)
    shown = samples(registry)
    assert shown["lobservatory_collector_success", "host"] == 1
    assert shown["lobservatory_collector_duration_seconds", "host"] == 2.5
    assert shown["lobservatory_collector_last_success_timestamp_seconds", "host"] == 1.8e9
    assert shown["lobservatory_collector_failures_total", "host"] == 0
    assert shown["claw_host_load1", None] == 1


@pytest.mark.req("S4-16")
async def test_a_failed_refresh_is_counted_and_keeps_the_time_of_the_last_success():
    registry, collector = Registry(), Fake(errors=[None, RuntimeError("boom"), OSError("again")])
    runner = Runner(registry, "g", [collector], wall_clock=lambda: 5.0)
    outcomes = [await runner.refresh(collector) for _ in range(4)]
    assert outcomes == [True, False, False, True]
    shown = samples(registry)
    assert shown["lobservatory_collector_failures_total", "host"] == 2
    assert shown["lobservatory_collector_last_success_timestamp_seconds", "host"] == 5.0


async def test_a_refresh_that_hangs_ends_at_its_deadline():
    registry, collector = Registry(), Fake(hangs=True, deadline=0.01)
    assert not await Runner(registry, "g", [collector]).refresh(collector)
    assert samples(registry)["lobservatory_collector_success", "host"] == 0


async def test_a_wake_that_is_asked_for_often_is_one_and_leaves_the_others_alone():
    waiting, woken = asyncio.Semaphore(0), asyncio.Queue()

    async def wait(event, _seconds):
        waiting.release()
        await event.wait()
        woken.put_nowait(asyncio.current_task().get_name())

    runner = Runner(Registry(), "g", [Fake("cron"), Fake("agents")], wait=wait)
    task = asyncio.create_task(runner.run())
    for _ in range(2):
        await waiting.acquire()
    for _ in range(2):
        for _ in range(3):
            runner.wake_soon("agents", 0.01)
        assert woken.empty()
        assert await woken.get() == "collector agents"
        await waiting.acquire()
        await asyncio.sleep(0.03)
        assert woken.empty()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_collectors_run_apart_and_a_wake_refreshes_at_once():
    registry = Registry()
    broken, hanging, good = Fake("cron", errors=[RuntimeError("x")] * 99), Fake("usage", hangs=True), Fake("agents")
    waits: dict[str, list[float]] = {}
    rested = asyncio.Event()

    async def wait(event, seconds):
        name = asyncio.current_task().get_name().removeprefix("collector ")
        waits.setdefault(name, []).append(seconds)
        if {"cron", "agents"} <= waits.keys():
            rested.set()
        await event.wait()

    runner = Runner(registry, "g", [broken, hanging, good], rng=lambda: 0.5, wait=wait)
    task = asyncio.create_task(runner.run())
    await rested.wait()
    assert waits == {"cron": [30.0], "agents": [15.0]}
    rested.clear()
    runner.wake("agents")
    await rested.wait()
    assert (good.refreshed, broken.refreshed) == (2, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
