"""The ledger in PostgreSQL: rows, identities, totals, positions and messages in one transaction.

What is new is decided by one insert into `lobs.identities`; only new rows are written, so a re-read, a retry after a
lost connection or a crash at any moment can neither lose nor double anything. The rows are declared in
`store.ledger.tables`, the sums that they raise in `store.ledger.rollups`; `store.ledger.refused` writes them and sets
aside what the database refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import class_row, kwargs_row, tuple_row

from lobservatory.errors import one_line
from store import operations, outbox
from store.ledger import identities, rollups
from store.ledger.contract import Increments, LedgerHeldError, LedgerUnavailableError, amounts
from store.ledger.refused import Batch, RowWriter, clean, escape, refusal, unescape
from store.ledger.tables import (
    MERGE_SESSION,
    MODEL_CALLS,
    POSITIONS,
    REJECTS,
    SAVE_POSITION,
    SESSION_EVENTS,
    SESSIONS,
    TOOL_CALLS,
    Row,
    Table,
    ToolCallRow,
)
from store.pool import KEEPALIVE, session_options
from store.rows import ModelCall, OutboxEvent, Position, Reject, Session, SessionEvent, ToolCall, ToolResult, Total

_STATEMENT_MILLISECONDS: Final = 60_000
_CONNECT_SECONDS: Final = 15.0
# A server needs a moment to notice that the exporter before us has ended; another one that lives keeps its lock.
_HANDOVER_SECONDS: Final = 2.0
_IDLE: Final = psycopg.pq.TransactionStatus.IDLE
_TOOL_CALLS_READ: Final = Batch(ToolCall)
_TOOL_RESULTS_READ: Final = Batch(ToolResult)

# The latest call with that id that has no result yet: some providers number the calls of each turn from 1.
_COMPLETE_TOOL_CALL: Final = """
UPDATE lobs.tool_calls AS t
SET outcome = %(outcome)s, exit_code = %(exit_code)s, output_bytes = %(output_bytes)s, finished_at = %(ts)s,
    error_class = %(error_class)s,
    duration_ms = coalesce(%(duration_ms)s, greatest(0, (extract(epoch FROM %(ts)s - t.ts) * 1000)::bigint))
