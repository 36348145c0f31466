"""Cost and tokens: what is spent, by whom, on what, how fast, and where the month will end."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import AGENT, DAILY_LIMIT, GATEWAY, MODEL, MONTHLY_BUDGET, now, series, sql_rows, sql_series

# Columns of the view usage_15m that money can be split by.
DIMENSIONS: Final = ("model", "agent", "kind", "channel", "provider", "gateway")


def _window(id_: int, title: str, window: str, description: str) -> dashboard.Panel:
    return panels.stat(
        id_,
        title,
        [now(f'sum(claw_cost_window_usd{{{AGENT}, window="{window}"}})', title)],
        unit="currencyUSD",
        decimals=2,
        description=f"Billed cost, {description}, by the time of the call, in days of the configured zone "
        "(claw_cost_window_usd). What a subscription covers is not in it. By gateway and agent, whatever model and "
        "channel are chosen.",
        no_value="No data",
        width=3,
    )


def today() -> dashboard.Panel:
    """Since midnight in the configured zone."""
    return _window(1, "Today", "today", "since midnight")


def seven_days() -> dashboard.Panel:
    """Today and the six days before."""
    return _window(2, "7 days", "7d", "today and the 6 days before it")


def thirty_days() -> dashboard.Panel:
    """Today and the 29 days before."""
    return _window(3, "30 days", "30d", "today and the 29 days before it")


def month() -> dashboard.Panel:
    """Since the first."""
    return _window(4, "This month", "month", "since the first of the month")


def projected() -> dashboard.Panel:
    """Where it will end."""
    return _window(
        5,
        "Projected",
        "month_projected",
        "this month so far + the mean of the last 7 full days x the days left",
    )


def all_time() -> dashboard.Panel:
    """The counter itself."""
    return panels.stat(
        6,
        "All time",
        [
            now(f"sum(claw_cost_usd_total{{{MODEL}}})", "billed"),
            now(
                f"sum(claw_equivalent_cost_usd_total{{{MODEL}}}) or 0 * count(claw_model_calls_total{{{GATEWAY}}})",
                "equivalent",
            ),
        ],
        unit="currencyUSD",
        decimals=2,
        description="Everything ever billed (claw_cost_usd_total), and beside it, as equivalent, the list price of "
        "what subscriptions covered. The two are never added.",
        no_value="No data",
        overrides=[
            panels.override("equivalent", color=panels.fixed(config.EQUIVALENT)),
        ],
        width=5,
    )


def budget() -> dashboard.Panel:
    """Of the month."""
    spent = f'sum by (gateway) (claw_cost_window_usd{{{GATEWAY}, window="month"}})'
    return panels.stat(
        7,
        "Budget used",
        [now(f"sum({spent} and on (gateway) {MONTHLY_BUDGET}) / sum({MONTHLY_BUDGET})", "used")],
        unit="percentunit",
        decimals=0,
        description="This month's cost of all agents against the monthly budget of the gateways that have one "
        "(the alert BudgetBurn's, docs/alerts.md). Orange from 80 % on, red when it is used up.",
        no_value="No budget is set",
        steps=((None, config.OK), (0.8, config.WARN), (1, config.BAD)),
        width=4,
    )


def cost_by_day() -> dashboard.Panel:
    """Bars by the chosen dimension."""
    return panels.timeseries(
        10,
        "Cost by day and $by",
        [
            sql_series(
                """
SELECT date_trunc('day', bucket, zone.name) AS "time", coalesce(nullif($by, ''), 'none') AS metric,
       sum(cost_usd)::float8 AS cost
FROM usage_15m
CROSS JOIN zone
WHERE bucket >= date_trunc('day', $__timeFrom()::timestamptz, (SELECT name FROM zone)) AND bucket <= $__timeTo()
  AND :calls AND billing = 'billed'
