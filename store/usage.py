"""Our own account of tokens and cost over a time, to compare it with the gateway's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Tokens by class and US dollars; billed and equivalent together, because the gateway knows no difference.

    `cost_usd` has what calls reported and what the gateway's own prices give, not what only our prices know: the
    gateway counts that as calls without a cost.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: Decimal


async def totals(
    connection: AsyncConnection[Any], gateway: str, since: datetime, until: datetime, agent: str | None = None
) -> UsageTotals:
    """The calls from `since` (included) to `until` (not included), of one agent or of all."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT coalesce(sum(input_tokens), 0)::bigint AS input_tokens,"
            " coalesce(sum(output_tokens), 0)::bigint AS output_tokens,"
            " coalesce(sum(cache_read_tokens), 0)::bigint AS cache_read_tokens,"
            " coalesce(sum(cache_write_tokens), 0)::bigint AS cache_write_tokens,"
            " coalesce(sum(cost_usd) FILTER ("
            "WHERE cost_basis = 'reported' OR price_version LIKE 'openclaw.json:%%'), 0) AS cost_usd"
            " FROM lobs.model_calls WHERE gateway = %s AND ts >= %s AND ts < %s AND (%s::text IS NULL OR agent = %s)",
            [gateway, since, until, agent, agent],
        )
        row = await cursor.fetchone()
    return UsageTotals(**row) if row else UsageTotals(0, 0, 0, 0, Decimal(0))
