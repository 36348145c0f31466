"""Every number that an alert compares with, declared once: pure data.

The exporter exports the effective values as `claw_alert_threshold{alert,severity,gateway,agent}`, so that nobody edits
rules. A rule repeats the default for the case that no exporter has told its own yet; a test keeps both the same.
`alerts/thresholds.toml` is generated from here; `docs/alerts.md` is tested against it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lobservatory.errors import SettingsError

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
Tables = dict[str, dict[str, float | dict[str, dict[str, float]]]]  # as TOML gives them
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
        limits = f"from {threshold.minimum:g} to {threshold.maximum:g}"
        what = f"a ratio {limits}" if threshold.unit == "ratio" else f"{limits} {threshold.unit}"
        raise ValueError(f"{name} = {value:g}: must be {what}")


def effective(overrides: Overrides) -> dict[Key, float]:
    """(alert, severity, agent) → value. `overrides`: alert → severity → value, and alert → `agents` → agent → severity
    → value. Raises ValueError for an alert, severity or agent that has no threshold, and for a value out of range."""
    values: dict[Key, float] = {(one.alert, one.severity, ""): one.default for one in THRESHOLDS}
    for alert, table in overrides.items():
        for name, given in table.items():
            if isinstance(given, Mapping):
                rows = [(agent, severity, value) for agent, own in given.items() for severity, value in own.items()]
            else:
                rows = [("", name, given)]
            for agent, severity, value in rows:
                check(alert, severity, agent, value)
                values[alert, severity, agent] = value
    return values


def read(path: Path) -> Tables:
    """The tables of a file of thresholds, checked. Raises SettingsError, in one line that names file and key."""
    try:
        return checked(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


def checked(tables: Any) -> Tables:
    """What TOML gave, when it is tables of thresholds. Raises ValueError, in one line that names the key."""
    try:
        _check_shape(tables)
    except TypeError as error:
        raise ValueError(str(error)) from error
    effective(tables)
    return dict(tables)


def _check_shape(tables: object) -> None:
    """Tables of numbers, and `agents` of tables of numbers. Raises TypeError."""
    if not isinstance(tables, Mapping):
        raise TypeError("must be tables: write [thresholds.HostDiskFull] and below it warning = 0.2")
    for alert, table in tables.items():
        if not isinstance(table, Mapping):
            raise TypeError(f"{alert} must be a table: write [{alert}] and below it severity = number")
        for key, value in table.items():
            if not isinstance(value, Mapping):
                _check_number(f"{alert}.{key}", value)
            elif key != AGENTS:
                raise TypeError(f"{alert}.{key} must be a number, or the table {alert}.{AGENTS}.<agent>")
            else:
                _check_agents(f"{alert}.{AGENTS}", value)


def _check_agents(name: str, agents: Mapping[str, object]) -> None:
    for agent, own in agents.items():
        if not isinstance(own, Mapping):
            raise TypeError(f"{name}.{agent} must be a table: [{name}.{agent}]")
        for severity, value in own.items():
            _check_number(f"{name}.{agent}.{severity}", value)


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} = {value!r}: must be a number")


def document() -> str:
    """`alerts/thresholds.toml`: every default with what it means, to copy and change."""
    lines = [
        "# What alerts compare with: these are the defaults. Copy this file, change the copy and name it in",
        "# LOBS_THRESHOLDS_FILE; what you delete keeps its default. Rules are not edited. Both processes read it",
        "# when they start; at run time the API changes thresholds (docs/alerts.md), and what is set there wins.",
        "# Ratios are from 0 to 1. Generated by `lobservatory docs`.",
    ]
    for alert in dict.fromkeys(one.alert for one in THRESHOLDS):
        own = [one for one in THRESHOLDS if one.alert == alert]
        lines += ["", f"[{alert}]"]
        for one in own:
            lines.append(f"# {one.meaning}; {one.unit}, from {one.minimum:g} to {one.maximum:g}")
            lines.append(f"{one.severity} = {_written(one.default)}")
        for one in own:
            if one.per_agent:
                lines += [
                    "# One agent's own:",
                    f"# [{alert}.{AGENTS}.main]",
                    f"# {one.severity} = {_written(one.default)}",
                ]
    return "\n".join(lines) + "\n"


def _written(value: float) -> str:
    return f"{value:_.0f}" if value.is_integer() else f"{value:g}"
