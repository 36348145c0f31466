from datetime import UTC, datetime

import pytest

from exporter.collectors.agents import AgentsCollector
from openclaw.state_records import StateRecords
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


@pytest.mark.req("S3-9")
async def test_sub_agent_runs_of_both_versions_are_rows(gateway, state_dir, helpers):
    runs = []

    async def save_subagents(rows):
        runs.extend(rows)

    async with helpers.watched(gateway) as client:
        records = StateRecords(state_dir)
        await AgentsCollector("home", client, records=records, save_subagents=save_subagents).refresh()
    (run,) = runs
    assert run.status == "ok"
    assert run.parent_session_key == "agent:main:main"
    assert run.child_session_key.startswith("agent:main:subagent:")
    assert 0 < (run.ended_at - run.started_at).total_seconds() < 1
