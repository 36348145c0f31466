"""Commands to a gateway: whose turn it is, and the operations of the runs that they start."""

from __future__ import annotations

import contextlib

from lobservatory.errors import ConflictError, NotFoundError
from store import operations
from store.pool import Connection


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
        with contextlib.suppress(NotFoundError):  # forgotten meanwhile; the run goes on
            await operations.claim(connection, identifier, name=name, user_id=user)
    return identifier
