"""When an entry happened: its own time where that can be true, else the next best, flagged. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
_EARLIEST_MS = int(EARLIEST.timestamp()) * 1000
_DAY_MS = 86_400_000
_LARGEST_MS = 10**15  # far beyond any date; keeps arithmetic small
_MILLISECOND = timedelta(milliseconds=1)


class Instant(NamedTuple):
    """`ms` since the epoch. `flag`: why it is not the entry's own time. `bad`: a time was given that cannot be."""

    ms: int
    flag: str | None
    bad: bool


def parse(value: Any) -> int | None:
    """Epoch milliseconds of an ISO 8601 text (UTC when it names no zone) or of a number of milliseconds."""
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value)
            if instant.tzinfo is None:
                instant = instant.replace(tzinfo=UTC)
            return (instant - EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            return None
    if type(value) is int:
        return value if -_LARGEST_MS < value < _LARGEST_MS else None
    if isinstance(value, Decimal) and value.is_finite() and -_LARGEST_MS < value < _LARGEST_MS:
        return int(value)
    return None


def raw(entry_time: Any, message_time: Any) -> str:
    """What identity uses: the written time to the millisecond, never a substitute."""
    value = message_time if _absent(entry_time) else entry_time
    ms = parse(value)
    return str(ms) if ms is not None else str(value)


def choose(entry_time: Any, message_time: Any, *, written_ms: int, now_ms: int) -> Instant:
    """The time of an entry.

    `written_ms`: when its file or row was written; `now_ms`: the present, which is the time of an entry that has no
    better one. More than a day ahead and before 2020 cannot be true.
    """
    latest = now_ms + _DAY_MS
    own = parse(entry_time)
    if own is not None and _EARLIEST_MS <= own <= latest:
        return Instant(own, None, bad=False)
    message = parse(message_time)
    substitute, flag = now_ms, "file"
    if message is not None and _EARLIEST_MS <= message <= latest:
        substitute, flag = message, "message"
    elif _EARLIEST_MS <= written_ms <= latest:
        substitute = written_ms
    given = [value for value in (entry_time, message_time) if not _absent(value)]
    if _absent(entry_time) and flag == "message":
        return Instant(substitute, flag, bad=False)
    if not given:
        return Instant(substitute, "file", bad=False)
    wrong = own if own is not None else message if flag != "message" else None
    if wrong is not None:
        flag = "future" if wrong > latest else "past"
    return Instant(substitute, flag, bad=True)


def read(entry_time: Any, message_time: Any, *, written_ms: int, now_ms: int) -> tuple[str, Instant]:
    """`raw` and `choose` at once, and quickly for the entry whose own time is fine, which is nearly every one."""
    own = parse(entry_time)
    if own is not None and _EARLIEST_MS <= own <= now_ms + _DAY_MS:
        return str(own), Instant(own, None, bad=False)
    chosen = choose(entry_time, message_time, written_ms=written_ms, now_ms=now_ms)
    return raw(entry_time, message_time), chosen


def _absent(value: Any) -> bool:
    return value is None or value == ""


def to_datetime(ms: int) -> datetime:
    """Aware, in UTC; exact to the millisecond."""
    return EPOCH + timedelta(milliseconds=ms)
