from datetime import UTC, datetime

import pytest

from exporter.collectors.agents import AgentsCollector
from store.rows import AgentState

AT = datetime(2026, 11, 21, 1, 30, tzinfo=UTC)


class Live:
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
    samples = helpers.shown(collector)
    assert samples["claw_agent_state", "home", "main", "offline"] == 1
    assert [(row.agent, row.is_default, row.model) for row in saved] == [
        ("main", True, "fake/fake-1"),
        ("guarded", False, "fake/fake-1"),
        ("helper", False, "fake/fake-1"),
    ]
