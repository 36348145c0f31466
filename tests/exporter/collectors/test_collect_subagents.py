"""Runs of sub-agents from the records of both versions: rows, and how many there are by status."""

import pytest

from exporter.collectors.subagents import SubagentsCollector, to_row
from lobservatory.metrics.labels import SUBAGENT_STATUSES
from openclaw.state_records import StateRecords, StateRecordsError


class Records:
    def __init__(self, *runs):
        self.runs = runs

    def subagent_runs(self):
        return list(self.runs)


def counted(helpers, collector):
    return {key[2]: value for key, value in helpers.shown(collector).items()}


@pytest.mark.req("S1-5", "S3-9")
async def test_runs_of_both_versions_are_rows_and_counts(state_dir, helpers):
    saved = []

    async def save(rows):
        saved.extend(rows)

    collector = SubagentsCollector("home", StateRecords(state_dir), save=save)
    assert not helpers.shown(collector), "nothing is claimed before a look"
    await collector.refresh()
    (run,) = saved
    assert run.status == "ok"
    assert run.parent_session_key == "agent:main:main"
    assert run.child_session_key.startswith("agent:main:subagent:")
    assert 0 < (run.ended_at - run.started_at).total_seconds() < 1
    assert counted(helpers, collector) == dict.fromkeys(SUBAGENT_STATUSES, 0) | {"ok": 1}


@pytest.mark.req("S3-9")
async def test_a_run_that_may_have_died_with_its_gateway_is_not_called_running(helpers):
    alive = True
    going = {"runId": "r1", "childSessionKey": "agent:main:subagent:x", "startedAt": 1}
    strange = {"runId": "r2", "childSessionKey": "agent:main:subagent:y", "outcome": {"status": "exploded"}}
    collector = SubagentsCollector("home", Records(going, strange, {"runId": "r3"}), alive=lambda: alive)
    await collector.refresh()
    assert counted(helpers, collector) == dict.fromkeys(SUBAGENT_STATUSES, 0) | {"running": 1, "unknown": 1}
    alive = None
    assert counted(helpers, collector) == {}, "nobody knows yet"
    alive = False
    assert counted(helpers, collector) == dict.fromkeys(SUBAGENT_STATUSES, 0) | {"unknown": 2}


async def test_an_installation_without_sub_agents_has_none(tmp_path, helpers):
    collector = SubagentsCollector("home", StateRecords(tmp_path))
    await collector.refresh()
    assert set(counted(helpers, collector).values()) == {0}


async def test_a_broken_database_shows_nothing(newer_state_dir, helpers):
    collector = SubagentsCollector("home", StateRecords(newer_state_dir))
    await collector.refresh()
    (newer_state_dir / "state" / "openclaw.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StateRecordsError, match="not a database"):
        await collector.refresh()
    assert not helpers.shown(collector)


def test_an_end_that_only_a_duration_tells():
    run = {"runId": "r", "childSessionKey": "c", "startedAt": 1_795_000_000_000, "outcome": {"elapsedMs": 1500}}
    row = to_row("home", run)
    assert (row.ended_at - row.started_at).total_seconds() == 1.5
    assert row.status == "unknown"
