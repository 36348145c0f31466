import asyncio
from datetime import UTC, datetime

import pytest

from exporter.collectors.agents import AgentsCollector
from openclaw.client import GatewayClient
from openclaw.state_records import StateRecords
from store.rows import AgentState
from tests.servers import PATIENCE_SECONDS

AT = datetime(2026, 11, 21, 1, 30, tzinfo=UTC)


class Live:
    looked = True

    def __init__(self):
        self.states = {"main": AgentState("home", "main", "tool", AT, "Reading notes.md")}
        self.event_counts = {("main", "tool_start"): 3}


@pytest.mark.req("S1-11")
async def test_agents_have_a_state_and_a_last_activity(gateway, helpers):
    saved = []

    async def save(rows):
        saved.extend(rows)

    async with helpers.watched(gateway) as client:
        collector = AgentsCollector("home", client, live=Live(), save=save)
        await collector.refresh()
        samples = helpers.shown(collector)
        assert samples["claw_agents", "home"] == 3
        assert samples["claw_agent_state", "home", "main", "tool"] == 1
        assert samples["claw_agent_state", "home", "main", "idle"] == 0
        assert samples["claw_agent_state", "home", "guarded", "idle"] == 1
        assert samples["claw_agent_last_activity_timestamp_seconds", "home", "main"] > 1.79e9
        assert samples["claw_agent_events_total", "home", "main", "tool_start"] == 3
        await gateway.stop()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while client.state == "connected":  # noqa: ASYNC110 - what is awaited happens inside the code under test
                await asyncio.sleep(0.005)
        samples = helpers.shown(collector)
        assert samples["claw_agent_state", "home", "main", "offline"] == 1
    assert [(row.agent, row.is_default, row.model) for row in saved] == [
        ("main", True, "fake/fake-1"),
        ("guarded", False, "fake/fake-1"),
        ("helper", False, "fake/fake-1"),
    ]


async def test_what_an_agent_does_is_not_guessed_before_it_was_looked_at(gateway, helpers):
    live = Live()
    live.looked = False
    async with helpers.watched(gateway) as client:
        collector = AgentsCollector("home", client, live=live)
        await collector.refresh()
        states = {key[2:]: value for key, value in helpers.shown(collector).items() if key[0] == "claw_agent_state"}
        assert {agent for agent, _ in states} == {"main"}, "the others may be at work"
        assert states["main", "tool"] == 1
        live.looked = True
        assert helpers.shown(collector)["claw_agent_state", "home", "guarded", "idle"] == 1


async def test_no_agent_is_offline_before_the_first_connect_has_ended(newer_state_dir, helpers):
    client = GatewayClient("ws://127.0.0.1:1", "")
    collector = AgentsCollector("home", client, records=StateRecords(newer_state_dir), live=Live())
    await collector.refresh()
    samples = helpers.shown(collector)
    assert samples["claw_agents", "home"] == 3, "the records tell who there is"
    assert not [key for key in samples if key[0] == "claw_agent_state"]
