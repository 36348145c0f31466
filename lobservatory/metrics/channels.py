"""Channels, and the approvals that people give through them."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "claw_channel_connected",
        "gauge",
        "1 while the channel is connected.",
        "",
        ("gateway", "channel"),
        200,
    ),
    Metric(
        "claw_channel_configured",
        "gauge",
        "1 when the channel is configured.",
        "",
        ("gateway", "channel"),
        200,
    ),
    Metric(
        "claw_channel_error",
        "gauge",
        "1 while an account of the channel tells of a last error, of delivery or connection; its text is in the rows.",
        "",
        ("gateway", "channel"),
        200,
    ),
    Metric(
        "claw_channel_last_message_timestamp_seconds",
        "gauge",
        "Last message by direction.",
        "seconds",
        ("gateway", "channel", "direction"),
        400,
        merge="max",
    ),
    Metric(
        "claw_exec_approvals_pending",
        "gauge",
        "Exec approvals that wait for an answer.",
        "",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_exec_approval_oldest_timestamp_seconds",
        "gauge",
        "Request time of the oldest pending approval.",
        "seconds",
        ("gateway",),
        10,
        merge="max",
    ),
    Metric(
        "claw_exec_approval_next_expiry_timestamp_seconds",
        "gauge",
        "When the next pending approval expires.",
        "seconds",
        ("gateway",),
        10,
        merge="max",
    ),
    Metric(
        "claw_exec_approvals_expired",
        "gauge",
        "Exec approvals that nobody answered in time, of the last 24 hours.",
        "",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_exec_approval_decisions_total",
        "counter",
        "Exec approvals that were settled, by how; without a database, since the exporter started.",
        "",
        ("gateway", "decision"),
        10,
        has_past=True,
    ),
)
