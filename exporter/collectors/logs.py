"""The gateway's log: lines by level, errors by signature, and the newest lines as rows.

The files are read where they are, and journald beside them: what it has that the files have not (systemd's words about
the unit, the last words of a process that dies), or everything where there are no files. Without both (another host)
the gateway is asked with `logs.tail`. What agents say and are told may stand in the log: a line of no subsystem below
`warn` is counted and not kept, and parameters of tools are cut out. Secrets are hidden before anything is kept.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg

from exporter.collectors.process import gateways
from exporter.collectors.programs import Program, ProgramError, ProgramFailedError, ProgramMissingError
from lobservatory import logging
from lobservatory.errors import one_line
from lobservatory.metrics.exposition import Sample
from openclaw import journal
from openclaw.client import GatewayClient
from openclaw.fields import mapping, text, whole
from openclaw.log_lines import LEVELS, MAX_MESSAGE, LogLine, Position, Tail, candidates, parse
from openclaw.state_dir import load_config
from store import logs as rows
from store.logs import LogLineRow, LogPosition, SignatureCount

log = logging.get(__name__)

MOST_BYTES: Final = 4 << 20  # of one look
MOST_KEPT: Final = 2_000  # lines that wait for the database, or that one look keeps
MOST_WAITING: Final = 1_000  # signatures that wait for the database, or that one look counts apart
MOST_KNOWN: Final = 5_000
ALARMING: Final = frozenset({"warn", "error", "fatal"})
OTHER: Final = "(other lines: too many kinds at once)"
_LONGEST_SIGNATURE: Final = 200
_LONGEST_SAMPLE: Final = 500
_RPC_LINES: Final = 500
_LOOK_AROUND: Final = 300.0  # seconds between two looks for other gateways
_JOURNAL: Final = "journald"  # the name of its position
_JOURNAL_LIMIT: Final = 5.0  # seconds
_JOURNAL_BYTES: Final = 1 << 20  # of one look; the rest comes with the next one

_CONTENT = re.compile(r"(?P<keep>\braw_params=).*", re.DOTALL)
_NORMALISED: Final = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\s\{\".*$"), " {…}"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'),]+", re.IGNORECASE), "<url>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\bagent:[^\s\"',;)]+"), "<session>"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b[0-9a-f]{6,}…[0-9a-f]{2,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"(?<![\w<.])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\][\w.@+~%:-]+){2,}[/\\]?"), "<path>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9_-]{20,}\b"), "<id>"),
    (re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:[.,:]\d+)*"), "<n>"),
)


def signature(subsystem: str, message: str) -> str:
    """What all lines of one kind have in common: without times, ids, sessions, paths, addresses and numbers."""
    line = message.strip().split("\n", 1)[0]
    for pattern, replacement in _NORMALISED:
        line = pattern.sub(replacement, line)
    line = f"{subsystem}: {line}" if subsystem else line
    return " ".join(line.split())[:_LONGEST_SIGNATURE] or "(empty)"


def redacted(line: LogLine) -> LogLine:
    """The line without secrets and without parameters of tools."""
    message = line.message
    if len(message) >= MAX_MESSAGE:  # it was cut, and the half of a secret does not look like one
        message = message[: message.rfind(" ") + 1] + "…"
    message = logging.REDACTOR.text(message)
    return replace(
        line,
        message=_CONTENT.sub(rf"\g<keep>{logging.HIDDEN}", message),
        subsystem=logging.REDACTOR.text(line.subsystem),
        session=None if line.session is None else logging.REDACTOR.text(line.session),
    )


Connect = Callable[[], AbstractAsyncContextManager[Any]]


class LogsCollector:
    """Reads what was logged since the last look. `connect` gives a connection of the database; None: metrics only.
    `unit`: the gateway's unit of systemd; None: journald is not asked."""

    name = "logs"

    def __init__(
        self,
        gateway: str,
        client: GatewayClient,
        state_dir: Path | None,
        *,
        interval: float = 15.0,
        connect: Connect | None = None,
        folders: Iterable[Path] | None = None,
        unit: journal.Unit | None = None,
        neighbours: Callable[[], list[tuple[int, Path | None]]] = gateways,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.interval = interval
        self.deadline = 30.0
        self._neighbours = neighbours
        self._looked: datetime | None = None
        self._sharing: list[str] = []  # other gateways that write to the files that are read here
        self._unit = unit
        self._journalctl = Program("journalctl", _JOURNAL_LIMIT, _JOURNAL_BYTES)
        self._cursor = Position(_JOURNAL, 0)  # `offset`: time of the last entry in µs, `head`: its cursor
        self._journal_failing = False
        self._gateway = gateway
        self._client = client
        self._state_dir = state_dir
        self._connect = connect
        self._folders = folders
        self._now = now
        self._tail: Tail | None = None
        self._sources: set[str] = set()
        self._levels: Counter[str] = Counter(dict.fromkeys(LEVELS, 0))
        self._new: Counter[str] = Counter(dict.fromkeys(sorted(ALARMING), 0))
        self._unreadable = 0
        self._last: datetime | None = None
        self._known: set[str] = set()
        self._waiting_lines: list[LogLineRow] = []
        self._waiting: dict[str, SignatureCount] = {}

    async def refresh(self) -> None:
        """Raises psycopg.Error while it is not known where to go on, GatewayError when the gateway must be asked."""
        if self._tail is None:
            known = await self._positions()
            self._cursor = next((one for one in known if one.file == _JOURNAL), self._cursor)
            self._tail = Tail(one for one in known if one.file != _JOURNAL)
        files = await asyncio.to_thread(self._read_files, self._tail)
        if self._looked is None or (self._now() - self._looked).total_seconds() >= _LOOK_AROUND:
            self._looked = self._now()
            await self._look_around()
        kept = await self._read_journal(self._unit, beside_files=files) if self._unit is not None else False
        self._sources = {name for name, there in (("file", files), (_JOURNAL, kept)) if there}
        if not self._sources:
            await self._ask(self._tail)
        await self._keep(self._tail)

    async def _look_around(self) -> None:
        """A line does not tell which gateway wrote it: two gateways with one log count each other's lines."""
        before, own = self._sharing, self._state_dir
        self._sharing = [] if own is None else await asyncio.to_thread(self._who_shares, own)
        if self._sharing and self._sharing != before:
            log.warning(
                "another gateway writes to the same log files, so that its lines are counted here too: give each "
                "gateway a logging.file of its own in its openclaw.json",
                gateway=f"{self._gateway} ({own})",
                others=", ".join(self._sharing),
            )

    def _who_shares(self, own: Path) -> list[str]:
        configured = load_config(own).log_file
        sharing = []
        for pid, folder in self._neighbours():
            if folder is not None and folder.resolve() == own.resolve():
                continue
            theirs = None if folder is None else load_config(folder).log_file
            # Of another user's nothing is known; by default it has a folder of its own where the first is taken.
            if theirs == configured and (folder is not None or configured is None):
                sharing.append(f"{folder or 'a state directory that cannot be seen'} (process {pid})")
        return sharing

    async def _positions(self) -> list[Position]:
        if self._connect is None:
            return []
        async with self._connect() as connection:
            known = await rows.positions(connection, self._gateway)
        return [Position(one.file, one.read_to, one.head, one.head_length) for one in known]

    # --- reading ------------------------------------------------------------------------------------------

    def _read_files(self, tail: Tail) -> bool:
        """Whether there are files at all."""
        configured = load_config(self._state_dir).log_file if self._state_dir is not None else None
        paths = candidates(configured, self._folders) if self._state_dir is not None else []
        for raw in tail.read(paths, MOST_BYTES):
            self._take(raw)
        self._unreadable += tail.skipped
        tail.skipped = 0
        return bool(paths)

    async def _read_journal(self, unit: journal.Unit, *, beside_files: bool) -> bool:
        """Whether journald has anything of the unit. A journal that cannot be read costs only what is in it."""
        before = self._cursor
        try:
            output = await self._journalctl.run(journal.arguments(unit, before.head, before.offset), cut=True)
        except ProgramMissingError:
            return False
        except ProgramError as error:
            if not self._journal_failing:
                log.warning("journald cannot be read", error=str(error))
            self._journal_failing = True
            if isinstance(error, ProgramFailedError):  # perhaps the cursor is of a journal that is no more
                self._cursor = replace(before, head="")
            return bool(before.offset)
        self._journal_failing = False
        for raw in output[: output.rfind("\n") + 1].splitlines():
            entry = journal.parse_entry(raw, self._now())
            if entry is None:
                self._unreadable += 1
                continue
            if not before.head and entry.microseconds <= before.offset:
                continue  # read before the cursor was lost
            self._cursor = Position(_JOURNAL, max(entry.microseconds, 1), entry.cursor)
            if entry.by_manager or entry.dying or not beside_files:
                self._take_line(entry.line)
        return bool(self._cursor.offset)

    async def _ask(self, tail: Tail) -> None:
        self._sources = {"rpc"}
        known = tail.positions.get("rpc")
        params = {"limit": _RPC_LINES} if known is None else {"limit": _RPC_LINES, "cursor": known.offset}
        answer = mapping(await self._client.call("logs.tail", params))
        lines = answer.get("lines")
        for raw in lines if isinstance(lines, list) else []:
            self._take(str(raw).encode())
        cursor = whole(answer.get("cursor"))
        if cursor is not None:
            tail.positions = {"rpc": Position("rpc", cursor, text(answer.get("file"), 300) or "")}

    def _take(self, raw: bytes) -> None:
        parsed = parse(raw, self._now())
        if parsed is None:
            self._unreadable += 1
            return
        self._take_line(parsed)

    def _take_line(self, parsed: LogLine) -> None:
        self._levels[parsed.level] += 1
        if self._last is None or parsed.at > self._last:
            self._last = min(parsed.at, self._now())
        line = redacted(parsed)
        alarming = line.level in ALARMING
        if alarming:
            self._count(line)
        if self._connect is not None and (alarming or line.subsystem):
            if len(self._waiting_lines) >= MOST_KEPT:
                del self._waiting_lines[: MOST_KEPT // 10]
            self._waiting_lines.append(LogLineRow(line.at, line.level, line.subsystem, line.session, line.message))

    def _count(self, line: LogLine) -> None:
        kind = signature(line.subsystem, line.message)
        if kind not in self._waiting and len(self._waiting) >= MOST_WAITING:
            kind = OTHER
        seen = self._waiting.get(kind)
        first, last = (seen.first, seen.last) if seen else (line.at, line.at)
        self._waiting[kind] = SignatureCount(
            kind,
            line.level,
            line.message[:_LONGEST_SAMPLE],
            (seen.count if seen else 0) + 1,
            min(first, line.at),
            max(last, line.at),
        )

    # --- keeping ------------------------------------------------------------------------------------------

    async def _keep(self, tail: Tail) -> None:
        """What was read becomes rows, with the positions; while the database is away it waits, bounded."""
        if self._connect is None:
            new = self._waiting.keys() - self._known
        else:
            places = [*tail.positions.values(), *([self._cursor] if self._cursor.offset else [])]
            read = [LogPosition(one.file, one.offset, one.head, one.head_length) for one in places]
            signatures = sorted(self._waiting.values(), key=lambda one: one.signature)
            try:
                async with self._connect() as connection:
                    new = await rows.save(connection, self._gateway, self._waiting_lines, signatures, read)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                log.debug("the log's lines were not kept yet", error=one_line(error))
                return
        self._new.update(self._waiting[kind].level for kind in new if kind not in self._known)
        if len(self._known) < MOST_KNOWN:
            self._known |= self._waiting.keys()
        self._waiting_lines, self._waiting = [], {}

    def render(self) -> Iterable[Sample]:
        """Counters of this process, and where the lines come from."""
        gateway = self._gateway
        for level, count in self._levels.items():
            yield Sample("claw_log_lines_total", (gateway, level), count)
        for level, count in self._new.items():
            yield Sample("claw_log_new_signatures_total", (gateway, level), count)
        if self._looked is not None:
            yield Sample("claw_log_shared_gateways", (gateway,), len(self._sharing))
        yield Sample("claw_log_unreadable_lines_total", (gateway,), self._unreadable)
        if self._last is not None:
            yield Sample("claw_log_last_line_timestamp_seconds", (gateway,), self._last.timestamp())
        for source in sorted(self._sources):
            yield Sample("claw_log_source_info", (gateway, source), 1)


def connector(pool: Any, wait: float) -> Connect:
    """Connections of a pool, waited for at most `wait` seconds."""
    return lambda: pool.connection(timeout=wait)
