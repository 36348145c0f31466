"""Messages for live clients: written in the transaction of what they tell, read in the order of commits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from store.pool import KEEPALIVE, session_options
from store.rows import OutboxEvent

CHANNEL = "lobs_events"
RESET = "reset"

_PAGE = 500
_POLL_SECONDS = 5.0
_RECONNECT_SECONDS = (0.2, 5.0)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A message with its id. Ids rise in the order of commits; gaps are normal.

    `topic` "reset": what was asked for is no longer there (older than 24 hours, or another database); the client has
    to fetch the present state, and goes on from `id`.
    """

    id: int
    at: datetime
    topic: str
    kind: str
    gateway: str | None
    payload: dict[str, Any]


async def publish(connection: AsyncConnection[Any], events: Sequence[OutboxEvent]) -> None:
    """Write messages in the caller's transaction. Last in the transaction: other publishers wait until it ends."""
    if not events:
        return
    await connection.execute(
        "SELECT lobs.publish(%s::text[], %s::text[], %s::text[], %s::jsonb[])",
        [
            [event.topic for event in events],
            [event.kind for event in events],
            [event.gateway for event in events],
            [Jsonb(dict(event.payload), dumps=_dumps) for event in events],
        ],
    )


async def latest_id(connection: AsyncConnection[Any]) -> int:
    """The id of the newest message ever written, 0 when there was none. Read after it: everything newer."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        "SELECT greatest((SELECT coalesce(max(id), 0) FROM lobs.events),"
        " (SELECT value::bigint FROM lobs.settings WHERE key = 'events_pruned_to')) AS id"
    )
    row = await cursor.fetchone()
    return int(row["id"]) if row else 0


async def read(
    connection: AsyncConnection[Any], after_id: int, topics: Sequence[str] | None = None, limit: int = _PAGE
) -> list[StoredEvent]:
    """Up to `limit` messages after an id, oldest first; of all topics when `topics` is None."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        "SELECT id, at, topic, kind, gateway, payload FROM lobs.events"
        " WHERE id > %s AND (%s::text[] IS NULL OR topic = ANY(%s::text[])) ORDER BY id LIMIT %s",
        [after_id, topics, topics, limit],
    )
    return [StoredEvent(**row) for row in await cursor.fetchall()]


async def is_lost(connection: AsyncConnection[Any], after_id: int) -> bool:
    """Whether messages after this id may be gone: they were pruned, or the id is of another database."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute("SELECT value::bigint AS id FROM lobs.settings WHERE key = 'events_pruned_to'")
    row = await cursor.fetchone()
    return after_id < (int(row["id"]) if row else 0) or after_id > await latest_id(connection)


async def follow(
    dsn: str, after_id: int | None = None, topics: Sequence[str] | None = None
) -> AsyncIterator[StoredEvent]:
    """Every message after an id (None: from now on), for ever, each once and in order.

    On a connection of its own. A notification is only a wake-up: after each, after each (re)connect and every 5 s it
    reads on from the last id. While the database is away it tries again, at most every 5 s, and then goes on without
    a gap. Close it with `aclose()`, or by cancelling the task that reads.
    """
    position = after_id
    delay = _RECONNECT_SECONDS[0]
    while True:
        try:
            async with await _listen(dsn) as connection:
                if position is None:
                    position = await latest_id(connection)
                elif await is_lost(connection, position):
                    position = await latest_id(connection)
                    yield StoredEvent(position, datetime.now(UTC), RESET, RESET, None, {})
                while True:
                    page = await read(connection, position, topics)
                    delay = _RECONNECT_SECONDS[0]
                    for event in page:
                        position = event.id
                        yield event
                    if len(page) < _PAGE:
                        await _wake_up(connection)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RECONNECT_SECONDS[1])


def _dumps(payload: object) -> bytes:
    """JSON that PostgreSQL keeps: no NUL and no half of a surrogate pair. One strange character in a message must
    never hold up the transaction that it tells of."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).replace("\\u0000", "\\ufffd")
    return text.encode("utf-8", "replace")


async def _listen(dsn: str) -> AsyncConnection[Any]:
    connection = await AsyncConnection.connect(
        dsn,
        autocommit=True,
        **{**KEEPALIVE, "options": session_options(dsn), "application_name": "lobservatory events"},
    )
    try:
        await connection.execute(f"LISTEN {CHANNEL}")
    except BaseException:
        await connection.close()
        raise
    return connection


async def _wake_up(connection: AsyncConnection[Any]) -> None:
    """Return at a notification, or after 5 s."""
    with contextlib.suppress(TimeoutError):
        async for _ in connection.notifies(timeout=_POLL_SECONDS, stop_after=1):
            return
