"""A real gateway's log, health paths, skills, models, nodes and tasks, and its runs as traces."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from exporter.collectors.scheduler import Runner
from exporter.gateway.watch import GatewayWatch
from exporter.metrics.registry import Registry
from lobservatory.metrics.labels import SUBAGENT_STATUSES
from store.pool import open_pool
from tests.servers import PATIENCE_SECONDS

pytestmark = pytest.mark.live

POLLED = {"logs", "skills", "models", "nodes", "tasks", "probe", "subagents", "update"}


async def eventually(found):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await found():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.1)


async def works(runner, collector):
    """Asked again, as the exporter does, when a busy gateway lets a question wait for too long."""
    await eventually(lambda: runner.refresh(collector))


def shown(collector):
    return {(sample.metric, *sample.labels[1:]): sample.value for sample in collector.render()}


@pytest.mark.req("S1-8", "S4-6", "S4-11", "S4-12", "P-13", "P-16")
async def test_log_inventory_and_traces_of_a_real_gateway(live_gateway, postgres_dsn):
    spans = []
    async with open_pool(postgres_dsn, name="live") as pool:
        watch = GatewayWatch(
            "live",
            live_gateway.url,
            lambda: live_gateway.token,
            state_dir=live_gateway.state_dir,
            pool=pool,
            send_spans=spans.extend,
        )
        runner = Runner(Registry(), "live", watch.collectors)
        task = asyncio.create_task(watch.run(runner.wake))
        collectors = {collector.name: collector for collector in watch.collectors}
        try:
            await watch.client.wait_connected(PATIENCE_SECONDS)
            await works(runner, collectors["logs"])
            before = shown(collectors["logs"])["claw_log_lines_total", "error"]
            async with live_gateway.driver() as driver:
                assert (await driver.turn("Read [[read nowhere.txt]]", "agent:main:dashboard:surroundings"))["ok"]

            async def traced():
                return any(span.name == "execute_tool read" for span in spans)

            async def heard():
                return watch.silence.lag() < 5  # events came for what the poll saw

            await eventually(traced)
            await works(runner, collectors["sessions"])
            await eventually(heard)
            for name in POLLED:
                await works(runner, collectors[name])
            subagents = shown(collectors["subagents"])  # while we are connected
        finally:
            task.cancel()
            await asyncio.wait([task])
    log = shown(collectors["logs"])
    assert log["claw_log_source_info", "file"] == 1
    assert log["claw_log_lines_total", "info"] > 0
    assert log["claw_log_lines_total", "unknown"] == log["claw_log_unreadable_lines_total",] == 0
    assert log["claw_log_lines_total", "error"] > before
    assert shown(collectors["probe"])["claw_gateway_http_up", "healthz"] == 1
    assert shown(collectors["probe"])["claw_gateway_http_up", "readyz"] == 1
    assert sum(shown(collectors["skills"]).values()) > 0
    assert shown(collectors["models"])["claw_models", "fake"] == 2
    assert shown(collectors["nodes"])["claw_nodes",] == 0
    assert len(subagents) == len(SUBAGENT_STATUSES)
    assert shown(collectors["tasks"])["claw_tasks", "cli", "completed"] >= 1
    root = next(span for span in spans if span.parent is None)
    tool = next(span for span in spans if span.name == "execute_tool read")
    assert root.name == "invoke_agent main"
    assert (tool.trace, tool.parent) == (root.trace, root.span)
    assert root.start <= tool.start <= tool.end <= root.end
    assert root.end - root.start < timedelta(minutes=5).total_seconds() * 10**9
    assert any(span.client and span.trace == root.trace for span in spans)
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        cursor = await connection.execute("SELECT signature, sample FROM log_signatures WHERE level = 'error'")
        signatures = dict(await cursor.fetchall())
    read = next(kind for kind in signatures if "read failed" in kind)
    assert "<path>" in read
    assert "raw_params=[hidden]" in signatures[read]
    assert live_gateway.token not in str(signatures)
