"""What is still seen of a gateway that cannot be asked: stopped, without a token, or without the right to ask."""

import asyncio
import json
import os
import sqlite3

import pytest

from cli.demo.gateway import ReplayGateway
from exporter.collectors.scheduler import Runner
from exporter.gateway.watch import GatewayWatch
from exporter.metrics.registry import Registry
from openclaw.state_records import StateRecords, StateRecordsError
from tests.servers import PATIENCE_SECONDS

NOBODY = "ws://127.0.0.1:9"
KEPT = ("sessions", "agents", "cron", "channels", "approvals", "tasks")


async def looked(watch, helpers):
    runner = Runner(Registry(), "home", watch.collectors)
    collectors = {collector.name: collector for collector in watch.collectors if collector.name in KEPT}
    worked = {name: await runner.refresh(collector) for name, collector in collectors.items()}
    samples = {}
    for collector in collectors.values():
        samples |= helpers.shown(collector)
    return worked, samples


def total(samples, metric):
    return sum(value for key, value in samples.items() if key[0] == metric)


@pytest.mark.req("S0-18", "S1-3", "S1-4", "P-1")
async def test_of_a_stopped_gateway_all_that_it_stored_is_seen(state_dir, helpers):
    watch = GatewayWatch("home", NOBODY, lambda: "", state_dir=state_dir)
    async with watch.client, asyncio.timeout(PATIENCE_SECONDS):
        while not watch.client.tried:  # noqa: ASYNC110 - what is awaited happens inside the code under test
            await asyncio.sleep(0.005)
        worked, samples = await looked(watch, helpers)
    assert worked == dict.fromkeys(KEPT, True)
    stored = {session["sessionId"] for session in StateRecords(state_dir).sessions()}
    assert total(samples, "claw_sessions") == len(stored) > 5
    assert {"cron", "subagent"} <= {key[2] for key in samples if key[0] == "claw_sessions"}
    assert not any(key[0] == "claw_active_runs" for key in samples)  # nobody can tell
    assert {key[2] for key in samples if key[0] == "claw_agent_state"} >= {"main", "guarded"}
    assert samples["claw_agent_state", "home", "main", "offline"] == 1
    assert total(samples, "claw_cron_job_info") >= 3
    assert total(samples, "claw_tasks") > 0


def test_a_second_look_at_the_records_sees_what_is_new(state_dir):
    records = StateRecords(state_dir)
    before = records.sessions()
    assert records.sessions() == before
    folder = state_dir / "agents" / "newcomer" / "sessions"
    folder.mkdir(parents=True)
    (folder / "sessions.json").write_text('{"agent:newcomer:main": {"sessionId": "n1", "updatedAt": 1}}')
    (folder / "n1.jsonl").write_text('{"type":"session","version":3,"id":"n1"}\n')
    assert [one["key"] for one in records.sessions() if one not in before] == ["agent:newcomer:main"]


def settle(directory):
    """Everything in it as if it had been written a minute ago."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            written = path.stat().st_mtime - 60
            os.utime(path, (written, written))


def test_records_at_rest_are_read_once(state_dir):
    settle(state_dir)
    records = StateRecords(state_dir)
    assert records.sessions() is records.sessions()


def test_an_index_that_changes_in_place_is_read_again(tmp_path):
    folder = tmp_path / "agents" / "main" / "sessions"
    folder.mkdir(parents=True)
    index = folder / "sessions.json"
    records = StateRecords(tmp_path)
    for name in ("s1", "s2", "s3"):  # of the same length, faster than a file's time may tell
        index.write_text(json.dumps({"agent:main:main": {"sessionId": name, "updatedAt": 1}}))
        assert [one["sessionId"] for one in records.sessions()] == [name]
    settle(tmp_path)
    assert records.sessions() is records.sessions()
    index.write_text('{"agent:main:main": {"sessionId": "s4", "updatedAt": 1}}')
    assert [one["sessionId"] for one in records.sessions()] == ["s4"]


async def test_a_missing_scope_costs_only_what_the_records_have_not(state_dir, helpers):
    async with ReplayGateway(token=helpers.token, replies=helpers.recordings("2026.9.6")) as gateway:
        gateway.faults.missing_methods |= {"sessions.list", "cron.list"}
        gateway.faults.missing_scope["channels.status"] = "operator.write"
        watch = GatewayWatch("home", gateway.url, lambda: helpers.token, state_dir=state_dir)
        async with watch.client:
            await watch.client.wait_connected(PATIENCE_SECONDS)
            worked, samples = await looked(watch, helpers)
            errors = {(method, code) for method, code in watch.client.stats.rpc_errors}
    assert worked == dict.fromkeys(KEPT, True)
    assert total(samples, "claw_sessions") > 5
    assert {method for method, _ in errors} >= {"sessions.list", "cron.list", "channels.status"}


async def test_a_new_installation_has_nothing_and_that_is_no_failure(tmp_path, helpers):
    (tmp_path / "agents").mkdir()
    (tmp_path / "openclaw.json").write_text("{channels: {telegram: {}, slack: {enabled: false}, defaults: {}}}")
    watch = GatewayWatch("home", NOBODY, lambda: "", state_dir=tmp_path)
    worked, samples = await looked(watch, helpers)
    assert [name for name, did in worked.items() if not did] == ["tasks"]  # which says so at the level debug only
    assert {key: value for key, value in samples.items() if key[0].startswith("claw_channel")} == {
        ("claw_channel_configured", "home", "telegram"): 1
    }
    assert total(samples, "claw_sessions") == total(samples, "claw_cron_job_info") == 0


async def test_a_broken_configuration_is_named(tmp_path):
    (tmp_path / "openclaw.json").write_text("{")
    with pytest.raises(StateRecordsError, match=r"openclaw\.json: not valid JSON"):
        StateRecords(tmp_path).channels()


def test_tables_of_secrets_are_never_read(newer_state_dir, monkeypatch):
    read = set()
    connect = sqlite3.connect

    def watched(*args, **kwargs):
        connection = connect(*args, **kwargs)

        def authorize(action, table, _column, _database, _trigger):
            if action == sqlite3.SQLITE_READ:
                read.add(table)
            return sqlite3.SQLITE_OK

        connection.set_authorizer(authorize)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    records = StateRecords(newer_state_dir)
    for ask in (
        records.approvals,
        records.cron_jobs,
        records.cron_runs,
        records.subagent_runs,
        records.task_counts,
        records.sessions,
        records.agents,
    ):
        ask()
    assert {"operator_approvals", "cron_jobs", "subagent_runs", "task_runs"} <= read
    secret = ("auth", "secret", "token", "device", "pair", "credential")
    assert not {table for table in read if any(word in table for word in secret)}
