"""Agents: who is busy, since when, with what, and who started whom."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import AGENT, now, rows, series, sql_rows

# The number of a state in the timeline, and how it is shown there.
STATES: Final = {
    "idle": ("1", "idle", "light-blue"),
    "thinking": ("2", "thinking", config.OK),
    "tool": ("3", "tool", "dark-green"),
    "waiting": ("4", "waiting", config.WARN),
    "error": ("5", "error", config.BAD),
    "offline": ("6", "offline", config.MUTED),
}
STATE_WORDS: Final = {state: (text, colour) for state, (_, text, colour) in STATES.items()} | {
    "offline": ("offline", config.NO_GROUND),
    "unknown": ("unknown", config.NO_GROUND),
}
EVENT_COLOURS: Final = {
    "message_in": "blue",
    "message_out": "light-blue",
    "thinking": config.OK,
    "tool_start": "dark-green",
    "tool_end": "light-green",
    "error": config.BAD,
    "idle": "super-light-blue",
}


def by_state() -> dashboard.Panel:
    """Now."""
    return panels.stat(
        1,
        "Agents by state",
        [now(f"sum by (state) (claw_agent_state{{{AGENT}}}) > 0", "{{state}}")],
        unit="none",
        named=True,
        decimals=0,
        description="Agents by what they do now (claw_agent_state). Waiting: for a human or for a sub-agent.",
        no_value="No agent seen",
        overrides=[
            panels.override(state, color=panels.fixed(colour))
            for state, (_, _, colour) in STATES.items()
            if colour != config.MUTED
        ],
        width=10,
    )


def working() -> dashboard.Panel:
    """Runs."""
    return panels.in_progress(2, width=7)


def cost_today() -> dashboard.Panel:
    """Of the chosen agents."""
    return panels.stat(
        3,
        "Cost today",
        [now(f'sum(claw_cost_window_usd{{{AGENT}, window="today"}})', "today")],
        unit="currencyUSD",
        decimals=2,
        description="Billed cost of the chosen agents since midnight in the configured zone (claw_cost_window_usd).",
        no_value="No data",
        links=[panels.link_to(config.COST)],
        width=7,
    )


def state_timeline() -> dashboard.Panel:
    """One band an agent."""
    states = " or ".join(
        f'{number} * max by (gateway, agent) (claw_agent_state{{{AGENT}, state="{state}"}} == 1)'
        for state, (number, _, _) in STATES.items()
    )
    return panels.state_timeline(
        10,
        "What each agent did",
        [series(states, "{{agent}} ({{gateway}})")],
        description="The state of each agent over time (claw_agent_state). A long band of error or waiting is an "
        "agent that needs a hand; a gap is a time that nobody watched.",
        no_value="No agent seen in this time range",
        mappings={number: (text, colour) for number, text, colour in STATES.values()},
        width=24,
    )


def heat() -> dashboard.Panel:
    """Calls by agent and time."""
    return panels.heatmap(
        20,
        "Heat: model calls by agent",
        [series(f"sum by (agent) (increase(claw_model_calls_total{{{AGENT}}}[$__rate_interval]))", "{{agent}}")],
        unit="short",
        description="Model calls of each agent in each step of time (claw_model_calls_total): the darker, the more. "
        "A row that is dark at night is an agent that works while you sleep.",
        no_value="No model call in this time range",
    )


def events() -> dashboard.Panel:
    """By kind."""
    return panels.timeseries(
        21,
        "Activity",
        [series(f"sum by (event) (increase(claw_agent_events_total{{{AGENT}}}[$__rate_interval]))", "{{event}}")],
        unit="short",
        description="What agents did in each step of time, by kind of event (claw_agent_events_total): messages in "
        "and out, thinking, tools, failures. Messages in without messages out are people without an answer.",
        no_value="No event yet: they begin when we are connected to the gateway",
        bars=True,
        stacked=True,
        points=config.FEW_POINTS,
        colours=EVENT_COLOURS,
    )


def agents() -> dashboard.Panel:
    """The list."""
    return panels.table(
        30,
        "Agents",
        [
            sql_rows(
                """
SELECT a.agent AS "Agent", coalesce(a.state, 'unknown') AS "State", a.activity AS "Activity", a.model AS "Model",
       a.last_activity_at AS "Last activity", u.cost::float8 AS "Cost", u.calls AS "Calls", u.errors AS "Failed",
       a.gateway AS "Gateway"
FROM agents AS a
LEFT JOIN (
  SELECT gateway, agent, sum(cost_usd) FILTER (WHERE billing = 'billed') AS cost, sum(calls)::bigint AS calls,
         sum(errors)::bigint AS errors
  FROM usage_15m
  WHERE $__timeFilter(bucket) AND :agents
  GROUP BY 1, 2
) AS u USING (gateway, agent)
WHERE :agents
ORDER BY a.last_activity_at DESC NULLS LAST
LIMIT 200
"""
            )
        ],
        description="Each agent: what it does now, when it last did something, and what it cost in the time range "
        "(views agents and usage_15m).",
        no_value="No agent seen",
        overrides=[
            panels.override("Agent", custom__minWidth=160),
            panels.override("Model", custom__minWidth=150),
            panels.badge("State", STATE_WORDS, width=85),
            panels.override("Last activity", unit="dateTimeFromNow", custom__width=120),
            panels.override("Cost", unit="currencyUSD", decimals=4, noValue="none", custom__width=80),
            panels.override("Calls", custom__width=60),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=65),
            panels.override("Gateway", custom__width=80),
        ],
        width=24,
        height=8,
    )


def newest_events() -> dashboard.Panel:
    """The ticker."""
    return panels.table(
        31,
        "Newest activity",
        [
            sql_rows(
                """
