"""Typed access to JSON that others wrote: the value when it has the right type, else None. Nothing here raises."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

# An instant outside of these years is a mistake, not a time.
_FIRST_MS = 1_000_000_000_000  # 2001
_LAST_MS = 4_102_444_800_000  # 2100


def mapping(value: Any, *path: str) -> Mapping[str, Any]:
    """The object at the path, or an empty one."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def items(value: Any, *path: str) -> Iterator[Mapping[str, Any]]:
    """The objects of the list at the path; anything else in it is left out."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def text(value: Any, limit: int = 500) -> str | None:
    """A text that is not empty, cut to `limit` characters, without what no database takes: NUL and half a character
    (JavaScript cuts texts between the two halves of an emoji, and JSON carries that on)."""
    if not isinstance(value, str):
        return None
    cut = value[:limit].replace("\0", "")
    return (cut if cut.isascii() else cut.encode("utf-8", "replace").decode()) or None


def flag(value: Any) -> bool | None:
    """A boolean."""
    return value if isinstance(value, bool) else None


def number(value: Any) -> float | None:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) and value >= 0 else None
    except OverflowError:
        return None


def whole(value: Any) -> int | None:
    """A whole number that is not negative and fits into 63 bits."""
    found = number(value)
    return int(found) if found is not None and found < 2**63 else None


def agent_model(agent: Any) -> str | None:
    """The model of a row of `agents.list`: an object with `primary`, or its name alone."""
    return text(mapping(agent, "model").get("primary")) or text(mapping(agent).get("model"))


def instant(value: Any) -> datetime | None:
    """Epoch milliseconds of this century, as an aware UTC datetime."""
    found = number(value)
    if found is None or not _FIRST_MS <= found <= _LAST_MS:
        return None
    return datetime.fromtimestamp(found / 1000, UTC)
