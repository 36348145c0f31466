"""A scrape in the middle of a refresh gets the last good state; only a failed refresh takes it away."""

from __future__ import annotations

import asyncio

import pytest

from exporter.collectors.agents import AgentsCollector
from exporter.collectors.channels import ChannelsCollector
from exporter.collectors.sessions import SessionsCollector
from tests.servers import PATIENCE_SECONDS

COLLECTORS = (AgentsCollector, ChannelsCollector, SessionsCollector)


class Gateway:
    """Answers with recordings at once, until it is told to wait or to break."""

    state, connected = "connected", True

    def __init__(self, recorded):
        self._recorded = recorded
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error = None

    async def call(self, method, *_, **__):
        self.asked.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return self._recorded("2026.9.6", method)["payload"]


@pytest.fixture
async def gateway(helpers):
    return Gateway(helpers.recorded)


async def refreshed_twice(collector, gateway):
    """A good refresh, then one that waits for its answer."""
    await collector.refresh()
    gateway.asked.clear()
    gateway.go_on.clear()
    second = asyncio.create_task(collector.refresh())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await gateway.asked.wait()
    return second


@pytest.mark.parametrize("kind", COLLECTORS)
async def test_nothing_disappears_while_the_gateway_is_asked(kind, gateway, helpers):
    collector = kind("default", gateway)
    second = await refreshed_twice(collector, gateway)
    during = helpers.shown(collector)
    gateway.go_on.set()
    await second
    assert during == helpers.shown(collector)
    assert during or kind is ChannelsCollector, "the recorded gateway has no channel"


@pytest.mark.parametrize("kind", COLLECTORS)
async def test_a_failure_takes_it_away(kind, gateway, helpers):
    collector = kind("default", gateway)
    second = await refreshed_twice(collector, gateway)
    gateway.error = OSError("gone")
    gateway.go_on.set()
    with pytest.raises(OSError, match="gone"):
        await second
    assert not any(
        key[0].startswith(("claw_sessions", "claw_agents", "claw_channel")) for key in helpers.shown(collector)
    )


@pytest.mark.parametrize("kind", COLLECTORS)
async def test_a_deadline_takes_it_away(kind, gateway, helpers):
    collector = kind("default", gateway)
    second = await refreshed_twice(collector, gateway)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert not any(
        key[0].startswith(("claw_sessions", "claw_agents", "claw_channel")) for key in helpers.shown(collector)
    )
