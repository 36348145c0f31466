"""Orders of lists, and cursors that stay right in each of them while rows come and go (keyset pagination).

An order is a name of a list's keys, with a leading `-` when it falls: `-created_at`. A cursor holds its order and the
place of the last row that was given: it fits the order it was made in and no other.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

from lobservatory.errors import InvalidValueError

SORT_VALUE: Final = "sort_value"
_ENDS: Final = frozenset({"infinity", "-infinity"})
_LARGEST: Final = 2**62


@dataclass(frozen=True, slots=True)
class Key:
    """What a list can be sorted by: an SQL expression that is never null, and its type."""

    expression: str
    type: Literal["timestamptz", "text", "bigint", "numeric"]

    def check(self, text: str) -> None:
        """Raises ValueError for what PostgreSQL would not read as this type."""
        readable = True
        if self.type == "bigint":
            readable = abs(int(text)) <= _LARGEST
        elif self.type == "numeric":
            readable = Decimal(text).is_finite()
        elif self.type == "timestamptz":
            readable = text in _ENDS or datetime.fromisoformat(text).tzinfo is not None
        if not readable:
            raise ValueError(text)


@dataclass(frozen=True, slots=True)
class Order:
    """The order of one list. `ties`: text columns that make a row's place unique."""

    name: str
    key: Key
    ties: Sequence[str]

    @classmethod
    def of(cls, name: str, keys: Mapping[str, Key], ties: Sequence[str]) -> Order:
        """The order of that name. Raises InvalidValueError that names those there are."""
        key = keys.get(name.removeprefix("-"))
        if key is None:
            known = ", ".join(f"{one}, -{one}" for one in keys)
            raise InvalidValueError(f"cannot be sorted by {name!r}: one of {known}", "sort")
        return cls(name, key, ties)

    @property
    def value(self) -> str:
        """What to select beside the row's columns, for `cursor`."""
        return f"({self.key.expression})::text AS {SORT_VALUE}"

    @property
    def by(self) -> str:
        """For ORDER BY."""
        way = "DESC" if self.name.startswith("-") else "ASC"
        return ", ".join(f"{one} {way}" for one in (self.key.expression, *self.ties))

    def beyond(self, cursor: str | None) -> tuple[str, dict[str, str]]:
        """The condition on rows after a cursor, and its parameters. Raises InvalidValueError for a foreign cursor."""
        if cursor is None:
            return "true", {}
        value, *ties = self._place(cursor)
        parameters = {"sort_0": value} | {f"sort_{number}": tie for number, tie in enumerate(ties, 1)}
        given = [f"%(sort_0)s::{self.key.type}", *(f"%(sort_{number})s::text" for number in range(1, len(ties) + 1))]
        sign = "<" if self.name.startswith("-") else ">"
        return f"({', '.join((self.key.expression, *self.ties))}) {sign} ({', '.join(given)})", parameters

    def cursor(self, row: Mapping[str, Any]) -> str:
        """The cursor of the page that follows this row."""
        place = [self.name, row[SORT_VALUE], *(row[tie.rpartition(".")[2]] for tie in self.ties)]
        return base64.urlsafe_b64encode(json.dumps(place, ensure_ascii=False).encode()).decode().rstrip("=")

    def _place(self, cursor: str) -> list[str]:
        foreign = InvalidValueError("not a cursor of this list in this order", "cursor")
        try:
            place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        except (ValueError, binascii.Error, RecursionError) as error:
            raise foreign from error
        if not isinstance(place, list) or len(place) != len(self.ties) + 2:
            raise foreign
        if not all(isinstance(part, str) and "\0" not in part for part in place):
            raise foreign
        if _spelled(place[0]) != _spelled(self.name):
            raise foreign
        try:
            "".join(place).encode()  # half of a surrogate pair has no UTF-8
            self.key.check(place[1])
        except (ValueError, InvalidOperation) as error:
            raise foreign from error
        return place[1:]


def _spelled(name: str) -> str:
    """What two spellings of an order share: cursors that an earlier version gave out say `-createdAt`."""
    return name.replace("_", "").lower()
