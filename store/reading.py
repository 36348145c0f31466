"""Reading rows as the dataclasses whose fields are their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from psycopg.rows import class_row

from store.pool import Connection

_Row = TypeVar("_Row")


def columns(kind: type[Any]) -> str:
    """For SELECT and RETURNING: the fields of a dataclass."""
    return ", ".join(field.name for field in fields(kind))


def of(kind: type[_Row], row: Mapping[str, Any]) -> _Row:
    """The row as such a dataclass; it may have more columns."""
    return kind(**{field.name: row[field.name] for field in fields(kind)})  # type: ignore[arg-type]  # a dataclass


async def read(
    connection: Connection, kind: type[_Row], statement: str, values: Mapping[str, Any] | Sequence[Any] = ()
) -> list[_Row]:
    """What a statement of ours gives, whose columns are the fields of `kind`."""
    async with connection.cursor(row_factory=class_row(kind)) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall()


async def first(
    connection: Connection, kind: type[_Row], statement: str, values: Mapping[str, Any] | Sequence[Any] = ()
) -> _Row | None:
    """The first row of it, or None."""
    async with connection.cursor(row_factory=class_row(kind)) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchone()
