"""Boards: what is written also shows in the feed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.models.boards import BoardIn
from api.security.scopes import Actor
from api.services.requests import request_hash
from store import boards as rows
from store import feed, idempotency
from store.pool import Connection, Pool

Document = dict[str, Any]


class BoardService:
    """Boards. Documents are in the names of the wire already."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def boards(self, actor: Actor) -> list[Document]:
        """All, oldest first; their tasks are counted as far as the actor sees them."""
        async with self._pool.connection() as connection:
            return await rows.boards(connection, _gateways(actor))

    async def board(self, actor: Actor, board_id: str) -> Document:
        """One. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            return await rows.board(connection, board_id, _gateways(actor))

    async def create(self, actor: Actor, wanted: BoardIn, key: str | None) -> Document:
        """A new one."""
        async with self._pool.connection() as connection:

            async def make() -> Document:
                identifier = await rows.create(connection, name=wanted.name, description=wanted.description)
                made = await rows.board(connection, identifier, _gateways(actor))
                await _note(connection, actor, "created", identifier, {"name": wanted.name})
                return made

            return await idempotency.once(
                connection, actor=actor.token_id, key=key, request_hash=request_hash("boards", wanted), make=make
            )

    async def replace(self, actor: Actor, board_id: str, wanted: BoardIn, version: str | None) -> Document:
        """Name and description anew. Raises NotFoundError, ConflictError."""
        async with self._pool.connection() as connection:
            await rows.update(
                connection, board_id, name=wanted.name, description=wanted.description, expected_version=version
            )
            await _note(connection, actor, "updated", board_id, {"name": wanted.name})
            return await rows.board(connection, board_id, _gateways(actor))

    async def delete(self, actor: Actor, board_id: str, version: str | None) -> None:
        """Delete an empty one. Raises NotFoundError, ConflictError."""
        async with self._pool.connection() as connection:
            await rows.delete(connection, board_id, expected_version=version)
            await _note(connection, actor, "deleted", board_id, {})


def _gateways(actor: Actor) -> list[str] | None:
    return None if actor.gateways is None else sorted(actor.gateways)


async def _note(connection: Connection, actor: Actor, action: str, board_id: str, detail: Mapping[str, Any]) -> None:
    await feed.add(
        connection,
        type="board",
        actor=actor.name,
        action=action,
        target_type="board",
        target_id=board_id,
        metadata=detail,
    )
