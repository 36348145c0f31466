"""Skills by what becomes of them, from recorded replies of both versions."""

import pytest

from exporter.collectors import skills


@pytest.mark.req("S4-11")
async def test_skills_by_state(connected, helpers):
    client, version = connected
    collector = skills.collector("home", client, 60)
    await collector.refresh()
    ready = 1 if version == "2026.9.6" else 0
    assert helpers.shown(collector) == {
        ("claw_skills", "home", "ready"): ready,
        ("claw_skills", "home", "disabled"): 0,
        ("claw_skills", "home", "blocked"): 0,
        ("claw_skills", "home", "missing"): 3 - ready,
    }


@pytest.mark.parametrize(
    ("skill", "state"),
    [
        ({"eligible": True}, "ready"),
        ({"eligible": True, "disabled": True}, "disabled"),
        ({"eligible": True, "blockedByAgentFilter": True}, "blocked"),
        ({"blockedByAllowlist": True}, "blocked"),
        ({}, "missing"),
    ],
)
def test_the_first_reason_counts(skill, state):
    assert skills.state_of(skill) == state
