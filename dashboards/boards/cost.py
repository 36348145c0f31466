"""Cost and tokens: what is spent, by whom, on what, how fast, and where the month will end."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, now, series, sql_rows, sql_series

# Columns of the view usage_15m that money can be split by.
DIMENSIONS: Final = ("model", "agent", "kind", "channel", "provider", "gateway")


def _window(id_: int, title: str, window: str, description: str) -> dashboard.Panel:
    return panels.stat(
        id_,
        title,
        [now(f'sum(claw_cost_window_usd{{{GATEWAY}, window="{window}"}})', title)],
        unit="currencyUSD",
        decimals=2,
        description=f"Billed cost, {description}, by the time of the call, in days of the configured zone "
        "(claw_cost_window_usd). What a subscription covers is not in it.",
        no_value="No data",
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
    return _window(4, "Month so far", "month", "since the first of the month")


def projected() -> dashboard.Panel:
    """Where it will end."""
    return _window(
        5,
        "Month projected",
        "month_projected",
        "this month so far + the mean of the last 7 full days x the days left",
    )


def all_time() -> dashboard.Panel:
    """The counter itself."""
    return panels.stat(
        6,
        "All time",
        [
            now(f"sum(claw_cost_usd_total{{{GATEWAY}}})", "billed"),
            now(
                f"sum(claw_equivalent_cost_usd_total{{{GATEWAY}}}) or 0 * count(claw_model_calls_total{{{GATEWAY}}})",
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
  AND :gateways AND billing = 'billed'
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
    """The last hour against the same hour of the last week."""
    return panels.timeseries(
        11,
        "Burn rate",
        [
            series(f'sum(claw_cost_window_usd{{{GATEWAY}, window="1h"}})', "last hour"),
            series(f"sum(claw_cost_hour_baseline_usd{{{GATEWAY}}})", "usual at this hour"),
        ],
        unit="currencyUSD",
        description="Billed cost of the last 60 minutes, and the median of the same hour of the last 7 days. Far "
        "above the usual is a runaway.",
        no_value="No data",
        colours={"last hour": config.MONEY, "usual at this hour": config.MUTED},
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
WHERE $__timeFilter(bucket) AND :gateways
GROUP BY 1
ORDER BY 2 DESC NULLS LAST
"""
            )
        ],
        description="Cost, calls and tokens of the time range, split by what is chosen above (view usage_15m). "
        "Equivalent: list price of what subscriptions covered. Reasoning is a part of Output. Cache hits: the share of "
        "the prompt that came from the cache.",
        no_value="No calls in this time range",
        sort_by="Cost",
        overrides=[
            panels.override("Of", custom__minWidth=180),
            panels.override("Cost", unit="currencyUSD", decimals=4),
            panels.override("Equivalent", unit="currencyUSD", decimals=4),
            panels.ratio_gauge("Cache hits", ((None, config.NEUTRAL),)),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=80),
            panels.count_badge("Unpriced", panels.ZERO_IS_GOOD_WARN, width=90),
        ],
        width=24,
        height=8,
    )


def tokens_by_class() -> dashboard.Panel:
    """Tokens a minute."""
    return panels.timeseries(
        30,
        "Tokens by class",
        [
            series(
                f"60 * sum by (token_type) (rate(claw_tokens_total{{{GATEWAY}}}[$__rate_interval]))", "{{token_type}}"
            )
        ],
        unit="short",
        description="Tokens a minute by class; the classes add up (claw_tokens_total).",
        no_value="No calls yet",
        stacked=True,
        colours=config.TOKEN_COLOURS,
        width=8,
    )


def cache_hits() -> dashboard.Panel:
    """By model."""
    read = f'sum by (model) (increase(claw_tokens_total{{{GATEWAY}, token_type="cache_read"}}[1h]))'
    prompt = f'sum by (model) (increase(claw_tokens_total{{{GATEWAY}, token_type!="output"}}[1h]))'
    return panels.timeseries(
        31,
        "Cache hit ratio by model",
        [series(f"{read} / ({prompt} > 0)", "{{model}}")],
        unit="percentunit",
        description="Share of the prompt's tokens that came from the provider's cache, over one hour. A fall means "
        "that prompts changed at their beginning, and every call costs more.",
        no_value="No calls in the last hour of this time range",
        max_val=1,
        width=8,
    )


def reasoning() -> dashboard.Panel:
    """A part of the output."""
    return panels.timeseries(
        32,
        "Reasoning share of output",
        [
            series(
                f"sum by (model) (increase(claw_reasoning_tokens_total{{{GATEWAY}}}[1h])) / "
                f'(sum by (model) (increase(claw_tokens_total{{{GATEWAY}, token_type="output"}}[1h])) > 0)',
                "{{model}}",
            )
        ],
        unit="percentunit",
        description="Share of the output tokens that were reasoning, over one hour. They are billed as output.",
        no_value="No calls in the last hour of this time range",
        max_val=1,
        width=8,
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
        overrides=[
            panels.override("Root session", custom__minWidth=220),
            panels.override("Cost", unit="currencyUSD", decimals=4),
            panels.override("By sub-agents", unit="currencyUSD", decimals=4, noValue="none", custom__minWidth=120),
        ],
        links={"Root session": panels.link_to(config.SESSIONS)},
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
WHERE $__timeFilter(bucket) AND :gateways AND unpriced_calls > 0
GROUP BY 1
ORDER BY 3 DESC
"""
            )
        ],
        description="Models whose calls have neither a reported cost nor a known price. They are missing from every "
        "sum here; never counted as $0.",
        no_value="Every call has a price",
        overrides=[panels.override("Last", unit="dateTimeFromNow")],
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
        extra_variables=[_by()],
        rows=[
            Row(100, "", [today(), seven_days(), thirty_days(), month(), projected(), all_time()]),
            Row(101, "", [cost_by_day(), burn_rate()]),
            Row(102, "", [by_dimension()]),
            Row(103, "Tokens", [tokens_by_class(), cache_hits(), reasoning()]),
            Row(104, "Sessions and gaps", [expensive_sessions(), unpriced_models()]),
        ],
    )
