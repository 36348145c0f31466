"""Boards: what tasks are sorted into."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final

from psycopg import errors
from psycopg.rows import class_row

from lobservatory.errors import ConflictError, NotFoundError
from store.pool import Connection
from store.tasks import DEFAULT_BOARD
from store.work import Board

MOST: Final = 1_000
_SELECT: Final = """
SELECT b.*, coalesce((SELECT jsonb_object_agg(c.status, c.tasks)
                      FROM (SELECT t.status, count(*) AS tasks FROM lobs.tasks AS t
                            WHERE t.board_id = b.id
                              AND (%(gateways)s::text[] IS NULL OR t.gateway IS NULL OR t.gateway = ANY(%(gateways)s))
                            GROUP BY t.status) AS c), '{}') AS tasks
FROM lobs.boards AS b
"""


async def boards(connection: Connection, gateways: Sequence[str] | None) -> list[Board]:
    """Every board, oldest first, with how many tasks of these gateways (None: all) it has by status."""
    return await _boards(connection, "ORDER BY b.created_at, b.id LIMIT %(most)s", gateways, most=MOST)


async def board(connection: Connection, board_id: str, gateways: Sequence[str] | None) -> Board:
    """One. Raises NotFoundError."""
    found = await _boards(connection, "WHERE b.id = %(id)s", gateways, id=board_id)
    if not found:
        raise NotFoundError(f"there is no board {board_id}", "id")
    return found[0]


async def create(connection: Connection, *, name: str, description: str | None) -> str:
    """A new board; gives its id. Raises ConflictError when there are 1,000."""
    cursor = await connection.execute("SELECT count(*) AS boards FROM lobs.boards")
    row = await cursor.fetchone()
    if row is not None and row["boards"] >= MOST:
        raise ConflictError(f"there are {MOST} boards already")
    identifier = f"board_{secrets.token_hex(8)}"
    await connection.execute(
        "INSERT INTO lobs.boards (id, name, description) VALUES (%s, %s, %s)", [identifier, name, description]
    )
    return identifier


async def update(
    connection: Connection, board_id: str, *, name: str, description: str | None, expected_version: str | None
) -> None:
    """Name and description anew. Raises NotFoundError; ConflictError when somebody else changed it since."""
    await _locked(connection, board_id, expected_version)
    await connection.execute(
        "UPDATE lobs.boards SET name = %s, description = %s WHERE id = %s", [name, description, board_id]
    )


async def delete(connection: Connection, board_id: str, *, expected_version: str | None) -> None:
    """Delete an empty board. Raises NotFoundError; ConflictError when it has tasks, is the default one, or was changed
    since."""
    await _locked(connection, board_id, expected_version)
    if board_id == DEFAULT_BOARD:
        raise ConflictError("the default board cannot be deleted", "id")
    try:
        async with connection.transaction():
            await connection.execute("DELETE FROM lobs.boards WHERE id = %s", [board_id])
    except errors.ForeignKeyViolation as error:
        raise ConflictError("the board has tasks: move or delete them first", "id") from error


async def _locked(connection: Connection, board_id: str, expected_version: str | None) -> None:
    async with connection.cursor(row_factory=class_row(Board)) as cursor:
        await cursor.execute("SELECT *, '{}'::jsonb AS tasks FROM lobs.boards WHERE id = %s FOR UPDATE", [board_id])
        found = await cursor.fetchone()
    if found is None:
        raise NotFoundError(f"there is no board {board_id}", "id")
    if expected_version is not None and found.version != expected_version:
        raise ConflictError("the board has been changed since you read it", "version")


async def _boards(connection: Connection, where: str, gateways: Sequence[str] | None, **values: Any) -> list[Board]:
    async with connection.cursor(row_factory=class_row(Board)) as cursor:
        await cursor.execute(
            (_SELECT + where).encode(), {"gateways": None if gateways is None else list(gateways), **values}
        )
        return await cursor.fetchall()
