"""Skills, models, nodes and tasks: from recorded replies of both versions; what is missing costs its collector only."""

import pytest

from exporter.collectors import models, nodes, skills, tasks
from exporter.registry import Registry
from exporter.runner import Runner
from lobservatory.demo.gateway import ReplayGateway
from openclaw.client import GatewayClient
from openclaw.protocol import MissingScopeError, NotReadyError, UnknownMethodError
from openclaw.state_records import StateRecords

NOBODY = "ws://127.0.0.1:9"


@pytest.fixture(params=["2026.9.6", "2026.4.27"])
async def connected(request, helpers):
    replies = helpers.recordings(request.param)
    async with ReplayGateway(token=helpers.token, replies=replies) as replay, helpers.watched(replay) as client:
        yield client, request.param


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


async def test_models_by_provider(connected, helpers):
    client, version = connected
    collector = models.collector("home", client, 60)
    await collector.refresh()
    expected = {"fake": 2, "flaky": 1} if version == "2026.9.6" else {"amazon-bedrock": 10}
    assert helpers.shown(collector) == {
        (metric, "home", provider): count
        for metric in ("claw_models", "claw_models_usable")
        for provider, count in expected.items()
    }


def test_a_model_that_cannot_be_used_is_told_apart():
    answer = {"models": [{"provider": "p", "available": False}, {"provider": "p"}, "junk", {"available": True}]}
    shown = {(sample.metric, *sample.labels): sample.value for sample in models.samples("g", answer)}
    assert shown == {
        ("claw_models", "g", "p"): 2,
        ("claw_models_usable", "g", "p"): 1,
        ("claw_models", "g", "unknown"): 1,
        ("claw_models_usable", "g", "unknown"): 1,
    }


async def test_nodes_as_recorded_and_as_the_package_describes_them(connected, helpers):
    collector = nodes.collector("home", connected[0], 60)
    await collector.refresh()
    assert helpers.shown(collector) == {("claw_nodes", "home"): 0, ("claw_nodes_connected", "home"): 0}
    answer = {"nodes": [{"nodeId": "a", "connected": True}, {"nodeId": "b", "connected": False}, {"nodeId": "c"}]}
    assert [sample.value for sample in nodes.samples("g", answer)] == [3, 1]


async def test_tasks_of_the_gateway_or_of_its_records(connected, state_dir, helpers):
    """2026.4 has no method for them; its state directory has a database of its own."""
    client, version = connected
    collector = tasks.collector("home", client, StateRecords(state_dir), 60)
    await collector.refresh()
    shown = helpers.shown(collector)
    assert shown["claw_tasks", "home", "cron", "timed_out"] == 1
    assert shown["claw_tasks", "home", "subagent", "completed"] == 1
    if version == "2026.4.27":
        newer = (state_dir / "state" / "openclaw.sqlite").exists()
        assert shown["claw_tasks", "home", "cli", "completed"] == (13 if newer else 15)


async def test_tasks_are_known_while_the_gateway_is_away(state_dir, helpers):
    collector = tasks.collector("home", GatewayClient(NOBODY, ""), StateRecords(state_dir), 60)
    await collector.refresh()
    assert helpers.shown(collector)["claw_tasks", "home", "cli", "failed"] == 1


async def test_without_any_source_it_fails_and_shows_nothing(tmp_path, helpers):
    collector = tasks.collector("home", GatewayClient(NOBODY, ""), StateRecords(tmp_path), 60)
    with pytest.raises(NotReadyError):
        await collector.refresh()
    assert not helpers.shown(collector)


async def test_an_older_gateway_that_never_had_a_task_is_no_failure(older_gateway, tmp_path, helpers):
    async with helpers.watched(older_gateway) as client:
        collector = tasks.collector("home", client, StateRecords(tmp_path), 60)
        await collector.refresh()
    assert not helpers.shown(collector)


def test_strange_tasks_have_a_bounded_set_of_labels():
    answer = {"tasks": [{"runtime": f"r{number}", "status": f"s{number}"} for number in range(500)]}
    assert [(sample.labels, sample.value) for sample in tasks.samples("g", answer)] == [
        (("g", "other", "unknown"), 500)
    ]


@pytest.mark.req("S4-16")
async def test_a_missing_method_or_scope_costs_that_collector_and_tells_which(gateway, helpers):
    gateway.faults.missing_methods |= {"skills.status"}
    gateway.faults.missing_scope["models.list"] = "operator.admin"
    async with helpers.watched(gateway) as client:
        made = [module.collector("home", client, 60) for module in (skills, models, nodes)]
        registry = Registry()
        runner = Runner(registry, "home", made)
        assert [await runner.refresh(collector) for collector in made] == [False, False, True]
        with pytest.raises(UnknownMethodError, match=r"skills\.status"):
            await made[0].refresh()
        with pytest.raises(MissingScopeError, match=r"operator\.admin"):
            await made[1].refresh()
        text = registry.render()
    assert 'lobservatory_collector_success{gateway="home",collector="skills"} 0' in text
    assert 'lobservatory_collector_success{gateway="home",collector="nodes"} 1' in text
    assert "claw_nodes{" in text
    assert "claw_skills{" not in text