GROUP BY 1, 2
ORDER BY 1, 2
"""
            )
        ],
        unit="currencyUSD",
        description="Billed cost of each day of the configured zone, split by what is chosen above (view usage_15m).",
        no_value="No whole day in this time range",
        bars=True,
        stacked=True,
        interval="1d",
        legend_calcs=("sum",),
        legend_right=True,
        width=16,
        height=9,
    )


def burn_rate() -> dashboard.Panel:
    """The last hour against the same hour of the last week, and against what may be spent."""
    return panels.timeseries(
        11,
        "Burn rate, US$ an hour",
        [
            series(f'sum(claw_cost_window_usd{{{AGENT}, window="1h"}})', "last hour"),
            series(f"sum(claw_cost_hour_baseline_usd{{{AGENT}}})", "usual at this hour"),
            series(f"sum({MONTHLY_BUDGET}) / on () (24 * days_in_month())", "budget's pace"),
            series(f"sum({DAILY_LIMIT}) / 24", "daily limit's pace"),
        ],
        unit="currencyUSD",
        description="Billed cost of the last 60 minutes, and the median of the same hour of the last 7 days: far above "
        "the usual is a runaway. Dashed: what every hour of all agents may cost on average, so that the month's budget "
        "and the daily limit hold.",
        no_value="No data",
        colours={
            "last hour": config.MONEY,
            "usual at this hour": config.MUTED,
            "budget's pace": config.BAD,
            "daily limit's pace": config.WARN,
        },
        overrides=[panels.dashed("budget's pace"), panels.dashed("daily limit's pace")],
        width=8,
        height=9,
    )


def by_dimension() -> dashboard.Panel:
    """The table behind the bars."""
    return panels.table(
        20,
        "By $by",
        [
            sql_rows(
                """
SELECT coalesce(nullif($by, ''), 'none') AS "Of",
       sum(cost_usd) FILTER (WHERE billing = 'billed')::float8 AS "Cost",
       sum(cost_usd) FILTER (WHERE billing = 'equivalent')::float8 AS "Equivalent",
       sum(calls)::bigint AS "Calls", sum(errors)::bigint AS "Failed",
       sum(input_tokens)::bigint AS "Input", sum(output_tokens)::bigint AS "Output",
       sum(cache_read_tokens)::bigint AS "Cache read", sum(cache_write_tokens)::bigint AS "Cache write",
       sum(reasoning_tokens)::bigint AS "Reasoning",
       sum(cache_read_tokens)::float8 / nullif(sum(input_tokens + cache_read_tokens + cache_write_tokens), 0)
         AS "Cache hits",
       sum(unpriced_calls)::bigint AS "Unpriced"
