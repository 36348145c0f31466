"""What the gateway and its host tell, as rows: each function brings the database up to what is known now.

Every function runs in the caller's transaction (`async with pool.connection() as connection:`) and may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from store import messages, outbox
from store.ledger.tables import MERGE_SESSION, SESSIONS
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
    Node,
    OutboxEvent,
    Session,
    SubagentRun,
)


async def save_sessions(connection: AsyncConnection[Any], rows: Sequence[Session]) -> None:
    """Merge what is known of sessions; None never overwrites."""
    await _many(connection, MERGE_SESSION, [SESSIONS.record(row) for row in _sorted(rows, "agent", "session_id")])


async def save_agents(connection: AsyncConnection[Any], gateway: str, rows: Sequence[Agent]) -> None:
    """The configured agents of a gateway: all of them. Others stay known, as no longer configured."""
    await _many(
        connection,
        "INSERT INTO lobs.agents AS a (gateway, agent, name, model, workspace, is_default, configured, seen_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, true, now()) ON CONFLICT (gateway, agent) DO UPDATE SET"
        " name = coalesce(excluded.name, a.name), model = coalesce(excluded.model, a.model),"
        " workspace = coalesce(excluded.workspace, a.workspace),"
        " is_default = coalesce(excluded.is_default, a.is_default), configured = true, seen_at = now()",
        [
            (row.gateway, row.agent, row.name, row.model, row.workspace, row.is_default)
            for row in _sorted(rows, "agent")
        ],
    )
    await connection.execute(
        "UPDATE lobs.agents SET configured = false WHERE gateway = %s AND configured AND NOT agent = ANY(%s)",
        [gateway, [row.agent for row in rows]],
    )


async def save_agent_states(connection: AsyncConnection[Any], rows: Sequence[AgentState]) -> None:
    """What agents do now; an older state never replaces a newer one."""
    await _many(
        connection,
        "INSERT INTO lobs.agents AS a (gateway, agent, state, state_at, activity, last_activity_at)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, agent) DO UPDATE SET"
        " state = excluded.state, state_at = excluded.state_at, activity = excluded.activity,"
        " last_activity_at = greatest(a.last_activity_at, excluded.last_activity_at)"
        " WHERE a.state_at IS NULL OR a.state_at <= excluded.state_at",
        [
            (row.gateway, row.agent, row.state, row.at, row.activity, None if row.state == "offline" else row.at)
            for row in _sorted(rows, "agent", "at")
        ],
    )


async def save_present_states(connection: AsyncConnection[Any], rows: Sequence[AgentState]) -> None:
    """What polls know of the state of agents: `at` is when they looked. Only what differs is changed, so that a state
    keeps the time since which it lasts, and a poll is no activity; an older look never replaces newer news."""
    await _many(
        connection,
        "UPDATE lobs.agents SET state = %s, state_at = %s, activity = %s"
        " WHERE gateway = %s AND agent = %s AND state IS DISTINCT FROM %s AND (state_at IS NULL OR state_at <= %s)",
        [
            (row.state, row.at, row.activity, row.gateway, row.agent, row.state, row.at)
            for row in _sorted(rows, "agent")
        ],
    )


async def insert_agent_events(connection: AsyncConnection[Any], rows: Sequence[AgentEvent]) -> None:
    """Keep what agents just did and tell live clients (topic `agents`, kind = the event)."""
    await _many(
        connection,
        "INSERT INTO lobs.agent_events (ts, gateway, agent, event, activity, tool, session_key, run_id)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        [
            (row.ts, row.gateway, row.agent, row.event, row.activity, row.tool, row.session_key, row.run_id)
            for row in rows
        ],
    )
    await outbox.publish(
        connection,
        [OutboxEvent("agents", row.event, messages.agent_event(row), row.gateway) for row in rows],
    )


async def save_subagent_runs(connection: AsyncConnection[Any], rows: Sequence[SubagentRun]) -> None:
    """Merge what is known of sub-agent runs; None never overwrites."""
    await _many(
        connection,
        "INSERT INTO lobs.subagent_runs AS r (gateway, run_id, child_session_key, parent_session_key, label, status,"
        " started_at, ended_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, run_id) DO UPDATE SET"
        " child_session_key = excluded.child_session_key,"
        " parent_session_key = coalesce(excluded.parent_session_key, r.parent_session_key),"
        " label = coalesce(excluded.label, r.label), status = excluded.status,"
        " started_at = coalesce(excluded.started_at, r.started_at), ended_at = coalesce(excluded.ended_at, r.ended_at)",
        [
            (
                row.gateway, row.run_id, row.child_session_key, row.parent_session_key, row.label, row.status,
                row.started_at, row.ended_at,
            )
            for row in _sorted(rows, "run_id")
        ],
    )  # fmt: skip


async def save_cron_jobs(connection: AsyncConnection[Any], gateway: str, rows: Sequence[CronJob]) -> None:
    """The jobs of a gateway: all of them. Others are gone (their runs stay)."""
    await _many(
        connection,
        "INSERT INTO lobs.cron_jobs (gateway, job_id, agent, name, schedule, enabled, period_seconds, next_run_at,"
        " last_run_at, last_status, last_duration_ms, consecutive_errors, last_error, delivery_status)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, job_id) DO UPDATE SET"
        " agent = excluded.agent, name = excluded.name, schedule = excluded.schedule, enabled = excluded.enabled,"
        " period_seconds = excluded.period_seconds, next_run_at = excluded.next_run_at,"
        " last_run_at = excluded.last_run_at, last_status = excluded.last_status,"
        " last_duration_ms = excluded.last_duration_ms, consecutive_errors = excluded.consecutive_errors,"
        " last_error = excluded.last_error, delivery_status = excluded.delivery_status, seen_at = now(),"
        " removed_at = NULL",
        [
            (
                row.gateway, row.job_id, row.agent, row.name, row.schedule, row.enabled, row.period_seconds,
                row.next_run_at, row.last_run_at, row.last_status, row.last_duration_ms, row.consecutive_errors,
                row.last_error, row.delivery_status,
            )
            for row in _sorted(rows, "job_id")
        ],
    )  # fmt: skip
    await connection.execute(
        "UPDATE lobs.cron_jobs SET removed_at = now()"
        " WHERE gateway = %s AND removed_at IS NULL AND NOT job_id = ANY(%s)",
        [gateway, [row.job_id for row in rows]],
    )


async def save_cron_runs(connection: AsyncConnection[Any], rows: Sequence[CronRun]) -> None:
    """Merge runs of jobs; None never overwrites."""
    await _many(
        connection,
        "INSERT INTO lobs.cron_runs AS r (gateway, job_id, started_at, finished_at, status, error, session_id)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, job_id, started_at) DO UPDATE SET"
        " finished_at = coalesce(excluded.finished_at, r.finished_at), status = excluded.status,"
        " error = coalesce(excluded.error, r.error), session_id = coalesce(excluded.session_id, r.session_id)",
        [
            (row.gateway, row.job_id, row.started_at, row.finished_at, row.status, row.error, row.session_id)
            for row in _sorted(rows, "job_id", "started_at")
        ],
    )


async def save_channels(connection: AsyncConnection[Any], gateway: str, rows: Sequence[Channel]) -> None:
    """The channels of a gateway: all of them. Others are gone."""
    await connection.execute(
        "DELETE FROM lobs.channels WHERE gateway = %s AND NOT (channel, account) IN"
        " (SELECT * FROM unnest(%s::text[], %s::text[]))",
        [gateway, [row.channel for row in rows], [row.account for row in rows]],
    )
    await _many(
        connection,
        "INSERT INTO lobs.channels AS c (gateway, channel, account, configured, connected, last_inbound_at,"
        " last_outbound_at, last_error) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (gateway, channel, account) DO UPDATE SET"
        " configured = coalesce(excluded.configured, c.configured),"
        " connected = excluded.connected, last_inbound_at = greatest(excluded.last_inbound_at, c.last_inbound_at),"
        " last_outbound_at = greatest(excluded.last_outbound_at, c.last_outbound_at),"
        " last_error = excluded.last_error, seen_at = now()",
        [
            (
                row.gateway, row.channel, row.account, row.configured, row.connected, row.last_inbound_at,
                row.last_outbound_at, row.last_error,
            )
            for row in _sorted(rows, "channel", "account")
        ],
    )  # fmt: skip


async def save_approvals(connection: AsyncConnection[Any], rows: Sequence[ExecApproval]) -> None:
    """Merge requests to run commands; one that was answered is not pending again."""
    await _many(
        connection,
        "INSERT INTO lobs.exec_approvals AS a (gateway, approval_id, agent, session_key, command, status, requested_at,"
        " expires_at, resolved_at, resolved_by, terminal_reason, decision)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, approval_id) DO UPDATE SET"
        " agent = coalesce(excluded.agent, a.agent), session_key = coalesce(excluded.session_key, a.session_key),"
        " command = coalesce(excluded.command, a.command),"
        " status = CASE WHEN excluded.status = 'pending' THEN a.status ELSE excluded.status END,"
        " requested_at = coalesce(excluded.requested_at, a.requested_at),"
        " expires_at = coalesce(excluded.expires_at, a.expires_at),"
        " resolved_at = coalesce(excluded.resolved_at, a.resolved_at),"
        " resolved_by = coalesce(excluded.resolved_by, a.resolved_by),"
        " terminal_reason = coalesce(excluded.terminal_reason, a.terminal_reason),"
        " decision = coalesce(excluded.decision, a.decision)",
        [
            (
                row.gateway, row.approval_id, row.agent, row.session_key, row.command, row.status, row.requested_at,
                row.expires_at, row.resolved_at, row.resolved_by, row.terminal_reason, row.decision,
            )
            for row in _sorted(rows, "approval_id")
        ],
    )  # fmt: skip


async def approval_decisions(connection: AsyncConnection[Any], gateway: str) -> dict[str, int]:
    """How often commands were decided about in each way since we watch: allowed_once (also of those that an older
    version of ours kept without saying which), allowed_always, denied, expired, cancelled. These rows are kept for
    ever and each approval is one of them, so that a count never falls and counts nothing twice."""
    cursor = await connection.execute(
        "SELECT CASE WHEN status <> 'allowed' THEN status WHEN decision = 'allow-always' THEN 'allowed_always'"
        " ELSE 'allowed_once' END AS decision, count(*) AS number FROM lobs.exec_approvals"
        " WHERE gateway = %s AND status <> 'pending' GROUP BY 1",
        [gateway],
    )
    return {row["decision"]: row["number"] for row in await cursor.fetchall()}


async def save_nodes(connection: AsyncConnection[Any], gateway: str, rows: Sequence[Node]) -> None:
    """The nodes of a gateway: all of them. Others are gone."""
    await connection.execute(
        "DELETE FROM lobs.nodes WHERE gateway = %s AND NOT node_id = ANY(%s)", [gateway, [row.node_id for row in rows]]
    )
    await _many(
        connection,
        "INSERT INTO lobs.nodes AS n (gateway, node_id, name, platform, version, paired, connected, connected_at,"
        " last_seen_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, node_id) DO UPDATE SET"
        " name = excluded.name, platform = excluded.platform, version = excluded.version, paired = excluded.paired,"
        " connected = excluded.connected, connected_at = coalesce(excluded.connected_at, n.connected_at),"
        " last_seen_at = coalesce(excluded.last_seen_at, n.last_seen_at), seen_at = now()",
        [
            (
                row.gateway, row.node_id, row.name, row.platform, row.version, row.paired, row.connected,
                row.connected_at, row.last_seen_at,
            )
            for row in _sorted(rows, "node_id")
        ],
    )  # fmt: skip


async def insert_host_samples(connection: AsyncConnection[Any], rows: Sequence[HostSample]) -> None:
    """Keep samples of the host."""
    await _many(
        connection,
        "INSERT INTO lobs.host_samples (ts, gateway, cpu_ratio, load1, memory_used_bytes, memory_total_bytes,"
        " swap_used_bytes, disk_used_bytes, disk_total_bytes, network_receive_bytes, network_transmit_bytes,"
        " gateway_resident_bytes, gateway_cpu_ratio) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            (
                row.ts, row.gateway, row.cpu_ratio, row.load1, row.memory_used_bytes, row.memory_total_bytes,
                row.swap_used_bytes, row.disk_used_bytes, row.disk_total_bytes, row.network_receive_bytes,
                row.network_transmit_bytes, row.gateway_resident_bytes, row.gateway_cpu_ratio,
            )
            for row in rows
        ],
    )  # fmt: skip


async def insert_cost_snapshots(connection: AsyncConnection[Any], rows: Sequence[CostSnapshot]) -> None:
    """Keep the gateway's own account and ours at one instant."""
    await _many(
        connection,
        "INSERT INTO lobs.cost_snapshots (ts, gateway, source, input_tokens, output_tokens, cache_read_tokens,"
        " cache_write_tokens, cost_usd) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [
            (
                row.ts, row.gateway, row.source, row.input_tokens, row.output_tokens, row.cache_read_tokens,
                row.cache_write_tokens, row.cost_usd,
            )
            for row in rows
        ],
    )  # fmt: skip


async def insert_gateway_event(
    connection: AsyncConnection[Any],
    gateway: str,
    at: datetime,
    event: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Keep a mark for the boards: `started`, `stopped`, `version`, …"""
    await connection.execute(
        "INSERT INTO lobs.gateway_events (ts, gateway, event, detail) VALUES (%s, %s, %s, %s)",
        [at, gateway, event, Jsonb(dict(detail or {}))],
    )


def _sorted(rows: Sequence[Any], *names: str) -> list[Any]:
    """In one order everywhere, so that two writers never wait for each other in a circle."""
    return sorted(rows, key=lambda row: tuple(getattr(row, name) for name in names))


async def _many(connection: AsyncConnection[Any], statement: str, records: Sequence[tuple[Any, ...]]) -> None:
    if records:
        async with connection.cursor() as cursor:
            await cursor.executemany(statement.encode(), records)
