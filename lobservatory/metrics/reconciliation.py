"""Our account against the gateway's own."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "claw_reconcile_drift_ratio",
        "gauge",
        "Our tokens of the last 30 days against the gateway's own usage: ours over theirs minus 1.",
        "ratio",
        ("gateway", "token_type"),
        60,
        merge="max",
    ),
    Metric(
        "claw_reconcile_cost_drift_ratio",
        "gauge",
        "Our cost against the gateway's own usage, of calls that it can price itself.",
        "ratio",
        ("gateway",),
        10,
        merge="max",
    ),
    Metric(
        "claw_reconcile_agent_drift_ratio",
        "gauge",
        "As claw_reconcile_drift_ratio, by agent and against what the gateway says of its sessions.",
        "ratio",
        ("gateway", "agent", "token_type"),
        400,
        merge="max",
    ),
    Metric(
        "claw_reconcile_agent_cost_drift_ratio",
        "gauge",
        "As claw_reconcile_cost_drift_ratio, by agent and against what the gateway says of its sessions.",
        "ratio",
        ("gateway", "agent"),
        100,
        merge="max",
    ),
)
