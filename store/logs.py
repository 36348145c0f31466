"""The gateway's log as rows: its newest lines, its errors by signature, and how far it is read.

Everything of one look is written in one transaction with the new positions, so that a line counts once however often
the exporter starts anew. Whatever comes in here has been redacted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from store.pool import Connection
from store.reading import columns, read

MOST_LINES: Final = 20_000  # of one gateway; the newest are kept
MOST_SIGNATURES: Final = 5_000  # of one gateway; those seen last are kept


@dataclass(frozen=True, slots=True)
class LogLineRow:
    """One line of the log."""

    ts: datetime
    level: str
    subsystem: str
    session: str | None
    message: str


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line as it is kept. `id` grows with each line that was read."""

    id: int
    ts: datetime
    gateway: str
    level: str
    subsystem: str
    session: str | None
    message: str


@dataclass(frozen=True, slots=True)
class SignatureCount:
    """How often a kind of line was met since the last look."""

    signature: str
    level: str
    sample: str
    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far a file is read; `head` as the reader of the log means it."""

    file: str
    read_to: int
    head: str
    head_length: int


async def positions(connection: AsyncConnection[Any], gateway: str) -> list[LogPosition]:
    """Where to go on after a restart."""
    cursor = await connection.execute(
        "SELECT file, read_to, head, head_length FROM lobs.log_positions WHERE gateway = %s", [gateway]
    )
    # A pooled connection may give mappings.
    return [LogPosition(*(row.values() if isinstance(row, dict) else row)) for row in await cursor.fetchall()]


async def save(
    connection: AsyncConnection[Any],
    gateway: str,
    lines: Sequence[LogLineRow],
    signatures: Sequence[SignatureCount],
    read: Sequence[LogPosition],
) -> set[str]:
    """Keep one look at the log; the signatures that were never seen before."""
    async with connection.cursor() as cursor:
        if lines:
            await cursor.executemany(
                "INSERT INTO lobs.log_lines (gateway, ts, level, subsystem, session, message)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                [(gateway, row.ts, row.level, row.subsystem, row.session, row.message) for row in lines],
            )
            await cursor.execute(
                "DELETE FROM lobs.log_lines WHERE gateway = %(gateway)s AND id <= (SELECT id FROM lobs.log_lines"
                " WHERE gateway = %(gateway)s ORDER BY id DESC OFFSET %(most)s LIMIT 1)",
                {"gateway": gateway, "most": MOST_LINES},
            )
        new = await _count(cursor, gateway, signatures) if signatures else set()
        await cursor.execute(
            "DELETE FROM lobs.log_positions WHERE gateway = %s AND NOT file = ANY(%s)",
            [gateway, [position.file for position in read]],
        )
        if read:
            await cursor.executemany(
                "INSERT INTO lobs.log_positions (gateway, file, read_to, head, head_length) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (gateway, file) DO UPDATE SET read_to = excluded.read_to, head = excluded.head,"
                " head_length = excluded.head_length",
                [(gateway, one.file, one.read_to, one.head, one.head_length) for one in read],
            )
    return new


async def _count(cursor: Any, gateway: str, signatures: Sequence[SignatureCount]) -> set[str]:
    await cursor.execute(
        "SELECT signature FROM lobs.log_signatures WHERE gateway = %s AND signature = ANY(%s)",
        [gateway, [one.signature for one in signatures]],
    )
    known = {row["signature"] if isinstance(row, dict) else row[0] for row in await cursor.fetchall()}
    await cursor.executemany(
        "INSERT INTO lobs.log_signatures AS s (gateway, signature, level, sample, count, first_seen_at, last_seen_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, signature) DO UPDATE SET level = excluded.level,"
        " sample = excluded.sample, count = s.count + excluded.count,"
        " first_seen_at = least(s.first_seen_at, excluded.first_seen_at),"
        " last_seen_at = greatest(s.last_seen_at, excluded.last_seen_at)",
        [(gateway, one.signature, one.level, one.sample, one.count, one.first, one.last) for one in signatures],
    )
    await cursor.execute(
        "DELETE FROM lobs.log_signatures WHERE gateway = %(gateway)s AND signature IN (SELECT signature"
        " FROM lobs.log_signatures WHERE gateway = %(gateway)s ORDER BY last_seen_at DESC OFFSET %(most)s)",
        {"gateway": gateway, "most": MOST_SIGNATURES},
    )
    return {one.signature for one in signatures} - known


async def lines(
    connection: Connection,
    *,
    gateways: Sequence[str] | None,
    levels: Collection[str] | None,
    session: str | None,
    contains: str | None,
    before: int | None,
    limit: int,
) -> list[StoredLine]:
    """Lines of the log, newest first. `before`: only lines with a smaller id."""
    return await read(
        connection,
        StoredLine,
        f"SELECT {columns(StoredLine)} FROM public.log_lines"  # noqa: S608 - names of ours
        " WHERE (%(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s))"
        " AND (%(levels)s::text[] IS NULL OR level = ANY(%(levels)s))"
        " AND (%(session)s::text IS NULL OR session = %(session)s)"
        " AND (%(contains)s::text IS NULL OR strpos(lower(message), lower(%(contains)s)) > 0)"
        " AND (%(before)s::bigint IS NULL OR id < %(before)s) ORDER BY id DESC LIMIT %(limit)s",
        {
            "gateways": gateways,
            "levels": None if levels is None else list(levels),
            "session": session,
            "contains": contains,
            "before": before,
            "limit": limit,
        },
    )
