"""The log of the replay gateway: the recorded lines, moved in time, and what is written after them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from openclaw.fields import mapping, whole

_MOST_KEPT: Final = 5_000  # lines
_LIMIT: Final = 500  # lines of an answer, when nothing else is asked for


class GatewayLog:
    """A log as `logs.tail` reads it: a cursor is a number of bytes from the beginning of the file."""

    def __init__(self, recorded: Mapping[str, Any], by: timedelta) -> None:
        lines = [_moved(line, by) for line in recorded.get("lines", ())]
        self._file = recorded.get("file")
        # Only the end of the file was recorded; its last line ends where the recorded cursor is.
        self._size = max(0, (whole(recorded.get("cursor")) or 0) - sum(_length(line) for line in lines))
        self._lines: deque[tuple[int, str]] = deque(maxlen=_MOST_KEPT)  # each with its end
        for line in lines:
            self._append(line)

    def write(self, subsystem: str, message: str, at: datetime) -> None:
        """Write a line of the level INFO, in the form of 2026.9.6."""
        named = json.dumps({"subsystem": subsystem}, separators=(",", ":"))
        stamp = at.astimezone(UTC).isoformat(timespec="milliseconds")
        meta = {
            "runtime": "node",
            "hostname": "claw",
            "date": stamp.replace("+00:00", "Z"),
            "logLevelId": 3,
            "logLevelName": "INFO",
            "name": named,
            "parentNames": ["openclaw"],
        }
        line = {"0": named, "1": message, "_meta": meta, "time": stamp, "hostname": "claw", "message": message}
        self._append(_text(line))

    def _append(self, line: str) -> None:
        self._size += _length(line)
        self._lines.append((self._size, line))

    def tail(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The newest lines, or those after a cursor. One beyond the end is of another file: then all is told again."""
        cursor, limit = whole(params.get("cursor")), max(1, whole(params.get("limit")) or _LIMIT)
        reset = cursor is not None and cursor > self._size
        start = 0 if cursor is None or reset else cursor
        found = [line for end, line in self._lines if end > start]
        return {
            "file": self._file,
            "cursor": self._size,
            "size": self._size,
            "lines": found[-limit:],
            "truncated": len(found) > limit,
            "reset": reset,
        }


def _moved(line: str, by: timedelta) -> str:
    document = json.loads(line)
    meta = mapping(document, "_meta")
    at = (datetime.fromisoformat(document["time"]) + by).astimezone(UTC).isoformat(timespec="milliseconds")
    return _text({**document, "_meta": {**meta, "date": at.replace("+00:00", "Z")}, "time": at})


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _length(line: str) -> int:
    return len(line.encode()) + 1