FROM usage_15m
WHERE $__timeFilter(bucket) AND :calls
GROUP BY 1
ORDER BY 2 DESC NULLS LAST
LIMIT 500
"""
            )
        ],
        description="Cost, calls and tokens of the time range, split by what is chosen above (view usage_15m). "
        "Equivalent: list price of what subscriptions covered. Reasoning is a part of Output. Cache hits: the share of "
        "the prompt that came from the cache.",
        no_value="No calls in this time range",
        sort_by="Cost",
        overrides=[
            panels.override("Of", custom__minWidth=160),
            panels.override("Cost", unit="currencyUSD", decimals=4),
            *[panels.override(name, custom__width=75) for name in ("Calls", "Input", "Output")],
            *[panels.override(name, custom__width=98) for name in ("Cache read", "Cache write", "Reasoning")],
            panels.override("Equivalent", unit="currencyUSD", decimals=4),
            panels.ratio_gauge("Cache hits", ((None, config.NEUTRAL),), width=105),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=70),
            panels.count_badge("Unpriced", panels.ZERO_IS_GOOD_WARN, width=85),
        ],
        width=24,
        height=8,
    )


def tokens_by_class() -> dashboard.Panel:
    """Tokens a minute."""
    return panels.tokens_by_class(30, MODEL)


def cache_hits() -> dashboard.Panel:
    """By model."""
    read = f'sum by (model) (increase(claw_tokens_total{{{MODEL}, token_type="cache_read"}}[1h]))'
    prompt = f'sum by (model) (increase(claw_tokens_total{{{MODEL}, token_type!="output"}}[1h]))'
    return panels.timeseries(
        31,
        "Cache hit ratio by model",
        [series(f"{read} / ({prompt} > 0)", "{{model}}")],
        unit="percentunit",
        description="Share of the prompt's tokens that came from the provider's cache, over one hour. A fall means "
        "that prompts changed at their beginning, and every call costs more.",
        no_value="No calls in the last hour of this time range",
        max_val=1,
        width=6,
    )


def _saved(window: str) -> str:
    """US dollars by model: what cached tokens would have cost as input, less what writing them cost more."""

    def tokens(token_type: str) -> str:
        counted = f'claw_tokens_total{{{MODEL}, token_type="{token_type}"}}'
        return f"sum by (gateway, provider, model) (increase({counted}[{window}]))"

    def price(token_type: str) -> str:
        listed = f'claw_model_token_price_usd{{{GATEWAY}, model=~"$model", token_type="{token_type}"}}'
        return f"max by (gateway, provider, model) ({listed})"

    read = f"{tokens('cache_read')} * ({price('input')} - {price('cache_read')})"
    write = f"{tokens('cache_write')} * ({price('cache_write')} - {price('input')})"
    return f"sum by (model) ({read} - ({write} or 0 * {tokens('cache_write')}))"


def cache_savings() -> dashboard.Panel:
    """In money."""
    return panels.timeseries(
        33,
        "Saved by the cache",
        [series(_saved("$__rate_interval"), "{{model}}")],
        unit="currencyUSD",
        description="What the tokens read from the cache would have cost as input in each step of time, less what "
        "writing the cache cost more, at list prices (claw_tokens_total, claw_model_token_price_usd); what a "
        "subscription covers is in it. Below zero the cache costs more than it saves: it is written and never read.",
        no_value="No call of a model with a known price in this time range",
        bars=True,
        stacked=True,
        min_val=None,
        points=config.FEW_POINTS,
        legend_calcs=("sum",),
        width=6,
    )


def reasoning() -> dashboard.Panel:
    """A part of the output."""
    return panels.timeseries(
        32,
        "Reasoning share of output",
        [
            series(
                f"sum by (model) (increase(claw_reasoning_tokens_total{{{MODEL}}}[1h])) / "
                f'(sum by (model) (increase(claw_tokens_total{{{MODEL}, token_type="output"}}[1h])) > 0)',
                "{{model}}",
            )
        ],
        unit="percentunit",
        description="Share of the output tokens that were reasoning, over one hour. They are billed as output: a rise "
        "makes every answer dearer.",
        no_value="No calls in the last hour of this time range",
        max_val=1,
        width=6,
    )


def subagents_share() -> dashboard.Panel:
    """By day."""
    return panels.timeseries(
        50,
        "Agents and their sub-agents",
        [
            sql_series(
                """
SELECT date_trunc('day', bucket, zone.name) AS "time",
       coalesce(sum(cost_usd) FILTER (WHERE kind <> 'subagent'), 0)::float8 AS "agents themselves",
       coalesce(sum(cost_usd) FILTER (WHERE kind = 'subagent'), 0)::float8 AS "sub-agents"
FROM usage_15m
CROSS JOIN zone
WHERE bucket >= date_trunc('day', $__timeFrom()::timestamptz, (SELECT name FROM zone)) AND bucket <= $__timeTo()
  AND :calls AND billing = 'billed'
GROUP BY 1
ORDER BY 1
"""
            )
        ],
        unit="currencyUSD",
        description="Billed cost of each day by who made the calls: agents themselves, or sub-agents that they started "
        "(view usage_15m). A growing share of sub-agents is delegation that nobody watches.",
        no_value="No calls in this time range",
        bars=True,
        stacked=True,
        interval="1d",
        legend_calcs=("sum",),
        colours={"agents themselves": config.MONEY, "sub-agents": config.WARN},
        width=8,
    )


def subagents_by_parent() -> dashboard.Panel:
    """Who delegates what."""
    return panels.table(
        51,
        "Sub-agents by parent",
        [
            sql_rows(
                """
SELECT split_part(parent_session_key, ':', 2) AS "Agent", coalesce(label, 'without a name') AS "Task",
       count(*) AS "Runs", count(*) FILTER (WHERE status NOT IN ('ok', 'done', 'running')) AS "Failed",
       sum(cost_usd)::float8 AS "Cost", sum(tokens)::bigint AS "Tokens", gateway AS "Gateway"
FROM subagent_runs
WHERE $__timeFilter(started_at) AND :gateways
  AND split_part(parent_session_key, ':', 2) = ANY (ARRAY[${agent:sqlstring}]::text[])
