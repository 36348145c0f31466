"""Agent databases (`openclaw-agent.sqlite`): read-only, in short reads, never in the way of the gateway's writer.

Opening a database of WAL mode with `mode=ro` while no `-wal` lies beside it would create that file. So a database
that was cleanly closed is opened with `immutable=1`, and what was read counts only if no `-wal` has appeared and the
file is still the same; everything else is opened with `mode=ro`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import zstandard

from openclaw.stores.contract import (
    Chunk,
    Entry,
    LineReject,
    Position,
    Problem,
    RejectReason,
    SessionInfo,
    Source,
    SourceError,
)
from openclaw.stores.entries import MAX_ENTRY, decode
from openclaw.stores.keys import session_kind, thread_parent

NAME = "openclaw-agent.sqlite"
KNOWN_SCHEMA = 23
MAX_EVENT = 4 * 1024 * 1024  # CHECK of the store: a compressed event is at most this long, compressed or not
BUSY_TIMEOUT = 5.0  # seconds
_ATTEMPTS = 3
_SETTLED_NS = 200_000_000  # a file whose mtime is younger may change again within the clock's resolution
_WAL_VERSION = 2

T = TypeVar("T")


class _ChangedError(Exception):
    """The file was written to while it was read as immutable."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One session of a database with its newest row and its rewrite generation."""

    session_id: str
    last_seq: int
    generation: str
    order: tuple[bool, int]  # forks last, then by creation


