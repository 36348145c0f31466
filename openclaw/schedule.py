"""When a cron job of the gateway runs: period, next run and a readable form of its `schedule` object.

Shapes (2026.4.27 and 2026.9.6): `{"kind": "cron", "expr", "tz"?}` (five fields, six with seconds first),
`{"kind": "every", "everyMs", "anchorMs"?}`, `{"kind": "at", "at" | "atMs"}`. Anything else has no period.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

# Enough runs to see the gap over a weekend or a month of a usual expression.
_RUNS_LOOKED_AT = 8


def _zone(schedule: Mapping[str, Any]) -> ZoneInfo:
    try:
        return ZoneInfo(schedule.get("tz") or "UTC")
    except (KeyError, ValueError, OSError, TypeError):
        return ZoneInfo("UTC")


def _runs(schedule: Mapping[str, Any], after: datetime) -> CronSim | None:
    expression = schedule.get("expr")
    if not isinstance(expression, str):
        return None
    fields = expression.split()
    if len(fields) == 6:  # noqa: PLR2004 - seconds first; a minute is exact enough for us
        fields = fields[1:]
    try:
        return CronSim(" ".join(fields), after.astimezone(_zone(schedule)))
    except CronSimError:
        return None


def _milliseconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def period_seconds(schedule: Mapping[str, Any], after: datetime) -> float | None:
    """The longest time between two of the next runs, in seconds; None for a single run or an unknown schedule.

    The longest, because the period decides when a job counts as missed: a job of working days is not late on Sunday.
    """
    match schedule.get("kind"):
        case "every":
            every = _milliseconds(schedule.get("everyMs"))
            return every / 1000 if every else None
        case "cron":
            runs = _runs(schedule, after)
            if runs is None:
                return None
            try:
                times = [next(runs).astimezone(UTC) for _ in range(_RUNS_LOOKED_AT)]
            except (StopIteration, CronSimError):
                return None
            return max((later - earlier).total_seconds() for earlier, later in pairwise(times))
    return None


def next_run(schedule: Mapping[str, Any], after: datetime) -> datetime | None:
    """The first run after an instant; None when there is none or the schedule is unknown."""
    match schedule.get("kind"):
        case "every":
            every = _milliseconds(schedule.get("everyMs"))
            if every is None:
                return None
            anchor = _milliseconds(schedule.get("anchorMs")) or 0.0
            now = after.timestamp() * 1000
            passed = (now - anchor) // every + 1
            return datetime.fromtimestamp((anchor + passed * every) / 1000, UTC)
        case "cron":
            runs = _runs(schedule, after)
            try:
                return next(runs).astimezone(UTC) if runs is not None else None
            except (StopIteration, CronSimError):
                return None
        case "at":
            at = _at(schedule)
            return at if at is not None and at > after else None
    return None


def _at(schedule: Mapping[str, Any]) -> datetime | None:
    at = schedule.get("atMs", schedule.get("at"))
    try:
        if isinstance(at, str):
            parsed = datetime.fromisoformat(at)
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=_zone(schedule))
        milliseconds = _milliseconds(at)
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
    except (ValueError, OverflowError, OSError):
        return None


def describe(schedule: Mapping[str, Any]) -> str:
    """The schedule as people write it: `0 3 * * * (UTC)`, `every 30m`, `at 2026-11-21T03:00:00+00:00`."""
    match schedule.get("kind"):
        case "cron":
            expression = str(schedule.get("expr", ""))[:100]
            return f"{expression} ({schedule['tz']})" if schedule.get("tz") else expression
        case "every":
            every = _milliseconds(schedule.get("everyMs"))
            return f"every {_duration(timedelta(milliseconds=every))}" if every else "every ?"
        case "at":
            at = _at(schedule)
            return f"at {at.isoformat(timespec='seconds')}" if at else "at ?"
    return str(schedule.get("kind", "unknown"))[:40]


def _duration(length: timedelta) -> str:
    seconds = length.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
