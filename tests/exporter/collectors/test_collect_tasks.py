"""The register of background work: from the gateway of either version, or from its records."""

import pytest

from exporter.collectors import tasks
from openclaw.client import GatewayClient
from openclaw.protocol import NotReadyError
from openclaw.state_records import StateRecords

NOBODY = "ws://127.0.0.1:9"


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