FROM (
    SELECT ts, identity FROM lobs.tool_calls
    WHERE session_id = %(session_id)s AND call_id = %(call_id)s AND gateway = %(gateway)s AND agent = %(agent)s
      AND outcome IS NULL
    ORDER BY ts DESC LIMIT 1
) AS open
WHERE t.session_id = %(session_id)s AND t.call_id = %(call_id)s AND t.ts = open.ts AND t.identity = open.identity
RETURNING t.identity
"""
_COUNTED_BEFORE: Final = """
SELECT agent, entry_id, ts, session_id FROM lobs.model_calls
WHERE gateway = %s AND entry_id = ANY(%s) AND (ts = ANY(%s) OR session_id = ANY(%s))
"""
_RAISE_TOTAL: Final = """
INSERT INTO lobs.totals AS t (gateway, metric, labels, value) VALUES (%s, %s, %s, %s)
ON CONFLICT (gateway, metric, labels) DO UPDATE SET value = t.value + excluded.value
"""


class PostgresLedger:
    """The ledger of one gateway. It holds one connection, and on it the lock that keeps a second exporter out.

    `rows_written` (by table) and `poison_rows` count what this object has committed.
    """

    def __init__(self, dsn: str, gateway: str, *, statement_milliseconds: int = _STATEMENT_MILLISECONDS) -> None:
        self._dsn = dsn
        self._gateway = gateway
        self._statement_milliseconds = statement_milliseconds
        self._connection: AsyncConnection[Any] | None = None
        self._busy = asyncio.Lock()
        self.rows_written: dict[str, int] = {}
        self.poison_rows = 0

    async def open(self) -> None:
        """Take the ledger of this gateway. Raises LedgerHeldError, LedgerUnavailableError."""
        async with self._busy:
            await self._connected(first=True)

    async def close(self) -> None:
        """Give them back: the lock ends with the connection."""
        async with self._busy:
            await self._drop()

    def transaction(self) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Commit at the end of the block, roll back on any error. Transactions of one ledger wait for each other."""
        return self._transaction()

    async def positions(self) -> dict[str, Position]:
        """All positions of this gateway by source key."""
        async with self._reading() as connection:
            cursor = connection.cursor(row_factory=class_row(Position))
            await cursor.execute(f"{POSITIONS.select} WHERE gateway = %s", [self._gateway])
            found = [replace(one, source_key=unescape(one.source_key)) for one in await cursor.fetchall()]
        return {one.source_key: one for one in found}

    async def totals(self) -> list[Total]:
        """All totals of this gateway, as committed."""
        async with self._reading() as connection:
            cursor = await connection.execute(
                "SELECT metric, labels, value FROM lobs.totals WHERE gateway = %s ORDER BY metric, labels",
                [self._gateway],
            )
            return [Total(metric, tuple(labels), value) for metric, labels, value in await cursor.fetchall()]

    async def session(self, agent: str, session_id: str) -> Session | None:
        """Key, kind, channel and parent of a session; None when no key of it is known."""
        async with self._reading() as connection:
            cursor = connection.cursor(row_factory=kwargs_row(partial(Session, self._gateway, agent, session_id)))
            await cursor.execute(
                "SELECT session_key, kind, channel, parent_session_key FROM lobs.sessions"
                " WHERE gateway = %s AND agent = %s AND session_id = %s AND session_key IS NOT NULL",
                [self._gateway, clean(agent), clean(session_id)],
            )
            return await cursor.fetchone()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[PostgresTransaction]:
        async with self._busy, self._translated():
            connection = await self._connected()
            transaction = PostgresTransaction(connection, self._gateway)
            async with connection.transaction():
                yield transaction
                await transaction.finish()
            for table, count in transaction.writer.written.items():
                self.rows_written[table] = self.rows_written.get(table, 0) + count
            self.poison_rows += transaction.writer.poison

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._busy, self._translated():
            yield await self._connected()

    @contextlib.asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        # The server ends statements that take too long; this is for a server that has stopped to answer at all.
        limit = asyncio.timeout(2 * self._statement_milliseconds / 1000)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            await self._drop()
            if limit.expired():
                raise LedgerUnavailableError("the database does not answer") from error
            raise
        except psycopg.Error as error:
            # Whatever it was, the next transaction begins on a connection that is known to be sound.
            await self._drop()
            raise LedgerUnavailableError(one_line(error)) from error
        except BaseException:
            if self._connection is not None and self._connection.info.transaction_status != _IDLE:
                await self._drop()
            raise

    async def _connected(self, *, first: bool = False) -> AsyncConnection[Any]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                connection = await AsyncConnection.connect(
                    self._dsn,
                    autocommit=True,
                    row_factory=tuple_row,
                    **{
                        **KEEPALIVE,
                        "options": session_options(self._dsn, self._statement_milliseconds),
                        "application_name": f"lobservatory exporter {self._gateway}"[:63],
                    },
                )
                held = await self._take_lock(connection)
                end = asyncio.get_running_loop().time() + (_HANDOVER_SECONDS if first else 0)
                while not held and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(0.1)
                    held = await self._take_lock(connection)
        except (psycopg.Error, TimeoutError, OSError) as error:
            text = one_line(error) if isinstance(error, psycopg.Error) else "it does not answer"
            raise LedgerUnavailableError(text) from error
        if not held:
            await connection.close()
            if first:
                raise LedgerHeldError(
                    f"another exporter writes the rows of gateway {self._gateway!r} to this database:"
                    " stop it, or give this one another LOBS_GATEWAY_NAME"
                )
            # Ours: the server has not yet noticed that our former connection is gone.
            raise LedgerUnavailableError("the lock of our lost connection is still held")
        self._connection = connection
        return connection

    async def _take_lock(self, connection: AsyncConnection[Any]) -> bool:
        cursor = await connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended('lobservatory ledger ' || %s, 0))", [self._gateway]
        )
        row = await cursor.fetchone()
        return bool(row and row[0])

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class PostgresTransaction:
    """One unit of work on an open transaction; made by `PostgresLedger.transaction`."""

    def __init__(self, connection: AsyncConnection[Any], gateway: str) -> None:
        self._connection = connection
        self._gateway = gateway
        self._runs: set[str] = set()
        self._sessions: dict[str, tuple[datetime, datetime]] = {}  # of calls whose run is found by the session
        self._events: list[OutboxEvent] = []
        # Tool calls wait for the results of the same batch, so that most are written once and complete.
        self._open_calls: dict[tuple[str, str, str], list[ToolCallRow]] = {}
        self._tool_calls: dict[bytes, ToolCallRow] = {}  # by identity
        self.writer = RowWriter(connection, gateway)

    async def insert_model_calls(self, rows: Sequence[ModelCall]) -> list[bool]:
        """Keep calls that were never seen, and raise the sums of their quarter hour, session and agent."""
        keys = [identities.of_model_call(row) for row in rows]
        new = await self._insert(MODEL_CALLS, rows, keys)
        kept = [row for row, is_new in zip(rows, new, strict=True) if is_new]
        if kept:
            await self._raise_sums(kept)
            self._runs.update(row.run_id for row in kept if row.run_id is not None)
            for row in kept:
                if row.run_id is None or ":run:" in (row.session_key or ""):
                    first, last = self._sessions.get(row.session_id, (row.ts, row.ts))
                    self._sessions[row.session_id] = min(first, row.ts), max(last, row.ts)
        return new

    async def counted_before(self, rows: Sequence[ModelCall]) -> list[bool]:
        """Which calls have a row already, with whatever usage."""
        cursor = await self._connection.execute(
            _COUNTED_BEFORE,
            [
                self._gateway,
                [clean(row.entry_id) for row in rows],
                [row.ts for row in rows],
                list({clean(row.session_id) for row in rows}),
            ],
        )
        times, places = set(), set()
        for agent, entry_id, ts, session_id in await cursor.fetchall():
            times.add((agent, entry_id, ts))
            places.add((agent, entry_id, session_id))
        return [
            (row.agent, row.entry_id, row.ts) in times
            if row.ts_flag in identities.TRUE_TIMES
            else (row.agent, row.entry_id, row.session_id) in places
            for row in rows
        ]

    async def never_count(self, calls: Sequence[ModelCall], tool_calls: Sequence[ToolCall]) -> None:
        """Note these as seen."""
        await self._first_sights([*map(identities.of_model_call, calls), *map(identities.of_tool_call, tool_calls)])

    async def insert_tool_calls(self, rows: Sequence[ToolCall]) -> list[bool]:
        """Keep tool calls that were never seen."""
        keys = [identities.of_tool_call(row) for row in rows]
        new = await self._first_sights(keys)
        plain = _TOOL_CALLS_READ.is_plain(rows)
        for index, row in enumerate(rows):
            if not new[index]:
                continue
            waiting = ToolCallRow.of_call(row)
            if not plain and await self._is_refused(waiting, keys[index]):
                new[index] = False
                continue
            self._tool_calls[keys[index]] = waiting
            self._open_calls.setdefault((row.agent, row.session_id, row.call_id), []).append(waiting)
        return new

    async def insert_tool_results(self, rows: Sequence[ToolResult]) -> list[bool]:
        """Keep results that were never seen and complete their tool calls."""
        keys = [identities.of_tool_result(row) for row in rows]
        new = await self._first_sights(keys)
        plain = _TOOL_RESULTS_READ.is_plain(rows)
        earlier: list[tuple[ToolResult, bytes]] = []
        for index, row in enumerate(rows):
            if not new[index]:
                continue
            if not plain and await self._is_refused(ToolCallRow.of_result(row), keys[index]):
                new[index] = False
                continue
            calls = self._open_calls.get((row.agent, row.session_id, row.call_id))
            if calls:
                calls.pop().complete(row)
            else:
                earlier.append((row, keys[index]))
        if earlier:
            await self._complete_earlier(earlier)
        return new

    async def insert_session_events(self, rows: Sequence[SessionEvent]) -> list[bool]:
        """Keep session events that were never seen."""
        keys = [identities.of_session_event(row) for row in rows]
        return await self._insert(SESSION_EVENTS, rows, keys)

    async def upsert_sessions(self, rows: Sequence[Session]) -> None:
        """Merge what is known of sessions; None never overwrites. A row that is refused is kept aside."""
        await self.writer.merge(SESSIONS, MERGE_SESSION, [SESSIONS.record(row) for row in rows])

    async def insert_rejects(self, rows: Sequence[Reject]) -> list[bool]:
        """Keep rejects; the same reason at the same location counts once."""
        keys = [identities.of_reject(row) for row in rows]
        named = [
            replace(row, gateway=clean(row.gateway), agent=clean(row.agent), location=clean(row.location))
            for row in rows
        ]
        return await self._insert(REJECTS, named, keys)

    async def add_totals(self, increments: Increments) -> None:
        """Raise counters. Raises ValueError for a negative, infinite or undefined value: a counter never falls."""
        await self.writer.execute(
            _RAISE_TOTAL,
            [
                (self._gateway, metric, [clean(label) for label in labels], amount)
                for metric, labels, amount in amounts(increments)
            ],
        )

    async def save_positions(self, positions: Sequence[Position]) -> None:
        """Remember how far sources have been read."""
        kept = [replace(one, gateway=self._gateway, source_key=escape(one.source_key)) for one in positions]
        await self.writer.execute(SAVE_POSITION, [POSITIONS.record(one) for one in kept])

    async def publish(self, events: Sequence[OutboxEvent]) -> None:
        """Put messages for live clients into the outbox, at the end of the transaction."""
        self._events.extend(events)

    async def finish(self) -> None:
        """Write what waited for the end of the transaction."""
        if self._tool_calls:
            records = [TOOL_CALLS.record(row, key) for key, row in self._tool_calls.items()]
            await self.writer.insert(TOOL_CALLS, records)
        if self._runs or self._sessions:
            self._events.extend(
                await operations.refresh_runs(self._connection, self._gateway, self._runs, self._sessions)
            )
        await outbox.publish(self._connection, self._events)

    async def _insert(self, table: Table[Row], rows: Sequence[Row], keys: Sequence[bytes]) -> list[bool]:
        """Write rows that were never seen; for each, whether it is new and was kept."""
        new = await self._first_sights(keys)
        chosen = [index for index, is_new in enumerate(new) if is_new]
        kept = await self.writer.insert(table, [table.record(rows[index], keys[index]) for index in chosen])
        for index, is_kept in zip(chosen, kept, strict=True):
            new[index] = is_kept
        return new

    async def _raise_sums(self, calls: Sequence[ModelCall]) -> None:
        quarters = [rollups.QUARTER_HOURS.record(one) for one in rollups.quarter_hours(calls)]
        await self._connection.execute(rollups.RAISE_USAGE, [list(column) for column in zip(*quarters, strict=True)])
        sessions = [rollups.SESSION_USAGE.record(one) for one in rollups.session_usage(calls)]
        await self.writer.execute(rollups.RAISE_SESSION, sessions)
        agents = [rollups.AGENT_SPANS.record(one) for one in rollups.agent_spans(calls)]
        await self.writer.execute(rollups.RAISE_AGENT, agents)

    async def _is_refused(self, row: ToolCallRow, key: bytes) -> bool:
        """Whether the database would refuse the row; it is then set aside."""
        record = TOOL_CALLS.record(row, key)
        reason = refusal(TOOL_CALLS, record)
        if reason is not None:
            await self.writer.set_aside(TOOL_CALLS.name, reason, record)
        return reason is not None

    async def _first_sights(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of these were never seen, in this batch or ever before; they are seen from now on."""
        if not keys:
            return []
        unique = set(keys)
        # One text of one array: a list of 10,000 parameters costs more to write than the rows themselves.
        array = "{" + ",".join(sorted(key.hex() for key in unique)) + "}"
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(
            "INSERT INTO lobs.identities SELECT * FROM unnest(%s::text::uuid[]) ON CONFLICT DO NOTHING"
            " RETURNING identity",
            [array],
        )
        if cursor.rowcount == 0:
            return [False] * len(keys)
        if cursor.rowcount == len(keys):
            return [True] * len(keys)
        fresh = unique if cursor.rowcount == len(unique) else {row[0].bytes for row in await cursor.fetchall()}
        new = []
        for key in keys:
            new.append(key in fresh)
            fresh.discard(key)
        return new

    async def _complete_earlier(self, results: Sequence[tuple[ToolResult, bytes]]) -> None:
        """Results of calls that were written before this transaction, or never."""
        async with self._connection.cursor() as cursor:
            await cursor.executemany(_COMPLETE_TOOL_CALL, [asdict(row) for row, _ in results], returning=True)
            found = []
            while True:
                found.append(await cursor.fetchone() is not None)
                if not cursor.nextset():
                    break
        for (row, key), known in zip(results, found, strict=True):
            if not known:
                self._tool_calls[key] = ToolCallRow.of_result(row)
