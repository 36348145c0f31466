"""The gateway's log: its JSON lines, and a tail of its files over rotation, truncation and restarts.

Default files: `/tmp/openclaw/openclaw-YYYY-MM-DD.log`, shared by all gateways of a host (a line does not say which one
wrote it); `logging.file` of openclaw.json names another. Everything here is pure or blocks: call it from a thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from openclaw.fields import mapping, text

LEVELS: Final = ("trace", "debug", "info", "warn", "error", "fatal", "unknown")
MAX_LINE: Final = 256 << 10  # bytes; a longer line is skipped and counted
MAX_MESSAGE: Final = 2_000
MAX_FILES: Final = 10  # the newest
FIRST_LOOK: Final = 256 << 10  # bytes before the end of the newest file, when nothing was read before
_HEAD: Final = 256
_SESSION = re.compile(r"\b(?:sessionKey=|lane=session:)(?P<key>[^\s\"',;]{1,200})")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line, as it was written: not redacted yet. `session` is a session key or id."""

    at: datetime
    level: str
    subsystem: str
    session: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file is read. `file`: its identity (device and inode, or `rpc`), which a new name does not change;
    `head`: hash of its first `head_length` bytes, by which a reused inode is noticed."""

    file: str
    offset: int
    head: str = ""
    head_length: int = 0


def parse(raw: str | bytes, now: datetime) -> LogLine | None:
    """A line of the log; None when it is none. A time that cannot be read is `now`."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    meta = mapping(document, "_meta")
    level = str(meta.get("logLevelName") or document.get("level") or "").lower()
    parts = [document[key] for key in sorted((key for key in document if key.isdecimal()), key=int)]
    subsystem = _subsystem(parts[0]) if parts else None
    words = [part for part in (parts[1:] if subsystem is not None else parts) if isinstance(part, str)]
    message = text(document.get("message"), MAX_MESSAGE) or text(" ".join(words), MAX_MESSAGE) or ""
    return LogLine(
        at=_time(document.get("time")) or _time(meta.get("date")) or now,
        level=level if level in LEVELS else "unknown",
        subsystem=(subsystem or "")[:64],
        session=_session(document, parts, message),
        message=message,
    )


def _subsystem(first: Any) -> str | None:
    if not isinstance(first, str) or not first.startswith("{"):
        return None
    try:
        named = json.loads(first)
    except (ValueError, RecursionError):
        return None
    found = named.get("subsystem") or named.get("module") if isinstance(named, dict) else None
    return found if isinstance(found, str) else None


def _session(document: Mapping[str, Any], parts: Iterable[Any], message: str) -> str | None:
    for place in (document, *(part for part in parts if isinstance(part, dict))):
        for name in ("sessionKey", "session_key", "sessionId", "session_id"):
            found = text(place.get(name), 200)
            if found:
                return found
    match = _SESSION.search(message)
    return match["key"] if match else None


def _time(value: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def default_folders() -> tuple[Path, ...]:
    """Where OpenClaw writes when nothing else is configured: a second place when the first belongs to another user."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    return (Path("/tmp/openclaw"), Path(f"/tmp/openclaw-{user}"))  # noqa: S108 - OpenClaw's own default; only read


def candidates(configured: Path | None, folders: Iterable[Path] | None = None) -> list[Path]:
    """The log files, oldest first; with those that a rotation has put beside the configured one."""
    if configured is not None:
        patterns = [(configured.parent, f"{configured.stem}*")]
    else:
        patterns = [(folder, "openclaw-*.log*") for folder in (default_folders() if folders is None else folders)]
    found: list[tuple[float, Path]] = []
    for folder, pattern in patterns:
        for path in folder.glob(pattern):
            if path.suffix in {".gz", ".zst"} or ".log" not in path.name + ".log" * (path == configured):
                continue
            try:
                status = path.lstat()
            except OSError:
                continue  # rotated away between two looks
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime, path))
    return [path for _, path in sorted(found)[-MAX_FILES:]]


class Tail:
    """Reads what was appended since the given positions. A renamed file is followed, a truncated or replaced one is
    read from its start, and an unfinished last line is left for the next time."""

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self.positions = {position.file: position for position in positions}
        self.skipped = 0  # lines that were too long
        self._within: set[str] = set()  # files whose position is inside of such a line

    def read(self, paths: Iterable[Path], limit: int) -> Iterator[bytes]:
        """New lines of all files, at most about `limit` bytes; the rest comes with the next call."""
        first_look = not self.positions
        paths = list(paths)
        present = set()
        for path in paths:
            try:
                with path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    identity = f"{status.st_dev}:{status.st_ino}"
                    present.add(identity)
                    position = self._start(file, identity, status.st_size)
                    if position is None or not position.offset:
                        self._within.discard(identity)  # another file under the same identity
                    if position is None:
                        newest = first_look and path == paths[-1]
                        offset = max(0, status.st_size - FIRST_LOOK) if newest else status.st_size if first_look else 0
                        head = file.read(_HEAD)
                        position = Position(identity, offset, hashlib.sha256(head).hexdigest(), len(head))
                        if offset and newest:  # within a line
                            file.seek(offset)
                            position = replace(position, offset=offset + len(file.readline(MAX_LINE)))
                    self.positions[identity] = position
                    for line in self._lines(file, position, limit):
                        limit -= len(line)
                        yield line
            except OSError:
                continue  # gone, or not ours to read: the other files go on, and no line at all is noticed by its age
        if paths:
            self.positions = {key: value for key, value in self.positions.items() if key in present or key == "rpc"}

    def _start(self, file: Any, identity: str, size: int) -> Position | None:
        """Where to go on; None for a file that is not known."""
        known = self.positions.get(identity)
        if known is None:
            return None
        head = file.read(_HEAD)
        same = hashlib.sha256(head[: known.head_length]).hexdigest() == known.head and size >= known.offset
        length = len(head)
        return Position(identity, known.offset if same else 0, hashlib.sha256(head).hexdigest(), length)

    def _lines(self, file: Any, position: Position, limit: int) -> Iterator[bytes]:
        file.seek(position.offset)
        identity = position.file
        while limit > 0:
            line = file.readline(MAX_LINE)
            limit -= len(line)
            ended, skipping = line.endswith(b"\n"), identity in self._within
            if not ended and len(line) < MAX_LINE and not skipping:
                break  # not finished yet, or the end
            position = replace(position, offset=position.offset + len(line))
            self.positions[identity] = position
            if ended and skipping:
                self._within.discard(identity)
                self.skipped += 1
            elif not ended:
                self._within.add(identity)
                if not line:
                    break
            elif line.strip():
                yield line
