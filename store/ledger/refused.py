"""What PostgreSQL refuses: names and texts that it cannot keep, and rows, which are set aside one by one.

A refused row is found by halving, kept in `lobs.poison_rows` and answered as "not kept", so that one bad row never
holds up the others.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from lobservatory.errors import one_line
from store.ledger.tables import Record, Table, postgres_types, values_of

_COPY_FROM: Final = 25  # rows from which COPY beats pipelined inserts
# What the driver or the server says about a value, as opposed to what it says about itself.
_REFUSALS: Final = (psycopg.DataError, psycopg.IntegrityError, UnicodeError, OverflowError, struct.error)
_INTEGERS: Final = {"int4": 2**31, "int8": 2**63}
_KEEP_ASIDE: Final = "INSERT INTO lobs.poison_rows (gateway, target, reason, row_text) VALUES (%s, %s, %s, %s)"


class RowWriter:
    """Writes rows on an open transaction; `written` (by table) and `poison` count what was kept and set aside."""

    def __init__(self, connection: AsyncConnection[Any], gateway: str) -> None:
        self._connection = connection
        self._gateway = gateway
        self.written: dict[str, int] = {}
        self.poison = 0

    async def insert(self, table: Table[Any], records: Sequence[Record]) -> list[bool]:
        """Write new rows, large batches by COPY, small ones pipelined; for each, whether it was kept."""

        async def write(part: Sequence[Record]) -> None:
            if len(part) < _COPY_FROM:
                await self.execute(table.insert, part)
            else:
                await self._copy(table, part)

        return await self._halved(table.name, records, write)

    async def merge(self, table: Table[Any], statement: str, records: Sequence[Record]) -> None:
        """Write rows by a statement of their own."""
        await self._halved(table.name, records, lambda part: self.execute(statement, part))

    async def execute(self, statement: str, records: Sequence[Record]) -> None:
        """One statement for many rows, pipelined: one wait for all of them. A refused row is an error."""
        if records:
            async with self._connection.cursor() as cursor:
                await cursor.executemany(statement, records)

    async def set_aside(self, table: str, reason: str, record: Record) -> None:
        """Keep a refused row as text."""
        text = clean(repr(record))[:10_000]
        await self._connection.execute(_KEEP_ASIDE, [clean(self._gateway), table, clean(reason)[:1_000], text])
        self.poison += 1

    async def _halved(
        self, table: str, records: Sequence[Record], write: Callable[[Sequence[Record]], Awaitable[None]]
    ) -> list[bool]:
        if not records:
            return []
        try:
            async with self._connection.transaction():
                await write(records)
        except _REFUSALS as error:
            if len(records) == 1:
                await self.set_aside(table, one_line(error), records[0])
                return [False]
            half = len(records) // 2
            return [
                *await self._halved(table, records[:half], write),
                *await self._halved(table, records[half:], write),
            ]
        self.written[table] = self.written.get(table, 0) + len(records)
        return [True] * len(records)

    async def _copy(self, table: Table[Any], records: Iterable[Record]) -> None:
        async with self._connection.cursor() as cursor, cursor.copy(table.copy) as copy:
            copy.set_types(list(table.columns.values()))
            for record in records:
                await copy.write_row(record)


class Batch:
    """Whether PostgreSQL will take every text and number of many rows of a class: it nearly always will."""

    def __init__(self, row: type) -> None:
        kinds = postgres_types(row)
        self._texts = values_of([name for name, kind in kinds.items() if kind == "text"])
        self._integers = values_of([name for name, kind in kinds.items() if kind in _INTEGERS])

    def is_plain(self, rows: Sequence[Any]) -> bool:
        """False: one of the rows may be refused, and each has to be asked."""
        text = "".join(filter(None, chain.from_iterable(map(self._texts, rows))))
        numbers = filter(None, chain.from_iterable(map(self._integers, rows)))
        least = _INTEGERS["int4"]
        return "\0" not in text and is_unicode(text) and all(-least <= number < least for number in numbers)


def refusal(table: Table[Any], record: Record) -> str | None:
    """Why the database would refuse a row that is written later than it is answered; None when it would not."""
    for (name, kind), value in zip(table.columns.items(), record, strict=True):
        if isinstance(value, str) and ("\0" in value or not is_unicode(value)):
            return f"{name} holds a character that PostgreSQL has no text for"
        if isinstance(value, int) and kind in _INTEGERS and not -_INTEGERS[kind] <= value < _INTEGERS[kind]:
            return f"{name} is out of range"
    return None


def is_unicode(text: str) -> bool:
    """Whether a text is one: half of a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clean(text: str) -> str:
    """What PostgreSQL can keep of a text: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def escape(source_key: str) -> str:
    """File names need not be UTF-8: those that are not are kept as hexadecimal and read back the same."""
    if is_unicode(source_key) and not source_key.startswith("hex:"):
        return source_key
    return "hex:" + source_key.encode("utf-8", "surrogatepass").hex()


def unescape(stored: str) -> str:
    """The source key that was escaped."""
    return bytes.fromhex(stored[4:]).decode("utf-8", "surrogatepass") if stored.startswith("hex:") else stored
