"""What has to be done from time to time: rows that are older than is wanted, messages that nobody will ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

_BATCH: Final = 20_000
# Target of lobs.retention → its time column. Identities, totals, positions and rollups are in none of them.
_TIMES: Final = {
    "model_calls": "ts",
    "tool_calls": "ts",
    "session_events": "ts",
    "host_samples": "ts",
    "agent_events": "ts",
    "gateway_events": "ts",
    "cron_runs": "started_at",
    "rejects": "seen_at",
    "events": "at",
}


async def prune(connection: AsyncConnection[Any], now: datetime | None = None) -> dict[str, int]:
    """Delete what is older than `lobs.retention` says; rows deleted by table. In batches, each its own transaction:
    give a connection in autocommit. Hypertables are left to the jobs of TimescaleDB, which drop whole chunks."""
    present = now or datetime.now(UTC)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT target, keep FROM lobs.retention WHERE keep IS NOT NULL AND target <> ALL (lobs.kept_by_jobs())"
            " ORDER BY target"
        )
        wanted = await cursor.fetchall()
    deleted = {}
    for row in wanted:
        target, keep = row["target"], row["keep"]
        if target in _TIMES:
            deleted[target] = await _delete(connection, target, present - keep)
    await _forget(connection)
    return deleted


async def set_retention(connection: AsyncConnection[Any], target: str, keep: timedelta | None) -> None:
    """How long rows of a table are kept; None: for ever. Raises ValueError for a table that is not pruned."""
    if target not in _TIMES:
        raise ValueError(f"{target} is not pruned: one of {', '.join(sorted(_TIMES))}")
    await connection.execute("UPDATE lobs.retention SET keep = %s WHERE target = %s", [keep, target])


async def sizes(connection: AsyncConnection[Any]) -> dict[str, int]:
    """Bytes of the database."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT pg_database_size(current_database()) AS database")
        row = await cursor.fetchone()
    return {"database": int(row["database"]) if row else 0}


async def _delete(connection: AsyncConnection[Any], target: str, before: datetime) -> int:
    table, column = sql.Identifier("lobs", target), sql.Identifier(_TIMES[target])
    if target == "model_calls":
        # Said before it is done: quarter hours are never built from what is left of their rows.
        await connection.execute(
            "UPDATE lobs.usage_state SET rows_from = edge FROM (SELECT"
            " date_bin('15 minutes', %s, '2000-01-01 00:00+00') + interval '15 minutes' AS edge) AS e"
            " WHERE rows_from < edge",
            [before],
        )
    statement = sql.SQL(
        "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {column} < %s LIMIT %s))"
        " AND {column} < %s"
    ).format(table=table, column=column)
    total = 0
    while True:
        async with connection.transaction():
            if target == "events":
                # Said before it is done: whoever reads in between is sent back rather than left with a gap.
                await connection.execute(
                    "UPDATE lobs.settings SET value = greatest(value::bigint,"
                    " (SELECT coalesce(max(id), 0) FROM lobs.events WHERE at < %s))::text"
                    " WHERE key = 'events_pruned_to'",
                    [before],
                )
            done = await connection.execute(statement, [before, _BATCH, before])
        total += done.rowcount
        if done.rowcount < _BATCH:
            return total


async def _forget(connection: AsyncConnection[Any]) -> None:
    """Tickets that have expired, idempotency keys of yesterday, failed log-ins of last week."""
    async with connection.transaction():
        await connection.execute("DELETE FROM lobs.tickets WHERE expires_at < now()")
        await connection.execute("DELETE FROM lobs.idempotency_keys WHERE created_at < now() - interval '24 hours'")
        await connection.execute("DELETE FROM lobs.login_failures WHERE at < now() - interval '7 days'")
