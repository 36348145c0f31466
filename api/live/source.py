"""The outbox of the database as a source of live events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from api.live.events import LiveEvent
from store import outbox
from store.outbox import StoredEvent
from store.pool import Pool


class OutboxSource:
    """See `api.live.hub.Source`."""

    def __init__(self, pool: Pool, dsn: str, start: int) -> None:
        self._pool = pool
        self._dsn = dsn
        self._start = start

    @classmethod
    async def from_now(cls, pool: Pool, dsn: str) -> OutboxSource:
        """Where "now" is, is asked before anyone is served: a first connection that fails must lose nobody's event."""
        async with pool.connection() as connection:
            return cls(pool, dsn, await outbox.latest_id(connection))

    async def follow(self) -> AsyncIterator[LiveEvent]:
        """Every event since the start, on a connection of its own."""
        async for event in outbox.follow(self._dsn, self._start):
            yield _live(event)

    async def lost(self, after: int) -> int | None:
        """The id to go on from when events after `after` are no longer kept, else None."""
        async with self._pool.connection() as connection:
            return await outbox.latest_id(connection) if await outbox.is_lost(connection, after) else None

    async def read(self, after: int, limit: int) -> Sequence[LiveEvent]:
        """Events with a higher id, in order."""
        async with self._pool.connection() as connection:
            return [_live(event) for event in await outbox.read(connection, after, limit=limit)]


def _live(event: StoredEvent) -> LiveEvent:
    return LiveEvent(event.id, event.topic, event.kind, event.payload, event.gateway)