@dataclass(frozen=True, slots=True)
class StoredArchive:
    """An archive inside the database."""

    session_id: str
    generation: str
    name: str
    table: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database holds. `problem` is set when it cannot be read, or only with a warning."""

    sessions: tuple[StoredSession, ...] = ()
    archives: tuple[StoredArchive, ...] = ()
    problem: Problem | None = None
    identity: str = ""


_SESSIONS = """
WITH RECURSIVE ids(id) AS (
  SELECT min(session_id) FROM transcript_events
  UNION ALL SELECT (SELECT min(session_id) FROM transcript_events WHERE session_id > ids.id) FROM ids WHERE id NOT NULL
)
SELECT id, (SELECT max(seq) FROM transcript_events WHERE session_id = id) FROM ids WHERE id NOT NULL
"""


class AgentDatabase:
    """One agent's database. Keeps a connection open between reads, never a transaction."""

    def __init__(self, path: Path, key: str, agent: str) -> None:
        self.path = path
        self.key = key
        self.agent = agent
        self._connection: sqlite3.Connection | None = None
        self._state: tuple[object, ...] = ()
        self._contents: tuple[tuple[object, ...], Contents] | None = None
        self.sources: dict[str, tuple[StoredSession, Source]] = {}  # of `contents`, by session
        self._forks: dict[str, bool] = {}
        self._stored: dict[str, StoredSession] = {}
        self._listed: dict[bytes, tuple[tuple[object, ...], StoredSession]] = {}  # as of the last time, by its columns
        self._ids: dict[str, tuple[StoredSession, frozenset[str]]] = {}
        self._counters: dict[str, tuple[Any, tuple[Any, ...]]] = {}
        # What is said of each session: with every write all is read again, of which hardly anything has changed.
        self._infos: dict[str, tuple[_Told, SessionInfo]] = {}
        self._sessions: tuple[tuple[object, ...], dict[str, SessionInfo]] | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- opening ------------------------------------------------------------------------------------------

    def _wal(self) -> tuple[int, int] | None:
        try:
            status = Path(f"{self.path}-wal").stat()
        except FileNotFoundError:
            return None
        return status.st_size, status.st_mtime_ns

    def signature(self) -> tuple[object, ...]:
        """Changes whenever the content may have changed. Raises OSError."""
        status = self.path.stat()
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, self._wal())

    def settled(self, signature: tuple[object, ...]) -> bool:
        """Whether an equal signature later on proves equal content."""
        times = [signature[3], signature[4][1] if isinstance(signature[4], tuple) else 0]
        return all(time.time_ns() - int(str(mtime)) > _SETTLED_NS for mtime in times)

    def identity(self) -> str:
        """`device:inode`."""
        status = self.path.stat()
        return f"{status.st_dev}:{status.st_ino}"

    def _is_wal_mode(self) -> bool:
        with self.path.open("rb") as file:
            header = file.read(20)
        return len(header) == 20 and header[18] == _WAL_VERSION  # noqa: PLR2004 - SQLite's header: read/write version

    def _open(self, *, immutable: bool) -> sqlite3.Connection:
        mode = "immutable=1" if immutable else "mode=ro"
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?{mode}",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.text_factory = bytes
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ENTRY)
            connection.execute("PRAGMA query_only = 1")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the file and, if any, the WAL
        except BaseException:
            connection.close()
            raise
        return connection

    def _connected(self) -> tuple[sqlite3.Connection, bool]:
        status = self.path.stat()
        wal = self._wal()
        immutable = wal is None and self._is_wal_mode()
        state: tuple[object, ...] = (status.st_dev, status.st_ino, immutable)
        if immutable:
            state += (status.st_size, status.st_mtime_ns)
        if self._connection is not None and state == self._state:
            return self._connection, immutable
        self.close()
        try:
            self._connection = self._open(immutable=immutable)
        except sqlite3.OperationalError as error:
            # Another user, or a read-only mount: without `-shm` the WAL cannot be read, with an empty one need not be.
            if immutable or wal is None or wal[0] or "unable" not in str(error) + _read_only(error):
                raise
            self._connection = self._open(immutable=True)
            immutable, state = True, (*state[:2], True, status.st_size, status.st_mtime_ns)
        self._state = state
        return self._connection, immutable

    def _query(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run short reads; again when the file was written to meanwhile. Raises SourceError."""
        for attempt in range(_ATTEMPTS):
            try:
                before = self.signature()
                connection, immutable = self._connected()
                answer = work(connection)
                if immutable and self.signature() != before:
                    self.close()
                    continue
            except sqlite3.DatabaseError as error:
                self.close()
                if attempt + 1 < _ATTEMPTS and isinstance(error, sqlite3.OperationalError) and _may_pass(error):
                    continue
                raise SourceError(f"{self.path}: {_explained(error)}") from error
            except OSError as error:
                self.close()
                raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from error
            return answer
        raise SourceError(f"{self.path}: changes while it is read", remedy="tried again at the next look")

    # --- what is there ------------------------------------------------------------------------------------

    def contents(self) -> Contents:
        """Sessions and archives; cached until the file or its WAL changes. Never raises."""
        try:
            signature = self.signature()
            if self._contents is not None and self._contents[0] == signature:
                return self._contents[1]
            contents = self._query(self._list)
            self._stored = {session.session_id: session for session in contents.sessions}
        except (SourceError, OSError) as error:
            return Contents(problem=Problem("sqlite", self.path, str(error)))
        if self.settled(signature):
            self._contents = (signature, contents)
        return contents

    def _list(self, connection: sqlite3.Connection) -> Contents:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = _tables(connection)
        if not tables:
            return Contents()  # just created
        columns = _columns(connection, "transcript_events")
        identity = self.identity()
        if not {"session_id", "seq"} <= columns or columns.isdisjoint({"event_json", "event_zstd"}):
            text = (
                f"{self.path}: unknown schema (version {version}; known up to {KNOWN_SCHEMA}): "
                "its transcripts cannot be read; update lobservatory"
            )
            return Contents(problem=Problem("sqlite", self.path, text, schema=True), identity=identity)
        problem = None
        if version > KNOWN_SCHEMA:
            text = (
                f"{self.path}: schema version {version} is newer than the known {KNOWN_SCHEMA}; "
                "its transcripts are read all the same; update lobservatory when you can"
            )
            problem = Problem("sqlite", self.path, text, fatal=False, schema=True)
        return Contents(
            sessions=tuple(sorted(self._list_sessions(connection), key=lambda s: (s.order, s.session_id))),
            archives=tuple(_list_archives(connection, tables)),
            problem=problem,
            identity=identity,
        )

    def _list_sessions(self, connection: sqlite3.Connection) -> Iterator[StoredSession]:
        generations = dict(_rows(connection, "transcript_rewrite_watermarks", ("session_id", "generation")))
        windows = {
            row[0]: row[1:] for row in _rows(connection, "session_windows", ("session_id", "reason", "created_at"))
        }
        listed: dict[bytes, tuple[tuple[object, ...], StoredSession]] = {}
        for session_id, last_seq in connection.execute(_SESSIONS).fetchall():
            reason, created = windows.get(session_id, (None, None))
            told = (last_seq, generations.get(session_id), reason, created)
            before = self._listed.get(session_id)
            if before is None or before[0] != told:
                fork = reason in {b"fork", b"rewind"} or self._has_parent(connection, session_id)
                stored = StoredSession(
                    session_id=_text(session_id),
                    last_seq=int(last_seq),
                    generation=_text(generations.get(session_id)),
                    order=(fork, created if isinstance(created, int) else 0),
                )
                before = (told, stored)
            listed[session_id] = before
            yield before[1]
        self._listed = listed

    def _has_parent(self, connection: sqlite3.Connection, session_id: bytes) -> bool:
        """Whether the header names a parent; a header never changes."""
        name = _text(session_id)
        if name not in self._forks:
            try:
                row = next(_events(connection, session_id, -1, 1), None)
            except sqlite3.DataError:  # too long to be a header
                row = None
            entry = None if row is None else _entry(row)
            self._forks[name] = isinstance(entry, Entry) and bool(entry.parentSession)
        return self._forks[name]

    # --- events -------------------------------------------------------------------------------------------

    def read(self, source: Source, position: Position | None, *, max_bytes: int) -> Chunk:
        """The next rows of one session. Raises SourceError."""
        restarted = position is not None and (
            position.fingerprint != source.fingerprint or source.size - 1 < position.offset
        )
        after = position.offset if position is not None and not restarted else -1
        entries, rejects, last, size, written, done = self._query(
            lambda connection: _read_rows(connection, source, after, max_bytes)
        )
        return Chunk(
            source=source,
            session_id=source.session_id,
            entries=entries,
            rejects=rejects,
            position=Position(
                key=source.key,
                offset=last,
                generation=0 if position is None else position.generation + restarted,
                fingerprint=source.fingerprint,
                size=max(source.size, last + 1),
                mtime_ns=source.mtime_ns,
            ),
            bytes_read=size,
            written_ms=written or source.mtime_ns // 1_000_000,
            done=done,
            lag=0 if done else max(0, source.size - 1 - last),
            restarted=restarted,
        )

    def rows(self, source: Source, *, max_bytes: int) -> Iterator[Rows]:
        """All rows of one session, undecoded, about `max_bytes` at a time. Raises SourceError."""
        after, done = -1, False
        while not done:
            start = after
            rows, after, done = self._query(lambda connection: _raw_rows(connection, source, start, max_bytes))  # noqa: B023 - run at once
            yield rows

    def has(self, session_id: str) -> bool:
        """Whether there are rows of a session, as of the last `contents`."""
        return session_id in self._stored

    def entry_ids(self, session_id: str) -> frozenset[str]:
        """Ids of all entries of a session, as of the last `contents`. Raises SourceError."""
        session = self._stored.get(session_id)
        if session is None:
            return frozenset()
        known = self._ids.get(session_id)
        if known is None or known[0] != session:
            rows = self._query(lambda connection: _ids(connection, session_id))
            known = self._ids[session_id] = (session, rows)
        return known[1]

    def archive(self, source: Source) -> bytes:
        """The bytes of an archive inside the database. Raises SourceError."""
        assert source.archive_of is not None  # noqa: S101 - by construction of such sources
        session_id, generation = source.archive_of
        table = source.key.split("#", 1)[1].split(":", 1)[0]

        def work(connection: sqlite3.Connection) -> bytes:
            row = connection.execute(
                f"SELECT archive_blob FROM {table} WHERE session_id = ? AND generation = ?",  # noqa: S608 - our name
                (session_id, generation),
            ).fetchone()
            return bytes(row[0]) if row and row[0] is not None else b""

        return self._query(work)

    # --- the index ----------------------------------------------------------------------------------------

    def sessions(self) -> Mapping[str, SessionInfo]:
        """What nodes and windows say, by session id; cached until the database changes. Raises SourceError."""
        try:
            signature = self.signature()
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from error
        if self._sessions is not None and self._sessions[0] == signature:
            return self._sessions[1]
        found = self._query(self._index)
        if self.settled(signature):
            self._sessions = (signature, found)
        return found

    def _index(self, connection: sqlite3.Connection) -> dict[str, SessionInfo]:
        nodes = _records(connection, "session_nodes", _NODE)
        self._add_counters(connection, nodes)
        windows = {_text(window["session_id"]): window for window in _records(connection, "session_windows", _WINDOW)}
        by_key = {_text(node["session_key"]): node for node in nodes}
        keys = {name: _text(window["session_key"]) for name, window in windows.items() if window["session_key"]}
        for key, node in by_key.items():
            name = _text(node["current_session_id"])
            if name and (":run:" not in key or name not in keys):
                keys[name] = key
        infos: dict[str, tuple[_Told, SessionInfo]] = {}
        for name, key in keys.items():
            told = (key, by_key.get(key, {}), windows.get(name, {}))
            before = self._infos.get(name)
            infos[name] = before if before is not None and before[0] == told else (told, _info(self.agent, name, *told))
        self._infos = infos
        return {name: info for name, (_, info) in infos.items()}

    def _add_counters(self, connection: sqlite3.Connection, nodes: list[dict[str, Any]]) -> None:
        """`entry_json` holds whole prompts: SQLite extracts a few members, and only of nodes that have changed."""
        if "entry_json" not in _columns(connection, "session_nodes"):
            return
        valid = "CASE WHEN json_valid(entry_json) THEN entry_json ELSE '{}' END"
        fields = ", ".join(f"json_extract({valid}, '$.{name}')" for name in _COUNTERS)
        query = f"SELECT {fields} FROM session_nodes WHERE session_key = ?"  # noqa: S608 - our own names
        counters: dict[str, tuple[Any, tuple[Any, ...]]] = {}
        for node in nodes:
            key = _text(node["session_key"])
            known = self._counters.get(key)
            if known is None or known[0] != node["updated_at"]:
                row = connection.execute(query, (key,)).fetchone()
                known = (node["updated_at"], row if row is not None else (None,) * len(_COUNTERS))
            counters[key] = known
            node.update(zip(_COUNTERS, known[1], strict=True))
        self._counters = counters


_NODE = (
    "session_key",
    "current_session_id",
    "updated_at",
    "status",
    "created_at",
    "created_via",
    "parent_session_key",
    "spawned_by",
    "label",
    "archived_at",
)
_WINDOW = (
    "session_id",
    "session_key",
    "hook_external_content_source",
    "started_at",
    "updated_at",
    "ended_at",
    "status",
    "channel",
    "model_provider",
    "model",
    "parent_session_key",
    "spawned_by",
)
_COUNTERS = ("totalTokens", "contextTokens", "channel", "lastChannel")


_Told = tuple[str, Mapping[str, Any], Mapping[str, Any]]  # its key, its node, its window


def _info(agent: str, session_id: str, key: str, node: Mapping[str, Any], window: Mapping[str, Any]) -> SessionInfo:
    current = _text(node.get("current_session_id")) == session_id
    hook = window.get("hook_external_content_source") is not None
    parent = _text(
        window.get("spawned_by")
        or window.get("parent_session_key")
        or node.get("spawned_by")
        or node.get("parent_session_key")
    )
    return SessionInfo(
        agent=agent,
        session_id=session_id,
        session_key=key or None,
        kind="hook" if hook else session_kind(key, created_via=_text(node.get("created_via"))),
        channel=_text(window.get("channel") or node.get("channel") or node.get("lastChannel")) or None,
        parent_session_key=parent or thread_parent(key),
        label=_text(node.get("label")) or None,
        status=_text(window.get("status") or (node.get("status") if current else None)) or None,
        provider=_text(window.get("model_provider")) or None,
        model=_text(window.get("model")) or None,
        context_tokens=_number(node.get("totalTokens")) if current else None,
        context_limit=_number(node.get("contextTokens")) if current else None,
        started_ms=_number(window.get("started_at")) or _number(node.get("created_at")),
        updated_ms=_number(window.get("updated_at")) or _number(node.get("updated_at")),
        ended_ms=_number(window.get("ended_at")),
        archived=node.get("archived_at") is not None if node else None,
    )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {_text(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {_text(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")}


def _rows(connection: sqlite3.Connection, table: str, wanted: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Rows of a table with NULL for columns that this version of the store does not have."""
    columns = _columns(connection, table)
    if not columns:
        return []
    fields = ", ".join(name if name in columns else f"NULL AS {name}" for name in wanted)
    return connection.execute(f"SELECT {fields} FROM {table}").fetchall()  # noqa: S608 - our own names


def _records(connection: sqlite3.Connection, table: str, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """As `_rows`, by name."""
    return [dict(zip(wanted, row, strict=True)) for row in _rows(connection, table, wanted)]


def _list_archives(connection: sqlite3.Connection, tables: set[str]) -> Iterator[StoredArchive]:
    for table in ("session_transcript_archives", "session_transcript_cold_archives"):
        if table not in tables or "archive_blob" not in _columns(connection, table):
            continue
        query = f"SELECT session_id, generation, archive_name FROM {table} WHERE archive_blob NOT NULL ORDER BY 1, 2"  # noqa: S608 - our own names
        for session_id, generation, name in connection.execute(query):
            yield StoredArchive(_text(session_id), _text(generation), _text(name), table)


_Row = tuple[int, Any, Any, Any, Any]


def _events(connection: sqlite3.Connection, session_id: str | bytes, after: int, limit: int) -> Iterator[_Row]:
    columns = _columns(connection, "transcript_events")
    optional = ("event_json", "event_zstd", "event_utf8_bytes", "created_at")
    fields = ", ".join(name if name in columns else "NULL" for name in optional)
    query = (
        f"SELECT seq, {fields} FROM transcript_events "  # noqa: S608 - our own names
        "WHERE session_id = ? AND seq > ? ORDER BY seq LIMIT ?"
    )
    return connection.execute(query, (_text(session_id), after, limit))


def _one_by_one(connection: sqlite3.Connection, session_id: str, after: int) -> Iterator[tuple[int, _Row | None]]:
    """Rows after a number; None for the content of a row beyond our limit, which SQLite then does not even load."""
    cursor: Iterator[_Row] | None = None
    while True:
        try:
            if cursor is None:
                cursor = _events(connection, session_id, after, -1)
            row = next(cursor, None)
        except sqlite3.DataError:  # the cursor reads ahead: one of the next rows, not necessarily the very next
            cursor = None
            next_seq = connection.execute(
                "SELECT min(seq) FROM transcript_events WHERE session_id = ? AND seq > ?", (session_id, after)
            ).fetchone()[0]
            try:
                row = next(_events(connection, session_id, after, 1), None)
            except sqlite3.DataError:
                after = next_seq
                yield after, None
                continue
        if row is None:
            return
        after = row[0]
        yield after, row


# Number, text (or the reason why there is none), and the epoch ms at which the row was written.
Rows = list[tuple[int, bytes | RejectReason, Any]]


def _raw_rows(connection: sqlite3.Connection, source: Source, after: int, max_bytes: int) -> tuple[Rows, int, bool]:
    rows: Rows = []
    size = 0
    for seq, row in _one_by_one(connection, source.session_id, after):
        after = seq
        text: bytes | RejectReason = "too_long" if row is None else _row_text(row)
        size += len(text)
        rows.append((seq, text, None if row is None else row[4]))
        if size >= max_bytes:
            return rows, after, False
    return rows, after, True


def _read_rows(
    connection: sqlite3.Connection, source: Source, after: int, max_bytes: int
) -> tuple[list[Entry], list[LineReject], int, int, int, bool]:
    entries: list[Entry] = []
    rejects: list[LineReject] = []
    size, written = 0, 0
    rows, last, done = _raw_rows(connection, source, after, max_bytes)
    for seq, text, created in rows:
        found = text if isinstance(text, str) else row_entry(text, created)
        size += 1 if isinstance(text, str) else len(text)
        if isinstance(found, Entry):
            written = max(written, found.written_ms)
            entries.append(found)
        else:
            rejects.append(LineReject(found, f"{source.key}@{seq}"))
    return entries, rejects, last, size, written, done


def _ids(connection: sqlite3.Connection, session_id: str) -> frozenset[str]:
    found = (_entry(row) for _, row in _one_by_one(connection, session_id, -1) if row is not None)
    return frozenset(entry.id for entry in found if isinstance(entry, Entry) and isinstance(entry.id, str))


_inflate = zstandard.ZstdDecompressor(max_window_size=MAX_EVENT)


def schema_version(path: Path) -> int:
    """The version of a database's schema; 0 when it cannot be read (`contents` says why)."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2)) as found:
            return int(found.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return 0


def _entry(row: _Row) -> Entry | RejectReason:
    """The entry of a row, or the reason why it has none."""
    text = _row_text(row)
    return text if isinstance(text, str) else row_entry(text, row[4])


def row_entry(text: bytes, created: Any) -> Entry | RejectReason:
    """The entry of a row's text and the time at which it was written, or the reason why it has none."""
    found = decode(text)
    if isinstance(found, Entry) and isinstance(created, int):
        found.written_ms = created
    return found


def _row_text(row: _Row) -> bytes | RejectReason:
    _seq, text, compressed, size, _created = row
    if text is None:
        text = _inflated(compressed, size)
    elif isinstance(text, str):
        text = text.encode("utf-8", "replace")
    return text if isinstance(text, bytes) else "bad_json"


def _inflated(compressed: Any, size: Any) -> bytes | None:
    if not isinstance(compressed, bytes):
        return None
    limit = min(size, MAX_EVENT) if isinstance(size, int) and size > 0 else MAX_EVENT
    with contextlib.suppress(zstandard.ZstdError):  # one whole frame that tells its size, as the gateway writes it
        if 0 < zstandard.frame_content_size(compressed) <= limit:
            return _inflate.decompress(compressed, allow_extra_data=False)
    try:
        with _inflate.stream_reader(compressed, read_across_frames=True) as reader:
            text: bytes = reader.read(limit + 1)
    except zstandard.ZstdError:
        return None
    return text if len(text) <= limit else None


def _read_only(error: sqlite3.Error) -> str:
    return "unable" if "readonly" in str(error) else ""


def _may_pass(error: sqlite3.OperationalError) -> bool:
    return any(word in str(error) for word in ("locked", "busy", "schema has changed", "disk I/O"))


def _explained(error: sqlite3.Error) -> str:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return f"cannot be read: {text}; check the disk, or restore the file from a backup"
    if "readonly" in text or "unable to open" in text:
        return (
            f"cannot be read: {text}; its -wal file needs write permission to be read while no gateway runs: "
            "start the gateway, or run as its user"
        )
    if "locked" in text or "busy" in text:
        return f"locked for more than {BUSY_TIMEOUT:.0f} s; tried again at the next look"
    return f"cannot be read: {text}"
