"""The totals that were shown, in a small file beside the settings: what tells that a ledger is older than it was.

A database or a checkpoint that was restored from a backup knows less than `/metrics` has said, and what the session
stores have lost since then they cannot tell again. The file is no ledger: without it a restore may show a fall, and
all else goes on. It is written after a commit and not synchronised, which costs a fraction of a millisecond.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

Key = tuple[str, tuple[str, ...]]


class ShownTotals:
    """The highest value that each counter of one gateway was shown with. Never raises; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    def load(self) -> dict[Key, Decimal]:
        """By metric and labels; nothing where there is no file, or none that can be read."""
        try:
            rows = self._opened().execute("SELECT metric, labels, value FROM shown").fetchall()
            return {(metric, tuple(json.loads(labels))): Decimal(value) for metric, labels, value in rows}
        except (sqlite3.Error, OSError, ValueError, ArithmeticError):
            self._discard()
            return {}

    def keep(self, totals: Mapping[Key, Decimal], *, instead: bool = False) -> None:
        """Remember these, beside the others or instead of them (counting has begun anew)."""
        rows = [(metric, json.dumps(labels), str(value)) for (metric, labels), value in totals.items()]
        try:
            with self._opened() as connection:
                if instead:
                    connection.execute("DELETE FROM shown")
                connection.executemany("REPLACE INTO shown VALUES (?, ?, ?)", rows)
        except (sqlite3.Error, OSError):
            self._discard()

    def close(self) -> None:
        """The next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=1)
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS shown (metric TEXT NOT NULL, labels TEXT NOT NULL, value TEXT NOT NULL,"
                " PRIMARY KEY (metric, labels)) WITHOUT ROWID"
            )
        return self._connection

    def _discard(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
