"""The contract between accounting and whatever keeps its ledger.

Two implementations: `store.ledger.postgres` (rows, identities, totals and positions in one database) and
`store.ledger.checkpoint` (no database: identities, totals and positions in one local SQLite file). What a transaction
was told is kept as a whole or not at all; that is what makes a crash at any moment harmless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Context, Decimal
from typing import Final, Protocol

from lobservatory.errors import LobservatoryError
from store.rows import ModelCall, OutboxEvent, Position, Reject, Session, SessionEvent, ToolCall, ToolResult, Total

Increments = Mapping[tuple[str, tuple[str, ...]], Decimal | int]
EXACT: Final = Context(prec=60)  # sums of money: the usual 28 digits would round a long sum of small costs


class LedgerUnavailableError(LobservatoryError):
    """The ledger cannot be reached now. Try again later.

    Nothing of the transaction was kept, with one exception: when the connection was lost during the commit itself,
    nobody can know. So after this error read `positions()` and `totals()` again and go on from what they say.
    """


class LedgerHeldError(LobservatoryError):
    """Another exporter holds the ledger of this gateway."""


class Transaction(Protocol):
    """One unit of work. Every `insert_*` answers, in the order given, which rows were met for the first time."""

    async def insert_model_calls(self, rows: Sequence[ModelCall]) -> list[bool]:
        """Keep calls that were never seen; a second sight changes nothing."""

    async def counted_before(self, rows: Sequence[ModelCall]) -> list[bool]:
        """Which of these calls, of one session that has moved to another store, were kept before, with whatever usage.

        The same entry at the same time, or in the same session where its time is only a substitute.
        """

    async def never_count(self, calls: Sequence[ModelCall], tool_calls: Sequence[ToolCall]) -> None:
        """Note these as seen: they were counted with another usage, and copies of them may follow (forks)."""

    async def insert_tool_calls(self, rows: Sequence[ToolCall]) -> list[bool]:
        """Keep tool calls that were never seen."""

    async def insert_tool_results(self, rows: Sequence[ToolResult]) -> list[bool]:
        """Keep results that were never seen and complete their tool calls."""

    async def insert_session_events(self, rows: Sequence[SessionEvent]) -> list[bool]:
        """Keep session events that were never seen."""

    async def upsert_sessions(self, rows: Sequence[Session]) -> None:
        """Merge what is known of sessions; None never overwrites."""

    async def insert_rejects(self, rows: Sequence[Reject]) -> list[bool]:
        """Keep rejects; the same reason at the same location counts once."""

    async def add_totals(self, increments: Increments) -> None:
        """Raise counters. A value is never negative."""

    async def save_positions(self, positions: Sequence[Position]) -> None:
        """Remember how far sources have been read."""

    async def publish(self, events: Sequence[OutboxEvent]) -> None:
        """Put messages for live clients into the outbox (nothing happens without a database)."""


class Ledger(Protocol):
    """Where totals, identities and positions live."""

    async def open(self) -> None:
        """Take the ledger of this gateway. Raises LedgerHeldError, LedgerUnavailableError."""

    async def close(self) -> None:
        """Give them back."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Commit at the end of the block, roll back on any error. Raises LedgerUnavailableError."""

    async def positions(self) -> dict[str, Position]:
        """All positions of this gateway by source key."""

    async def totals(self) -> list[Total]:
        """All totals of this gateway, as committed."""

    async def session(self, agent: str, session_id: str) -> Session | None:
        """Key, kind, channel and parent of a session, for when the gateway has forgotten it. None: never told."""


def amounts(increments: Increments) -> list[tuple[str, tuple[str, ...], Decimal]]:
    """Metric, labels and what is added to it, in their order. Raises ValueError for a negative, infinite or undefined
    value: a counter never falls."""
    found = []
    for (metric, labels), value in sorted(increments.items()):
        amount = Decimal(value)
        if not amount.is_finite() or amount < 0:
            raise ValueError(f"{metric}{labels}: a counter cannot be raised by {value}")
        found.append((metric, labels, amount))
    return found
