"""Overview: is it up, what does today cost, where will the month end, what failed, who works now, how old is it all?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels
from dashboards.board import Board, Row
from dashboards.queries import DAILY_LIMIT, GATEWAY, now, rows, series, sql_rows, sql_series

GATEWAY_WORDS = {"1": ("Up", config.OK), "0": ("Down", config.BAD), "-1": ("Exporter down", config.WARN)}
CRON_WORDS = {
    "ok": ("ok", config.OK),
    "error": ("error", config.BAD),
    "skipped": ("skipped", config.WARN),
    "running": ("running", config.NEUTRAL),
    "never": ("never ran", config.NO_GROUND),
}

AGENT_WORDS = {
    "idle": ("idle", config.MUTED),
    "thinking": ("thinking", config.NEUTRAL),
    "tool": ("tool", config.NEUTRAL),
    "waiting": ("waiting", config.WARN),
    "error": ("error", config.BAD),
    "offline": ("offline", config.MUTED),
}


def gateway_state() -> dashboard.Panel:
    """One tile a gateway. -1 where Prometheus cannot reach the exporter: then nobody knows."""
    blind = f'(max by (gateway) (up{{job="{config.JOB}", {GATEWAY}}}) == 0) - 1'
    return panels.stat(
        1,
        "Gateway",
        [now(f"min by (gateway) (claw_gateway_up{{{GATEWAY}}}) or {blind}", "{{gateway}}")],
        unit="none",
        description="Does each gateway answer RPC (claw_gateway_up)? Down: look at Gateway and channels. "
        "Exporter down: Prometheus cannot scrape us, so nobody knows.",
        no_value="Not heard of yet",
        mappings=GATEWAY_WORDS,
        background=True,
        links=[panels.link_to(config.GATEWAY, gateway="${__field.labels.gateway}")],
    )


def alerts_firing() -> dashboard.Panel:
    """Zero only while the Watchdog fires: without it no rule is evaluated, which is no good news."""
    return panels.stat(
        2,
        "Alerts firing",
        [
            now(
                f'count(ALERTS{{alertstate="firing", alertname!="Watchdog", {config.ALERT_GATEWAY}}}) '
                'or 0 * count(ALERTS{alertname="Watchdog", alertstate="firing"})',
                "alerts",
            )
        ],
        unit="none",
        description="Alerts of Prometheus that fire now, the always firing Watchdog left out. "
        "'No rules' means that Prometheus evaluates none: then nothing would warn you.",
        no_value="No rules",
        steps=panels.ZERO_IS_GOOD,
        background=True,
        links=[panels.link_to(config.ALERTS)],
        width=3,
    )


def cost_today() -> dashboard.Panel:
    """Against the limit of the alert DailyCostHigh, which sets the colour."""
    return panels.stat(
        3,
        "Cost today",
        [
            series(f'sum(claw_cost_window_usd{{{GATEWAY}, window="today"}})', "today"),
            now(f"sum({DAILY_LIMIT})", "limit"),
        ],
        unit="currencyUSD",
        decimals=2,
        min_val=0,
        description="Billed cost of today's calls, by the time of the call, in the configured zone "
        "(claw_cost_window_usd). Red from the configured daily limit on. What a subscription covers is not in it.",
        no_value="No data",
        steps=((None, config.OK),),
        sparkline=True,
        links=[panels.link_to(config.COST)],
        transformations=[
            dashboard.DataTransformerConfig(
                id_val="configFromData",
                options={
                    "configRefId": "B",
                    "mappings": [
                        {
                            "fieldName": "limit",
                            "handlerKey": "threshold1",
                            "reducerId": "lastNotNull",
                            "handlerArguments": {"threshold": {"color": config.BAD}},
                        }
                    ],
                },
            )
        ],
    )


def cost_this_month() -> dashboard.Panel:
    """So far, and where it will end."""
    cost = 'sum(claw_cost_window_usd{{{0}, window="{1}"}})'
    return panels.stat(
        4,
        "This month",
        [
            now(cost.format(GATEWAY, "month"), "so far"),
            now(cost.format(GATEWAY, "month_projected"), "projected"),
        ],
        unit="currencyUSD",
        decimals=2,
        description="Billed cost of this month, and its projection: so far + the mean of the last 7 full days "
        "x the days left.",
        no_value="No data",
        links=[panels.link_to(config.COST)],
        width=5,
    )


def failures() -> dashboard.Panel:
    """Counted over the time range shown, but for the cron jobs, which are as they are now."""
    return panels.stat(
        5,
        "Failed",
        [
            now(
                f'round(sum(increase(claw_model_calls_total{{{GATEWAY}, outcome="error"}}[$__range]))) '
                f"or 0 * count(claw_model_calls_total{{{GATEWAY}}})",
                "models",
            ),
            now(
                f'round(sum(increase(claw_tool_calls_total{{{GATEWAY}, outcome="error"}}[$__range]))) '
                f"or 0 * count(claw_model_calls_total{{{GATEWAY}}})",
                "tools",
            ),
            now(f"sum(claw_cron_job_consecutive_errors{{{GATEWAY}}} > bool 0)", "cron"),
        ],
        unit="none",
        decimals=0,
        description="Model calls and tool calls that failed in the time range shown, and cron jobs whose last run "
        "failed. The table below names them.",
        no_value="No data",
        steps=panels.ZERO_IS_GOOD,
        links=[panels.link_to(config.SESSIONS)],
        width=5,
    )


def oldest_data() -> dashboard.Panel:
    """The collector that has been silent longest; `usage` asks the gateway only every 5 minutes."""
    return panels.stat(
        6,
        "Age of data",
        [
            now(
                f"clamp_min(max(time() - lobservatory_collector_last_success_timestamp_seconds{{{GATEWAY}, "
                'collector!="usage"}), 0)',
                "oldest collector",
            )
        ],
        unit="s",
        decimals=0,
        description="Time since the last success of the collector that has been silent longest. Each refreshes at "
        "least once a minute (but the reconciliation, which is left out): more means that something here is stale. "
        "Data quality says what.",
        no_value="No exporter",
        steps=((None, config.OK), (120, config.WARN), (600, config.BAD)),
        links=[panels.link_to(config.QUALITY)],
        width=3,
    )


def cost_by_model() -> dashboard.Panel:
    """Bars of money by event time, from the rollup; as wide as the time range lets them be seen."""
    return panels.timeseries(
        10,
        "Cost by model",
        [
            sql_series(
                """
