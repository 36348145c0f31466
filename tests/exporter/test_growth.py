"""A large installation, spoken over the real protocol by the replay gateway: everything is seen, and stays bounded."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path

import psutil

from cli.demo.gateway import ReplayGateway
from exporter.collectors.scheduler import Runner
from exporter.gateway.watch import GatewayWatch
from exporter.metrics.registry import Registry
from lobservatory.metrics.catalogue import CATALOGUE, TOTAL_SERIES
from tests.servers import PATIENCE_SECONDS

AGENTS, SESSIONS, JOBS = 500, 5_000, 1_000
PAGE = 100
TOKEN = "a-token"
SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples" / "rpc-2026.9.6"


def recordings():
    names = ("agents.list", "health", "sessions.list", "cron.list", "cron.status", "cron.runs")
    return {name: json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))["response"] for name in names}


def paged(everything, name, page):
    def answer(params):
        offset = params.get("offset", 0)
        following = offset + page
        more = following < len(everything)
        return {name: everything[offset:following], "hasMore": more, "nextOffset": following if more else None}

    return answer


def enlarged(gateway):
    agents = [{"id": f"agent{number}", "name": f"Agent {number}"} for number in range(AGENTS)]
    session = recordings()["sessions.list"]["payload"]["sessions"][0]
    job = recordings()["cron.list"]["payload"]["jobs"][0]
    sessions = [
        {
            **session,
            "key": f"agent:agent{number % AGENTS}:dashboard:{number}",
            "agentId": f"agent{number % AGENTS}",
            "sessionId": f"session-{number}",
            "hasActiveRun": number % 50 == 0,
        }
        for number in range(SESSIONS)
    ]
    jobs = [{**job, "id": f"job-{number}", "name": f"Job {number}"} for number in range(JOBS)]
    gateway.answers["agents.list"] = lambda _: {"defaultId": "agent0", "agents": agents}
    gateway.answers["sessions.list"] = paged(sessions, "sessions", PAGE)
    gateway.answers["cron.list"] = paged(jobs, "jobs", PAGE)


async def test_500_agents_5000_sessions_and_1000_jobs_are_all_seen_within_the_bounds():
    process = psutil.Process()
    before = process.memory_info().rss
    async with ReplayGateway(token=TOKEN, replies=recordings()) as gateway:
        enlarged(gateway)
        watch = GatewayWatch("home", gateway.url, lambda: TOKEN)
        registry = Registry()
        runner = Runner(registry, "home", watch.collectors)
        task = asyncio.create_task(watch.run(runner.wake))
        try:
            await watch.client.wait_connected(PATIENCE_SECONDS)
            polled = [one for one in watch.collectors if one.name in {"sessions", "agents", "cron"}]
            assert [await runner.refresh(collector) for collector in polled] == [True] * 3
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert process.memory_info().rss - before < 300e6  # the gateway's answers included
    lines = [line for line in registry.render().splitlines() if line and not line.startswith("#")]
    values = defaultdict(float)
    series = defaultdict(int)
    for line in lines:
        name = line.split("{")[0].split(" ")[0]
        values[name] += float(line.rsplit(" ", 1)[1])
        series[name] += 1
    assert values["claw_agents"] == AGENTS
    assert values["claw_sessions"] == SESSIONS
    assert series["claw_cron_job_info"] == JOBS
    assert values["claw_active_runs"] == SESSIONS / 50
    assert len(lines) <= TOTAL_SERIES
    assert all(count <= CATALOGUE[name].bound for name, count in series.items() if name in CATALOGUE)
