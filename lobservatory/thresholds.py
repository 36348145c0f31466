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


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "DailyCostHigh", "warning", 25.0, "US$", 0.0, 1e9, "billed cost of today; set with LOBS_DAILY_COST_LIMIT"
    ),
    Threshold("RunawayAgent", "warning", 5.0, "US$", 0.0, 1e9, "billed cost of an agent within one hour, at least"),
    Threshold("CostDrift", "warning", 0.02, "ratio", 0.0, 1.0, "difference of our total and the gateway's own"),
    Threshold("ModelErrors", "warning", 0.5, "ratio", 0.0, 1.0, "failed model calls of a provider"),
    Threshold("ToolFailures", "warning", 0.5, "ratio", 0.0, 1.0, "failed calls of a tool"),
    Threshold("ContextNearLimit", "warning", 0.9, "ratio", 0.0, 1.0, "fullest context of an agent at work"),
    Threshold("CronJobFailing", "warning", 2.0, "runs", 1.0, 1e6, "failed runs in a row"),
    Threshold("ApprovalPending", "warning", 120.0, "seconds", 0.0, 86_400.0, "age of the oldest pending approval"),
    Threshold("RowsRejected", "warning", 10.0, "entries", 0.0, 1e9, "entries refused within one hour"),
    Threshold("GatewayFlapping", "warning", 3.0, "restarts", 1.0, 1e6, "restarts within one hour"),
    Threshold("GatewayMemoryGrowing", "warning", 0.25, "ratio", 0.0, 1.0, "the gateway's share of memory, at least"),
    Threshold("HostDiskFull", "warning", 0.1, "ratio", 0.0, 1.0, "free space of a file system"),
    Threshold("HostDiskFull", "critical", 0.05, "ratio", 0.0, 1.0, "free space of a file system"),
    Threshold("HostMemoryLow", "warning", 0.05, "ratio", 0.0, 1.0, "available memory"),
    Threshold("HostCpuSaturated", "warning", 0.95, "ratio", 0.0, 1.0, "processors in use"),
)


def effective(overrides: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    """(alert, severity) → value. `overrides`: alert → severity → value.

    Raises ValueError for an alert or severity that has no threshold, and for a value out of range.
    """
    known = {(threshold.alert, threshold.severity): threshold for threshold in THRESHOLDS}
    values: dict[tuple[str, str], float] = {key: threshold.default for key, threshold in known.items()}
    for alert, by_severity in overrides.items():
        for severity, value in by_severity.items():
            threshold = next((known[key] for key in known if key == (alert, severity)), None)
            if threshold is None:
                there = sorted(".".join(key) for key in known)
                raise ValueError(f"there is no threshold {alert}.{severity}: there are {', '.join(there)}")
            if not threshold.minimum <= value <= threshold.maximum:  # false for NaN too
                raise ValueError(
                    f"{alert}.{severity} = {value:g}: must be from {threshold.minimum:g} to {threshold.maximum:g} "
                    f"{threshold.unit}"
                )
            values[alert, severity] = value
    return values
