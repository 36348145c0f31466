"""What journald keeps of the gateway's unit: which question to ask `journalctl`, and what its JSON says.

Format: `systemd.journal-fields(7)` and `journalctl --output=json`: one object a line, every value a string, or a list
of bytes where it is no UTF-8. Everything here is pure, except `owned_unit`, which looks the owner up.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from openclaw.fields import text
from openclaw.log_lines import LEVELS, MAX_MESSAGE, LogLine, parse

FIRST_LOOK: Final = 200  # entries, when nothing was read before
_FIELDS: Final = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_PID"
_PRIORITIES: Final = ("fatal", "fatal", "fatal", "error", "warn", "info", "info", "debug")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# The console's time, or none, and `[subsystem]`.
_CONSOLE = re.compile(r"(?:\d{4}-\d\d-\d\dT\S+\s+|\d\d:\d\d:\d\d\S*\s+)?(?:\[(?P<subsystem>[\w./:-]{1,64})\]\s*)?")
# What node prints when it can no longer tell the gateway's own logger.
_DYING = re.compile(r"^(?:FATAL ERROR: |Uncaught |\[openclaw\] Uncaught |node:internal/)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of systemd, of the system or of the user `uid`."""

    name: str
    uid: int


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """`by_manager`: systemd says it of the unit. `dying`: the gateway could not log it itself any more."""

    cursor: str
    microseconds: int
    line: LogLine
    by_manager: bool
    dying: bool


def owned_unit(state_dir: Path) -> Unit | None:
    """The unit that OpenClaw installs for the profile of a state directory; None for one that is not in the home of
    its owner, because then nothing tells which unit is its."""
    profile = re.fullmatch(r"\.openclaw(?P<suffix>-[A-Za-z0-9._-]+)?", state_dir.name)
    if profile is None:
        return None
    try:
        import pwd  # noqa: PLC0415 - not on every system

        uid = state_dir.stat().st_uid
        home = Path(pwd.getpwuid(uid).pw_dir)
        if home.resolve() != state_dir.parent.resolve():
            return None
    except (ImportError, KeyError, OSError):
        return None
    return Unit(f"openclaw-gateway{profile['suffix'] or ''}.service", uid)


def arguments(unit: Unit, cursor: str, microseconds: int) -> list[str]:
    """For `journalctl`: what came after `cursor`; without one, after a time; without both, the newest entries."""
    if cursor:
        since = f"--after-cursor={cursor}"
    elif microseconds:
        since = f"--since=@{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"
    else:
        since = f"--lines={FIRST_LOOK}"
    user = f"_UID={unit.uid}"
    return [
        *("--quiet", "--no-pager", "--output=json", f"--output-fields={_FIELDS}", since),
        *(f"_SYSTEMD_UNIT={unit.name}", "+", f"UNIT={unit.name}", "_PID=1"),
        *("+", f"_SYSTEMD_USER_UNIT={unit.name}", user, "+", f"USER_UNIT={unit.name}", user),
    ]


def parse_entry(raw: str, now: datetime) -> JournalEntry | None:
    """One line of `journalctl --output=json`; None when it is none."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    cursor = document.get("__CURSOR") if isinstance(document, dict) else None
    if not isinstance(cursor, str):
        return None
    stamp = str(document.get("__REALTIME_TIMESTAMP"))
    microseconds = int(stamp) if re.fullmatch(r"\d{1,17}", stamp) else 0
    at = _EPOCH + timedelta(microseconds=microseconds) if microseconds else now
    message = _ANSI.sub("", _message(document.get("MESSAGE"))).strip()
    by_manager = document.get("SYSLOG_IDENTIFIER") == "systemd"
    line = _line(message, str(document.get("PRIORITY")), at, by_manager=by_manager)
    return JournalEntry(cursor, microseconds, line, by_manager, bool(_DYING.match(message)))


def _line(message: str, priority: str, at: datetime, *, by_manager: bool) -> LogLine:
    level = _PRIORITIES[int(priority)] if re.fullmatch("[0-7]", priority) else "unknown"
    if by_manager:
        return LogLine(at, level, "systemd", None, message[:MAX_MESSAGE])
    if message.startswith("{") and (own := parse(message, at)) is not None and own.message:  # consoleStyle "json"
        named = text(json.loads(message).get("subsystem"), 64)
        return LogLine(own.at, own.level, own.subsystem or named or "", own.session, own.message)
    if _DYING.match(message):
        return LogLine(at, "fatal", "process", None, message[:MAX_MESSAGE])
    if level == "info":
        # A unit's output is all of one priority: the console's text does not tell its level.
        level = "unknown"
    start = _CONSOLE.match(message)
    subsystem = (start["subsystem"] if start else None) or ""
    rest = message[start.end() :] if start else message
    word = rest.split(":", 1)[0].lower()
    if word in LEVELS and word != "unknown":
        level = word
    return LogLine(at, level, subsystem, None, rest[:MAX_MESSAGE])


def _message(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, int) and 0 <= one < 256 for one in value):  # noqa: PLR2004 - bytes
        return bytes(value).decode(errors="replace")
    return str(value[0]) if isinstance(value, list) and value else ""
