"""Batches → ledger: rows, totals and positions in one transaction; only what was kept is then counted and shown."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from exporter.accounting import EXACT, Facts, increments, session_row
from exporter.ingest.batch import Batch
from exporter.ingest.counters import Counters, Duration, Key
from exporter.ingest.positions import Positions, for_ledger, newest_marks
from exporter.ingest.sessions import Sessions
from exporter.ingest.state import Stage
from exporter.ingest.status import ListPrices
from store.ledger.contract import Ledger, Transaction
from store.rows import Session

T = TypeVar("T")


class Committing:
    """Keeps batches, one transaction each. Until a commit is known to have worked, the stage is in doubt."""

    def __init__(
        self,
        gateway: str,
        ledger: Ledger,
        stage: Stage,
        *,
        positions: Positions,
        sessions: Sessions,
        counters: Counters,
        prices: ListPrices,
    ) -> None:
        self._gateway = gateway
        self._ledger = ledger
        self._stage = stage
        self._positions = positions
        self._sessions = sessions
        self._counters = counters
        self._prices = prices

    async def commit(self, batch: Batch) -> None:
        """Keep a batch. Raises LedgerUnavailableError."""
        with self._stage.in_doubt():
            async with self._ledger.transaction() as transaction:
                raised, durations = await _keep(transaction, batch.facts)
                admitted = await self._counters.admit(raised)
                await transaction.add_totals(admitted)
                self._prices.look_up(admitted)
                rows = [session for facts in batch.facts for session in facts.sessions]
                rows += [session_row(self._gateway, info) for info in batch.infos]
                await transaction.upsert_sessions(_last_of_each(rows))
                newest = self._positions.newest_with(batch.facts)
                batch.mark(newest_marks(newest))
                await transaction.save_positions(for_ledger(self._gateway, batch.positions.values()))
        self._positions.keep(batch.positions, newest)
        self._sessions.keep(batch.infos)
        await self._counters.add(admitted, durations)


async def _keep(transaction: Transaction, batch: Sequence[Facts]) -> tuple[dict[Key, Any], list[Duration]]:
    """Insert the rows of a batch; what the new ones among them add to counters, and how long they took."""
    for facts in batch:
        if facts.moved and facts.calls:
            await transaction.never_count(*facts.leave_out(await transaction.counted_before(facts.calls)))
    calls = await _new(transaction.insert_model_calls, [row for facts in batch for row in facts.calls])
    tool_calls = await _new(transaction.insert_tool_calls, [row for facts in batch for row in facts.tool_calls])
    results = await _new(transaction.insert_tool_results, [row for facts in batch for row in facts.tool_results])
    events = await _new(transaction.insert_session_events, [row for facts in batch for row in facts.events])
    answers = iter(calls), iter(tool_calls), iter(results), iter(events)
    new = [
        (
            list(itertools.islice(answers[0], len(facts.calls))),
            list(itertools.islice(answers[1], len(facts.tool_calls))),
            list(itertools.islice(answers[2], len(facts.tool_results))),
            list(itertools.islice(answers[3], len(facts.events))),
        )
        for facts in batch
    ]
    refused = [facts.rejects(flags[0]) for facts, flags in zip(batch, new, strict=True)]
    rejects = iter(await _new(transaction.insert_rejects, [row for rows in refused for row in rows]))
    raised: dict[Key, Any] = {}
    durations: list[Duration] = []
    for facts, flags, rows in zip(batch, new, refused, strict=True):
        totals = increments(
            facts,
            new_calls=flags[0],
            new_tool_calls=flags[1],
            new_results=flags[2],
            new_events=flags[3],
            new_rejects=list(itertools.islice(rejects, len(rows))),
        )
        for key, value in totals.items():
            raised[key] = EXACT.add(Decimal(raised[key]), Decimal(value)) if key in raised else value
        durations += [
            ("claw_model_call_duration_seconds", (call.gateway, call.provider, call.model), call.duration_ms / 1000)
            for call in itertools.compress(facts.calls, flags[0])
            if call.duration_ms is not None
        ]
        durations += [
            ("claw_tool_call_duration_seconds", (result.gateway, result.tool), result.duration_ms / 1000)
            for result in itertools.compress(facts.tool_results, flags[2])
            if result.duration_ms is not None
        ]
    return raised, durations


async def _new(insert: Callable[[Sequence[T]], Awaitable[list[bool]]], rows: Sequence[T]) -> list[bool]:
    """Which rows were new. Without rows the ledger is not asked: the live tail mostly has one kind."""
    return await insert(rows) if rows else []


def _last_of_each(rows: Sequence[Session]) -> list[Session]:
    """Of equal rows one: chunks of one session say the same again and again."""
    return list(dict.fromkeys(rows))
