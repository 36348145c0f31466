"""Boards: what tasks are sorted into. Documents are in the names of the wire.

A board's version is a hash of what people edit (its name and description): it needs no column, and two people who
write the same thing do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any, Final

from psycopg import errors

from store.errors import ConflictError, NotFoundError
from store.pool import Connection
from store.tasks import DEFAULT_BOARD

Document = dict[str, Any]

MOST: Final = 1_000
_SELECT: Final = """
SELECT b.*, coalesce((SELECT jsonb_object_agg(c.status, c.tasks)
                      FROM (SELECT t.status, count(*) AS tasks FROM lobs.tasks AS t
                            WHERE t.board_id = b.id
                              AND (%(gateways)s::text[] IS NULL OR t.gateway IS NULL OR t.gateway = ANY(%(gateways)s))
                            GROUP BY t.status) AS c), '{}') AS tasks
FROM lobs.boards AS b
"""


async def boards(connection: Connection, gateways: list[str] | None) -> list[Document]:
    """Every board, oldest first, with how many tasks of these gateways (None: all) it has by status."""
    cursor = await connection.execute(
        _SELECT + "ORDER BY b.created_at, b.id LIMIT %(most)s", {"gateways": gateways, "most": MOST}
    )
    return [_document(row) for row in await cursor.fetchall()]


async def board(connection: Connection, board_id: str, gateways: list[str] | None) -> Document:
    """One. Raises NotFoundError."""
    cursor = await connection.execute(_SELECT + "WHERE b.id = %(id)s", {"gateways": gateways, "id": board_id})
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"there is no board {board_id}", "id")
    return _document(row)


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
    cursor = await connection.execute("SELECT * FROM lobs.boards WHERE id = %s FOR UPDATE", [board_id])
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"there is no board {board_id}", "id")
    if expected_version is not None and _version(row) != expected_version:
        raise ConflictError("the board has been changed since you read it", "If-Match")


def _version(row: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([row["name"], row["description"]]).encode()).hexdigest()[:16]


def _document(row: dict[str, Any]) -> Document:
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "createdAt": row["created_at"].isoformat().replace("+00:00", "Z"),
        "version": _version(row),
        "tasks": row["tasks"],
    }
