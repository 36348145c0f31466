"""One session: what it did, step by step, what each turn cost, how full its context became."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.boards.sessions import KIND_WORDS, STATUS_WORDS
from dashboards.queries import sql_rows, sql_series

OUTCOME_WORDS = {
    "ok": ("ok", config.OK),
    "error": ("error", config.BAD),
    "aborted": ("aborted", config.WARN),
    "nonzero_exit": ("exit not 0", config.WARN),
}


def facts() -> dashboard.Panel:
    """One row."""
    return panels.table(
        1,
        "Session",
        [
            sql_rows(
                """
SELECT coalesce(label, regexp_replace(session_key, '^agent:[^:]*:', ''), session_id) AS "Session",
       kind AS "Kind", coalesce(status, 'unknown') AS "Status",
       agent AS "Agent", model AS "Model", channel AS "Channel", context_ratio AS "Context", cost_usd::float8 AS "Cost",
       nullif(equivalent_cost_usd, 0)::float8 AS "Equivalent", calls AS "Calls", errors AS "Failed",
       started_at AS "Started", updated_at AS "Last active", gateway AS "Gateway"
FROM sessions
WHERE :session
LIMIT 10
"""
            )
        ],
        description="The session chosen above, over its whole life (view sessions). Equivalent: list price of what a "
        "subscription covered; never added to Cost.",
        no_value="No such session: choose one above",
        overrides=[
            panels.override("Session", custom__minWidth=110),
            panels.badge("Kind", KIND_WORDS, width=80),
            panels.badge("Status", STATUS_WORDS, width=75),
            panels.override("Agent", custom__minWidth=110),
            panels.override("Model", custom__minWidth=125),
            panels.override("Channel", custom__width=70),
            panels.hidden("Gateway"),
            panels.ratio_gauge("Context", config.CONTEXT_FULL, width=100),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=80),
            panels.override("Equivalent", unit="currencyUSD", decimals=4, custom__width=90),
            panels.override("Calls", custom__width=55),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=65),
            panels.override("Started", unit="dateTimeFromNow", custom__width=120),
            panels.override("Last active", unit="dateTimeFromNow", custom__width=120),
        ],
        links={
            "Agent": panels.link_to(config.AGENTS, agent="${__data.fields.Agent}", gateway="${__data.fields.Gateway}")
        },
        width=24,
        height=4,
    )


def prompt_and_compactions() -> dashboard.Panel:
    """The prompt grows call by call until it is compacted."""
    return panels.timeseries(
        10,
        "Prompt of each call",
        [
            sql_series(
                """
SELECT ts AS "time", input_tokens + cache_read_tokens + cache_write_tokens AS "prompt", output_tokens AS "output"
FROM model_calls
WHERE $__timeFilter(ts) AND :session
ORDER BY ts
LIMIT 5000
"""
            )
        ],
        unit="short",
        description="Tokens of the prompt and of the answer of each model call (view model_calls). It grows with the "
        "conversation and falls at a compaction or reset; a sudden rise is a tool that returned a book.",
        no_value="No call of this session in this time range",
        colours={"prompt": config.TOKEN_COLOURS["input"], "output": config.TOKEN_COLOURS["output"]},
        overrides=[panels.override("prompt", custom__showPoints="always")],
        width=12,
    )


def cumulative_cost() -> dashboard.Panel:
    """Steps."""
    return panels.timeseries(
        11,
        "Cost so far",
        [
            sql_series(
                """
SELECT ts AS "time", sum(cost_usd) FILTER (WHERE billing = 'billed') OVER (ORDER BY ts, entry_id)::float8 AS "billed",
       sum(cost_usd) FILTER (WHERE billing = 'equivalent') OVER (ORDER BY ts, entry_id)::float8 AS "equivalent"
FROM model_calls
WHERE $__timeFilter(ts) AND :session
ORDER BY ts
LIMIT 5000
"""
            )
        ],
        unit="currencyUSD",
        description="Cost of the session's calls added up over the time range shown; equivalent is what a "
        "subscription covered. A step far higher than the others is a turn worth a look.",
        no_value="No call of this session in this time range",
        colours={"billed": config.MONEY, "equivalent": config.EQUIVALENT},
        overrides=[
            panels.override("billed", custom__lineInterpolation="stepAfter"),
            panels.override("equivalent", custom__lineInterpolation="stepAfter"),
        ],
        width=12,
    )


def timeline() -> dashboard.Panel:
    """Everything, newest last as it happened."""
    return panels.table(
        20,
        "Timeline",
        [
            sql_rows(
                """
SELECT ts AS "When", what AS "What", name AS "Name", outcome AS "Outcome", duration_ms AS "Duration",
       tokens AS "Tokens", cost AS "Cost"
