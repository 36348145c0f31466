"""What traces need of the database: the model calls of a run, and how far a gateway's runs were sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import dict_row

MOST: Final = 500


@dataclass(frozen=True, slots=True)
class RunCall:
    """One model call: when it ended, what it used, what that cost in US dollars (None: no price is known) and how it
    went."""

    ended_at: datetime
    provider: str
    model: str
    outcome: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    duration_ms: int | None
    reasoning_tokens: int = 0
    cost_usd: Decimal | None = None
    billing: str = "billed"


async def calls_of_run(
    connection: AsyncConnection[Any],
    gateway: str,
    session_id: str,
    since: datetime,
    until: datetime,
    *,
    run_id: str | None = None,
) -> list[RunCall]:
    """The calls of a run, in order; at most `MOST`: those that name it, and of those that name no run (`run_id` None:
    of all) those of its session from `since` to `until`."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT ts AS ended_at, provider, model, outcome, input_tokens, output_tokens, cache_read_tokens,"
            " cache_write_tokens, duration_ms, reasoning_tokens, cost_usd, billing FROM lobs.model_calls"
            " WHERE gateway = %(gateway)s AND (run_id = %(run)s OR (session_id = %(session)s"
            " AND ts BETWEEN %(since)s AND %(until)s AND (run_id IS NULL OR %(run)s::text IS NULL)))"
            " ORDER BY ts LIMIT %(most)s",
            {
                "gateway": gateway, "session": session_id, "since": since, "until": until, "run": run_id, "most": MOST,
            },
        )  # fmt: skip
        return [RunCall(**row) for row in await cursor.fetchall()]


async def sent_to(connection: AsyncConnection[Any], gateway: str) -> datetime | None:
    """Until when the ended runs of a gateway were sent; None: none ever was."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT sent_to FROM lobs.trace_positions WHERE gateway = %s", [gateway])
        row = await cursor.fetchone()
    return row["sent_to"] if row else None


async def save_sent_to(connection: AsyncConnection[Any], gateway: str, at: datetime) -> None:
    """Note until when they were sent."""
    await connection.execute(
        "INSERT INTO lobs.trace_positions (gateway, sent_to) VALUES (%s, %s)"
        " ON CONFLICT (gateway) DO UPDATE SET sent_to = excluded.sent_to",
        [gateway, at],
    )
