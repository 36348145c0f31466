"""A real gateway is stopped: what it stored is still seen. (2026.4.27 with `make soak`.)"""

import asyncio

import pytest

from exporter.collectors.scheduler import Runner
from exporter.gateway.watch import GatewayWatch
from exporter.metrics.registry import Registry
from tests.live.harness import DEFAULT_VERSION
from tests.servers import PATIENCE_SECONDS

pytestmark = pytest.mark.live

KEPT = ("sessions", "agents", "cron", "channels", "approvals", "tasks", "logs")


def shown(collectors):
    return {(sample.metric, *sample.labels[1:]): sample.value for one in collectors.values() for sample in one.render()}


def sessions(samples):
    return sum(value for key, value in samples.items() if key[0] == "claw_sessions")


@pytest.mark.req("S0-18", "P-1")
@pytest.mark.parametrize("version", [DEFAULT_VERSION, pytest.param("2026.4.27", marks=pytest.mark.soak)])
async def test_what_a_stopped_gateway_stored_is_still_seen(start_gateway, version):
    gateway = await asyncio.to_thread(start_gateway, version)
    watch = GatewayWatch("live", gateway.url, lambda: gateway.token, state_dir=gateway.state_dir)
    runner = Runner(Registry(), "live", watch.collectors)
    collectors = {one.name: one for one in watch.collectors if one.name in KEPT}

    async def look():
        return {name: await runner.refresh(one) for name, one in collectors.items()}

    task = asyncio.create_task(watch.run(runner.wake))
    try:
        await watch.client.wait_connected(PATIENCE_SECONDS)
        async with gateway.driver() as driver:
            # The first turn of 2026.4.27 blocks its event loop for minutes where processors are busy.
            assert (await driver.turn("Hello", "agent:main:dashboard:stopped"))["ok"]
            await driver.cron("Nightly", "Say good night", schedule={"kind": "cron", "expr": "0 3 1 1 *"}, run=False)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all((await look()).values()):  # noqa: ASYNC110 - a busy gateway may let a question wait for too long
                await asyncio.sleep(0.1)
        living = shown(collectors)
        await asyncio.to_thread(gateway.stop)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while watch.client.state == "connected":  # noqa: ASYNC110 - the socket is closed by another process
                await asyncio.sleep(0.05)
        assert await look() == dict.fromkeys(KEPT, True)
        stopped = shown(collectors)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert sessions(living) == sessions(stopped) >= 1
    same = [key for key in living if key[0] in {"claw_agents", "claw_cron_job_info", "claw_cron_job_enabled"}]
    assert len(same) >= 3
    assert {key: stopped.get(key) for key in same} == {key: living[key] for key in same}
    assert living["claw_agent_state", "main", "offline"] == 0
    assert stopped["claw_agent_state", "main", "offline"] == 1
    assert stopped["claw_log_source_info", "file"] == 1
