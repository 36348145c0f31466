"""The books in PostgreSQL: rows, identities, totals, positions and messages in one transaction.

What is new is decided by one insert into `lobs.identities`; only new rows are written, so a re-read, a retry after a
lost connection or a crash at any moment can neither lose nor double anything. Large batches go in by COPY, small ones
as pipelined inserts. A row that the database refuses is found by halving, kept in `lobs.poison_rows` and answered as
"not new", so that one bad row never holds up the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from store import operations, outbox
from store.ledger import identities
from store.ledger.contract import Increments, LedgerHeldError, LedgerUnavailableError
from store.pool import KEEPALIVE, session_options
from store.rows import ModelCall, OutboxEvent, Position, Reject, Session, SessionEvent, ToolCall, ToolResult, Total

_STATEMENT_MILLISECONDS: Final = 60_000
_CONNECT_SECONDS: Final = 15.0
# A server needs a moment to notice that the exporter before us has ended; another one that lives keeps its lock.
_HANDOVER_SECONDS: Final = 2.0
_COPY_FROM: Final = 25  # rows from which COPY beats pipelined inserts
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_QUARTER: Final = timedelta(minutes=15)
_ZERO: Final = Decimal(0)
_EXACT: Final = Context(prec=60)  # the usual 28 digits would round a long sum of small costs
# What the driver or the server says about a value, as opposed to what it says about itself.
_REFUSALS: Final = (psycopg.DataError, psycopg.IntegrityError, UnicodeError, OverflowError, struct.error)

_MODEL_CALLS: Final = (
    ("ts", "timestamptz"), ("gateway", "text"), ("agent", "text"), ("session_id", "text"), ("session_key", "text"),
    ("parent_session_key", "text"), ("kind", "text"), ("channel", "text"), ("entry_id", "text"), ("identity", "bytea"),
    ("provider", "text"), ("model", "text"), ("outcome", "text"), ("input_tokens", "int8"), ("output_tokens", "int8"),
    ("cache_read_tokens", "int8"), ("cache_write_tokens", "int8"), ("reasoning_tokens", "int8"),
    ("cost_usd", "numeric"), ("cost_basis", "text"), ("billing", "text"), ("duration_ms", "int8"), ("run_id", "text"),
    ("error_code", "text"), ("price_version", "text"), ("ts_flag", "text"), ("cache_write_1h_tokens", "int8"),
    ("cache_write_5m_tokens", "int8"),
)  # fmt: skip
_TOOL_CALLS: Final = (
    ("ts", "timestamptz"), ("gateway", "text"), ("agent", "text"), ("session_id", "text"), ("entry_id", "text"),
    ("position", "int4"), ("identity", "bytea"), ("call_id", "text"), ("tool", "text"), ("kind", "text"),
    ("run_id", "text"), ("outcome", "text"), ("exit_code", "int8"), ("duration_ms", "int8"), ("output_bytes", "int8"),
    ("finished_at", "timestamptz"), ("error_class", "text"),
)  # fmt: skip
_SESSION_EVENTS: Final = (
    ("ts", "timestamptz"), ("gateway", "text"), ("agent", "text"), ("session_id", "text"), ("entry_id", "text"),
    ("identity", "bytea"), ("event", "text"), ("detail", "jsonb"),
)  # fmt: skip
_REJECTS: Final = (
    ("identity", "bytea"), ("gateway", "text"), ("agent", "text"), ("source", "text"), ("reason", "text"),
    ("location", "text"),
)  # fmt: skip

# What becomes of it is the database's affair: it raises a table, or marks what a continuous aggregate has to refresh.
_RAISE_USAGE: Final = """
SELECT lobs.raise_usage(ARRAY(SELECT ROW(increment.*)::lobs.usage_15m FROM unnest(
    %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::numeric[],
    %s::bigint[], %s::bigint[]) AS increment))
