"""The one place where reading positions cross between the session stores and the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from openclaw.stores import Position
from store import rows


def from_ledger(kept: Mapping[str, rows.Position]) -> dict[str, Position]:
    """Positions by source key, as the ledger has them."""
    return {
        key: Position(key, one.offset, one.generation, one.fingerprint, one.size, one.mtime_ns)
        for key, one in kept.items()
    }


def for_ledger(gateway: str, positions: Iterable[Position]) -> list[rows.Position]:
    """The rows that keep these positions."""
    return [
        rows.Position(gateway, one.key, one.offset, one.generation, one.fingerprint, one.size, one.mtime_ns)
        for one in positions
    ]
