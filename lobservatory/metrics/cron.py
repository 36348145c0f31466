"""Scheduled jobs."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "claw_cron_job_info",
        "info",
        "Name, agent and schedule of a job.",
        "",
        ("gateway", "cron_job", "name", "agent"),
        merge="max",
    ),
    Metric("claw_cron_job_enabled", "gauge", "1 when the job is enabled.", "", ("gateway", "cron_job")),
    Metric(
        "claw_cron_job_last_run_timestamp_seconds",
        "gauge",
        "Start of the job's last run.",
        "seconds",
        ("gateway", "cron_job"),
        merge="max",
    ),
    Metric(
        "claw_cron_job_last_success_timestamp_seconds",
        "gauge",
        "Start of the job's last run that succeeded, where the history still has it.",
        "seconds",
        ("gateway", "cron_job"),
        merge="max",
    ),
    Metric(
        "claw_cron_job_delivery_failed",
        "gauge",
        "1 when the result of the last successful run was to be delivered and was not.",
        "",
        ("gateway", "cron_job"),
    ),
    Metric(
        "claw_cron_job_next_run_timestamp_seconds",
        "gauge",
        "Next planned run.",
        "seconds",
        ("gateway", "cron_job"),
        merge="max",
    ),
    Metric(
        "claw_cron_job_last_duration_seconds",
        "gauge",
        "Time of the last run.",
        "seconds",
        ("gateway", "cron_job"),
    ),
    Metric(
        "claw_cron_job_period_seconds",
        "gauge",
        "Time between two planned runs.",
        "seconds",
        ("gateway", "cron_job"),
    ),
    Metric("claw_cron_job_consecutive_errors", "gauge", "Failed runs in a row.", "", ("gateway", "cron_job")),
    Metric(
        "claw_cron_job_status",
        "gauge",
        "Status of the last run, 1 for the present one.",
        "",
        ("gateway", "cron_job", "status"),
    ),
    Metric(
        "claw_cron_job_flaps",
        "gauge",
        "Changes between success and failure from one run to the next within 24 hours, of 100 runs at most.",
        "",
        ("gateway", "cron_job"),
    ),
    Metric("claw_cron_enabled", "gauge", "1 while the gateway's scheduler is on.", "", ("gateway",), 10),
)
