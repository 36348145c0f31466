"""Commands to a gateway: each keeps its place under an Idempotency-Key before it is sent, and its answer after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from store import operations
from store.errors import ConflictError
from store.pool import Connection


async def reserve(connection: Connection, *, actor: str, key: str, request_hash: bytes) -> dict[str, Any] | None:
    """None: the command is ours to send (commit before sending). Else the answer that it got when it was sent.

    Raises ConflictError when the key was used for another command, or when that one has not ended: it may have been
    carried out, so it is never sent again by itself.
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
        raise ConflictError("this Idempotency-Key was used for another request", "header.Idempotency-Key")
    if row["response"] is None:
        raise ConflictError("the command with this Idempotency-Key has not ended", "header.Idempotency-Key")
    return dict(row["response"])


async def complete(connection: Connection, *, actor: str, key: str, response: Mapping[str, Any]) -> None:
    """Keep the answer."""
    await connection.execute(
        "UPDATE lobs.idempotency_keys SET status = 202, response = %s WHERE actor = %s AND key = %s",
        [Jsonb(dict(response)), actor, key],
    )


async def release(connection: Connection, *, actor: str, key: str) -> None:
    """Free the key of a command that was certainly not carried out: it may be tried again."""
    await connection.execute(
        "DELETE FROM lobs.idempotency_keys WHERE actor = %s AND key = %s AND response IS NULL", [actor, key]
    )


async def take_turn(connection: Connection, gateway: str) -> None:
    """Until the end of the transaction nobody else compares a gateway's setup with what a client has read."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('setup of ' || %s, 0))", [gateway])


async def follow_run(
    connection: Connection, *, gateway: str, run_id: str, session_key: str, name: str, agent: str, user: str
) -> str:
    """Make the operation of a run that was asked for here, unless it is there already; gives its id."""
    identifier = operations.run_operation_id(gateway, run_id)
    try:
        await operations.create(
            connection,
            type="agent_task",
            name=name,
            agent_id=agent,
            user_id=user,
            gateway=gateway,
            operation_id=identifier,
            source="run",
            run_id=run_id,
            session_key=session_key,
        )
    except ConflictError:  # the exporter has seen the run before we were told of it
        await operations.claim(connection, identifier, name=name, user_id=user)
    return identifier
