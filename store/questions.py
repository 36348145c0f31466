"""What may be asked of the data in words: a fixed list of questions, each one statement with checked parameters.

A model chooses a name and parameters and nothing else; the statement is ours, its values are bound, and it runs as the
role that can only read views. No question gives a transcript's text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from store.pool import Pool

MOST_ROWS = 40


class Asked(BaseModel):
    """Base of parameters. An unknown name is an error that the model is told."""

    model_config = ConfigDict(extra="forbid")


class Nothing(Asked):
    """No parameters."""


class Since(Asked):
    """The last so many hours."""

    hours: Annotated[int, Field(ge=1, le=24 * 400)] = 24


class Grouped(Since):
    """Usage by one or two properties."""

    by: Literal["model", "provider", "agent", "kind", "channel", "day", "hour"] = "model"


class OneSession(Asked):
    """One session, by its id or its key."""

    session: Annotated[str, Field(min_length=1, max_length=300)]


class OfAgent(Since):
    """The last so many hours of one agent, or of all."""

    agent: Annotated[str, Field(max_length=200)] | None = None


class OfJob(Since):
    """The last so many hours of one scheduled job (its id or its name), or of all."""

    job: Annotated[str, Field(max_length=300)] | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """`about`: for the model and for docs. `sql` has `%(hours)s` and the like for parameters, and names in braces.

    `{mine}`: only the gateways that may be seen; `{since}`: the beginning of the time asked for; `{sums}`, `{most}`.
    """

    about: str
    parameters: type[Asked]
    sql: str


_MINE = "(%(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s))"
_SINCE = "now() - make_interval(hours => %(hours)s)"
_SUMS = """sum(calls)::bigint AS calls, sum(input_tokens)::bigint AS input_tokens,
    sum(output_tokens)::bigint AS output_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
    sum(cache_write_tokens)::bigint AS cache_write_tokens,
    sum(cost_usd) FILTER (WHERE billing = 'billed') AS billed_usd,
    sum(cost_usd) FILTER (WHERE billing <> 'billed') AS equivalent_usd, sum(unpriced_calls)::bigint AS unpriced_calls"""

QUESTIONS: dict[str, Question] = {
    "spending": Question(
        "Billed US$ of the last hour, today, 7 and 30 days, this month, and the month as it will end.",
        Nothing,
        "SELECT * FROM public.cost_windows((SELECT name FROM public.zone)) WHERE {mine}",
    ),
    "usage": Question(
        "Calls, tokens by class, billed and equivalent US$ by model, provider, agent, kind, channel, day or hour.",
        Grouped,
        """SELECT CASE %(by)s WHEN 'model' THEN model WHEN 'provider' THEN provider WHEN 'agent' THEN agent
            WHEN 'kind' THEN kind WHEN 'channel' THEN channel
            WHEN 'day' THEN to_char(hour AT TIME ZONE (SELECT name FROM public.zone), 'YYYY-MM-DD')
            ELSE to_char(hour AT TIME ZONE (SELECT name FROM public.zone), 'YYYY-MM-DD HH24:00') END AS name, {sums}
        FROM public.cost_hourly WHERE hour >= {since} AND {mine}
        GROUP BY 1 ORDER BY billed_usd DESC NULLS LAST, calls DESC LIMIT {most}""",
    ),
    "expensive_sessions": Question(
        "The sessions that cost most among those active in that time, with kind, model, calls and context use.",
        OfAgent,
        """SELECT session_key, session_id, agent, kind, channel, label, model, calls, errors, cost_usd,
            equivalent_cost_usd, context_ratio, last_call_at
        FROM public.sessions WHERE last_call_at >= {since} AND (%(agent)s::text IS NULL OR agent = %(agent)s) AND {mine}
        ORDER BY cost_usd DESC NULLS LAST LIMIT {most}""",
    ),
    "session": Question(
        "The model calls of one session, newest first: time, model, tokens, cost, duration, outcome.",
        OneSession,
        """SELECT ts, model, outcome, error_code, input_tokens, output_tokens, cache_read_tokens, cost_usd, duration_ms
        FROM public.model_calls WHERE (session_id = %(session)s OR session_key = %(session)s) AND {mine}
        ORDER BY ts DESC LIMIT {most}""",
    ),
    "failed_calls": Question(
        "Model calls that did not end well, by model, outcome and error code, with the last time.",
        OfAgent,
        """SELECT provider, model, outcome, error_code, count(*) AS calls, max(ts) AS last_at
        FROM public.model_calls WHERE ts >= {since} AND outcome <> 'ok'
            AND (%(agent)s::text IS NULL OR agent = %(agent)s) AND {mine}
        GROUP BY 1, 2, 3, 4 ORDER BY calls DESC LIMIT {most}""",
    ),
    "slow_calls": Question(
        "Median and 95th percentile of the duration of model calls, in ms, by model.",
        OfAgent,
        """SELECT provider, model, count(duration_ms) AS calls,
            percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS median_ms,
            percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms
        FROM public.model_calls WHERE ts >= {since} AND (%(agent)s::text IS NULL OR agent = %(agent)s) AND {mine}
        GROUP BY 1, 2 ORDER BY p95_ms DESC NULLS LAST LIMIT {most}""",
    ),
    "tools": Question(
        "Tool calls by tool: number, failures, median duration in ms.",
        OfAgent,
        """SELECT tool, count(*) AS calls, count(*) FILTER (WHERE outcome = 'error') AS errors,
            count(*) FILTER (WHERE outcome = 'nonzero_exit') AS nonzero_exits,
            percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS median_ms
        FROM public.tool_calls WHERE ts >= {since} AND (%(agent)s::text IS NULL OR agent = %(agent)s) AND {mine}
        GROUP BY 1 ORDER BY calls DESC LIMIT {most}""",
    ),
    "agents": Question(
        "Every agent: state, activity, model, last activity.",
        Nothing,
        """SELECT gateway, agent, name, model, state, activity, state_at, last_activity_at
        FROM public.agents WHERE {mine} ORDER BY last_activity_at DESC NULLS LAST LIMIT {most}""",
    ),
    "jobs": Question(
        "Scheduled jobs: plan, next and last run, status, consecutive errors, delivery.",
        Nothing,
        """SELECT job_id, agent, name, schedule, enabled, next_run_at, last_run_at, last_status, last_duration_ms,
            consecutive_errors, last_error, delivery_status
        FROM public.cron_jobs WHERE {mine} ORDER BY consecutive_errors DESC NULLS LAST, next_run_at LIMIT {most}""",
    ),
    "job_runs": Question(
        "Runs of scheduled jobs, newest first: times, status, error.",
        OfJob,
        """SELECT job_id, name, started_at, status, error, duration_ms FROM public.cron_runs
        WHERE started_at >= {since} AND (%(job)s::text IS NULL OR job_id = %(job)s OR name = %(job)s) AND {mine}
        ORDER BY started_at DESC LIMIT {most}""",
    ),
    "channels": Question(
        "Chat channels: configured, connected, last message in and out, last error.",
        Nothing,
        """SELECT channel, account, configured, connected, last_inbound_at, last_outbound_at, last_error
        FROM public.channels WHERE {mine} ORDER BY channel, account LIMIT {most}""",
    ),
    "errors": Question(
        "Kinds of errors in the gateway's log, the most frequent first.",
        Since,
        """SELECT level, signature, count, first_seen_at, last_seen_at FROM public.log_signatures
        WHERE last_seen_at >= {since} AND {mine} ORDER BY count DESC LIMIT {most}""",
    ),
    "alerts": Question(
        "Alerts, newest first: name, severity, status, when.",
        Since,
        """SELECT alert, severity, status, starts_at, ends_at, annotations ->> 'summary' AS summary
        FROM public.alert_events WHERE starts_at >= {since} AND {mine} ORDER BY starts_at DESC LIMIT {most}""",
    ),
    "subagents": Question(
        "Runs of sub-agents, newest first: who started them, status, duration, tokens, cost.",
        Since,
        """SELECT label, parent_session_key, child_session_key, status, started_at, duration_ms, calls, tokens, cost_usd
        FROM public.subagent_runs WHERE started_at >= {since} AND {mine} ORDER BY started_at DESC LIMIT {most}""",
    ),
    "operations": Question(
        "Operations (runs of agents, jobs, webhooks), newest first: type, status, steps, tokens, cost.",
        OfAgent,
        """SELECT type, name, agent_id, status, created_at, duration_ms, steps_completed, steps_total, total_tokens,
            cost_usd, model, disposition ->> 'errorCode' AS error_code
        FROM public.operations WHERE created_at >= {since}
            AND (%(agent)s::text IS NULL OR agent_id = %(agent)s) AND {mine}
        ORDER BY created_at DESC LIMIT {most}""",
    ),
    "approvals": Question(
        "Requests to run a command: status, agent, when they were made and expire.",
        Since,
        """SELECT agent, session_key, status, requested_at, expires_at, resolved_at, terminal_reason
        FROM public.exec_approvals WHERE requested_at >= {since} AND {mine}
        ORDER BY requested_at DESC LIMIT {most}""",
    ),
    "host": Question(
        "The machine by hour: CPU, memory, disk, and the gateway's own memory.",
        Since,
        """SELECT date_trunc('hour', ts) AS hour, round(avg(cpu_ratio)::numeric, 3) AS cpu_ratio, max(load1) AS load1,
            max(memory_used_bytes) AS memory_used_bytes, max(memory_total_bytes) AS memory_total_bytes,
            max(disk_used_bytes) AS disk_used_bytes, max(disk_total_bytes) AS disk_total_bytes,
            max(gateway_resident_bytes) AS gateway_resident_bytes
        FROM public.host_samples WHERE ts >= {since} AND {mine} GROUP BY 1 ORDER BY 1 DESC LIMIT {most}""",
    ),
}


async def answer(
    pool: Pool, name: str, parameters: Mapping[str, Any], gateways: Collection[str] | None
) -> list[dict[str, Any]]:
    """The rows of a question, at most `MOST_ROWS`. `pool`: of the reader's role. `gateways` None: of all."""
    values = {**parameters, "gateways": None if gateways is None else sorted(gateways)}
    async with pool.connection() as connection:
        statement = QUESTIONS[name].sql.format(mine=_MINE, since=_SINCE, sums=_SUMS, most=MOST_ROWS)
        cursor = await connection.execute(statement, values)
        return list(await cursor.fetchall())
