"""/healthz and /readyz from outside."""

import asyncio
import socket

import pytest

from exporter.collectors.probe import ProbeCollector, probe


@pytest.mark.req("S4-6")
async def test_a_gateway_that_is_not_ready_is_alive_and_names_what_fails(gateway, helpers):
    collector = ProbeCollector("home", gateway.url)
    await collector.refresh()
    shown = helpers.shown(collector)
    assert shown["claw_gateway_http_up", "home", "healthz"] == 1
    assert shown["claw_gateway_http_up", "home", "readyz"] == 1
    assert 0 < shown["claw_gateway_http_seconds", "home", "readyz"] < 60
    assert not [key for key in shown if key[0] == "claw_gateway_failing_check"]
    gateway.faults.not_ready = True
    await collector.refresh()
    shown = helpers.shown(collector)
    assert shown["claw_gateway_http_up", "home", "healthz"] == 1
    assert shown["claw_gateway_http_up", "home", "readyz"] == 0
    assert shown["claw_gateway_failing_check", "home", "channels"] == 1


async def test_another_server_that_answers_everything_is_no_gateway(gateway, helpers):
    gateway.faults.html_readyz = True
    collector = ProbeCollector("home", gateway.url)
    await collector.refresh()
    assert helpers.shown(collector)["claw_gateway_http_up", "home", "healthz"] == 0


async def test_nobody_and_silence_are_answers_within_the_limit():
    assert probe("ws://127.0.0.1:9", "healthz").good is False
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        one = await asyncio.to_thread(probe, f"ws://127.0.0.1:{server.getsockname()[1]}", "readyz", 0.05)
    assert (one.good, one.failing) == (False, ())
    assert one.seconds >= 0.05
