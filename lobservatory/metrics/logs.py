"""The gateway's log."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric("claw_log_lines_total", "counter", "Lines of the gateway's log.", "", ("gateway", "level"), 20),
    Metric(
        "claw_log_new_signatures_total",
        "counter",
        "Kinds of warnings and errors that the log never had before.",
        "",
        ("gateway", "level"),
        20,
    ),
    Metric(
        "claw_log_shared_gateways",
        "gauge",
        "Other gateways of this host that write to the same log files, so that their lines are counted too.",
        "",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_log_unreadable_lines_total",
        "counter",
        "Lines of the log that are no JSON object or too long.",
        "",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_log_last_line_timestamp_seconds",
        "gauge",
        "Time of the newest line of the log.",
        "seconds",
        ("gateway",),
        10,
        merge="max",
    ),
    Metric(
        "claw_log_source_info",
        "info",
        "Where the log is read: file, journald or rpc.",
        "",
        ("gateway", "source"),
        10,
        merge="max",
    ),
)
