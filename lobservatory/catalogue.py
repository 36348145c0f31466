"""Every metric, declared once: pure data.

The exporter renders from it, `docs/metrics.md` is generated from it, and the tests of dashboards and alerts
check their queries against it. Names: `claw_` is what we observe, `lobservatory_` is ourselves; none begins
with `openclaw_`, which belongs to the official plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricType = Literal["counter", "gauge", "histogram", "info"]

# Fixed label values; a state is one 0/1 series for each.
TOKEN_TYPES = ("input", "output", "cache_read", "cache_write")
CALL_OUTCOMES = ("ok", "error", "aborted")
TOOL_OUTCOMES = ("ok", "error", "nonzero_exit")
KINDS = (
    "main",
    "direct",
    "group",
    "channel",
    "cron",
    "subagent",
    "hook",
    "dashboard",
    "acp",
    "other",
    "unknown",
)
SESSION_STATES = ("running", "done", "failed", "killed", "timeout", "unknown")
CONNECTION_STATES = ("disconnected", "connecting", "authenticating", "connected", "reconnecting")
AGENT_STATES = ("idle", "thinking", "tool", "waiting", "error", "offline")
CRON_STATUSES = ("ok", "error", "skipped", "running", "never")
WINDOWS = ("1h", "today", "7d", "30d", "month", "month_projected")
SOURCES = ("jsonl", "sqlite", "archive")
REJECT_REASONS = ("bad_json", "not_object", "bad_number", "too_long", "bad_time", "undecodable")
COLLECTORS = (
    "gateway",
    "sessions",
    "agents",
    "cron",
    "channels",
    "approvals",
    "usage",
    "host",
    "process",
    "storage",
    "windows",
    "thresholds",
)

ALL_SERIES = 2_000  # bound of a family whose labels come from outside
TOTAL_SERIES = 20_000  # bound of all families together

# Labels whose values are few and ours. The guard keeps them when it folds a series into `other`, so that classes of
# tokens still add up; the number is how many values there can be.
CLOSED_LABELS = {
    "gateway": 1,
    "token_type": len(TOKEN_TYPES),
    "outcome": 3,
    "kind": len(KINDS),
    "state": 6,
    "status": len(CRON_STATUSES),
    "window": len(WINDOWS),
    "source": len(SOURCES),
    "collector": len(COLLECTORS),
    "direction": 2,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `labels` in the order in which values are given; `bound` is its largest number of series."""

    name: str
    type: MetricType
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    bound: int = ALL_SERIES
    buckets: tuple[float, ...] = ()
    accounting: bool = False  # absent until the first scan has ended; restored from the committed totals


_CALL = ("gateway", "agent", "provider", "model", "kind")
_LATENCY = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