GROUP BY 1, 2, gateway
ORDER BY 5 DESC NULLS LAST
LIMIT 200
"""
            )
        ],
        description="Sub-agents started in the time range, by the agent that started them and by task, with what they "
        "cost (view subagent_runs). Dear tasks that fail are money for nothing.",
        no_value="No sub-agent ran in this time range",
        sort_by="Cost",
        overrides=[
            panels.override("Agent", custom__width=150),
            panels.override("Runs", custom__width=60),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=65),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=90),
            panels.override("Tokens", unit="short", custom__width=80),
            panels.override("Gateway", custom__width=85),
        ],
        links={
            "Agent": panels.link_to(config.AGENTS, agent="${__data.fields.Agent}", gateway="${__data.fields.Gateway}")
        },
        width=16,
        height=8,
    )


def expensive_sessions() -> dashboard.Panel:
    """With their sub-agents."""
    return panels.table(
        40,
        "Most expensive sessions",
        [
            sql_rows(
                """
SELECT root_session_key AS "Root session", cost_usd::float8 AS "Cost", subagent_cost_usd::float8 AS "By sub-agents",
       sessions AS "Sessions", calls AS "Calls", tokens AS "Tokens", gateway AS "Gateway"
FROM cost_by_root
WHERE :gateways
ORDER BY cost_usd DESC
LIMIT 50
"""
            )
        ],
        description="The 50 most expensive sessions of all time, each with the sub-agents that it started, and what "
        "those cost (view cost_by_root).",
        no_value="No session yet",
        sort_by="Cost",
        overrides=[
            panels.override("Root session", custom__minWidth=250),
            panels.override("Cost", unit="currencyUSD", decimals=4),
            panels.override("By sub-agents", unit="currencyUSD", decimals=4, noValue="none", custom__minWidth=120),
        ],
        links={"Root session": panels.link_to(config.SESSIONS, gateway="${__data.fields.Gateway}")},
        width=16,
    )


def unpriced_models() -> dashboard.Panel:
    """What is missing in the money."""
    return panels.table(
        41,
        "Without a price",
        [
            sql_rows(
                """
SELECT provider || '/' || model AS "Model", sum(unpriced_calls)::bigint AS "Calls",
       sum(unpriced_tokens)::bigint AS "Tokens", max(bucket) AS "Last"
FROM usage_15m
WHERE $__timeFilter(bucket) AND :calls AND unpriced_calls > 0
GROUP BY 1
ORDER BY 3 DESC
LIMIT 100
"""
            )
        ],
        description="Models whose calls have neither a reported cost nor a known price. They are missing from every "
        "sum here; never counted as $0.",
        no_value="Every call has a price",
        overrides=[
            panels.override("Model", custom__minWidth=140),
            panels.override("Calls", custom__width=55),
            panels.override("Tokens", unit="short", custom__width=75),
            panels.override("Last", unit="dateTimeFromNow", custom__width=120),
        ],
        width=8,
    )


def _by() -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.CUSTOM,
        name="by",
        label="Split by",
        description="What the bars and the table are split by.",
        query=",".join(DIMENSIONS),
        current=dashboard.VariableOption(selected=True, text=DIMENSIONS[0], value=DIMENSIONS[0]),
        options=[
            dashboard.VariableOption(selected=name == DIMENSIONS[0], text=name, value=name) for name in DIMENSIONS
        ],
        allow_custom_value=False,
    )


def board() -> Board:
    """Money."""
    return Board(
        ref=config.COST,
        description="What is spent, by whom, on what, how fast, and where the month will end.",
        time_from="now-7d",
        extra_variables=[variables.agent(), variables.model(), variables.channel(), _by()],
        rows=[
            Row(100, "", [today(), seven_days(), thirty_days(), month(), projected(), budget(), all_time()]),
            Row(101, "", [cost_by_day(), burn_rate()]),
            Row(102, "", [by_dimension()]),
            Row(103, "Tokens and cache", [tokens_by_class(), cache_hits(), cache_savings(), reasoning()]),
            Row(104, "Sub-agents", [subagents_share(), subagents_by_parent()]),
            Row(105, "Sessions and gaps", [expensive_sessions(), unpriced_models()]),
        ],
    )