WITH step AS (
  SELECT CASE WHEN span <= interval '1 hour' THEN interval '1 minute'
              WHEN span <= interval '6 hours' THEN interval '5 minutes'
              WHEN span <= interval '3 days' THEN interval '1 hour'
              ELSE interval '6 hours' END AS width, timestamptz '2000-01-01 00:00+00' AS origin
  FROM (SELECT $__timeTo()::timestamptz - $__timeFrom()::timestamptz AS span) AS shown
), spent AS (
  SELECT ts, provider, model, cost_usd
  FROM model_calls
  WHERE $__timeTo()::timestamptz - $__timeFrom()::timestamptz <= interval '6 hours'
    AND $__timeFilter(ts) AND :gateways AND billing = 'billed'
  UNION ALL
  SELECT bucket, provider, model, cost_usd
  FROM usage_15m
  WHERE $__timeTo()::timestamptz - $__timeFrom()::timestamptz > interval '6 hours'
    AND bucket > $__timeFrom()::timestamptz - interval '15 minutes' AND bucket <= $__timeTo()
    AND :gateways AND billing = 'billed'
), bar AS (
  SELECT date_bin(width, ts, origin) AS at, provider || '/' || model AS metric, sum(cost_usd)::float8 AS cost
  FROM spent, step
  GROUP BY 1, provider, model
)
SELECT at AS "time", metric, coalesce(cost, 0) AS cost
FROM (SELECT DISTINCT metric FROM bar) AS models
CROSS JOIN (
  SELECT generate_series(date_bin(width, $__timeFrom(), origin), $__timeTo()::timestamptz, width) AS at FROM step
) AS steps
LEFT JOIN bar USING (at, metric)
ORDER BY 1, 2
"""
            )
        ],
        unit="currencyUSD",
        description="Billed cost by the model that earned it, by the time of the call (views usage_15m and "
        "model_calls). A bar is an hour (up to an hour shown: a minute; up to 6 hours: 5 minutes; beyond 3 days: 6 "
        "hours). One far above the same hour of other days is a runaway agent or a broken cache.",
        no_value="No calls in this time range",
        bars=True,
        stacked=True,
        legend_calcs=("sum",),
        links=[panels.link_to(config.COST)],
    )


def model_calls() -> dashboard.Panel:
    """Rate by outcome."""
    return panels.timeseries(
        11,
        "Model calls by outcome",
        [series(f"sum by (outcome) (increase(claw_model_calls_total{{{GATEWAY}}}[$__rate_interval]))", "{{outcome}}")],
        unit="short",
        description="Model calls of each bar's time, by outcome (claw_model_calls_total). Red that stays is a provider "
        "that refuses; nothing at work hours is an agent that does nothing.",
        no_value="No calls yet",
        bars=True,
        stacked=True,
        points=config.FEW_POINTS,
        colours=config.OUTCOME_COLOURS,
    )


def agents_at_work() -> dashboard.Panel:
    """One row an agent."""
    return panels.table(
        20,
        "Who works now",
        [
            rows(f"max by (gateway, agent) (claw_agent_last_activity_timestamp_seconds{{{GATEWAY}}}) * 1000"),
            rows(f"max by (gateway, agent) (claw_session_context_ratio_max{{{GATEWAY}}})"),
            rows(f'sum by (gateway, agent) (claw_cost_window_usd{{{GATEWAY}, window="today"}})'),
            rows(f"max by (gateway, agent, state) (claw_agent_state{{{GATEWAY}}}) == 1"),
        ],
        description="Agents: state, last activity, the fullest context and what they cost "
        "today (US$). A context near 100 % is about to be compacted.",
        no_value="No agent seen",
        sort_by="Last activity",
        transformations=panels.merged(
            {
                "agent": "Agent",
                "state": "State",
                "Value #A": "Last activity",
                "Value #B": "Context",
                "Value #C": "Today",
                "gateway": "Gateway",
            },
            hidden=["Value #D"],
        ),
        overrides=[
            panels.override("Agent", custom__minWidth=158),
            panels.coloured("State", AGENT_WORDS, width=70),
            panels.override("Last activity", unit="dateTimeFromNow", custom__width=118),
            panels.ratio_gauge("Context", config.CONTEXT_FULL, width=78),
            panels.override("Today", unit="currencyUSD", decimals=2, custom__width=65),
            panels.override("Gateway", custom__width=75),
        ],
        height=8,
        links={
            "Agent": panels.link_to(config.AGENTS, agent="${__data.fields.Agent}", gateway="${__data.fields.Gateway}")
        },
    )


def recent_failures() -> dashboard.Panel:
    """The newest failures of all kinds, by name; no texts."""
    return panels.table(
        21,
        "What failed",
        [
            sql_rows(
                """
