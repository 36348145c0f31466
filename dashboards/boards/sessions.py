"""Sessions: who is talking, how full, how expensive, and which tools fail."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import AGENT, GATEWAY, now, rows, series, sql_rows

KIND_WORDS: Final = {
    "main": ("main", "blue"),
    "direct": ("direct", "green"),
    "group": ("group", "dark-green"),
    "channel": ("channel", "light-green"),
    "cron": ("cron", "purple"),
    "subagent": ("sub-agent", "orange"),
    "hook": ("webhook", "yellow"),
    "dashboard": ("dashboard", "light-blue"),
    "acp": ("acp", "dark-blue"),
    "other": ("other", config.NO_GROUND),
    "unknown": ("unknown", config.NO_GROUND),
}
STATUS_WORDS: Final = {
    "running": ("running", config.NEUTRAL),
    "done": ("done", config.OK),
    "ok": ("ok", config.OK),
    "failed": ("failed", config.BAD),
    "error": ("error", config.BAD),
    "killed": ("killed", config.WARN),
    "timeout": ("timeout", config.BAD),
    "unknown": ("unknown", config.NO_GROUND),
}


def by_state() -> dashboard.Panel:
    """Now."""
    return panels.stat(
        1,
        "Sessions by state",
        [now(f"sum by (state) (claw_sessions{{{GATEWAY}}}) > 0", "{{state}}")],
        unit="none",
        named=True,
        decimals=0,
        description="Sessions that the chosen gateways know, of all agents, by state (claw_sessions). "
        "Failed ones deserve a look at the list below.",
        no_value="Gateway not read yet",
        overrides=[
            panels.override(name, color=panels.fixed(colour))
            for name, (_, colour) in STATUS_WORDS.items()
            if colour != config.NO_GROUND
        ],
        width=10,
    )


def running() -> dashboard.Panel:
    """Runs and sub-agents."""
    return panels.in_progress(2, width=5)


def fullest() -> dashboard.Panel:
    """Context."""
    return panels.stat(
        3,
        "Fullest context",
        [now(f"max(claw_session_context_ratio_max{{{AGENT}}})", "fullest")],
        unit="percentunit",
        decimals=0,
        min_val=0,
        max_val=1,
        description="The fullest context of all sessions. Near 100 % it is compacted, which costs a call and detail.",
        no_value="Not reported",
        steps=config.CONTEXT_FULL,
        width=4,
    )


def compactions() -> dashboard.Panel:
    """Over the range."""
    return panels.stat(
        4,
        "Compactions",
        [
            now(
                f"round(sum(increase(claw_compactions_total{{{AGENT}}}[$__range]))) "
                f"or 0 * count(claw_model_calls_total{{{GATEWAY}}})",
                "compactions",
            )
        ],
        unit="none",
        decimals=0,
        description="Compactions of transcripts in the time range shown. The call that writes a summary is in no "
        "transcript, so its cost is in no total.",
        no_value="No data",
        width=5,
    )


def sessions() -> dashboard.Panel:
    """The list."""
    return panels.table(
        10,
        "Sessions",
        [
            sql_rows(
                """
SELECT coalesce(label, regexp_replace(session_key, '^agent:[^:]*:', ''), session_id) AS "Session",
       kind AS "Kind", coalesce(status, 'unknown') AS "Status",
       agent AS "Agent", model AS "Model", context_ratio AS "Context", cost_usd::float8 AS "Cost", calls AS "Calls",
       errors AS "Failed", input_tokens + output_tokens + cache_read_tokens + cache_write_tokens AS "Tokens",
       updated_at AS "Last active", channel AS "Channel", gateway AS "Gateway", session_id AS "ID"
FROM sessions
WHERE $__timeFilter(updated_at) AND :agents AND :channels
ORDER BY updated_at DESC
LIMIT 500
"""
            )
        ],
        description="The 500 sessions last active in the time range: kind, state, how full the context is, what they "
        "cost and when they last did something (view sessions).",
        no_value="No session was active in this time range",
        links={
            "Session": panels.link_to(config.SESSION, session="${__data.fields.ID}", gateway="${__data.fields.Gateway}")
        },
        overrides=[
            panels.hidden("ID"),
            panels.override("Session", custom__minWidth=130),
            panels.badge("Kind", KIND_WORDS, width=90),
            panels.badge("Status", STATUS_WORDS, width=72),
            panels.override("Agent", custom__width=158),
            panels.override("Model", custom__minWidth=148),
            panels.ratio_gauge("Context", config.CONTEXT_FULL, width=80),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=75),
            panels.override("Calls", custom__width=55),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=60),
            panels.override("Tokens", unit="short", custom__width=70),
            panels.override("Last active", unit="dateTimeFromNow", custom__width=118),
            panels.override("Channel", custom__width=80),
            panels.override("Gateway", custom__width=72),
        ],
        width=24,
        height=12,
    )


def subagents() -> dashboard.Panel:
    """Runs of sub-agents."""
    return panels.table(
        20,
        "Sub-agents",
        [
            sql_rows(
                """