"""
_RAISE_SESSION: Final = """
INSERT INTO lobs.sessions AS s (gateway, agent, session_id, session_key, kind, channel, parent_session_key, provider,
    model, calls, errors, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
    cost_usd, equivalent_cost_usd, unpriced_calls, first_call_at, last_call_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (gateway, agent, session_id) DO UPDATE SET
    session_key = coalesce(s.session_key, excluded.session_key),
    kind = CASE WHEN coalesce(s.kind, 'unknown') = 'unknown' THEN excluded.kind ELSE s.kind END,
    channel = coalesce(s.channel, excluded.channel),
    parent_session_key = coalesce(s.parent_session_key, excluded.parent_session_key),
    provider = CASE WHEN excluded.last_call_at >= coalesce(s.last_call_at, '-infinity')
        THEN excluded.provider ELSE s.provider END,
    model = CASE WHEN excluded.last_call_at >= coalesce(s.last_call_at, '-infinity')
        THEN excluded.model ELSE s.model END,
    calls = s.calls + excluded.calls,
    errors = s.errors + excluded.errors,
    input_tokens = s.input_tokens + excluded.input_tokens,
    output_tokens = s.output_tokens + excluded.output_tokens,
    cache_read_tokens = s.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = s.cache_write_tokens + excluded.cache_write_tokens,
    reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
    cost_usd = s.cost_usd + excluded.cost_usd,
    equivalent_cost_usd = s.equivalent_cost_usd + excluded.equivalent_cost_usd,
    unpriced_calls = s.unpriced_calls + excluded.unpriced_calls,
    first_call_at = least(s.first_call_at, excluded.first_call_at),
    last_call_at = greatest(s.last_call_at, excluded.last_call_at)
"""
_RAISE_AGENT: Final = """
INSERT INTO lobs.agents AS a (gateway, agent, first_call_at, last_call_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (gateway, agent) DO UPDATE SET
    first_call_at = least(a.first_call_at, excluded.first_call_at),
    last_call_at = greatest(a.last_call_at, excluded.last_call_at)
"""
MERGE_SESSION: Final = """
INSERT INTO lobs.sessions AS s (gateway, agent, session_id, session_key, kind, channel, parent_session_key, label,
    status, provider, model, context_tokens, context_limit, started_at, updated_at, ended_at, archived)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (gateway, agent, session_id) DO UPDATE SET
    session_key = coalesce(excluded.session_key, s.session_key),
    kind = CASE WHEN excluded.kind IS NULL OR (excluded.kind = 'unknown' AND s.kind IS NOT NULL)
        THEN s.kind ELSE excluded.kind END,
    channel = coalesce(excluded.channel, s.channel),
    parent_session_key = coalesce(excluded.parent_session_key, s.parent_session_key),
    label = coalesce(excluded.label, s.label),
    status = coalesce(excluded.status, s.status),
    provider = coalesce(excluded.provider, s.provider),
    model = coalesce(excluded.model, s.model),
    context_tokens = coalesce(excluded.context_tokens, s.context_tokens),
    context_limit = coalesce(excluded.context_limit, s.context_limit),
    started_at = least(s.started_at, excluded.started_at),
    updated_at = greatest(s.updated_at, excluded.updated_at),
    ended_at = coalesce(excluded.ended_at, s.ended_at),
    archived = coalesce(excluded.archived, s.archived)
"""
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
_SAVE_POSITION: Final = """
INSERT INTO lobs.positions (gateway, source_key, read_offset, generation, fingerprint, size, mtime_ns)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (gateway, source_key) DO UPDATE SET
    read_offset = excluded.read_offset, generation = excluded.generation, fingerprint = excluded.fingerprint,
    size = excluded.size, mtime_ns = excluded.mtime_ns, saved_at = now()
"""
_KEEP_ASIDE: Final = "INSERT INTO lobs.poison_rows (gateway, target, reason, row_text) VALUES (%s, %s, %s, %s)"

Record = tuple[Any, ...]
Columns = tuple[tuple[str, str], ...]


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
        """Take the books of this gateway. Raises LedgerHeldError, LedgerUnavailableError."""
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
            cursor = await connection.execute(
                "SELECT source_key, read_offset, generation, fingerprint, size, mtime_ns"
                " FROM lobs.positions WHERE gateway = %s",
                [self._gateway],
            )
            rows = await cursor.fetchall()
        keys = [_unescape(row[0]) for row in rows]
        return {
            key: Position(self._gateway, key, row[1], row[2], row[3], row[4], row[5])
            for key, row in zip(keys, rows, strict=True)
        }

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
            cursor = await connection.execute(
                "SELECT session_key, kind, channel, parent_session_key FROM lobs.sessions"
                " WHERE gateway = %s AND agent = %s AND session_id = %s AND session_key IS NOT NULL",
                [self._gateway, _clean(agent), _clean(session_id)],
            )
            row = await cursor.fetchone()
        return Session(self._gateway, agent, session_id, *row) if row else None

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[PostgresTransaction]:
        async with self._busy, self._translated():
            connection = await self._connected()
            transaction = PostgresTransaction(connection, self._gateway)
            async with connection.transaction():
                yield transaction
                await transaction.finish()
            for table, count in transaction.written.items():
                self.rows_written[table] = self.rows_written.get(table, 0) + count
            self.poison_rows += transaction.poison

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
            raise LedgerUnavailableError(_line(error)) from error
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
            text = _line(error) if isinstance(error, psycopg.Error) else "it does not answer"
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
        self._open_calls: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._tool_calls: list[dict[str, Any]] = []
        self.written: dict[str, int] = {}
        self.poison = 0

    async def insert_model_calls(self, rows: Sequence[ModelCall]) -> list[bool]:
        """Keep calls that were never seen, and raise the sums of their quarter hour, session and agent."""
        keys = [identities.of_model_call(row) for row in rows]
        new = await self._first_sights(keys)
        chosen = [index for index, is_new in enumerate(new) if is_new]
        stored = await self._store(
            "model_calls", _MODEL_CALLS, [_model_call(rows[index], keys[index]) for index in chosen]
        )
        for index, kept in zip(chosen, stored, strict=True):
            new[index] = kept
        kept_rows = [row for row, is_new in zip(rows, new, strict=True) if is_new]
        if kept_rows:
            await self._connection.execute(
                _RAISE_USAGE, [list(column) for column in zip(*_usage(kept_rows), strict=True)]
            )
            await self._many(_RAISE_SESSION, _session_usage(kept_rows))
            await self._many(_RAISE_AGENT, _agents(kept_rows))
            self._runs.update(row.run_id for row in kept_rows if row.run_id is not None)
            for row in kept_rows:
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
                [_clean(row.entry_id) for row in rows],
                [row.ts for row in rows],
                list({_clean(row.session_id) for row in rows}),
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
        plain = _is_plain(
            (text for row in rows for text in (row.agent, row.session_id, row.entry_id, row.call_id, row.tool)),
            (row.position for row in rows),
        ) and _is_plain((text for row in rows for text in (row.gateway, row.kind, row.run_id)), ())
        for index, row in enumerate(rows):
            if not new[index]:
                continue
            record = _tool_call(row, keys[index])
            if not plain and (reason := _refusal(record, _TOOL_CALLS)) is not None:
                await self._keep_aside("tool_calls", reason, tuple(record.values()))
                new[index] = False
                continue
            self._tool_calls.append(record)
            self._open_calls.setdefault((row.agent, row.session_id, row.call_id), []).append(record)
        return new

    async def insert_tool_results(self, rows: Sequence[ToolResult]) -> list[bool]:
        """Keep results that were never seen and complete their tool calls."""
        keys = [identities.of_tool_result(row) for row in rows]
        new = await self._first_sights(keys)
        plain = _is_plain(
            (text for row in rows for text in (row.agent, row.session_id, row.entry_id, row.call_id, row.tool)),
            (number for row in rows for number in (row.exit_code, row.duration_ms, row.output_bytes)),
        ) and _is_plain((text for row in rows for text in (row.gateway, row.outcome)), ())
        earlier: list[tuple[ToolResult, bytes]] = []
        for index, row in enumerate(rows):
            if not new[index]:
                continue
            if not plain and (reason := _refusal(_orphan(row, keys[index]), _TOOL_CALLS)) is not None:
                await self._keep_aside("tool_calls", reason, tuple(_orphan(row, keys[index]).values()))
                new[index] = False
                continue
            calls = self._open_calls.get((row.agent, row.session_id, row.call_id))
            if calls:
                _complete(calls.pop(), row)
            else:
                earlier.append((row, keys[index]))
        if earlier:
            await self._complete_earlier(earlier)
        return new

    async def insert_session_events(self, rows: Sequence[SessionEvent]) -> list[bool]:
        """Keep session events that were never seen."""
        keys = [identities.of_session_event(row) for row in rows]
        return await self._insert("session_events", _SESSION_EVENTS, rows, keys, _session_event)

    async def upsert_sessions(self, rows: Sequence[Session]) -> None:
        """Merge what is known of sessions; None never overwrites. A row that is refused is kept aside."""
        await self._store_by("sessions", MERGE_SESSION, [session_record(row) for row in rows])

    async def insert_rejects(self, rows: Sequence[Reject]) -> list[bool]:
        """Keep rejects; the same reason at the same location counts once."""
        keys = [identities.of_reject(row) for row in rows]
        return await self._insert("rejects", _REJECTS, rows, keys, _reject)

    async def add_totals(self, increments: Increments) -> None:
        """Raise counters. Raises ValueError for a negative, infinite or undefined value: a counter never falls."""
        records: list[Record] = []
        for (metric, labels), value in sorted(increments.items()):
            amount = Decimal(value)
            if not amount.is_finite() or amount < 0:
                raise ValueError(f"{metric}{labels}: a counter cannot be raised by {value}")
            records.append((self._gateway, metric, [_clean(label) for label in labels], amount))
        await self._many(_RAISE_TOTAL, records)

    async def save_positions(self, positions: Sequence[Position]) -> None:
        """Remember how far sources have been read."""
        await self._many(
            _SAVE_POSITION,
            [
                (
                    self._gateway, _escape(one.source_key), one.offset, one.generation, one.fingerprint, one.size,
                    one.mtime_ns,
                )
                for one in positions
            ],
        )  # fmt: skip

    async def publish(self, events: Sequence[OutboxEvent]) -> None:
        """Put messages for live clients into the outbox, at the end of the transaction."""
        self._events.extend(events)

    async def finish(self) -> None:
        """Write what waited for the end of the transaction."""
        if self._tool_calls:
            records = [tuple(record.values()) for record in self._tool_calls]
            await self._store("tool_calls", _TOOL_CALLS, records)
        if self._runs or self._sessions:
            self._events.extend(
                await operations.refresh_runs(self._connection, self._gateway, self._runs, self._sessions)
            )
        await outbox.publish(self._connection, self._events)

    async def _insert(
        self, table: str, columns: Columns, rows: Sequence[Any], keys: Sequence[bytes], record: Any
    ) -> list[bool]:
        new = await self._first_sights(keys)
        chosen = [index for index, is_new in enumerate(new) if is_new]
        stored = await self._store(table, columns, [record(rows[index], keys[index]) for index in chosen])
        for index, kept in zip(chosen, stored, strict=True):
            new[index] = kept
        return new

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

    async def _store(self, table: str, columns: Columns, records: list[Record]) -> list[bool]:
        """Write rows; for each, whether it was kept. Refused ones are found by halving and kept aside."""
        if not records:
            return []
        try:
            async with self._connection.transaction():
                if len(records) < _COPY_FROM:
                    await self._many(_insert_statement(table, columns), records)
                else:
                    await self._copy(table, columns, records)
        except _REFUSALS as error:
            if len(records) == 1:
                await self._keep_aside(table, _line(error), records[0])
                return [False]
            half = len(records) // 2
            return [
                *await self._store(table, columns, records[:half]),
                *await self._store(table, columns, records[half:]),
            ]
        self.written[table] = self.written.get(table, 0) + len(records)
        return [True] * len(records)

    async def _store_by(self, table: str, statement: str, records: list[Record]) -> None:
        """The same for a statement of its own."""
        if not records:
            return
        try:
            async with self._connection.transaction():
                await self._many(statement, records)
        except _REFUSALS as error:
            if len(records) == 1:
                await self._keep_aside(table, _line(error), records[0])
                return
            half = len(records) // 2
            await self._store_by(table, statement, records[:half])
            await self._store_by(table, statement, records[half:])
            return
        self.written[table] = self.written.get(table, 0) + len(records)

    async def _copy(self, table: str, columns: Columns, records: Iterable[Record]) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            sql.Identifier("lobs", table), sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
        )
        async with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([kind for _, kind in columns])
            for record in records:
                await copy.write_row(record)

    async def _many(self, statement: str | sql.Composed, records: Sequence[Record]) -> None:
        """One statement for many rows, pipelined: one wait for all of them."""
        if records:
            async with self._connection.cursor() as cursor:
                await cursor.executemany(statement, records)

    async def _keep_aside(self, table: str, reason: str, record: Record) -> None:
        text = _clean(repr(record))[:10_000]
        await self._connection.execute(_KEEP_ASIDE, [_clean(self._gateway), table, _clean(reason)[:1_000], text])
        self.poison += 1

    async def _complete_earlier(self, results: Sequence[tuple[ToolResult, bytes]]) -> None:
        """Results of calls that were written before this transaction, or never."""
        async with self._connection.cursor() as cursor:
            parameters = [
                {
                    "outcome": row.outcome, "exit_code": row.exit_code, "output_bytes": row.output_bytes, "ts": row.ts,
                    "duration_ms": row.duration_ms, "session_id": row.session_id, "call_id": row.call_id,
                    "gateway": row.gateway, "agent": row.agent, "error_class": row.error_class,
                }
                for row, _ in results
            ]  # fmt: skip
            await cursor.executemany(_COMPLETE_TOOL_CALL, parameters, returning=True)
            found = []
            while True:
                found.append(await cursor.fetchone() is not None)
                if not cursor.nextset():
                    break
        for (row, key), known in zip(results, found, strict=True):
            if not known:
                self._tool_calls.append(_orphan(row, key))


def _model_call(row: ModelCall, key: bytes) -> Record:
    return (
        row.ts, row.gateway, row.agent, row.session_id, row.session_key, row.parent_session_key, row.kind, row.channel,
        row.entry_id, key, row.provider, row.model, row.outcome, row.input_tokens, row.output_tokens,
        row.cache_read_tokens, row.cache_write_tokens, row.reasoning_tokens, row.cost_usd, row.cost_basis, row.billing,
        row.duration_ms, row.run_id, row.error_code, row.price_version, row.ts_flag, row.cache_write_1h_tokens,
        row.cache_write_5m_tokens,
    )  # fmt: skip


def _tool_call(row: ToolCall, key: bytes) -> dict[str, Any]:
    """In the order of `_TOOL_CALLS`."""
    return {
        "ts": row.ts, "gateway": row.gateway, "agent": row.agent, "session_id": row.session_id,
        "entry_id": row.entry_id, "position": row.position, "identity": key, "call_id": row.call_id, "tool": row.tool,
        "kind": row.kind, "run_id": row.run_id, "outcome": None, "exit_code": None, "duration_ms": None,
        "output_bytes": None, "finished_at": None, "error_class": None,
    }  # fmt: skip


def _orphan(row: ToolResult, key: bytes) -> dict[str, Any]:
    """A result whose call was never seen stands for itself: that it happened is known, when it began is not."""
    return {
        "ts": row.ts, "gateway": row.gateway, "agent": row.agent, "session_id": row.session_id,
        "entry_id": row.entry_id, "position": -1, "identity": key, "call_id": row.call_id, "tool": row.tool,
        "kind": "unknown", "run_id": None, "outcome": row.outcome, "exit_code": row.exit_code,
        "duration_ms": row.duration_ms, "output_bytes": row.output_bytes, "finished_at": row.ts,
        "error_class": row.error_class,
    }  # fmt: skip


def _complete(record: dict[str, Any], row: ToolResult) -> None:
    elapsed = max(0, (row.ts - record["ts"]) // timedelta(milliseconds=1))
    record |= {
        "outcome": row.outcome, "exit_code": row.exit_code, "output_bytes": row.output_bytes, "finished_at": row.ts,
        "error_class": row.error_class,
        "duration_ms": elapsed if row.duration_ms is None else row.duration_ms,
    }  # fmt: skip


def _session_event(row: SessionEvent, key: bytes) -> Record:
    detail = Jsonb(dict(row.detail))
    return (row.ts, row.gateway, row.agent, row.session_id, row.entry_id, key, row.event, detail)


def _reject(row: Reject, key: bytes) -> Record:
    return (key, _clean(row.gateway), _clean(row.agent), row.source, row.reason, _clean(row.location))


def session_record(row: Session) -> Record:
    """The parameters of `MERGE_SESSION`."""
    return (
        row.gateway, row.agent, row.session_id, row.session_key, row.kind, row.channel, row.parent_session_key,
        row.label, row.status, row.provider, row.model, row.context_tokens, row.context_limit, row.started_at,
        row.updated_at, row.ended_at, row.archived,
    )  # fmt: skip


def _tokens(row: ModelCall) -> int:
    return row.input_tokens + row.output_tokens + row.cache_read_tokens + row.cache_write_tokens


def _usage(rows: Sequence[ModelCall]) -> list[Record]:
    """The increments of quarter hours, in the order of their keys (two ledgers then never deadlock)."""
    sums: dict[Record, list[Any]] = {}
    for row in rows:
        bucket = _EPOCH + (row.ts - _EPOCH) // _QUARTER * _QUARTER
        key = (bucket, row.gateway, row.agent, row.provider, row.model, row.kind, row.channel or "", row.billing)
        unpriced = row.cost_basis == "unpriced"
        one = sums.setdefault(key, [0, 0, 0, 0, 0, 0, 0, _ZERO, 0, 0])
        one[0] += 1
        one[1] += row.outcome != "ok"
        one[2] += row.input_tokens
        one[3] += row.output_tokens
        one[4] += row.cache_read_tokens
        one[5] += row.cache_write_tokens
        one[6] += row.reasoning_tokens
        one[7] = _EXACT.add(one[7], row.cost_usd or _ZERO)
        one[8] += unpriced
        one[9] += _tokens(row) if unpriced else 0
    return [(*key, *sums[key]) for key in sorted(sums)]


def _session_usage(rows: Sequence[ModelCall]) -> list[Record]:
    """The increments of sessions, in the order of their keys."""
    groups: dict[tuple[str, str, str], list[ModelCall]] = {}
    for row in rows:
        groups.setdefault((row.gateway, row.agent, row.session_id), []).append(row)
    return [(*key, *_session_sums(groups[key])) for key in sorted(groups)]


def _session_sums(calls: Sequence[ModelCall]) -> Record:
    last = max(calls, key=lambda call: call.ts)
    cost = {"billed": _ZERO, "equivalent": _ZERO}
    for call in calls:
        cost[call.billing] = _EXACT.add(cost[call.billing], call.cost_usd or _ZERO)
    known = (last.session_key, last.kind, last.channel, last.parent_session_key, last.provider, last.model)
    tokens = (
        sum(call.input_tokens for call in calls),
        sum(call.output_tokens for call in calls),
        sum(call.cache_read_tokens for call in calls),
        sum(call.cache_write_tokens for call in calls),
        sum(call.reasoning_tokens for call in calls),
    )
    errors = sum(call.outcome != "ok" for call in calls)
    unpriced = sum(call.cost_basis == "unpriced" for call in calls)
    first = min(call.ts for call in calls)
    return (*known, len(calls), errors, *tokens, cost["billed"], cost["equivalent"], unpriced, first, last.ts)


def _agents(rows: Sequence[ModelCall]) -> list[Record]:
    spans: dict[tuple[str, str], tuple[datetime, datetime]] = {}
    for row in rows:
        first, last = spans.get((row.gateway, row.agent), (row.ts, row.ts))
        spans[row.gateway, row.agent] = (min(first, row.ts), max(last, row.ts))
    return [(*key, *spans[key]) for key in sorted(spans)]


def _is_plain(texts: Iterable[str | None], integers: Iterable[int | None]) -> bool:
    """Whether the database will take all of these; asked for a whole batch, because it nearly always will."""
    text = "".join(filter(None, texts))
    return (
        "\0" not in text
        and _is_unicode(text)
        and all(-_INTEGERS["int4"] <= number < _INTEGERS["int4"] for number in integers if number)
    )


def _refusal(record: dict[str, Any], columns: Columns) -> str | None:
    """Why the database would refuse a row that is written later than it is answered; None when it would not."""
    for name, kind in columns:
        value = record[name]
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            return f"{name} holds a character that PostgreSQL has no text for"
        if isinstance(value, int) and kind in _INTEGERS and not -_INTEGERS[kind] <= value < _INTEGERS[kind]:
            return f"{name} is out of range"
    return None


_INTEGERS: Final = {"int4": 2**31, "int8": 2**63}
_IDLE: Final = psycopg.pq.TransactionStatus.IDLE


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# An identity is sent as its 16 bytes, which binary COPY takes as a uuid and a statement has to be told about.
_VALUES: Final = {"bytea": "encode(%s::bytea, 'hex')::uuid"}


def _insert_statement(table: str, columns: Columns) -> sql.Composed:
    return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier("lobs", table),
        sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
        sql.SQL(", ").join(sql.SQL(_VALUES.get(kind, f"%s::{kind}")) for _, kind in columns),
    )


def _clean(text: str) -> str:
    """What PostgreSQL can keep of a text: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _escape(source_key: str) -> str:
    """File names need not be UTF-8: those that are not are kept as hexadecimal and read back the same."""
    if _is_unicode(source_key) and not source_key.startswith("hex:"):
        return source_key
    return "hex:" + source_key.encode("utf-8", "surrogatepass").hex()


def _unescape(stored: str) -> str:
    return bytes.fromhex(stored[4:]).decode("utf-8", "surrogatepass") if stored.startswith("hex:") else stored


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.split("\n", 1)[0] if text else type(error).__name__
