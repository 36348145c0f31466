"""The model calls of one run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import dict_row

MOST: Final = 500


@dataclass(frozen=True, slots=True)
class RunCall:
    """One model call: when it ended, what it used and how it went."""

    ended_at: datetime
    provider: str
    model: str
    outcome: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    duration_ms: int | None


async def of_session(
    connection: AsyncConnection[Any], gateway: str, session_id: str, since: datetime, until: datetime
) -> list[RunCall]:
    """The calls of a session from `since` to `until`, in order; at most `MOST`."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT ts AS ended_at, provider, model, outcome, input_tokens, output_tokens, cache_read_tokens,"
            " cache_write_tokens, duration_ms FROM lobs.model_calls"
            " WHERE gateway = %s AND session_id = %s AND ts BETWEEN %s AND %s ORDER BY ts LIMIT %s",
            [gateway, session_id, since, until, MOST],
        )
        return [RunCall(**row) for row in await cursor.fetchall()]
