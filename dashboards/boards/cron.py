"""Cron: what ran, what did not, what is next?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, now, sql_rows, sql_series

STATUS_WORDS: Final = {
    "ok": ("ok", config.OK),
    "error": ("error", config.BAD),
    "skipped": ("skipped", config.WARN),
    "interrupted": ("interrupted", config.WARN),
    "superseded": ("superseded", config.NO_GROUND),
    "running": ("running", config.NEUTRAL),
    "never": ("never ran", config.NO_GROUND),
}
DELIVERY_WORDS: Final = {
    "delivered": ("delivered", config.OK),
    "failed": ("failed", config.BAD),
    "not-delivered": ("not delivered", config.BAD),
    "unknown": ("unknown", config.MUTED),
}


def failing() -> dashboard.Panel:
    """Now."""
    return panels.stat(
        1,
        "Failing",
        [now(f"sum(claw_cron_job_consecutive_errors{{{GATEWAY}}} > bool 0)", "jobs")],
        unit="none",
        decimals=0,
        description="Jobs whose last run failed.",
        no_value="No cron jobs",
        steps=panels.ZERO_IS_GOOD,
        background=True,
        width=6,
    )


def overdue() -> dashboard.Panel:
    """Due a minute ago and more, enabled, not running."""
    return panels.stat(
        2,
        "Overdue",
        [
            now(
                f"sum((time() - max by (gateway, cron_job) (claw_cron_job_next_run_timestamp_seconds{{{GATEWAY}}}) "
                f"> bool 60) * on (gateway, cron_job) max by (gateway, cron_job) (claw_cron_job_enabled{{{GATEWAY}}}) "
                "* on (gateway, cron_job) (max by (gateway, cron_job) "
                f'(claw_cron_job_status{{{GATEWAY}, status="running"}}) == bool 0))',
                "jobs",
            )
        ],
        unit="none",
        decimals=0,
        description="Enabled jobs that do not run and whose next run lies more than a minute in the past: the "
        "scheduler is stuck or off.",
        no_value="No job has a next run",
        steps=panels.ZERO_IS_GOOD,
        background=True,
        width=6,
    )


def enabled() -> dashboard.Panel:
    """Jobs."""
    return panels.stat(
        3,
        "Jobs",
        [
            now(f"sum(claw_cron_job_enabled{{{GATEWAY}}} == bool 1)", "enabled"),
            now(f"sum(claw_cron_job_enabled{{{GATEWAY}}} == bool 0)", "disabled"),
        ],
        unit="none",
        decimals=0,
        description="Scheduled jobs that are enabled, and that are not.",
        no_value="No cron jobs",
        width=6,
    )


def scheduler() -> dashboard.Panel:
    """The gateway's own switch."""
    return panels.stat(
        4,
        "Scheduler",
        [now(f"min by (gateway) (claw_cron_enabled{{{GATEWAY}}})", "{{gateway}}")],
        unit="none",
        description="Is the gateway's scheduler on? Off, no job runs at all.",
        no_value="Gateway not read yet",
        mappings={"1": ("On", config.OK), "0": ("Off", config.BAD)},
        background=True,
        width=6,
    )


def jobs() -> dashboard.Panel:
    """The list."""
    return panels.table(
        10,
        "Jobs",
        [
            sql_rows(
                """
SELECT name AS "Job", coalesce(last_status, 'never') AS "Last status", consecutive_errors AS "Errors in a row",
       schedule AS "Schedule", enabled AS "Enabled", last_run_at AS "Last run", next_run_at AS "Next run",
       last_duration_ms AS "Duration", delivery_status AS "Delivery", agent AS "Agent", gateway AS "Gateway"
FROM cron_jobs
WHERE :agents_or_none
ORDER BY consecutive_errors DESC, next_run_at NULLS LAST
LIMIT 500
"""
            )
        ],
        description="Every scheduled job: how its last run ended, when the next is due, whether its result was "
        "delivered (view cron_jobs).",
        no_value="No cron jobs",
        overrides=[
            panels.override("Job", custom__minWidth=170),
            panels.badge("Last status", STATUS_WORDS, width=100),
            panels.coloured("Enabled", {"true": ("yes", config.OK), "false": ("no", config.MUTED)}, width=75),
            panels.coloured("Delivery", DELIVERY_WORDS, width=105),
            panels.count_badge("Errors in a row", panels.ZERO_IS_GOOD, width=120),
            panels.override("Last run", unit="dateTimeFromNow", custom__width=120),
            panels.override("Next run", unit="dateTimeFromNow", custom__width=120),
            panels.override("Duration", unit="ms", custom__width=85),
            panels.override("Gateway", custom__width=85),
        ],
        width=24,
        height=8,
    )


