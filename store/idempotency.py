"""A request that is sent twice is done once: its answer is kept with what it did, in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from store.errors import ConflictError
from store.pool import Connection

Document = dict[str, Any]


async def once(
    connection: Connection,
    *,
    actor: str,
    key: str | None,
    request_hash: bytes,
    make: Callable[[], Awaitable[Mapping[str, Any]]],
) -> Document:
    """What `make` gives, or gave when this key was used first. Two at once: the second waits for the first to commit.

    `key` None: just `make`. Raises ConflictError when the key was used for another request.
    """
    if key is None:
        return dict(await make())
    cursor = await connection.execute(
        "INSERT INTO lobs.idempotency_keys (actor, key, request_hash) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [actor, key, request_hash],
    )
    if cursor.rowcount == 0:
        cursor = await connection.execute(
            "SELECT request_hash, response FROM lobs.idempotency_keys WHERE actor = %s AND key = %s", [actor, key]
        )
        row = await cursor.fetchone()
        if row is None or bytes(row["request_hash"]) != request_hash:
            raise ConflictError("this Idempotency-Key was used for another request", "header.Idempotency-Key")
        return dict(row["response"])
    document = dict(await make())
    await connection.execute(
        "UPDATE lobs.idempotency_keys SET status = 201, response = %s WHERE actor = %s AND key = %s",
        [Jsonb(document), actor, key],
    )
    return document


async def forget(connection: Connection, age: timedelta) -> None:
    """Delete keys older than that."""
    await connection.execute("DELETE FROM lobs.idempotency_keys WHERE created_at < now() - %s", [age])
