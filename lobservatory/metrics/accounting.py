"""What agents used and cost."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

_CALL = ("gateway", "agent", "provider", "model", "kind")
_LATENCY = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

METRICS: tuple[Metric, ...] = (
    Metric(
        "claw_tokens_total",
        "counter",
        "Tokens of model calls by class; the classes add up.",
        "tokens",
        (*_CALL, "token_type"),
        accounting=True,
    ),
    Metric(
        "claw_reasoning_tokens_total",
        "counter",
        "Reasoning tokens; a part of the output tokens.",
        "tokens",
        _CALL,
        accounting=True,
    ),
    Metric(
        "claw_cost_usd_total",
        "counter",
        "Billed cost of model calls in US dollars.",
        "usd",
        _CALL,
        accounting=True,
    ),
    Metric(
        "claw_equivalent_cost_usd_total",
        "counter",
        "List price of calls that a subscription covers; never part of the billed cost.",
        "usd",
        _CALL,
        accounting=True,
    ),
    Metric(
        "claw_model_calls_total",
        "counter",
        "Model calls by outcome.",
        "",
        (*_CALL, "outcome"),
        accounting=True,
    ),
    Metric(
        "claw_unpriced_tokens_total",
        "counter",
        "Tokens of calls that have no reported cost and no known price.",
        "tokens",
        ("gateway", "provider", "model"),
        accounting=True,
    ),
    Metric(
        "claw_unpriced_calls_total",
        "counter",
        "Calls with tokens that have no reported cost and no known price.",
        "",
        ("gateway", "provider", "model"),
        accounting=True,
    ),
    Metric(
        "claw_tool_calls_total",
        "counter",
        "Finished tool calls by outcome (nonzero_exit: no tool error, but the command's exit status was not 0).",
        "",
        ("gateway", "agent", "tool", "outcome"),
        accounting=True,
    ),
    Metric(
        "claw_tool_calls_started_total",
        "counter",
        "Tool calls that models asked for; what is called through `tool_call` has its own name.",
        "",
        ("gateway", "agent", "tool"),
        accounting=True,
    ),
    Metric(
        "claw_compactions_total",
        "counter",
        "Compactions of session transcripts.",
        "",
        ("gateway", "agent"),
        accounting=True,
    ),
    Metric(
        "claw_model_call_duration_seconds",
        "histogram",
        "Time of model calls, where the transcript tells it.",
        "seconds",
        ("gateway", "provider", "model"),
        buckets=_LATENCY,
    ),
    Metric(
        "claw_tool_call_duration_seconds",
        "histogram",
        "Time of tool calls, where the transcript tells it.",
        "seconds",
        ("gateway", "tool"),
        buckets=_LATENCY,
    ),
    Metric(
        "claw_cost_window_usd",
        "gauge",
        "Billed cost by event time within a window of the configured zone.",
        "usd",
        ("gateway", "agent", "window"),
    ),
    Metric(
        "claw_cost_hour_baseline_usd",
        "gauge",
        "Median billed cost of the same hour of the last 7 days.",
        "usd",
        ("gateway", "agent"),
    ),
    Metric(
        "claw_alert_threshold",
        "gauge",
        "Effective threshold of an alert, in the unit of what it compares.",
        "",
        ("gateway", "alert", "severity", "agent"),
        500,
    ),
    Metric(
        "claw_model_token_price_usd",
        "gauge",
        "List price of one token of a model that was called, by class, where it is known.",
        "usd",
        ("gateway", "provider", "model", "token_type"),
    ),
)