def history() -> dashboard.Panel:
    """Runs."""
    return panels.table(
        20,
        "Runs",
        [
            sql_rows(
                """
SELECT started_at AS "Started", coalesce(name, job_id) AS "Job", status AS "Status", duration_ms AS "Duration",
       gateway AS "Gateway"
FROM cron_runs
WHERE $__timeFilter(started_at) AND :gateways
ORDER BY started_at DESC
LIMIT 500
"""
            )
        ],
        description="The newest 500 runs of the time range (view cron_runs).",
        no_value="Nothing ran in this time range",
        overrides=[
            panels.override("Started", unit="dateTimeFromNow", custom__width=120),
            panels.override("Job", custom__minWidth=150),
            panels.badge("Status", STATUS_WORDS),
            panels.override("Duration", unit="ms"),
        ],
    )


def durations() -> dashboard.Panel:
    """Every run."""
    return panels.timeseries(
        21,
        "Duration of runs",
        [
            sql_series(
                """
SELECT $__timeGroupAlias(started_at, $__interval), coalesce(name, job_id) AS metric,
       max(duration_ms) / 1000.0 AS seconds
FROM cron_runs
WHERE $__timeFilter(started_at) AND :gateways
GROUP BY 1, 2
ORDER BY 1, 2
"""
            )
        ],
        unit="s",
        description="How long each job's runs took, the longest of each step of time (view cron_runs). A trend upwards "
        "ends in runs that overlap.",
        no_value="Nothing ran in this time range",
        interval="1m",
        overrides=[panels.override_all(custom__spanNulls=True, custom__showPoints="always")],
        height=9,
    )


def trend() -> dashboard.Panel:
    """Now against before."""
    return panels.table(
        30,
        "Is it getting slower?",
        [
            sql_rows(
                """
WITH run AS (
  SELECT coalesce(name, job_id) AS name, gateway, duration_ms, status,
         started_at >= $__timeFrom()::timestamptz + ($__timeTo()::timestamptz - $__timeFrom()::timestamptz) / 2 AS late
  FROM cron_runs
  WHERE $__timeFilter(started_at) AND :gateways
)
SELECT name AS "Job", count(*) AS "Runs", count(*) FILTER (WHERE status = 'error') AS "Failed",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS "p50",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS "p95",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE late)
         / nullif(percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE NOT late), 0) - 1 AS "Trend",
       gateway AS "Gateway"
FROM run
GROUP BY name, gateway
ORDER BY "Trend" DESC NULLS LAST
LIMIT 200
"""
            )
        ],
        description="Runs of the time range by job: failures, median and 95th percentile of their time. Trend: the "
        "median of the second half of the time range against that of the first; above 25 % look why.",
        no_value="Nothing ran in this time range",
        overrides=[
            panels.override("Job", custom__minWidth=140),
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=65),
            panels.override("Runs", custom__width=60),
            panels.override("p50", unit="ms", custom__width=85),
            panels.override("p95", unit="ms", custom__width=85),
            panels.override(
                "Trend",
                unit="percentunit",
                decimals=0,
                thresholds=panels.thresholds(((None, config.OK), (0.25, config.WARN))),
                custom__cellOptions={"type": "color-text"},
                custom__width=75,
            ),
            panels.override("Gateway", custom__width=85),
        ],
        height=7,
    )


def next_runs() -> dashboard.Panel:
    """The timetable."""
    return panels.table(
        31,
        "Next runs",
        [
            sql_rows(
                """
SELECT next_run_at AS "Due", name AS "Job", schedule AS "Schedule", agent AS "Agent", gateway AS "Gateway"
FROM cron_jobs
WHERE enabled AND next_run_at IS NOT NULL AND :agents_or_none
ORDER BY next_run_at
LIMIT 100
"""
            )
        ],
        description="Enabled jobs by the time at which they are due (view cron_jobs). One that was due long ago does "
        "not run: is the scheduler on, is the gateway up?",
        no_value="No job is due",
        overrides=[
            panels.override("Due", unit="dateTimeFromNow", custom__width=130),
            panels.override("Agent", custom__width=110),
            panels.override("Gateway", custom__width=85),
        ],
        height=7,
    )


def board() -> Board:
    """Scheduled work."""
    return Board(
        ref=config.CRON,
        description="What ran, what did not, and what is next?",
        time_from="now-7d",
        extra_variables=[variables.agent()],
        rows=[
            Row(100, "", [failing(), overdue(), enabled(), scheduler()]),
            Row(101, "", [jobs()]),
            Row(102, "", [history(), durations()]),
            Row(103, "", [trend(), next_runs()]),
        ],
    )
