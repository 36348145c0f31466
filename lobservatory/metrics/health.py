"""The gateway seen from outside: its HTTP endpoints, its service, and whether events keep coming."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "claw_gateway_http_up",
        "gauge",
        "1 when the endpoint (healthz, readyz) answered well.",
        "",
        ("gateway", "endpoint"),
        20,
    ),
    Metric(
        "claw_gateway_http_seconds",
        "gauge",
        "Time until the endpoint answered, or was given up.",
        "seconds",
        ("gateway", "endpoint"),
        20,
    ),
    Metric(
        "claw_gateway_failing_check",
        "gauge",
        "1 for each check that the gateway's readyz names as failing.",
        "",
        ("gateway", "check"),
        50,
    ),
    Metric(
        "claw_service_state",
        "gauge",
        "State of the gateway's unit in systemd_user, systemd or launchd.",
        "",
        ("gateway", "manager", "state"),
        50,
    ),
    Metric(
        "claw_service_restarts",
        "gauge",
        "How often the manager has started the gateway anew.",
        "",
        ("gateway", "manager"),
        10,
    ),
    Metric(
        "claw_service_last_exit_status",
        "gauge",
        "Exit status of the gateway's last end, as the manager tells it.",
        "",
        ("gateway", "manager"),
        10,
    ),
    Metric(
        "claw_event_stream_lag_seconds",
        "gauge",
        "How much newer the newest change of a session that polls saw is than the newest pushed event.",
        "seconds",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_polled_activity_timestamp_seconds",
        "gauge",
        "Newest change of a session that polls saw.",
        "seconds",
        ("gateway",),
        10,
        merge="max",
    ),
    Metric(
        "claw_pushed_activity_timestamp_seconds",
        "gauge",
        "Newest pushed event that tells of activity.",
        "seconds",
        ("gateway",),
        10,
        merge="max",
    ),
)
