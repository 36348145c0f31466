"""One change of a gateway's setup after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from lobservatory.errors import ConflictError
from store import commands as rows
from store.pool import Pool

_TURN_SECONDS = 30.0


class Turns:
    """Who may look at a gateway's setup and change it now, over all processes on this database: two that have both seen
    the same would else both be carried out."""

    def __init__(self, pool: Pool, gateway: str) -> None:
        self._pool = pool
        self._gateway = gateway
        self._changing = asyncio.Lock()  # so that of this process at most one holds a connection while it waits

    @contextlib.asynccontextmanager
    async def next(self) -> AsyncIterator[None]:
        """Alone for the length of the block. Raises ConflictError."""
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._changing.acquire()
        except TimeoutError:
            raise ConflictError(
                f"Another change of the gateway {self._gateway} has not ended", remedy="nothing was sent. Try again."
            ) from None
        try:
            async with self._pool.connection() as connection:
                await rows.take_turn(connection, self._gateway)
                yield
        finally:
            self._changing.release()