SELECT coalesce(label, child_session_key) AS "Sub-agent", status AS "Status",
       regexp_replace(parent_session_key, '^agent:', '') AS "Parent", started_at AS "Started",
       duration_ms AS "Duration", cost_usd::float8 AS "Cost"
FROM subagent_runs
WHERE $__timeFilter(started_at) AND :gateways
  AND split_part(child_session_key, ':', 2) = ANY (ARRAY[${agent:sqlstring}]::text[])
ORDER BY started_at DESC
LIMIT 200
"""
            )
        ],
        description="Runs of sub-agents started in the time range, with their parent and their own cost "
        "(view subagent_runs).",
        no_value="No sub-agent ran in this time range",
        overrides=[
            panels.override("Sub-agent", custom__minWidth=150),
            panels.badge("Status", STATUS_WORDS, width=70),
            panels.override("Parent", custom__minWidth=120),
            panels.override("Started", unit="dateTimeFromNow", custom__width=118),
            panels.override("Duration", unit="ms", custom__width=75),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=72),
        ],
    )


def tools() -> dashboard.Panel:
    """By name, the most used first. From Prometheus: a million calls are too many to sort for a percentile."""
    calls = "round(sum by (tool) (increase(claw_tool_calls_total{{{0}}}[$__range])))"
    bucket = f"sum by (tool, le) (increase(claw_tool_call_duration_seconds_bucket{{{GATEWAY}}}[$__range]))"
    return panels.table(
        21,
        "Tools",
        [
            rows(calls.format(AGENT)),
            rows(calls.format(AGENT + ', outcome="error"') + f" or 0 * {calls.format(AGENT)}"),
            rows(calls.format(AGENT + ', outcome="nonzero_exit"') + f" or 0 * {calls.format(AGENT)}"),
            rows(f"histogram_quantile(0.5, {bucket}) >= 0"),
            rows(f"histogram_quantile(0.95, {bucket}) >= 0"),
        ],
        description="Tools by the calls that ended in the time range, with failures and times (claw_tool_calls_total, "
        "claw_tool_call_duration_seconds; the times are of all agents). Exit not 0: the tool worked and the "
        "command it ran did not.",
        no_value="No tool was called in this time range",
        sort_by="Calls",
        transformations=panels.merged(
            {
                "tool": "Tool",
                "Value #A": "Calls",
                "Value #B": "Errors",
                "Value #C": "Exit not 0",
                "Value #D": "p50",
                "Value #E": "p95",
            }
        ),
        overrides=[
            panels.override("Tool", custom__minWidth=150),
            panels.override("Calls", custom__width=75),
            panels.count_badge("Errors", panels.ZERO_IS_GOOD, width=65),
            panels.count_badge("Exit not 0", panels.ZERO_IS_GOOD_WARN, width=95),
            panels.override("p50", unit="s"),
            panels.override("p95", unit="s"),
        ],
    )


def model_latency() -> dashboard.Panel:
    """p50 and p95."""
    rate = f"rate(claw_model_call_duration_seconds_bucket{{{GATEWAY}}}[$__rate_interval])"
    return panels.timeseries(
        30,
        "Model latency",
        [
            series(f"histogram_quantile(0.5, sum by (le) ({rate})) >= 0", "p50 of all"),
            series(f"histogram_quantile(0.95, sum by (le, model) ({rate})) >= 0", "p95 {{model}}"),
        ],
        unit="s",
        description="Time of model calls, median of all and 95th percentile by model, where the transcript tells it. "
        "One model far above its usual is a provider in trouble.",
        colours={"p50 of all": config.MUTED},
        no_value="No transcript told a duration in this time range",
        points=config.FEW_POINTS,
    )


def tool_latency() -> dashboard.Panel:
    """p50 and p95."""
    bucket = f"sum by (le) (rate(claw_tool_call_duration_seconds_bucket{{{GATEWAY}}}[$__rate_interval]))"
    return panels.timeseries(
        31,
        "Tool latency",
        [
            series(f"histogram_quantile(0.5, {bucket}) >= 0", "p50"),
            series(f"histogram_quantile(0.95, {bucket}) >= 0", "p95"),
        ],
        unit="s",
        description="Time of tool calls, median and 95th percentile, where the transcript tells it. The table above "
        "has them by tool.",
        no_value="No tool finished in this time range",
        points=config.FEW_POINTS,
    )


def board() -> Board:
    """Conversations."""
    return Board(
        ref=config.SESSIONS,
        description="Who is talking, how full their contexts are, what they cost, and which tools fail.",
        extra_variables=[variables.agent(), variables.channel()],
        rows=[
            Row(100, "", [by_state(), running(), fullest(), compactions()]),
            Row(101, "", [sessions()]),
            Row(102, "", [subagents(), tools()]),
            Row(103, "Latency", [model_latency(), tool_latency()]),
        ],
    )
