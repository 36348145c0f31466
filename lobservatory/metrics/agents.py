"""Sessions, agents and sub-agents."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric("claw_sessions", "gauge", "Sessions by kind and state.", "", ("gateway", "kind", "state"), 200),
    Metric(
        "claw_session_context_ratio_max",
        "gauge",
        "Fullest context of an agent's sessions.",
        "ratio",
        ("gateway", "agent"),
        merge="max",
    ),
    Metric("claw_active_runs", "gauge", "Agent runs in progress.", "", ("gateway", "agent")),
    Metric(
        "claw_active_run_last_event_timestamp_seconds",
        "gauge",
        "Last sign of life of an agent's quietest run in progress.",
        "seconds",
        ("gateway", "agent"),
        merge="max",
    ),
    Metric(
        "claw_tool_call_repeats_max",
        "gauge",
        "Longest present row of one and the same tool call with the same arguments.",
        "",
        ("gateway", "agent"),
        merge="max",
    ),
    Metric(
        "claw_compaction_failures_total",
        "counter",
        "Compactions that ended without success.",
        "",
        ("gateway", "agent"),
    ),
    Metric(
        "claw_agent_last_human_timestamp_seconds",
        "gauge",
        "Last message of a person or channel to an agent; heartbeats, jobs and webhooks are none.",
        "seconds",
        ("gateway", "agent"),
        merge="max",
    ),
    Metric("claw_subagents_running", "gauge", "Sub-agents in progress.", "", ("gateway",), 10),
    Metric(
        "claw_subagent_runs",
        "gauge",
        "Runs of sub-agents in the gateway's records, by status.",
        "",
        ("gateway", "status"),
        10,
    ),
    Metric("claw_agents", "gauge", "Configured agents.", "", ("gateway",), 10),
    Metric(
        "claw_agent_last_activity_timestamp_seconds",
        "gauge",
        "Last activity of an agent.",
        "seconds",
        ("gateway", "agent"),
        merge="max",
    ),
    Metric(
        "claw_agent_state",
        "gauge",
        "What an agent does, 1 for the present state; absent until the gateway was asked.",
        "",
        ("gateway", "agent", "state"),
    ),
    Metric("claw_agent_events_total", "counter", "Agent events by kind.", "", ("gateway", "agent", "event")),
)
