"""What the gateway has at hand: quotas, skills, models, nodes and background tasks."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "claw_provider_quota_used_ratio",
        "gauge",
        "Used share of a provider's allowance, where the provider tells it.",
        "ratio",
        ("gateway", "provider", "quota"),
        200,
        merge="max",
    ),
    Metric("claw_skills", "gauge", "Skills by what becomes of them.", "", ("gateway", "state"), 20),
    Metric("claw_models", "gauge", "Models that the gateway offers.", "", ("gateway", "provider"), 200),
    Metric("claw_models_usable", "gauge", "Models that can be used now.", "", ("gateway", "provider"), 200),
    Metric("claw_nodes", "gauge", "Nodes that are known.", "", ("gateway",), 10),
    Metric("claw_nodes_paired", "gauge", "Nodes that are paired.", "", ("gateway",), 10),
    Metric("claw_nodes_connected", "gauge", "Nodes that are connected now.", "", ("gateway",), 10),
    Metric(
        "claw_tasks",
        "gauge",
        "Background tasks in the gateway's register, by what runs them and how they went.",
        "",
        ("gateway", "runtime", "status"),
        100,
    ),
)