FROM (
  (SELECT ts, 'model call' AS what, model AS name, coalesce(error_code, outcome) AS outcome,
          duration_ms, input_tokens + output_tokens + cache_read_tokens + cache_write_tokens AS tokens,
          cost_usd::float8 AS cost
   FROM model_calls WHERE $__timeFilter(ts) AND :session ORDER BY ts DESC LIMIT 500)
  UNION ALL
  (SELECT ts, 'tool call', tool, outcome, duration_ms, NULL, NULL
   FROM tool_calls WHERE $__timeFilter(ts) AND :session ORDER BY ts DESC LIMIT 500)
  UNION ALL
  (SELECT ts, 'event', replace(event, '_', ' '), concat_ws('/', detail ->> 'provider', detail ->> 'model'), NULL,
          (detail ->> 'tokens_after')::bigint, NULL
   FROM session_events WHERE $__timeFilter(ts) AND :session ORDER BY ts DESC LIMIT 500)
) AS happened
ORDER BY ts DESC
LIMIT 500
"""
            )
        ],
        description="The newest 500 model calls, tool calls and events (compaction, reset, change of model) of the "
        "session in the time range; no texts. The tokens of a compaction are those that it left.",
        no_value="Nothing happened in this session in this time range",
        overrides=[
            panels.override("When", unit="dateTimeAsIsoNoDateIfToday", custom__width=110),
            panels.coloured(
                "What",
                {
                    "model call": ("model call", config.NEUTRAL),
                    "tool call": ("tool call", config.OK),
                    "event": ("event", config.EQUIVALENT),
                },
                width=90,
            ),
            panels.override("Name", custom__minWidth=120),
            panels.coloured("Outcome", OUTCOME_WORDS, width=100),
            panels.override("Duration", unit="ms", custom__width=90),
            panels.override("Tokens", unit="short", custom__width=80),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=85),
        ],
        width=14,
        height=12,
    )


def turns() -> dashboard.Panel:
    """A turn is a run; calls of transcripts that name no run stand for themselves."""
    return panels.table(
        21,
        "Cost by turn",
        [
            sql_rows(
                """
SELECT min(ts) AS "Started", count(*) AS "Calls", (extract(epoch FROM max(ts) - min(ts)) * 1000)::bigint AS "Length",
       sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)::bigint AS "Tokens",
       sum(cost_usd)::float8 AS "Cost", count(*) FILTER (WHERE outcome <> 'ok') AS "Failed",
       (SELECT count(*) FROM tool_calls AS t
        WHERE t.session_id = ${session:sqlstring} AND t.run_id = turn.run) AS "Tools"
FROM (SELECT *, coalesce(run_id, entry_id) AS run FROM model_calls WHERE $__timeFilter(ts) AND :session) AS turn
GROUP BY turn.run
ORDER BY 5 DESC NULLS LAST
LIMIT 100
"""
            )
        ],
        description="Turns (runs) of the session in the time range, the most expensive first: model calls, tools, "
        "tokens and cost. Where the transcript names no run, each call stands for itself.",
        no_value="No turn in this time range",
        sort_by="Cost",
        overrides=[
            panels.override("Started", unit="dateTimeAsIsoNoDateIfToday", custom__width=105),
            panels.override("Calls", custom__width=50),
            panels.override("Tools", custom__width=50),
            panels.override("Tokens", unit="short", custom__width=70),
            panels.override("Length", unit="ms", custom__width=75),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=75),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=60),
        ],
        width=10,
        height=12,
    )


def tools() -> dashboard.Panel:
    """By name."""
    return panels.table(
        30,
        "Tools",
        [
            sql_rows(
                """
SELECT tool AS "Tool", count(*) AS "Calls", count(*) FILTER (WHERE outcome = 'error') AS "Errors",
       count(*) FILTER (WHERE outcome = 'nonzero_exit') AS "Exit not 0",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS "p50",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS "p95", sum(output_bytes)::bigint AS "Output"
FROM tool_calls
WHERE $__timeFilter(ts) AND :session
GROUP BY 1
ORDER BY 2 DESC
LIMIT 100
"""
            )
        ],
        description="Tools that the session called in the time range: failures, times and how much they returned, "
        "all of which is in the next prompt.",
        no_value="No tool was called in this time range",
        overrides=[
            panels.override("Tool", custom__minWidth=120),
            panels.count_badge("Errors", panels.ZERO_IS_GOOD, width=70),
            panels.count_badge("Exit not 0", panels.ZERO_IS_GOOD_WARN, width=95),
            panels.override("p50", unit="ms"),
            panels.override("p95", unit="ms"),
            panels.override("Output", unit="bytes"),
        ],
        width=12,
        height=7,
    )


def children() -> dashboard.Panel:
    """What it started."""
    return panels.table(
        31,
        "Sub-agents",
        [
            sql_rows(
                """
SELECT coalesce(r.label, r.child_session_key) AS "Sub-agent", r.status AS "Status", r.started_at AS "Started",
       r.duration_ms AS "Duration", r.cost_usd::float8 AS "Cost", r.calls AS "Calls", c.session_id AS "ID"
FROM subagent_runs AS r
LEFT JOIN sessions AS c ON c.gateway = r.gateway AND c.session_key = r.child_session_key
WHERE (r.gateway, r.parent_session_key) IN (
  SELECT gateway, session_key FROM sessions WHERE :gateways AND session_id = ${session:sqlstring}
)
ORDER BY r.started_at DESC
LIMIT 100
"""
            )
        ],
        description="Sub-agents that this session's key ever started, with their own cost. It is not in the "
        "session's cost, but in that of the root on Cost and tokens.",
        no_value="It started no sub-agent",
        overrides=[
            panels.hidden("ID"),
            panels.badge("Status", STATUS_WORDS, width=80),
            panels.override("Started", unit="dateTimeFromNow", custom__width=120),
            panels.override("Duration", unit="ms", custom__width=85),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=80),
            panels.override("Calls", custom__width=60),
        ],
        links={"Sub-agent": panels.link_to(config.SESSION, session="${__data.fields.ID}")},
        width=12,
        height=7,
    )


def board() -> Board:
    """One conversation."""
    return Board(
        ref=config.SESSION,
        description="One session: what it did step by step, what each turn cost, how its prompt grew. Sessions leads "
        "here by a click on a name.",
        extra_variables=[variables.session()],
        rows=[
            Row(100, "", [facts()]),
            Row(101, "", [prompt_and_compactions(), cumulative_cost()]),
            Row(102, "", [timeline(), turns()]),
            Row(103, "", [tools(), children()]),
        ],
    )
