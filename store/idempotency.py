"""A request that is sent twice is done once: its key is reserved before, and its answer kept under the key after.

What is done in one transaction goes through `once`. What is sent elsewhere commits its reservation first, and completes
or releases it when it knows how that ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from psycopg.types.json import Jsonb

from lobservatory.errors import ConflictError
from store.pool import Connection

Answer = dict[str, Any]

_KEY: Final = "idempotency_key"
_CREATED: Final = 201


async def reserve(connection: Connection, *, actor: str, key: str, request_hash: bytes) -> Answer | None:
    """None: the request is ours to do. Else the answer that it got when it was done. Two at once: the second waits for
    the first to commit.

    Raises ConflictError when the key was used for another request, or when that one has not ended: it may have been
    carried out, so it is never done again by itself.
    """
    cursor = await connection.execute(
        "INSERT INTO lobs.idempotency_keys (actor, key, request_hash) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [actor, key, request_hash],
    )
    if cursor.rowcount:
        return None
    cursor = await connection.execute(
        "SELECT request_hash, response FROM lobs.idempotency_keys WHERE actor = %s AND key = %s", [actor, key]
    )
    row = await cursor.fetchone()
    if row is None or bytes(row["request_hash"]) != request_hash:
        raise ConflictError("this idempotency key was used for another request", _KEY)
    if row["response"] is None:
        raise ConflictError("the command with this idempotency key has not ended", _KEY)
    return dict(row["response"])


async def complete(connection: Connection, *, actor: str, key: str, status: int, response: Mapping[str, Any]) -> None:
    """Keep the answer."""
    await connection.execute(
        "UPDATE lobs.idempotency_keys SET status = %s, response = %s WHERE actor = %s AND key = %s",
        [status, Jsonb(dict(response)), actor, key],
    )


async def release(connection: Connection, *, actor: str, key: str) -> None:
    """Free the key of what was certainly not carried out: it may be tried again."""
    await connection.execute(
        "DELETE FROM lobs.idempotency_keys WHERE actor = %s AND key = %s AND response IS NULL", [actor, key]
    )


async def once(
    connection: Connection,
    *,
    actor: str,
    key: str | None,
    request_hash: bytes,
    make: Callable[[], Awaitable[Mapping[str, Any]]],
) -> Answer:
    """What `make` gives, or gave when this key was used first. `key` None: just `make`. Raises ConflictError, see
    `reserve`."""
    if key is None:
        return dict(await make())
    done = await reserve(connection, actor=actor, key=key, request_hash=request_hash)
    if done is not None:
        return done
    made = dict(await make())
    await complete(connection, actor=actor, key=key, status=_CREATED, response=made)
    return made


async def forget(connection: Connection, age: timedelta) -> None:
    """Delete keys older than that."""
    await connection.execute("DELETE FROM lobs.idempotency_keys WHERE created_at < now() - %s", [age])
