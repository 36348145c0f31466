"""What is read before it is committed: at most so much at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from exporter.accounting import Facts
from openclaw.stores import Position, SessionInfo

BATCH_ROWS: Final = 10_000
BATCH_BYTES: Final = 32 * 1024 * 1024


@dataclass(slots=True)
class Batch:
    """What the next transaction keeps."""

    facts: list[Facts] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    infos: list[SessionInfo] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to keep."""
        return not (self.facts or self.positions or self.infos)

    def mark(self, positions: Iterable[Position]) -> None:
        """Keep these positions, too."""
        self.positions.update({one.key: one for one in positions})

    def clear(self) -> None:
        """After its commit."""
        self.facts, self.positions, self.infos, self.rows, self.bytes = [], {}, [], 0, 0

    @property
    def full(self) -> bool:
        """Whether it should be committed before more is read."""
        return self.rows >= BATCH_ROWS or self.bytes >= BATCH_BYTES
