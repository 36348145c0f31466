import asyncio

import pytest

from exporter.collectors.gateway import GatewayCollector, Readiness, fetch_readiness
from openclaw.client import GatewayClient
from openclaw.protocol import CallTimeoutError
from tests.servers import PATIENCE_SECONDS


async def eventually(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is awaited happens inside the code under test
            await asyncio.sleep(0.005)


@pytest.mark.req("S4-3", "S4-6")
async def test_a_gateway_that_answers_is_up_ready_and_known(gateway, helpers):
    async with helpers.watched(gateway) as client:
        collector = GatewayCollector("home", client)
        await collector.refresh()
        samples = helpers.shown(collector)
        assert samples["claw_gateway_up", "home"] == 1
        assert samples["claw_gateway_ready", "home"] == 1
        assert samples["claw_gateway_info", "home", "2026.9.6", "4"] == 1
        assert samples["claw_gateway_event_loop_delay_p99_seconds", "home"] == 0.023
        assert samples["claw_gateway_connection_state", "home", "connected"] == 1
        assert samples["claw_gateway_connection_state", "home", "reconnecting"] == 0
        assert samples["claw_rpc_latency_seconds", "home", "health"] > 0
        assert samples["claw_gateway_connect_failures_total", "home", "auth"] == 0  # so that the first is an increase
        assert samples["claw_gateway_frames_dropped_total", "home", "late_reply"] == 0
        assert ("claw_gateway_last_event_timestamp_seconds", "home") not in samples
        await gateway.emit("tick", {})
        await eventually(lambda: client.stats.events["tick"] == 1)
        assert helpers.shown(collector)["claw_gateway_events_total", "home", "tick"] == 1

        await gateway.stop()  # no refresh in between: the scrape tells at once
        await eventually(lambda: client.state != "connected")
        assert helpers.shown(collector)["claw_gateway_up", "home"] == 0
        await collector.refresh()
        await eventually(lambda: client.stats.connect_failures["unreachable"] > 0)
        samples = helpers.shown(collector)
        assert samples["claw_gateway_up", "home"] == 0
        assert ("claw_gateway_ready", "home") not in samples
        assert not [key for key in samples if key[0] == "claw_gateway_info"]
        assert samples["claw_gateway_connect_failures_total", "home", "unreachable"] >= 1


async def test_a_gateway_that_was_never_there_is_shown_as_down(helpers):
    client = GatewayClient("ws://127.0.0.1:1", "")
    collector = GatewayCollector("home", client)
    await collector.refresh()
    samples = helpers.shown(collector)
    assert ("claw_gateway_up", "home") not in samples, "nobody has tried it yet"
    assert samples["claw_gateway_connection_state", "home", "disconnected"] == 1
    async with client:
        await eventually(lambda: client.tried)
        assert helpers.shown(collector)["claw_gateway_up", "home"] == 0
    assert ("claw_gateway_up", "home") not in helpers.shown(collector), "our own end is not the gateway's"


async def test_a_gateway_that_accepts_and_says_nothing_is_down_after_the_deadline(gateway, helpers):
    gateway.faults.silent_handshake = True
    async with GatewayClient(gateway.url, helpers.token, connect_timeout=0.5) as client:
        collector = GatewayCollector("home", client)
        await collector.refresh()
        assert ("claw_gateway_up", "home") not in helpers.shown(collector)
        await eventually(lambda: client.tried)
        assert helpers.shown(collector)["claw_gateway_up", "home"] == 0


async def test_a_gateway_that_does_not_answer_after_its_hello_is_down_when_the_poll_has_ended(
    gateway, helpers, monkeypatch
):
    async with helpers.watched(gateway) as client:
        collector = GatewayCollector("home", client)
        assert ("claw_gateway_up", "home") not in helpers.shown(collector), "it was not asked yet"

        async def late(method, **_):
            raise CallTimeoutError(method)

        with monkeypatch.context() as patch:
            patch.setattr(client, "call", late)
            await collector.refresh()
        assert helpers.shown(collector)["claw_gateway_up", "home"] == 0
        await gateway.drop_clients()
        await eventually(lambda: client.stats.reconnects == 1 and client.state == "connected")
        assert helpers.shown(collector)["claw_gateway_up", "home"] == 0, "it was down, and it was not asked since"
        await collector.refresh()
        assert helpers.shown(collector)["claw_gateway_up", "home"] == 1


async def test_readiness_is_the_gateways_own_or_nothing(gateway):
    assert (await asyncio.to_thread(fetch_readiness, gateway.url)).ready is True
    gateway.faults.not_ready = True
    told = await asyncio.to_thread(fetch_readiness, gateway.url)
    assert (told.ready, told.failing) == (False, ("channels",))
    gateway.faults.html_readyz = True  # unknown paths answer 200 with a page
    assert await asyncio.to_thread(fetch_readiness, gateway.url) is None
    assert await asyncio.to_thread(fetch_readiness, "ws://127.0.0.1:1") is None


async def test_a_restart_is_counted_by_the_boot_and_by_the_uptime(gateway, helpers):
    told = []

    async def record(event, detail):
        told.append((event, detail))

    uptime = 100.0
    async with helpers.watched(gateway) as client:
        now = 1000.0
        collector = GatewayCollector(
            "home",
            client,
            record=record,
            readiness=lambda _: Readiness(ready=True, uptime=uptime),
            wall_clock=lambda: now,
        )
        await collector.refresh()
        await collector.refresh()
        assert helpers.shown(collector)["claw_gateway_restarts_total", "home"] == 0
        gateway._boot_id = "another"
        await gateway.drop_clients()
        await eventually(lambda: client.stats.reconnects == 1 and client.state == "connected")
        await collector.refresh()
        assert helpers.shown(collector)["claw_gateway_restarts_total", "home"] == 1
        assert told == [("restart", {"version": "2026.9.6"})]

        older = GatewayCollector(
            "old", client, readiness=lambda _: Readiness(ready=True, uptime=uptime), wall_clock=lambda: now
        )
        assert not older._restarted("")
        older._readiness = Readiness(ready=True, uptime=100.0)
        assert not older._restarted("")
        now, older._readiness = 1300.0, Readiness(ready=True, uptime=20.0)
        assert older._restarted("")


@pytest.mark.req("S4-16")
async def test_a_refused_health_is_a_failure_that_names_itself(gateway, helpers):
    gateway.faults.missing_scope["health"] = "operator.read"
    async with helpers.watched(gateway) as client:
        collector = GatewayCollector("home", client)
        with pytest.raises(Exception, match=r"missing scope: operator\.read"):
            await collector.refresh()
        assert helpers.shown(collector)["claw_gateway_up", "home"] == 0
