"""The activity feed: who did what to what, newest first. Rows are never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from store import messages, outbox
from store.pool import Connection
from store.rows import OutboxEvent
from store.work import FeedRow, FeedStatistics


async def add(
    connection: Connection,
    *,
    type: str,  # noqa: A002 - the column's name
    actor: str,
    action: str,
    target_type: str,
    target_id: str,
    metadata: Mapping[str, Any] | None = None,
) -> FeedRow:
    """Append a row, count it and tell live clients. Last in a transaction: publishing makes other publishers wait."""
    async with connection.cursor(row_factory=class_row(FeedRow)) as cursor:
        await cursor.execute(
            "INSERT INTO lobs.activity_feed (type, actor, action, target_type, target_id, metadata)"
            " VALUES (%s, %s, %s, %s, %s, %s)"
            " RETURNING id, at, type, actor, action, target_type, target_id, metadata",
            [type, actor, action, target_type, target_id, Jsonb(dict(metadata or {}))],
        )
        row = await cursor.fetchone()
    if row is None:
        raise AssertionError("INSERT … RETURNING gave no row")
    await outbox.publish(connection, [OutboxEvent("feed", "activity", messages.feed(row))])
    # After publishing: whoever counts has the outbox to himself.
    await connection.execute(
        "INSERT INTO lobs.feed_counts AS c (day, type, action, actor, number)"
        " VALUES ((%s::timestamptz AT TIME ZONE 'UTC')::date, %s, %s, %s, 1)"
        " ON CONFLICT (day, type, action, actor) DO UPDATE SET number = c.number + 1",
        [row.at, type, action, actor],
    )
    return row


async def page(connection: Connection, *, before: int | None, limit: int) -> list[FeedRow]:
    """Rows with a lower id than `before` (None: from the newest), newest first."""
    async with connection.cursor(row_factory=class_row(FeedRow)) as cursor:
        await cursor.execute(
            "SELECT id, at, type, actor, action, target_type, target_id, metadata FROM lobs.activity_feed"
            " WHERE %s::bigint IS NULL OR id < %s ORDER BY id DESC LIMIT %s",
            [before, before, limit],
        )
        return await cursor.fetchall()


async def statistics(connection: Connection) -> FeedStatistics:
    """Rows in all and of the last 24 hours; those of today and 30 days (UTC) before by type, action and actor."""
    async with connection.cursor(row_factory=class_row(FeedStatistics)) as cursor:
        await cursor.execute(
            "WITH recent AS (SELECT type, action, actor, number FROM lobs.feed_counts"
            "                WHERE day >= (now() AT TIME ZONE 'UTC')::date - 30),"
            " counted AS (SELECT grouping(type) AS g1, grouping(action) AS g2, type, action, actor, sum(number)::bigint"
            "             AS number FROM recent GROUP BY GROUPING SETS ((type), (action), (actor)))"
            " SELECT (SELECT coalesce(sum(number), 0)::bigint FROM lobs.feed_counts) AS total,"
            "        (SELECT count(*) FROM lobs.activity_feed WHERE at > now() - interval '24 hours') AS last24h,"
            "        coalesce(jsonb_object_agg(type, number) FILTER (WHERE g1 = 0), '{}') AS by_type,"
            "        coalesce(jsonb_object_agg(action, number) FILTER (WHERE g2 = 0), '{}') AS by_action,"
            "        coalesce(jsonb_object_agg(actor, number) FILTER (WHERE g1 = 1 AND g2 = 1), '{}') AS by_actor"
            " FROM counted"
        )
        row = await cursor.fetchone()
    if row is None:
        raise AssertionError("an aggregate gave no row")
    return row
