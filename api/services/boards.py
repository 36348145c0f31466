"""Boards: what is written also shows in the feed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.models.boards import Board, BoardIn
from api.security.scopes import Actor
from api.services.agents import gateways_of
from api.services.requests import made_once
from store import boards as rows
from store import feed
from store.pool import Connection, Pool


class BoardService:
    """Boards."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def boards(self, actor: Actor) -> list[Board]:
        """All, oldest first; their tasks are counted as far as the actor sees them."""
        async with self._pool.connection() as connection:
            found = await rows.boards(connection, gateways_of(actor))
        return [Board.model_validate(row) for row in found]

    async def board(self, actor: Actor, board_id: str) -> Board:
        """One. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            return Board.model_validate(await rows.board(connection, board_id, gateways_of(actor)))

    async def create(self, actor: Actor, wanted: BoardIn, key: str | None) -> Board:
        """A new one."""
        async with self._pool.connection() as connection:

            async def make() -> Board:
                identifier = await rows.create(connection, name=wanted.name, description=wanted.description)
                made = await rows.board(connection, identifier, gateways_of(actor))
                await _note(connection, actor, "created", identifier, {"name": wanted.name})
                return Board.model_validate(made)

            return await made_once(connection, actor, key, "boards", wanted, Board, make)

    async def replace(self, actor: Actor, board_id: str, wanted: BoardIn, version: str | None) -> Board:
        """Name and description anew. Raises NotFoundError, ConflictError."""
        async with self._pool.connection() as connection:
            await rows.update(
                connection, board_id, name=wanted.name, description=wanted.description, expected_version=version
            )
            await _note(connection, actor, "updated", board_id, {"name": wanted.name})
            return Board.model_validate(await rows.board(connection, board_id, gateways_of(actor)))

    async def delete(self, actor: Actor, board_id: str, version: str | None) -> None:
        """Delete an empty one. Raises NotFoundError, ConflictError."""
        async with self._pool.connection() as connection:
            await rows.delete(connection, board_id, expected_version=version)
            await _note(connection, actor, "deleted", board_id, {})


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
