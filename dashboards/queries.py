"""Queries: PromQL through the SDK, SQL through a typed query of our own (the SDK has none for PostgreSQL)."""

from __future__ import annotations

from typing import Literal

from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.models import common, prometheus

from dashboards import config

PROMETHEUS = common.DataSourceRef(type_val=config.PROMETHEUS_TYPE, uid=f"${{{config.PROMETHEUS_VARIABLE}}}")
POSTGRES = common.DataSourceRef(type_val=config.POSTGRES_TYPE, uid=f"${{{config.POSTGRES_VARIABLE}}}")
MIXED = common.DataSourceRef(type_val="datasource", uid="-- Mixed --")

# The label matcher of every query on what a gateway does.
GATEWAY = 'gateway=~"$gateway"'
# The same for what an agent does, and for what it asks a model to do.
AGENT = f'{GATEWAY}, agent=~"$agent"'
MODEL = f'{AGENT}, model=~"$model"'
# What a gateway may spend, as the alerts DailyCostHigh and BudgetBurn compare it; a budget of 0 is none.
DAILY_LIMIT = (
    f'max by (gateway) (claw_alert_threshold{{{GATEWAY}, alert="DailyCostHigh", severity="warning", agent=""}})'
)
MONTHLY_BUDGET = (
    f'(max by (gateway) (claw_alert_threshold{{{GATEWAY}, alert="BudgetBurn", severity="critical", agent=""}}) > 0)'
)
# The same in SQL. An array, because `IN ()` is no SQL when there is no gateway yet.
GATEWAY_SQL = "gateway = ANY (ARRAY[${gateway:sqlstring}]::text[])"
_AGENTS = "{} = ANY (ARRAY[${{agent:sqlstring}}]::text[])"
AGENT_SQL = GATEWAY_SQL + " AND " + _AGENTS.format("agent")
# The array is a constant, so that a row costs one comparison.
CHANNEL_SQL = "coalesce(channel, '') = ANY (array_replace(ARRAY[${channel:sqlstring}]::text[], 'none', ''))"
CALL_SQL = f"{AGENT_SQL} AND model = ANY (ARRAY[${{model:sqlstring}}]::text[]) AND {CHANNEL_SQL}"
SESSION_SQL = GATEWAY_SQL + " AND session_id = ${session:sqlstring}"
# The filters that a query may name.
FILTERS = {
    ":gateways_or_none": f"(coalesce(gateway, '') = '' OR {GATEWAY_SQL})",  # what has no gateway concerns all of them
    ":gateways": GATEWAY_SQL,
    # What names no agent concerns all of them.
    ":agents_or_none": f"{GATEWAY_SQL} AND (coalesce(agent, '') = '' OR {_AGENTS.format('agent')})",
    ":agent_ids_or_none": f"(coalesce(agent_id, '') = '' OR {_AGENTS.format('agent_id')})",
    ":agents": AGENT_SQL,
    ":channels": CHANNEL_SQL,
    ":calls": CALL_SQL,
    ":session": SESSION_SQL,
}


class PostgresQuery(variants.Dataquery):
    """One SQL query, as Grafana's PostgreSQL data source keeps it in a panel.

    `format_val` is `time_series` (a column `time`, text columns become labels) or `table`.
    """

    def __init__(self, raw_sql: str, format_val: Literal["table", "time_series"] = "table") -> None:
        self.raw_sql = raw_sql
        self.format_val = format_val
        self.ref_id: str | None = None
        self.datasource = POSTGRES

    def to_json(self) -> dict[str, object]:
        """The target's JSON; `rawQuery` says that the text is SQL and not the builder's state."""
        payload: dict[str, object] = {
            "datasource": self.datasource,
            "editorMode": "code",
            "format": self.format_val,
            "rawQuery": True,
            "rawSql": self.raw_sql,
        }
        if self.ref_id is not None:
            payload["refId"] = self.ref_id
        return payload


Target = prometheus.Dataquery | PostgresQuery


def _prometheus(
    expr: str, legend: str, *, instant: bool, format_val: prometheus.PromQueryFormat
) -> prometheus.Dataquery:
    return prometheus.Dataquery(
        datasource=PROMETHEUS,
        editor_mode=prometheus.QueryEditorMode.CODE,
        expr=expr,
        format_val=format_val,
        instant=instant,
        range_val=not instant,
        legend_format=legend or "__auto",
    )


def series(expr: str, legend: str = "") -> prometheus.Dataquery:
    """PromQL over the time range."""
    return _prometheus(expr, legend, instant=False, format_val=prometheus.PromQueryFormat.TIME_SERIES)


def now(expr: str, legend: str = "") -> prometheus.Dataquery:
    """PromQL at the end of the time range, one value a series."""
    return _prometheus(expr, legend, instant=True, format_val=prometheus.PromQueryFormat.TIME_SERIES)


def rows(expr: str) -> prometheus.Dataquery:
    """PromQL at the end of the time range, one table row a series."""
    return _prometheus(expr, "", instant=True, format_val=prometheus.PromQueryFormat.TABLE)


def filtered(raw_sql: str) -> str:
    """The SQL with each name of FILTERS replaced by the filter on what is chosen at the top of the board."""
    for name, condition in FILTERS.items():
        raw_sql = raw_sql.replace(name, condition)
    return raw_sql.strip()


def sql_rows(raw_sql: str) -> PostgresQuery:
    """SQL whose result is shown as a table; it may name FILTERS."""
    return PostgresQuery(filtered(raw_sql), "table")


def sql_series(raw_sql: str) -> PostgresQuery:
    """SQL whose result has a column `time`; it may name FILTERS."""
    return PostgresQuery(filtered(raw_sql), "time_series")