SELECT ts AS "When", what AS "What", concat_ws(': ', name, detail) AS "Name and reason", agent AS "Agent",
       gateway AS "Gateway"
FROM (
  (SELECT ts, gateway, agent, 'model call' AS what, model AS name,
          coalesce(error_code, outcome) AS detail
   FROM model_calls WHERE $__timeFilter(ts) AND :gateways AND outcome <> 'ok'
   ORDER BY ts DESC LIMIT 100)
  UNION ALL
  (SELECT ts, gateway, agent, 'tool call', tool, coalesce('exit ' || exit_code::text, outcome)
   FROM tool_calls WHERE $__timeFilter(ts) AND :gateways AND outcome IN ('error', 'nonzero_exit')
   ORDER BY ts DESC LIMIT 100)
  UNION ALL
  (SELECT started_at, gateway, NULL, 'cron run', coalesce(name, job_id), status
   FROM cron_runs WHERE $__timeFilter(started_at) AND :gateways AND status = 'error'
   ORDER BY started_at DESC LIMIT 100)
) AS failed
ORDER BY ts DESC
LIMIT 100
"""
            )
        ],
        description="The newest 100 failures of the time range: model calls, tools (an exit status other than 0 is "
        "the command's failure, not the tool's) and runs of cron jobs.",
        no_value="Nothing failed in this time range",
        overrides=[
            panels.override("When", unit="dateTimeFromNow", custom__width=118),
            panels.override("Agent", custom__width=140),
            panels.override("Name and reason", custom__minWidth=145),
            panels.override("Gateway", custom__width=75),
            panels.coloured(
                "What",
                {
                    "model call": ("model call", config.BAD),
                    "tool call": ("tool call", config.WARN),
                    "cron run": ("cron run", config.EQUIVALENT),
                },
                width=85,
            ),
        ],
        height=8,
    )


def runs_in_progress() -> dashboard.Panel:
    """Work in progress over time."""
    return panels.timeseries(
        30,
        "Runs in progress",
        [
            series(f"sum by (agent) (avg_over_time(claw_active_runs{{{GATEWAY}}}[$__rate_interval]))", "{{agent}}"),
            series(f"sum(avg_over_time(claw_subagents_running{{{GATEWAY}}}[$__rate_interval]))", "sub-agents"),
        ],
        unit="short",
        description="Agent runs and sub-agents in progress, their mean over each step (claw_active_runs, "
        "claw_subagents_running). A line that never falls is a run that never ends.",
        no_value="Gateway not read yet",
        stacked=True,
        points=config.MANY_POINTS,
        colours={"sub-agents": config.WARN},
        width=8,
    )


def tokens_by_class() -> dashboard.Panel:
    """Tokens a minute."""
    return panels.tokens_by_class(31, GATEWAY, links=[panels.link_to(config.COST)], width=8)


def model_latency() -> dashboard.Panel:
    """p50 and p95 of all models together."""
    bucket = f"sum by (le) (rate(claw_model_call_duration_seconds_bucket{{{GATEWAY}}}[$__rate_interval]))"
    return panels.timeseries(
        33,
        "Model latency",
        [
            series(f"histogram_quantile(0.5, {bucket}) >= 0", "p50"),
            series(f"histogram_quantile(0.95, {bucket}) >= 0", "p95"),
        ],
        unit="s",
        description="Time of model calls, median and 95th percentile, where the transcript tells it. Sessions has "
        "them by model.",
        no_value="No transcript told a duration in this time range",
        points=config.FEW_POINTS,
        links=[panels.link_to(config.SESSIONS)],
        width=8,
    )


def machine() -> dashboard.Panel:
    """The four that fill up."""
    used = "1 - min(claw_host_{0}_available_bytes{{{1}}} / claw_host_{0}_{2}_bytes{{{1}}})"
    return panels.bar_gauge(
        32,
        "Host in use",
        [
            now(
                f"1 - min(sum by (gateway) "
                f'(rate(claw_host_cpu_seconds_total{{{GATEWAY}, mode="idle"}}[$__rate_interval])) '
                f"/ max by (gateway) (claw_host_cpus{{{GATEWAY}}}))",
                "CPU",
            ),
            now(used.format("memory", GATEWAY, "total"), "memory"),
            now(used.format("filesystem", GATEWAY, "size"), "fullest disk"),
            now(
                f"max(claw_gateway_resident_memory_bytes{{{GATEWAY}}} "
                f"/ on (gateway) claw_host_memory_total_bytes{{{GATEWAY}}})",
                "gateway's memory",
            ),
        ],
        unit="percentunit",
        decimals=0,
        max_val=1,
        description="The busiest of the chosen hosts: CPU, memory, its fullest file system, and the "
        "share of memory that the gateway's process holds.",
        no_value="No host data",
        steps=config.FULL,
        links=[panels.link_to(config.HOST)],
        width=8,
        height=7,
    )


def cron_jobs() -> dashboard.Panel:
    """One row a job, by its name."""
    return panels.table(
        40,
        "Cron jobs",
        [
            rows(f"max by (gateway, cron_job, status) (claw_cron_job_status{{{GATEWAY}}} == 1)"),
            rows(f"max by (gateway, cron_job, name) (claw_cron_job_info{{{GATEWAY}}})"),
            rows(f"max by (gateway, cron_job) (claw_cron_job_last_run_timestamp_seconds{{{GATEWAY}}}) * 1000"),
            rows(f"max by (gateway, cron_job) (claw_cron_job_next_run_timestamp_seconds{{{GATEWAY}}}) * 1000"),
            rows(f"max by (gateway, cron_job) (claw_cron_job_consecutive_errors{{{GATEWAY}}})"),
        ],
        description="Scheduled jobs: the status of the last run, when it was, when the next is due, and how many "
        "failed in a row. A next run in the past is an overdue job.",
        no_value="No cron jobs",
        sort_by="Errors",
        transformations=panels.merged(
            {
                "name": "Job",
                "status": "Last status",
                "Value #C": "Last run",
                "Value #D": "Next run",
                "Value #E": "Errors",
                "gateway": "Gateway",
            },
            hidden=["cron_job", "Value #A", "Value #B"],
        ),
        overrides=[
            panels.override("Job", custom__minWidth=130),
            panels.badge("Last status", CRON_WORDS, width=95),
            panels.override("Last run", unit="dateTimeFromNow", custom__width=120),
            panels.override("Next run", unit="dateTimeFromNow", custom__width=130),
            panels.count_badge("Errors", panels.ZERO_IS_GOOD, width=70),
            panels.override("Gateway", custom__width=90),
        ],
        links={"Job": panels.link_to(config.CRON)},
        width=16,
        height=7,
    )


def gateways() -> dashboard.Panel:
    """The fleet: one row a gateway."""
    return panels.table(
        41,
        "Fleet",
        [
            rows(f"max by (gateway) (claw_gateway_up{{{GATEWAY}}})"),
            rows(f"max by (gateway, version) (claw_gateway_info{{{GATEWAY}}})"),
            rows(f"max by (gateway) (claw_gateway_start_timestamp_seconds{{{GATEWAY}}}) * 1000"),
            rows(f'sum by (gateway) (claw_cost_window_usd{{{GATEWAY}, window="today"}})'),
            rows(f'sum by (gateway) (claw_cost_window_usd{{{GATEWAY}, window="month_projected"}})'),
            rows(f"sum by (gateway) (claw_active_runs{{{GATEWAY}}})"),
            rows(f"max by (gateway) (claw_gateway_resident_memory_bytes{{{GATEWAY}}})"),
            rows(
                f'count by (gateway) (ALERTS{{alertstate="firing", {GATEWAY}}}) '
                f"or 0 * max by (gateway) (claw_gateway_up{{{GATEWAY}}})"
            ),
            rows(
                f'round(sum by (gateway) (increase(claw_model_calls_total{{{GATEWAY}, outcome="error"}}[$__range]))) '
                f"or 0 * max by (gateway) (claw_gateway_up{{{GATEWAY}}})"
            ),
        ],
        description="Every chosen gateway: state, alerts, version, start, money, failed model calls of the time range, "
        "runs in progress and resident memory. One that differs from its neighbours deserves a look.",
        no_value="No gateway seen",
        sort_by="Gateway",
        descending=False,
        transformations=panels.merged(
            {
                "gateway": "Gateway",
                "Value #A": "State",
                "Value #H": "Alerts",
                "Value #D": "Cost today",
                "Value #E": "Month projected",
                "version": "Version",
                "Value #C": "Started",
                "Value #I": "Failed calls",
                "Value #F": "Runs",
                "Value #G": "Memory",
            },
            hidden=["Value #B"],
        ),
        overrides=[
            panels.override("Gateway", custom__minWidth=90),
            panels.badge("State", GATEWAY_WORDS, width=75),
            panels.count_badge("Alerts", panels.ZERO_IS_GOOD, width=70),
            panels.count_badge("Failed calls", panels.ZERO_IS_GOOD, width=95),
            panels.override("Started", unit="dateTimeFromNow"),
            panels.override("Cost today", unit="currencyUSD", decimals=2),
            panels.override("Month projected", unit="currencyUSD", decimals=2),
            panels.override("Memory", unit="bytes"),
        ],
        links={"Gateway": panels.link_to(config.GATEWAY, gateway="${__data.fields.Gateway}")},
        width=24,
        height=5,
    )


def board() -> Board:
    """The first board in the morning."""
    return Board(
        ref=config.OVERVIEW,
        description="Is it up, what does today cost and where will the month end, what failed, who works now, "
        "and how old is what you see?",
        rows=[
            Row(
                100,
                "",
                [gateway_state(), alerts_firing(), cost_today(), cost_this_month(), failures(), oldest_data()],
            ),
            Row(101, "", [cost_by_model(), model_calls()]),
            Row(105, "", [gateways()]),
            Row(102, "", [agents_at_work(), recent_failures()]),
            Row(103, "", [cron_jobs(), machine()]),
            Row(104, "", [runs_in_progress(), tokens_by_class(), model_latency()]),
        ],
    )