METRICS: tuple[Metric, ...] = (
    # --- accounting: what agents used and cost -----------------------------------------------------------
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
        "Tool calls that models asked for.",
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
        ("gateway", "alert", "severity"),
        200,
    ),
    Metric(
        "claw_daily_cost_limit_usd",
        "gauge",
        "Configured limit of one day's billed cost.",
        "usd",
        ("gateway",),
        10,
    ),
    # --- data quality -------------------------------------------------------------------------------------
    Metric(
        "claw_duplicate_entries_total",
        "counter",
        "Entries met again (fork, archive, both stores, re-read) and counted once.",
        "",
        ("gateway", "source"),
        100,
        accounting=True,
    ),
    Metric(
        "claw_rejected_entries_total",
        "counter",
        "Entries or fields that were refused, by reason.",
        "",
        ("gateway", "source", "reason"),
        200,
        accounting=True,
    ),
    Metric("claw_source_files", "gauge", "Files or databases of a source.", "", ("gateway", "source"), 100),
    Metric(
        "claw_source_entries_total",
        "counter",
        "Entries read.",
        "",
        ("gateway", "source"),
        100,
        accounting=True,
    ),
    Metric(
        "claw_source_bytes_total",
        "counter",
        "Bytes read.",
        "bytes",
        ("gateway", "source"),
        100,
        accounting=True,
    ),
    Metric(
        "claw_source_lag_bytes",
        "gauge",
        "Bytes or rows present and not yet read.",
        "bytes",
        ("gateway", "source"),
        100,
    ),
    Metric(
        "claw_source_last_entry_timestamp_seconds",
        "gauge",
        "Time of the newest entry read.",
        "seconds",
        ("gateway", "source"),
        100,
    ),
    Metric(
        "claw_source_schema_known",
        "gauge",
        "1 when every database of the source has a schema version that we know, else 0.",
        "",
        ("gateway", "source"),
        100,
    ),
    Metric(
        "claw_source_up",
        "gauge",
        "1 when the source could be read at the last attempt.",
        "",
        ("gateway", "source"),
        100,
    ),
    Metric(
        "claw_ingest_progress_ratio",
        "gauge",
        "Share of the first scan that is done.",
        "ratio",
        ("gateway",),
        10,
    ),
    # --- gateway ------------------------------------------------------------------------------------------
    Metric("claw_gateway_up", "gauge", "1 while the gateway answers RPC.", "", ("gateway",), 10),
    Metric("claw_gateway_ready", "gauge", "1 while the gateway says that it is ready.", "", ("gateway",), 10),
    Metric(
        "claw_gateway_info",
        "info",
        "Version and protocol of the gateway.",
        "",
        ("gateway", "version", "protocol"),
        10,
    ),
    Metric(
        "claw_gateway_start_timestamp_seconds",
        "gauge",
        "Start of the gateway process.",
        "seconds",
        ("gateway",),
        10,
    ),
    Metric("claw_gateway_restarts_total", "counter", "Restarts of the gateway seen.", "", ("gateway",), 10),
    Metric(
        "claw_gateway_resident_memory_bytes",
        "gauge",
        "Resident memory of the gateway process.",
        "bytes",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_gateway_cpu_seconds_total",
        "counter",
        "CPU time of the gateway process.",
        "seconds",
        ("gateway",),
        10,
    ),
    Metric("claw_gateway_process_up", "gauge", "1 while the gateway's process is found.", "", ("gateway",), 10),
    Metric(
        "claw_gateway_event_loop_delay_p99_seconds",
        "gauge",
        "Event loop delay of the gateway.",
        "seconds",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_gateway_connection_state",
        "gauge",
        "State of our connection, 1 for the present one.",
        "",
        ("gateway", "state"),
        50,
    ),
    Metric("claw_gateway_reconnects_total", "counter", "Connections lost and tried again.", "", ("gateway",), 10),
    Metric(
        "claw_gateway_connect_failures_total",
        "counter",
        "Failed connects by reason.",
        "",
        ("gateway", "reason"),
        100,
    ),
    Metric(
        "claw_gateway_events_total",
        "counter",
        "Events that the gateway pushed.",
        "",
        ("gateway", "event"),
        200,
    ),
    Metric(
        "claw_gateway_event_gaps_total",
        "counter",
        "Gaps in the sequence of pushed events.",
        "",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_gateway_last_event_timestamp_seconds",
        "gauge",
        "Time of the last pushed event.",
        "seconds",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_gateway_frames_dropped_total",
        "counter",
        "Frames dropped by reason.",
        "",
        ("gateway", "reason"),
        100,
    ),
    Metric(
        "claw_rpc_latency_seconds",
        "gauge",
        "Time of the last call of an RPC method.",
        "seconds",
        ("gateway", "method"),
        200,
    ),
    Metric(
        "claw_rpc_errors_total",
        "counter",
        "Failed RPC calls by error code.",
        "",
        ("gateway", "method", "code"),
        500,
    ),
    # --- sessions, agents, cron, channels, approvals ------------------------------------------------------
    Metric("claw_sessions", "gauge", "Sessions by kind and state.", "", ("gateway", "kind", "state"), 200),
    Metric(
        "claw_session_context_ratio_max",
        "gauge",
        "Fullest context of an agent's sessions.",
        "ratio",
        ("gateway", "agent"),
    ),
    Metric("claw_active_runs", "gauge", "Agent runs in progress.", "", ("gateway", "agent")),
    Metric("claw_subagents_running", "gauge", "Sub-agents in progress.", "", ("gateway",), 10),
    Metric("claw_agents", "gauge", "Configured agents.", "", ("gateway",), 10),
    Metric(
        "claw_agent_last_activity_timestamp_seconds",
        "gauge",
        "Last activity of an agent.",
        "seconds",
        ("gateway", "agent"),
    ),
    Metric(
        "claw_agent_state",
        "gauge",
        "What an agent does, 1 for the present state.",
        "",
        ("gateway", "agent", "state"),
    ),
    Metric("claw_agent_events_total", "counter", "Agent events by kind.", "", ("gateway", "agent", "event")),
    Metric(
        "claw_cron_job_info",
        "info",
        "Name, agent and schedule of a job.",
        "",
        ("gateway", "cron_job", "name", "agent"),
    ),
    Metric("claw_cron_job_enabled", "gauge", "1 when the job is enabled.", "", ("gateway", "cron_job")),
    Metric(
        "claw_cron_job_last_run_timestamp_seconds",
        "gauge",
        "Start of the job's last run.",
        "seconds",
        ("gateway", "cron_job"),
    ),
    Metric(
        "claw_cron_job_next_run_timestamp_seconds",
        "gauge",
        "Next planned run.",
        "seconds",
        ("gateway", "cron_job"),
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
    Metric("claw_cron_enabled", "gauge", "1 while the gateway's scheduler is on.", "", ("gateway",), 10),
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
        "claw_channel_last_message_timestamp_seconds",
        "gauge",
        "Last message by direction.",
        "seconds",
        ("gateway", "channel", "direction"),
        400,
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
    ),
    Metric(
        "claw_exec_approval_next_expiry_timestamp_seconds",
        "gauge",
        "When the next pending approval expires.",
        "seconds",
        ("gateway",),
        10,
    ),
    Metric(
        "claw_reconcile_drift_ratio",
        "gauge",
        "Our total against the gateway's own usage.",
        "ratio",
        ("gateway", "token_type"),
        60,
    ),
    # --- host ---------------------------------------------------------------------------------------------
    Metric(
        "claw_host_info",
        "info",
        "Operating system and architecture.",
        "",
        ("gateway", "os", "release", "machine"),
        10,
    ),
    Metric("claw_host_boot_timestamp_seconds", "gauge", "Boot of the host.", "seconds", ("gateway",), 10),
    Metric("claw_host_cpus", "gauge", "Logical processors.", "", ("gateway",), 10),
    Metric(
        "claw_host_cpu_seconds_total",
        "counter",
        "CPU time by mode, over all processors.",
        "seconds",
        ("gateway", "mode"),
        20,
    ),
    Metric("claw_host_load1", "gauge", "Load average of one minute.", "", ("gateway",), 10),
    Metric("claw_host_load5", "gauge", "Load average of five minutes.", "", ("gateway",), 10),
    Metric("claw_host_load15", "gauge", "Load average of fifteen minutes.", "", ("gateway",), 10),
    Metric("claw_host_memory_total_bytes", "gauge", "Memory.", "bytes", ("gateway",), 10),
    Metric(
        "claw_host_memory_available_bytes",
        "gauge",
        "Memory available without swapping.",
        "bytes",
        ("gateway",),
        10,
    ),
    Metric("claw_host_swap_total_bytes", "gauge", "Swap space.", "bytes", ("gateway",), 10),
    Metric("claw_host_swap_used_bytes", "gauge", "Swap space in use.", "bytes", ("gateway",), 10),
    Metric(
        "claw_host_filesystem_size_bytes",
        "gauge",
        "Size of a file system.",
        "bytes",
        ("gateway", "device", "mountpoint"),
        200,
    ),
    Metric(
        "claw_host_filesystem_available_bytes",
        "gauge",
        "Space for ordinary users.",
        "bytes",
        ("gateway", "device", "mountpoint"),
        200,
    ),
    Metric("claw_host_disk_read_bytes_total", "counter", "Bytes read.", "bytes", ("gateway", "device"), 200),
    Metric("claw_host_disk_written_bytes_total", "counter", "Bytes written.", "bytes", ("gateway", "device"), 200),
    Metric(
        "claw_host_network_receive_bytes_total",
        "counter",
        "Bytes received.",
        "bytes",
        ("gateway", "device"),
        200,
    ),
    Metric(
        "claw_host_network_transmit_bytes_total",
        "counter",
        "Bytes sent.",
        "bytes",
        ("gateway", "device"),
        200,
    ),
    Metric(
        "claw_state_dir_bytes",
        "gauge",
        "Size of the state directory by part.",
        "bytes",
        ("gateway", "part"),
        20,
    ),
    # --- ourselves ----------------------------------------------------------------------------------------
    Metric("lobservatory_build_info", "info", "Our version.", "", ("version", "python"), 5),
    Metric("lobservatory_start_timestamp_seconds", "gauge", "Start of the exporter.", "seconds", (), 1),
    Metric(
        "lobservatory_collector_success",
        "gauge",
        "1 when the collector's last refresh worked.",
        "",
        ("gateway", "collector"),
        50,
    ),
    Metric(
        "lobservatory_collector_duration_seconds",
        "gauge",
        "Time of the last refresh.",
        "seconds",
        ("gateway", "collector"),
        50,
    ),
    Metric(
        "lobservatory_collector_last_success_timestamp_seconds",
        "gauge",
        "Time of the last refresh that worked.",
        "seconds",
        ("gateway", "collector"),
        50,
    ),
    Metric(
        "lobservatory_collector_failures_total",
        "counter",
        "Failed refreshes.",
        "",
        ("gateway", "collector"),
        50,
    ),
    Metric(
        "lobservatory_database_up",
        "gauge",
        "1 while rows can be written; absent without a database.",
        "",
        (),
        1,
    ),
    Metric(
        "lobservatory_ledger_info",
        "info",
        "Where totals are kept: postgresql (with rows) or checkpoint (a local file, no rows).",
        "",
        ("ledger",),
        5,
    ),
    Metric("lobservatory_rows_written_total", "counter", "Rows committed by table.", "", ("table",), 50),
    Metric("lobservatory_commit_failures_total", "counter", "Failed commits by reason.", "", ("reason",), 50),
    Metric(
        "lobservatory_label_overflow_total",
        "counter",
        "Label values replaced by `other`.",
        "",
        ("metric",),
        200,
    ),
    Metric(
        "lobservatory_scrape_duration_seconds",
        "gauge",
        "Time of rendering the last scrape.",
        "seconds",
        (),
        1,
    ),
    Metric("lobservatory_resident_memory_bytes", "gauge", "Our resident memory.", "bytes", (), 1),
    Metric("lobservatory_cpu_seconds_total", "counter", "Our CPU time.", "seconds", (), 1),
)

CATALOGUE: dict[str, Metric] = {metric.name: metric for metric in METRICS}
