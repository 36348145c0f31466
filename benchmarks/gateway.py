"""A large gateway in the small: 500 agents, 5,000 sessions, 1,000 jobs over the real protocol, polled by our client."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from cli.demo.gateway import ReplayGateway
from exporter.collectors.scheduler import Runner
from exporter.gateway.watch import GatewayWatch
from exporter.metrics.registry import Registry
from lobservatory.metrics.catalogue import TOTAL_SERIES

AGENTS, SESSIONS, JOBS = 500, 5_000, 1_000
PAGE = 100
CYCLES = 5
CYCLE_GOAL_S = 5
MEMORY_GOAL_MB = 50
RSS_GOAL_MB = 150
POLLED = ("sessions", "agents", "cron")
_TOKEN = "of-the-benchmark"


def _paged(everything: Sequence[Mapping[str, Any]], name: str) -> Callable[[Mapping[str, Any]], Any]:
    def answer(params: Mapping[str, Any]) -> Any:
        offset = params.get("offset", 0)
        following = offset + PAGE
        more = following < len(everything)
        return {name: everything[offset:following], "hasMore": more, "nextOffset": following if more else None}

    return answer


def enlarge(gateway: ReplayGateway) -> None:
    """Let a replay gateway answer as a large one would."""
    names = [f"agent-{number}" for number in range(AGENTS)]
    sessions = [
        {
            "key": f"agent:{names[number % AGENTS]}:dashboard:{number}",
            "agentId": names[number % AGENTS],
            "sessionId": f"session-{number}",
            "status": "done",
            "hasActiveRun": number % 50 == 0,
            "totalTokens": number,
            "contextTokens": 200_000,
            "updatedAt": int(time.time() * 1000),
        }
        for number in range(SESSIONS)
    ]
    jobs = [
        {
            "id": f"job-{number}",
            "name": f"Job {number}",
            "enabled": True,
            "schedule": {"kind": "cron", "expr": "*/5 * * * *"},
            "state": {"lastStatus": "ok", "lastRunAtMs": int(time.time() * 1000), "lastDurationMs": 800},
        }
        for number in range(JOBS)
    ]
    gateway.answers["agents.list"] = lambda _: {"defaultId": names[0], "agents": [{"id": name} for name in names]}
    gateway.answers["health"] = lambda _: {"agents": []}
    gateway.answers["sessions.list"] = _paged(sessions, "sessions")
    gateway.answers["cron.list"] = _paged(jobs, "jobs")
    gateway.answers["cron.status"] = lambda _: {"enabled": True}
    gateway.answers["cron.runs"] = lambda _: {"entries": []}


async def _measure() -> tuple[float, float, float, float, int]:
    """Seconds and CPU seconds of a cycle (the gateway's included), MB by which the process grew (likewise), MB that the
    collectors keep, series."""
    process = psutil.Process()
    before = process.memory_info().rss
    async with ReplayGateway(token=_TOKEN) as gateway:
        enlarge(gateway)
        watch = GatewayWatch("bench", gateway.url, lambda: _TOKEN)
        registry = Registry()
        runner = Runner(registry, "bench", watch.collectors)
        collectors = [one for one in watch.collectors if one.name in POLLED]
        task = asyncio.create_task(watch.run(runner.wake))
        try:
            await watch.client.wait_connected(30)
            wall, cpu = [], []
            for _ in range(CYCLES):
                started, used = time.perf_counter(), time.process_time()
                for collector in collectors:
                    if not await runner.refresh(collector):
                        raise RuntimeError(f"collector {collector.name} failed")
                wall.append(time.perf_counter() - started)
                cpu.append(time.process_time() - used)
            series = sum(1 for line in registry.render().splitlines() if line and not line.startswith("#"))
            grown = (process.memory_info().rss - before) / 1e6
            kept = await _kept(watch, runner)
        finally:
            task.cancel()
            await asyncio.wait([task])
    return sorted(wall)[CYCLES // 2], sorted(cpu)[CYCLES // 2], grown, kept, series


async def _kept(watch: GatewayWatch, runner: Runner) -> float:
    """MB that a further set of collectors holds after a cycle."""
    gc.collect()
    tracemalloc.start()
    try:
        for collector in watch.collectors:
            if collector.name in POLLED:
                await runner.refresh(collector)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / 1e6
    finally:
        tracemalloc.stop()


def run() -> list[dict[str, Any]]:
    """The rows of the report."""
    wall, cpu, grown, kept, series = asyncio.run(_measure())
    size = f"{AGENTS} agents, {SESSIONS:,} sessions, {JOBS:,} jobs"
    return [
        {
            "name": f"poll cycle of {size}, the fake gateway included",
            "value": round(wall, 2),
            "unit": "s",
            "goal": f"< {CYCLE_GOAL_S}",
            "ok": wall < CYCLE_GOAL_S,
        },
        {"name": "the same, CPU of both", "value": round(cpu, 2), "unit": "s", "goal": "", "ok": True},
        {
            "name": "memory that a cycle leaves behind",
            "value": round(kept, 1),
            "unit": "MB",
            "goal": f"< {MEMORY_GOAL_MB}",
            "ok": kept < MEMORY_GOAL_MB,
        },
        {
            "name": f"RSS that {CYCLES} cycles add, the fake gateway included",
            "value": round(grown, 1),
            "unit": "MB",
            "goal": f"< {RSS_GOAL_MB}",
            "ok": grown < RSS_GOAL_MB,
        },
        {
            "name": "series of it",
            "value": series,
            "unit": "",
            "goal": f"<= {TOTAL_SERIES}",
            "ok": series <= TOTAL_SERIES,
        },
    ]
