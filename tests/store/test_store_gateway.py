"""Rows of the gateway and its host: merged, never duplicated, and gone when they are gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from store import gateway, outbox
from store.pool import open_pool
from store.rows import (
    Agent,
    AgentEvent,
    AgentState,
    Channel,
    CostSnapshot,
    CronJob,
    CronRun,
    ExecApproval,
    HostSample,
    Session,
    SubagentRun,
)

T0 = datetime(2026, 3, 1, tzinfo=UTC)
JOB = CronJob(
    "gw", "j1", "main", "Nightly", "0 3 * * *", enabled=True, period_seconds=86400.0, next_run_at=T0, last_run_at=None,
    last_status=None, last_duration_ms=None, consecutive_errors=0,
)  # fmt: skip
SAMPLE = HostSample("gw", T0, 0.5, 1.0, 1, 2, 3, 4, 5, 6, 7, 8, 0.1)


@pytest.fixture
async def connection(postgres_dsn):
    async with open_pool(postgres_dsn) as pool, pool.connection() as opened:
        yield opened


async def rows(connection, query):
    return await (await connection.execute(query)).fetchall()


@pytest.mark.req("S1-3")
async def test_jobs_are_those_of_the_gateway_and_their_runs_stay(connection):
    for _ in range(2):
        await gateway.save_cron_jobs(connection, "gw", [JOB, replace(JOB, job_id="j2", name="Other")])
        await gateway.save_cron_runs(connection, [CronRun("gw", "j2", T0, None, "running")])
    await gateway.save_cron_runs(connection, [CronRun("gw", "j2", T0, T0 + timedelta(seconds=3), "error", "no")])
    await gateway.save_cron_jobs(connection, "gw", [replace(JOB, consecutive_errors=2)])
    assert [(row["job_id"], row["consecutive_errors"]) for row in await rows(connection, "TABLE cron_jobs")] == [
        ("j1", 2)
    ]
    (run,) = await rows(connection, "TABLE cron_runs")
    assert (run["name"], run["status"], run["duration_ms"]) == ("Other", "error", 3000)
    await gateway.save_cron_jobs(connection, "other", [])
    assert len(await rows(connection, "TABLE cron_jobs")) == 1
    await gateway.save_cron_jobs(connection, "gw", [])
    assert await rows(connection, "TABLE cron_jobs") == []


async def test_agents_keep_what_is_known_and_the_newest_state(connection):
    await gateway.save_agents(connection, "gw", [Agent("gw", "main", "Main", "m"), Agent("gw", "ops")])
    await gateway.save_agent_states(connection, [AgentState("gw", "main", "tool", T0, "Reading notes.md")])
    await gateway.save_agent_states(connection, [AgentState("gw", "main", "idle", T0 - timedelta(seconds=1))])
    await gateway.save_agents(connection, "gw", [Agent("gw", "main")])
    found = {row["agent"]: row for row in await rows(connection, "TABLE agents")}
    assert (found["main"]["name"], found["main"]["state"], found["main"]["activity"]) == (
        "Main", "tool", "Reading notes.md",
    )  # fmt: skip
    assert (found["main"]["configured"], found["ops"]["configured"]) == (True, False)


async def test_a_poll_tells_a_state_that_differs_and_is_no_activity(connection):
    async def known():
        (row,) = await rows(connection, "SELECT state, activity, state_at, last_activity_at FROM agents")
        return tuple(row.values())

    later, latest = T0 + timedelta(seconds=5), T0 + timedelta(seconds=9)
    await gateway.save_present_states(connection, [AgentState("gw", "main", "idle", T0)])
    assert await rows(connection, "TABLE agents") == [], "which agents there are is not told by their states"
    await gateway.save_agents(connection, "gw", [Agent("gw", "main")])
    for at in (T0, later):
        await gateway.save_present_states(connection, [AgentState("gw", "main", "idle", at)])
        assert await known() == ("idle", None, T0, None)
    await gateway.save_agent_states(connection, [AgentState("gw", "main", "tool", later, "Reading")])
    await gateway.save_present_states(connection, [AgentState("gw", "main", "idle", T0)])
    assert await known() == ("tool", "Reading", later, later), "an older look never replaces newer news"
    await gateway.save_present_states(connection, [AgentState("gw", "main", "offline", latest)])
    assert await known() == ("offline", None, latest, later)


@pytest.mark.req("S1-11")
async def test_what_agents_do_is_kept_and_told(connection):
    await gateway.insert_agent_events(connection, [AgentEvent("gw", "main", T0, "tool_start", "Reading", "read")])
    (told,) = await outbox.read(connection, 0, ["agents"])
    assert told.kind == "tool_start"
    assert told.payload == {
        "agent": "main", "event": "tool_start", "activity": "Reading", "tool": "read", "heat": 0,
        "ts": "2026-03-01T00:00:00Z",
    }  # fmt: skip
    assert len(await rows(connection, "TABLE agent_events")) == 1


@pytest.mark.req("S1-5")
async def test_a_subagent_run_has_its_duration_and_cost(connection):
    run = SubagentRun("gw", "r1", "agent:main:subagent:1", "agent:main:main", "running", "Look", T0)
    await gateway.save_subagent_runs(connection, [run])
    done = SubagentRun("gw", "r1", "agent:main:subagent:1", None, "done", None, None, T0 + timedelta(seconds=4))
    await gateway.save_subagent_runs(connection, [done])
    (row,) = await rows(connection, "TABLE subagent_runs")
    assert (row["label"], row["parent_session_key"], row["status"], row["duration_ms"]) == (
        "Look", "agent:main:main", "done", 4000,
    )  # fmt: skip


async def test_channels_approvals_samples_and_snapshots(connection):
    known = Channel("gw", "telegram", "a", configured=True, connected=True, last_inbound_at=T0)
    await gateway.save_channels(connection, "gw", [known, Channel("gw", "x")])
    await gateway.save_channels(connection, "gw", [Channel("gw", "telegram", "a", connected=False)])
    (channel,) = await rows(connection, "TABLE channels")
    assert (channel["configured"], channel["connected"], channel["last_inbound_at"]) == (True, False, T0)
    await gateway.save_approvals(connection, [ExecApproval("gw", "p1", "pending", "main", requested_at=T0)])
    await gateway.save_approvals(connection, [ExecApproval("gw", "p1", "expired", resolved_at=T0)])
    await gateway.save_approvals(connection, [ExecApproval("gw", "p1", "pending")])
    (approval,) = await rows(connection, "TABLE exec_approvals")
    assert (approval["status"], approval["agent"], approval["resolved_at"]) == ("expired", "main", T0)
    await gateway.insert_host_samples(connection, [SAMPLE])
    assert len(await rows(connection, "TABLE host_samples")) == 1
    snapshot = CostSnapshot("gw", T0, "gateway", 1, 2, 3, 4, Decimal("0.1"))
    await gateway.insert_cost_snapshots(connection, [snapshot, snapshot])
    assert len(await rows(connection, "TABLE cost_snapshots")) == 1
    await gateway.save_sessions(connection, [Session("gw", "main", "s1", status="running")])
    await gateway.insert_gateway_event(connection, "gw", T0, "started", {"version": "2026.9.6"})
    assert len(await rows(connection, "TABLE gateway_events")) == 1


async def test_nothing_is_fine(connection):
    for call in (gateway.save_agents, gateway.save_cron_jobs, gateway.save_channels):
        await call(connection, "gw", [])
    for call in (gateway.save_sessions, gateway.save_cron_runs, gateway.save_approvals, gateway.insert_agent_events):
        await call(connection, [])
