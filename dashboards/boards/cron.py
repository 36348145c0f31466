"""Cron: what ran, what did not, what is next?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, now, series, sql_rows

STATUS_WORDS: Final = {
    "ok": ("ok", config.OK),
    "error": ("error", config.BAD),
    "skipped": ("skipped", config.WARN),
    "interrupted": ("interrupted", config.WARN),
    "superseded": ("superseded", config.NO_GROUND),
    "running": ("running", config.NEUTRAL),
    "never": ("never ran", config.NO_GROUND),
}
# The name of a job beside its id, for legends.
NAMED: Final = "* on (gateway, cron_job) group_left (name) claw_cron_job_info"


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
                f"sum((time() - claw_cron_job_next_run_timestamp_seconds{{{GATEWAY}}} > bool 60) "
                f"* on (gateway, cron_job) claw_cron_job_enabled{{{GATEWAY}}})",
                "jobs",
            )
        ],
        unit="none",
        decimals=0,
        description="Enabled jobs whose next run lies more than a minute in the past: the scheduler is stuck or off.",
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
WHERE :gateways
ORDER BY consecutive_errors DESC, next_run_at NULLS LAST
"""
            )
        ],
        description="Every scheduled job: how its last run ended, when the next is due, whether its result was "
        "delivered (view cron_jobs).",
        no_value="No cron jobs",
        overrides=[
            panels.badge("Last status", STATUS_WORDS, width=110),
            panels.count_badge("Errors in a row", panels.ZERO_IS_GOOD, width=120),
            panels.override("Last run", unit="dateTimeFromNow"),
            panels.override("Next run", unit="dateTimeFromNow"),
            panels.override("Duration", unit="ms"),
        ],
        width=24,
        height=10,
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
            panels.override("Started", unit="dateTimeFromNow"),
            panels.badge("Status", STATUS_WORDS),
            panels.override("Duration", unit="ms"),
        ],
    )


def durations() -> dashboard.Panel:
    """Trend."""
    return panels.timeseries(
        21,
        "Duration of the last run",
        [series(f"claw_cron_job_last_duration_seconds{{{GATEWAY}}} {NAMED}", "{{name}}")],
        unit="s",
        description="How long each job's last run took. A trend upwards ends in overlapping runs.",
        no_value="No job has run yet",
        height=9,
    )


def board() -> Board:
    """Scheduled work."""
    return Board(
        ref=config.CRON,
        description="What ran, what did not, and what is next?",
        rows=[
            Row(100, "", [failing(), overdue(), enabled(), scheduler()]),
            Row(101, "", [jobs()]),
            Row(102, "", [history(), durations()]),
        ],
    )