SELECT ts AS "When", agent AS "Agent", coalesce(activity, event) AS "What", tool AS "Tool", gateway AS "Gateway"
FROM agent_events
WHERE $__timeFilter(ts) AND :agents
ORDER BY ts DESC
LIMIT 200
"""
            )
        ],
        description="The newest 200 things that the chosen agents did in the time range (view agent_events).",
        no_value="No event in this time range: they begin when we are connected to the gateway",
        overrides=[
            panels.override("When", unit="dateTimeFromNow", custom__width=125),
            panels.override("Agent", custom__width=160),
            panels.override("Tool", custom__width=90),
            panels.override("Gateway", custom__width=80),
        ],
        width=12,
    )


# Runs of one task of one parent are one node. A sub-agent that started others is the node of its own task. As many
# nodes as fit: Grafana does not shrink the graph.
TREE: Final = """
WITH run AS (
  SELECT gateway, child_session_key, parent_session_key, coalesce(label, 'sub-agent') AS label, status, cost_usd,
         gateway || '/' || parent_session_key || '/' || coalesce(label, 'sub-agent') AS id
  FROM subagent_runs
  WHERE $__timeFilter(started_at) AND :gateways AND parent_session_key IS NOT NULL
  ORDER BY started_at DESC
  LIMIT 2000
), task AS (
  SELECT * FROM run WHERE id IN (SELECT id FROM run GROUP BY id ORDER BY count(*) DESC, id LIMIT 8)
)"""


def subagent_tree() -> dashboard.Panel:
    """Two queries: who, and who started whom."""
    nodes = """
SELECT id, label AS title, 'runs: ' || count(*) AS subtitle, '$' || round(coalesce(sum(cost_usd), 0), 4) AS mainstat,
       count(*) FILTER (WHERE status IN ('ok', 'done'))::float8 / count(*) AS arc__ok,
       count(*) FILTER (WHERE status = 'running')::float8 / count(*) AS arc__running,
       count(*) FILTER (WHERE status NOT IN ('ok', 'done', 'running'))::float8 / count(*) AS arc__failed
FROM task
GROUP BY id, label
UNION ALL
SELECT DISTINCT gateway || '/' || parent_session_key, regexp_replace(parent_session_key, '^agent:', ''), 'agent',
       (SELECT '$' || round(sum(s.cost_usd), 4) FROM sessions AS s
        WHERE s.gateway = task.gateway AND s.session_key = task.parent_session_key), 0, 0, 0
FROM task
WHERE (gateway, parent_session_key) NOT IN (SELECT gateway, child_session_key FROM task)
UNION ALL
SELECT gateway, gateway, 'gateway', 'runs: ' || count(*), 0, 0, 0
FROM task
GROUP BY gateway
ORDER BY id
LIMIT 300
"""
    edges = """
SELECT DISTINCT coalesce(above.id, task.gateway || '/' || task.parent_session_key) || ' > ' || task.id AS id,
       coalesce(above.id, task.gateway || '/' || task.parent_session_key) AS source, task.id AS target
FROM task
LEFT JOIN task AS above ON above.gateway = task.gateway AND above.child_session_key = task.parent_session_key
UNION
SELECT gateway || ' > ' || parent_session_key, gateway, gateway || '/' || parent_session_key
FROM task
WHERE (gateway, parent_session_key) NOT IN (SELECT gateway, child_session_key FROM task)
LIMIT 600
"""
    return panels.node_graph(
        40,
        "Sub-agents: who starts whom",
        sql_rows(TREE + nodes),
        sql_rows(TREE + edges),
        description="The 8 most frequent tasks that agents gave to sub-agents in the time range (of the newest 2000 "
        "runs), each with its runs and their cost (view subagent_runs). The ring: green ended well, blue runs, red did "
        "not end well; gateways and agents have none. All runs are on Sessions.",
        no_value="No sub-agent ran in this time range",
        arcs={"arc__ok": config.OK, "arc__running": config.NEUTRAL, "arc__failed": config.BAD},
        names={"arc__ok": "ended well", "arc__running": "running", "arc__failed": "failed", "mainstat": "cost"},
        width=24,
        height=17,
    )


def tools_by_agent() -> dashboard.Panel:
    """Who uses what."""
    calls = "round(sum by (agent, tool) (increase(claw_tool_calls_total{{{0}}}[$__range])))"
    return panels.table(
        41,
        "Tools by agent",
        [
            rows(calls.format(AGENT)),
            rows(calls.format(AGENT + ', outcome="error"') + f" or 0 * {calls.format(AGENT)}"),
        ],
        description="Which agent called which tool how often in the time range (claw_tool_calls_total).",
        no_value="No tool was called in this time range",
        sort_by="Calls",
        transformations=panels.merged({"agent": "Agent", "tool": "Tool", "Value #A": "Calls", "Value #B": "Errors"}),
        overrides=[
            panels.count_badge("Errors", panels.ZERO_IS_GOOD, width=70),
            panels.override("Agent", custom__minWidth=160),
            panels.override("Calls", custom__width=70),
        ],
        width=12,
    )


def board() -> Board:
    """Who works."""
    return Board(
        ref=config.AGENTS,
        description="Who is busy, since when, with what, and who started whom.",
        extra_variables=[variables.agent()],
        rows=[
            Row(100, "", [by_state(), working(), cost_today()]),
            Row(101, "", [state_timeline()]),
            Row(102, "", [heat(), events()]),
            Row(103, "", [agents()]),
            Row(104, "", [subagent_tree()]),
            Row(105, "", [newest_events(), tools_by_agent()]),
        ],
    )
