"""Agents: what is known of each, with its figures; and the figures that agents report themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from psycopg.rows import class_row

from store.pool import Connection
from store.sorting import Key, Order


@dataclass(frozen=True, slots=True)
class AgentNow:
    """What an agent does now. `state` None: the gateway has not told."""

    gateway: str
    agent: str
    name: str | None
    state: str | None
    activity: str | None
    state_at: datetime | None
    last_activity_at: datetime | None


@dataclass(frozen=True, slots=True)
class Agent(AgentNow):
    """An agent with the sums of its sessions, and what agents reported themselves: tasks and runtime."""

    model: str | None
    is_default: bool | None
    configured: bool
    first_call_at: datetime | None
    sessions: int
    calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: Decimal
    equivalent_cost_usd: Decimal
    unpriced_calls: int
    tasks_completed: int
    runtime_ms: int


@dataclass(frozen=True, slots=True)
class PastEvent:
    """Something that an agent did."""

    gateway: str
    ts: datetime
    event: str
    activity: str | None
    tool: str | None
    session_key: str | None
    run_id: str | None


# One definition of an agent's figures. `%(gateways)s` NULL: all gateways.
_AGENTS = """
SELECT a.gateway, a.agent, a.name, a.model, a.is_default, a.configured, a.state, a.activity, a.state_at,
       a.first_call_at, a.last_activity_at,
       coalesce(s.sessions, 0) AS sessions, coalesce(s.calls, 0) AS calls, coalesce(s.errors, 0) AS errors,
       coalesce(s.input_tokens, 0) AS input_tokens, coalesce(s.output_tokens, 0) AS output_tokens,
       coalesce(s.cache_read_tokens, 0) AS cache_read_tokens,
       coalesce(s.cache_write_tokens, 0) AS cache_write_tokens,
       coalesce(s.reasoning_tokens, 0) AS reasoning_tokens,
       coalesce(s.cost_usd, 0) AS cost_usd, coalesce(s.equivalent_cost_usd, 0) AS equivalent_cost_usd,
       coalesce(s.unpriced_calls, 0) AS unpriced_calls,
       coalesce(m.tasks_completed, 0) AS tasks_completed, coalesce(m.runtime_ms, 0) AS runtime_ms
FROM public.agents AS a
LEFT JOIN LATERAL (
    SELECT count(*) AS sessions, sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens,
           sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_usd) AS cost_usd,
           sum(equivalent_cost_usd) AS equivalent_cost_usd, sum(unpriced_calls)::bigint AS unpriced_calls
    FROM lobs.sessions WHERE gateway = a.gateway AND agent = a.agent
) AS s ON true
LEFT JOIN LATERAL (
    SELECT sum(tasks_completed)::bigint AS tasks_completed, sum(runtime_ms)::bigint AS runtime_ms
    FROM lobs.agent_metrics WHERE agent_id = a.agent AND coalesce(gateway, a.gateway) = a.gateway
) AS m ON true
WHERE (%(gateways)s::text[] IS NULL OR a.gateway = ANY(%(gateways)s))
"""


SORTS: Final[Mapping[str, Key]] = {
    "id": Key("a.agent", "text"),
    "name": Key("coalesce(a.name, a.agent)", "text"),
    "status": Key("coalesce(a.state, 'unknown')", "text"),
    "last_activity_at": Key("coalesce(a.last_activity_at, '-infinity')", "timestamptz"),
    "cost": Key("coalesce(s.cost_usd, 0)", "numeric"),
    "calls": Key("coalesce(s.calls, 0)::bigint", "bigint"),
}


async def agents(
    connection: Connection, *, gateways: Sequence[str] | None = None, agent: str | None = None, sort: str = "id"
) -> list[Agent]:
    """Every agent (or those of that id) in an order of SORTS, with the sums of its sessions."""
    order = Order.of(sort, SORTS, ["a.gateway", "a.agent"])
    async with connection.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(
            f"{_AGENTS} AND (%(agent)s::text IS NULL OR a.agent = %(agent)s) ORDER BY {order.by}".encode(),
            {"gateways": None if gateways is None else list(gateways), "agent": agent},
        )
        return await cursor.fetchall()


async def status(connection: Connection) -> list[AgentNow]:
    """What each agent does now."""
    async with connection.cursor(row_factory=class_row(AgentNow)) as cursor:
        await cursor.execute(
            "SELECT gateway, agent, name, state, activity, state_at, last_activity_at"
            " FROM public.agents ORDER BY gateway, agent"
        )
        return await cursor.fetchall()


async def history(connection: Connection, agent: str, *, gateways: Sequence[str] | None, limit: int) -> list[PastEvent]:
    """What an agent did last, newest first."""
    async with connection.cursor(row_factory=class_row(PastEvent)) as cursor:
        await cursor.execute(
            "SELECT gateway, ts, event, activity, tool, session_key, run_id FROM public.agent_events"
            " WHERE agent = %s AND (%s::text[] IS NULL OR gateway = ANY(%s)) ORDER BY ts DESC, id DESC LIMIT %s",
            [agent, gateways, gateways, limit],
        )
        return await cursor.fetchall()


async def insert_metrics(
    connection: Connection,
    *,
    agent: str,
    gateway: str | None,
    session_id: str | None,
    tokens: int,
    cost_usd: Decimal,
    runtime_ms: int,
    tasks_completed: int,
) -> None:
    """Keep what an agent reports of itself. It is shown apart and never added to what is measured."""
    await connection.execute(
        "INSERT INTO lobs.agent_metrics (agent_id, gateway, session_id, tokens, cost_usd, runtime_ms, tasks_completed)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [agent, gateway, session_id, tokens, cost_usd, runtime_ms, tasks_completed],
    )


async def active_subagents(connection: Connection, *, gateways: Sequence[str] | None = None) -> int:
    """Sub-agents at work: runs that the gateway tells of, and sessions that clients put under tasks."""
    cursor = await connection.execute(
        "SELECT (SELECT count(*) FROM public.subagent_runs"
        "        WHERE ended_at IS NULL AND status IN ('running', 'active', 'started', 'pending')"
        "          AND (%s::text[] IS NULL OR gateway = ANY(%s)))"
        "     + (SELECT count(*) FROM public.task_sessions AS t"
        "        WHERE t.session_type = 'subagent' AND t.status = 'active' AND NOT EXISTS"
        "              (SELECT 1 FROM public.subagent_runs AS r WHERE r.child_session_key = t.openclaw_session_id))"
        " AS number",
        [gateways, gateways],
    )
    row = await cursor.fetchone()
    return int(row["number"]) if row else 0
