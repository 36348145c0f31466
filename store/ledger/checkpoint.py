"""The ledger without a database: identities, totals and positions in one local SQLite file.

The same contract as `store.ledger.postgres`. Rows themselves are not kept; messages for live clients have no reader
and go nowhere. WAL with `synchronous=FULL`: what was committed survives a power cut. Nothing ever lowers a total.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeVar

from store.ledger import identities, spending
from store.ledger.contract import EXACT, Increments, LedgerHeldError, LedgerUnavailableError, amounts
from store.rows import ModelCall, OutboxEvent, Position, Reject, Session, SessionEvent, ToolCall, ToolResult, Total

_VERSION: Final = 2  # 1 did not note the places of calls
_BUSY_SECONDS: Final = 5.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS identities (identity BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    metric TEXT NOT NULL, labels TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (metric, labels)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
    source_key BLOB PRIMARY KEY, read_offset INTEGER NOT NULL, generation INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    agent BLOB NOT NULL, session_id BLOB NOT NULL, known TEXT NOT NULL, PRIMARY KEY (agent, session_id)) WITHOUT ROWID;
"""
_KNOWN: Final = ("session_key", "kind", "channel", "parent_session_key")  # of a session, in this order

T = TypeVar("T")


class CheckpointLedger:
    """The ledger of one gateway in one file, `data_dir/checkpoint-<gateway>.sqlite`, 0600."""

    def __init__(self, data_dir: Path, gateway: str) -> None:
        # The name is for people, the hash keeps apart what the name cannot show.
        safe = "".join(letter if letter.isalnum() else "-" for letter in gateway)[:40]
        digest = hashlib.sha256(gateway.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        self.path = data_dir / f"checkpoint-{safe}-{digest}.sqlite"
        self._gateway = gateway
        self._connection: sqlite3.Connection | None = None
        self._lock_file: int | None = None
        self._busy = asyncio.Lock()

    async def open(self) -> None:
        """Take the ledger of this gateway. Raises LedgerHeldError, LedgerUnavailableError."""
        async with self._busy:
            await self.call(self._open)

    async def close(self) -> None:
        """Give them back."""
        async with self._busy:
            await asyncio.to_thread(self._close)

    def transaction(self) -> AbstractAsyncContextManager[CheckpointTransaction]:
        """Commit at the end of the block, roll back on any error. Transactions of one ledger wait for each other."""
        return self._transaction()

    async def positions(self) -> dict[str, Position]:
        """All positions of this gateway by source key."""
        async with self._busy:
            return await self.call(self._positions)

    async def totals(self) -> list[Total]:
        """All totals of this gateway, as committed."""
        async with self._busy:
            return await self.call(self._totals)

    async def session(self, agent: str, session_id: str) -> Session | None:
        """Key, kind, channel and parent of a session; None when no key of it is known."""
        statement, names = "SELECT known FROM sessions WHERE agent = ? AND session_id = ?", (agent, session_id)
        async with self._busy:
            row = await self.call(lambda: self._opened().execute(statement, _blobs(*names)).fetchone())
        if row is None:
            return None
        return Session(self._gateway, agent, session_id, **dict(zip(_KNOWN, json.loads(row[0]), strict=True)))

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[CheckpointTransaction]:
        async with self._busy:
            connection = self._opened()
            await self.call(lambda: connection.execute("BEGIN IMMEDIATE"))
            try:
                yield CheckpointTransaction(self, connection)
                await self.call(connection.commit)
            except BaseException:
                # Not to be cancelled half-way: a transaction left open would swallow the next one.
                await asyncio.shield(asyncio.to_thread(_roll_back, connection))
                raise

    async def call(self, function: Callable[[], T]) -> T:
        """Run in a thread, to its end even when we are cancelled: the connection is never used by two threads."""
        work = asyncio.ensure_future(asyncio.to_thread(function))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
        except (sqlite3.OperationalError, sqlite3.DatabaseError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise LedgerUnavailableError(f"{self.path}: {reason}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LedgerUnavailableError(f"{self.path} is not open")
        return self._connection

    def _open(self) -> None:
        if self._connection is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise LedgerHeldError(
                f"another exporter keeps the totals of gateway {self._gateway!r} in {self.path}:"
                " stop it, or give this one another LOBS_GATEWAY_NAME or LOBS_DATA_DIR"
            ) from error
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(descriptor)
            raise
        self._lock_file, self._connection = descriptor, connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _positions(self) -> dict[str, Position]:
        rows = self._opened().execute(
            "SELECT source_key, read_offset, generation, fingerprint, size, mtime_ns FROM positions"
        )
        found = {}
        for key, offset, generation, fingerprint, size, mtime_ns in rows:
            name = bytes(key).decode("utf-8", "surrogatepass")
            found[name] = Position(self._gateway, name, offset, generation, fingerprint, size, mtime_ns)
        return found

    def _totals(self) -> list[Total]:
        rows = self._opened().execute("SELECT metric, labels, value FROM totals ORDER BY metric, labels")
        return [Total(metric, tuple(json.loads(labels)), Decimal(value)) for metric, labels, value in rows]


class CheckpointTransaction:
    """One unit of work on an open transaction; made by `CheckpointLedger.transaction`."""

    def __init__(self, ledger: CheckpointLedger, connection: sqlite3.Connection) -> None:
        self._ledger = ledger
        self._connection = connection

    async def insert_model_calls(self, rows: Sequence[ModelCall]) -> list[bool]:
        """Note calls that were never seen, and what was billed for them (for the windows of money)."""
        new = await self._first_sights([identities.of_model_call(row) for row in rows])
        # Also of those that were seen: a checkpoint of version 1 did not note them.
        await self._first_sights([identities.of_place(row) for row in rows])
        fresh = [row for row, first in zip(rows, new, strict=True) if first]
        if fresh:
            await self._ledger.call(lambda: spending.note(self._connection, fresh))
        return new

    async def counted_before(self, rows: Sequence[ModelCall]) -> list[bool]:
        """Which calls were noted before, with whatever usage."""
        places = [identities.of_place(row) for row in rows]
        statement = "SELECT 1 FROM identities WHERE identity = ?"
        return await self._ledger.call(
            lambda: [self._connection.execute(statement, (place,)).fetchone() is not None for place in places]
        )

    async def never_count(self, calls: Sequence[ModelCall], tool_calls: Sequence[ToolCall]) -> None:
        """Note these as seen."""
        await self._first_sights(list(map(identities.of_model_call, calls)))
        await self._first_sights(list(map(identities.of_tool_call, tool_calls)))

    async def insert_tool_calls(self, rows: Sequence[ToolCall]) -> list[bool]:
        """Note tool calls that were never seen."""
        return await self._first_sights([identities.of_tool_call(row) for row in rows])

    async def insert_tool_results(self, rows: Sequence[ToolResult]) -> list[bool]:
        """Note results that were never seen."""
        return await self._first_sights([identities.of_tool_result(row) for row in rows])

    async def insert_session_events(self, rows: Sequence[SessionEvent]) -> list[bool]:
        """Note session events that were never seen."""
        return await self._first_sights([identities.of_session_event(row) for row in rows])

    async def upsert_sessions(self, rows: Sequence[Session]) -> None:
        """Of sessions only what tells whose calls are: the rest are rows, and rows need a database."""
        known = [
            (
                *_blobs(row.agent, row.session_id),
                json.dumps([getattr(row, name) for name in _KNOWN]),
            )
            for row in rows
            if row.session_key is not None
        ]
        if known:
            await self._ledger.call(
                lambda: self._connection.executemany("REPLACE INTO sessions VALUES (?, ?, ?)", known)
            )

    async def insert_rejects(self, rows: Sequence[Reject]) -> list[bool]:
        """Note rejects; the same reason at the same location counts once."""
        return await self._first_sights([identities.of_reject(row) for row in rows])

    async def add_totals(self, increments: Increments) -> None:
        """Raise counters. Raises ValueError for a negative, infinite or undefined value: a counter never falls."""
        added = amounts(increments)
        await self._ledger.call(lambda: self._raise(added))

    async def save_positions(self, positions: Sequence[Position]) -> None:
        """Remember how far sources have been read."""
        rows = [
            (
                one.source_key.encode("utf-8", "surrogatepass"), one.offset, one.generation, one.fingerprint, one.size,
                one.mtime_ns,
            )
            for one in positions
        ]  # fmt: skip
        await self._ledger.call(
            lambda: self._connection.executemany("REPLACE INTO positions VALUES (?, ?, ?, ?, ?, ?)", rows)
        )

    async def publish(self, events: Sequence[OutboxEvent]) -> None:
        """Nobody reads messages without a database."""

    async def _first_sights(self, keys: Sequence[bytes]) -> list[bool]:
        return await self._ledger.call(lambda: self._note(keys))

    def _note(self, keys: Sequence[bytes]) -> list[bool]:
        statement = "INSERT OR IGNORE INTO identities VALUES (?)"
        return [self._connection.execute(statement, (key,)).rowcount == 1 for key in keys]

    def _raise(self, added: Sequence[tuple[str, tuple[str, ...], Decimal]]) -> None:
        # The sum is made here: SQLite would add as floating point, and a cent would drift away.
        for metric, names, amount in added:
            labels = json.dumps(names)
            found = self._connection.execute(
                "SELECT value FROM totals WHERE metric = ? AND labels = ?", (metric, labels)
            ).fetchone()
            value = EXACT.add(amount, Decimal(found[0])) if found else amount
            self._connection.execute("REPLACE INTO totals VALUES (?, ?, ?)", (metric, labels, str(value)))


def _blobs(*names: str) -> tuple[bytes, ...]:
    """Names as they are, also those that are no proper text."""
    return tuple(name.encode("utf-8", "surrogatepass") for name in names)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise LedgerUnavailableError(
            f"{path} was written by a newer version of Lobservatory: install that version or newer, or move the file"
            " away (all totals then begin at 0)"
        )
    connection.executescript(_SCHEMA + spending.SCHEMA)
    if version == 1:
        # Everything that is still there is read again, which counts nothing twice, so that places are noted too.
        connection.execute("UPDATE positions SET fingerprint = '' WHERE NOT source_key GLOB '#*'")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    spending.forget(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.rollback()
