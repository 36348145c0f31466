"""What all shapes share: camelCase outside and snake_case inside, aware instants, text that PostgreSQL can keep."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel, to_snake

from api.models import patterns
from lobservatory.complaints import INSTANT

DEEPEST = 32  # levels of nested JSON in metadata
MOST_NUMBERS = 10**15  # largest integer of a counter field


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the character U+0000")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain half of a surrogate pair")
    return text


def _storable_json(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"must not be nested deeper than {DEEPEST} levels")
    if isinstance(value, str):
        _storable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not contain NaN or an infinity")
    elif isinstance(value, dict):
        for key, part in value.items():
            _storable(key)
            _storable_json(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            _storable_json(part, depth + 1)
    return value


def _iso(instant: datetime) -> str:
    text = instant.astimezone(UTC).isoformat(timespec="microseconds" if instant.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def _within_reach(instant: datetime) -> datetime:
    if not datetime(1970, 1, 1, tzinfo=UTC) <= instant <= datetime(2999, 12, 31, tzinfo=UTC):
        raise ValueError("must lie between 1970 and 2999")
    return instant


def _only_iso(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or "-" not in value or len(value) < 10:  # noqa: PLR2004 - 2026-01-29
        raise ValueError(INSTANT)
    # A "+" that was not percent-encoded in a query arrives as a space.
    return value[:-6] + "+" + value[-5:] if value[-6:-5] == " " and value[-3:-2] == ":" else value


def order_of(sort: str) -> str:
    """A `sort` of the wire in the words of the store: `-updated_at` of `-updatedAt`."""
    return f"{'-' if sort.startswith('-') else ''}{to_snake(sort.removeprefix('-'))}"


_NAMES: dict[type, tuple[str, ...]] = {}  # of the fields of each kind of row, looked up once


def fields_of(row: Any) -> dict[str, Any]:
    """The fields of a row of the store by their names, to be given to a model with some of them renamed."""
    kind = type(row)
    if kind not in _NAMES:
        _NAMES[kind] = tuple(field.name for field in dataclasses.fields(row))
    return {name: getattr(row, name) for name in _NAMES[kind]}


Storable = AfterValidator(_storable)
Text = Annotated[str, Storable]
Name = Annotated[str, Field(min_length=1, max_length=200), Storable]
ShortText = Annotated[str, Field(max_length=500), Storable]
LongText = Annotated[str, Field(max_length=20_000), Storable]
Tag = Annotated[str, Field(min_length=1, max_length=64), Storable]
Tags = Annotated[list[Tag], Field(max_length=50)]
Metadata = Annotated[dict[str, Any], AfterValidator(_storable_json)]
JsonValue = Annotated[Any, AfterValidator(_storable_json)]
Cursor = Annotated[str, Field(max_length=4000), Storable]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=patterns.IDENTIFIER), Storable]
Count = Annotated[int, Field(ge=0, le=MOST_NUMBERS)]
Milliseconds = Annotated[int, Field(ge=0, le=10**13, description="Milliseconds.")]
RowId = Annotated[str, BeforeValidator(str)]  # a number in the database, a text for clients
Instant = Annotated[AwareDatetime, PlainSerializer(_iso, return_type=str, when_used="json")]
InstantIn = Annotated[AwareDatetime, AfterValidator(_within_reach), BeforeValidator(_only_iso)]


class Camel(BaseModel):
    """JSON names in camelCase. Validates JSON, and rows of the store with fields of the same names."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)


class Snake(BaseModel):
    """JSON names in snake_case. Validates JSON, and rows of the store with fields of the same names."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)
