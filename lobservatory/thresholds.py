"""Every number that an alert compares with, declared once: pure data.

The exporter exports the effective values as `claw_alert_threshold{alert,severity,gateway,agent}`, so that nobody edits
rules. A rule repeats the default for the case that no exporter has told its own yet; a test keeps both the same.
`docs/alerts.md` is generated from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """One number. `default`, `minimum` and `maximum` in `unit`; ratios are from 0 to 1."""

    alert: str
    severity: Severity
    default: float
    unit: str
    minimum: float
    maximum: float
    meaning: str
    per_agent: bool = False  # an agent may have its own


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "DailyCostHigh", "warning", 25.0, "US$", 0.0, 1e9, "billed cost of today; set with LOBS_DAILY_COST_LIMIT"
    ),
    Threshold("BudgetBurn", "critical", 0.0, "US$", 0.0, 1e9, "the month's budget; 0: none", per_agent=True),
    Threshold("BudgetBurn", "warning", 0.8, "ratio", 0.0, 1.0, "used share of the month's budget"),
    Threshold(
        "RunawayAgent",
        "warning",
        5.0,
        "US$",
        0.0,
        1e9,
        "billed cost of an agent within one hour, at least",
        per_agent=True,
    ),
    Threshold(
        "UnattendedAgent",
        "warning",
        2e6,
        "tokens",
        0.0,
        1e12,
        "tokens of an agent within one hour that no person asked for, without cache reads",
        per_agent=True,
    ),
    Threshold(
        "RepeatingAgent",
        "warning",
        20.0,
        "calls",
        2.0,
        1e6,
        "the same tool call with the same arguments in a row",
        per_agent=True,
    ),
    Threshold("CostDrift", "warning", 0.02, "ratio", 0.0, 1.0, "difference of our total and the gateway's own"),
    Threshold("ModelErrors", "warning", 0.5, "ratio", 0.0, 1.0, "failed model calls of a provider"),
    Threshold("ModelLatencyHigh", "warning", 120.0, "seconds", 0.0, 300.0, "time within which 95 % of calls end"),
    Threshold("ToolFailures", "warning", 0.5, "ratio", 0.0, 1.0, "failed calls of a tool"),
    Threshold("ProviderAllowanceLow", "warning", 0.9, "ratio", 0.0, 1.0, "used share of a provider's allowance"),
    Threshold(
        "SessionStuck", "warning", 900.0, "seconds", 60.0, 86_400.0, "silence of a run in progress", per_agent=True
    ),
    Threshold(
        "ContextNearLimit", "warning", 0.9, "ratio", 0.0, 1.0, "fullest context of an agent at work", per_agent=True
    ),
    Threshold("CronJobFailing", "warning", 2.0, "runs", 1.0, 1e6, "failed runs in a row"),
    Threshold("ChannelSilent", "warning", 86_400.0, "seconds", 3_600.0, 1e9, "silence of a channel that is used daily"),
    Threshold("ApprovalPending", "warning", 120.0, "seconds", 0.0, 86_400.0, "age of the oldest pending approval"),
    Threshold("ApprovalsExpiring", "warning", 2.0, "requests", 1.0, 1e6, "approvals that expired within 24 hours"),
    Threshold("RowsRejected", "warning", 10.0, "entries", 0.0, 1e9, "entries refused within one hour"),
    Threshold("GatewayFlapping", "warning", 3.0, "restarts", 1.0, 1e6, "restarts within one hour"),
    Threshold(
        "EventStreamQuiet", "warning", 300.0, "seconds", 60.0, 86_400.0, "how much newer polls are than pushed events"
    ),
    Threshold("GatewayMemoryGrowing", "warning", 0.25, "ratio", 0.0, 1.0, "the gateway's share of memory, at least"),
    Threshold("HostDiskFull", "warning", 0.1, "ratio", 0.0, 1.0, "free space of a file system"),
    Threshold("HostDiskFull", "critical", 0.05, "ratio", 0.0, 1.0, "free space of a file system"),
    Threshold("StateDirGrowing", "warning", 2e9, "bytes", 0.0, 1e15, "growth of the state directory within 24 hours"),
    Threshold("HostMemoryLow", "warning", 0.05, "ratio", 0.0, 1.0, "available memory"),
    Threshold("HostCpuSaturated", "warning", 0.95, "ratio", 0.0, 1.0, "processors in use"),
)


Key = tuple[str, str, str]  # alert, severity, agent ("": all of them)
ByAgent = Mapping[str, Mapping[str, float]]  # agent → severity → value
Overrides = Mapping[str, Mapping[str, "float | ByAgent"]]
AGENTS = "agents"  # the table of an alert that holds the values of single agents

_KNOWN: dict[tuple[str, str], Threshold] = {(one.alert, one.severity): one for one in THRESHOLDS}


def check(alert: str, severity: str, agent: str, value: float) -> None:
    """Raises ValueError, in one line, for what is no threshold, has none for single agents, or is out of range."""
    threshold = _KNOWN.get((alert, severity))
    name = f"{alert}.{severity}" if not agent else f"{alert}.{AGENTS}.{agent}.{severity}"
    if threshold is None:
        there = sorted(".".join(key) for key in _KNOWN)
        raise ValueError(f"there is no threshold {alert}.{severity}: there are {', '.join(there)}")
    if agent and not threshold.per_agent:
        there = sorted(".".join(key) for key, one in _KNOWN.items() if one.per_agent)
        raise ValueError(f"{name}: only these have values for single agents: {', '.join(there)}")
    if not threshold.minimum <= value <= threshold.maximum:  # false for NaN too
        raise ValueError(
            f"{name} = {value:g}: must be from {threshold.minimum:g} to {threshold.maximum:g} {threshold.unit}"
        )


def effective(overrides: Overrides) -> dict[Key, float]:
    """(alert, severity, agent) → value. `overrides`: alert → severity → value, and alert → `agents` → agent → severity
    → value. Raises ValueError for an alert, severity or agent that has no threshold, and for a value out of range."""
    values: dict[Key, float] = {(one.alert, one.severity, ""): one.default for one in THRESHOLDS}
    for alert, table in overrides.items():
        for name, given in table.items():
            if isinstance(given, Mapping):
                if name != AGENTS:
                    raise ValueError(f"{alert}.{name} must be a number, or the table {alert}.{AGENTS}.<agent>")
                rows = [(agent, severity, value) for agent, own in given.items() for severity, value in own.items()]
            else:
                rows = [("", name, given)]
            for agent, severity, value in rows:
                check(alert, severity, agent, value)
                values[alert, severity, agent] = value
    return values
