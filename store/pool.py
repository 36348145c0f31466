"""Connections for services: a bounded pool whose statements end.

The functions of this room take a connection of it:

    async with pool.connection() as connection:  # one transaction, committed at the end of the block
        task = await tasks.create(connection, ...)
        await auth.audit(connection, ...)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

Connection: TypeAlias = AsyncConnection[DictRow]
Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[DictRow]]

Around: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]

STATEMENT_MILLISECONDS = 15_000
# A peer that vanished (cable, suspended machine) is noticed within about half a minute.
KEEPALIVE: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


@contextlib.asynccontextmanager
async def open_pool(
    dsn: str,
    *,
    name: str = "lobservatory",
    min_size: int = 1,
    max_size: int = 8,
    wait_seconds: float = 10.0,
    around: Around | None = None,
) -> AsyncIterator[Pool]:
    """A pool for the length of the block; opening it does not wait for the database. `around` is entered before a
    connection is asked for and left when it was given back.

    `wait_seconds`: how long to wait for a free connection, then `psycopg_pool.PoolTimeout`, which is a
    `psycopg.OperationalError`. It keeps trying to connect while the database is away. Rows are dicts.
    """
    made = _Pool if around is None else _around(around)
    pool = made(
        dsn,
        kwargs={
            **KEEPALIVE,
            "row_factory": dict_row,
            "application_name": name,
            "options": session_options(dsn),
        },
        min_size=min_size,
        max_size=max_size,
        timeout=wait_seconds,
        max_waiting=200,
        check=AsyncConnectionPool.check_connection,
        open=False,
        name=name,
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close(timeout=5)


class _Pool(AsyncConnectionPool[Connection]):
    async def getconn(self, timeout: float | None = None) -> Connection:  # noqa: ASYNC109 - psycopg's
        """As ever, only that a cancellation ends it. The pool waits with `asyncio.wait_for`, and that of Python 3.11
        loses a cancellation which arrives together with what it waits for: whoever asked would go on for ever."""
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        connection = await super().getconn(timeout)
        if task is not None and task.cancelling() > before:
            await self.putconn(connection)
            raise asyncio.CancelledError
        return connection


def _around(entered: Around) -> type[_Pool]:
    class Surrounded(_Pool):
        @contextlib.asynccontextmanager
        async def connection(self, timeout: float | None = None) -> AsyncIterator[Connection]:  # noqa: ASYNC109 - psycopg's
            with entered():
                async with super().connection(timeout) as connection:
                    yield connection

    return Surrounded


def session_options(dsn: str, statement_milliseconds: int = STATEMENT_MILLISECONDS) -> str:
    """Our session settings behind those of the DSN (a keyword argument would replace them)."""
    given = conninfo_to_dict(dsn).get("options") or ""
    return f"{given} -c statement_timeout={statement_milliseconds} -c timezone=UTC".strip()
