"""Label values that are few and ours; a state is one 0/1 series for each. Pure data."""

from __future__ import annotations

TOKEN_TYPES = ("input", "output", "cache_read", "cache_write")
CALL_OUTCOMES = ("ok", "error", "aborted")
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
SERVICE_STATES = ("active", "activating", "deactivating", "inactive", "failed", "unknown")
SKILL_STATES = ("ready", "disabled", "blocked", "missing")
TASK_RUNTIMES = ("cli", "cron", "subagent", "acp", "other")
TASK_STATUSES = ("queued", "running", "completed", "failed", "timed_out", "cancelled", "lost", "unknown")
SUBAGENT_STATUSES = ("running", "ok", "error", "timeout", "unknown")
APPROVAL_DECISIONS = ("allowed_once", "allowed_always", "denied", "expired", "cancelled")
COLLECTORS = (
    "gateway",
    "sessions",
    "agents",
    "subagents",
    "cron",
    "channels",
    "approvals",
    "usage",
    "quota",
    "host",
    "process",
    "storage",
    "windows",
    "thresholds",
    "logs",
    "skills",
    "models",
    "nodes",
    "tasks",
    "probe",
    "gpu",
    "service",
    "update",
)

# Labels whose values are few and ours. The guard keeps them when it folds a series into `other`, so that classes of
# tokens still add up; the number is how many values there can be.
CLOSED_LABELS = {
    "gateway": 1,
    "token_type": len(TOKEN_TYPES),
    "outcome": 3,
    "kind": len(KINDS),
    "state": 6,
    "status": max(len(CRON_STATUSES), len(TASK_STATUSES), len(SUBAGENT_STATUSES)),
    "window": len(WINDOWS),
    "source": len(SOURCES),
    "collector": len(COLLECTORS),
    "direction": 2,
}
