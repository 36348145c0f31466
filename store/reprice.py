"""Money of calls that were priced by us, at the prices of today. Rows and rollups change, counters never do.

What an entry reported, and what was billed at a price, is history and stays. *Equivalent* money that is not reported
(the list price of what a subscription covers) may change. Billed calls that had no price at all get one only where the
user asks for it: it adds to billed history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from store import operations, outbox

_LONGEST_MILLISECONDS: Final = 600_000

# The cost of each call at the new price; NULL where a class with tokens has no price. Exact: no division.
_NEW_COST: Final = """
CREATE TEMPORARY TABLE repriced ON COMMIT DROP AS
WITH candidate AS (
    SELECT c.ts, c.identity, c.gateway, c.agent, c.session_id, c.provider, c.model, c.billing, c.cost_basis,
           c.cost_usd AS old_cost, c.run_id, p.version,
           ARRAY[c.input_tokens, c.output_tokens, c.cache_read_tokens,
                 c.cache_write_tokens - coalesce(c.cache_write_1h_tokens, 0) - coalesce(c.cache_write_5m_tokens, 0),
                 coalesce(c.cache_write_1h_tokens, 0), coalesce(c.cache_write_5m_tokens, 0)]::numeric[] AS tokens,
           ARRAY[p.input, p.output, p.cache_read, p.cache_write, p.cache_write_1h, p.cache_write_5m] AS prices
    FROM lobs.model_calls AS c
    JOIN new_prices AS p ON p.provider = c.provider AND p.model = c.model
    WHERE c.gateway = %(gateway)s AND c.ts >= %(since)s AND c.cost_basis <> 'reported'
      AND c.input_tokens + c.output_tokens + c.cache_read_tokens + c.cache_write_tokens > 0
      -- A cost that was given and refused is neither believed nor replaced.
      AND NOT (c.cost_basis = 'unpriced' AND EXISTS (
          SELECT 1 FROM lobs.rejects AS r
          WHERE r.gateway = c.gateway AND r.agent = c.agent AND r.reason = 'bad_number'
            AND starts_with(r.location, c.entry_id || ':') AND r.location LIKE '%%:cost'))
), priced AS (
    SELECT candidate.*, (
        SELECT CASE WHEN bool_or(amount > 0 AND price IS NULL) THEN NULL
                    ELSE trim_scale(sum(amount * coalesce(price, 0)) * 0.000001) END
        FROM unnest(tokens, prices) AS part (amount, price)
    ) AS new_cost
    FROM candidate
)
SELECT ts, identity, gateway, agent, session_id, provider, model, billing, cost_basis, run_id, version, old_cost,
       new_cost,
       CASE WHEN billing = 'equivalent' THEN 'equivalent'
            WHEN cost_basis = 'unpriced' THEN 'unpriced'
            ELSE 'billed' END AS treatment
FROM priced
WHERE new_cost IS NOT NULL AND new_cost IS DISTINCT FROM old_cost
"""
_SUMMARY: Final = """
SELECT provider, model, treatment, count(*) AS calls, coalesce(sum(old_cost), 0) AS old_usd, sum(new_cost) AS new_usd
FROM repriced GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_ROWS: Final = """
UPDATE lobs.model_calls AS c
SET cost_usd = r.new_cost, cost_basis = 'priced', price_version = r.version
FROM repriced AS r
WHERE c.ts = r.ts AND c.identity = r.identity AND c.gateway = r.gateway
"""
_SESSIONS: Final = """
UPDATE lobs.sessions AS s
SET cost_usd = s.cost_usd + d.billed, equivalent_cost_usd = s.equivalent_cost_usd + d.equivalent,
    unpriced_calls = s.unpriced_calls - d.now_priced
FROM (
    SELECT gateway, agent, session_id,
           coalesce(sum(new_cost - coalesce(old_cost, 0)) FILTER (WHERE billing = 'billed'), 0) AS billed,
           coalesce(sum(new_cost - coalesce(old_cost, 0)) FILTER (WHERE billing = 'equivalent'), 0) AS equivalent,
           count(*) FILTER (WHERE cost_basis = 'unpriced') AS now_priced
    FROM repriced GROUP BY 1, 2, 3
) AS d
WHERE s.gateway = d.gateway AND s.agent = d.agent AND s.session_id = d.session_id
"""

Treatment = Literal["equivalent", "unpriced", "billed"]


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """US dollars per million tokens of one model; None: not known."""

    provider: str
    model: str
    version: str
    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None
    cache_write: Decimal | None
    cache_write_1h: Decimal | None
    cache_write_5m: Decimal | None


@dataclass(frozen=True, slots=True)
class Change:
    """Calls of one model whose money would be another at today's prices.

    `equivalent`: changes. `unpriced`: billed, without a price until now; changes where the user asks for it. `billed`:
    stays.
    """

    provider: str
    model: str
    treatment: Treatment
    calls: int
    old_usd: Decimal
    new_usd: Decimal


async def models(connection: AsyncConnection[Any], gateway: str, since: datetime) -> list[tuple[str, str]]:
    """Providers and models of the calls since then that have a price of ours, or none."""
    cursor = await connection.cursor(row_factory=dict_row).execute(
        "SELECT DISTINCT provider, model FROM lobs.model_calls"
        " WHERE gateway = %s AND ts >= %s AND cost_basis <> 'reported' ORDER BY 1, 2",
        [gateway, since],
    )
    return [(row["provider"], row["model"]) for row in await cursor.fetchall()]


async def reprice(
    connection: AsyncConnection[Any],
    gateway: str,
    since: datetime,
    prices: Sequence[ModelPrice],
    *,
    apply: bool,
    unpriced: bool = False,
) -> list[Change]:
    """What today's prices change in calls from `since` on; with `apply` it is written, in one transaction: equivalents,
    and with `unpriced` also billed calls that had no price.

    Rows, sessions, operations and quarter hours change together. Totals (the counters) are not touched. Calls that
    retention may already have thinned out are left alone: their quarter hours could not be built anew.
    """
    async with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        if apply:  # one after another: what a session gains is the difference to the money that was there
            await cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('lobservatory reprice', 0))")
        await cursor.execute(f"SET LOCAL statement_timeout = {_LONGEST_MILLISECONDS}")
        # TimescaleDB would refuse to change more than 100,000 rows of compressed chunks; elsewhere it means nothing.
        await cursor.execute("SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
        await cursor.execute(
            "CREATE TEMPORARY TABLE new_prices (provider text, model text, version text, input numeric,"
            " output numeric, cache_read numeric, cache_write numeric, cache_write_1h numeric, cache_write_5m numeric)"
            " ON COMMIT DROP"
        )
        await cursor.executemany(
            "INSERT INTO new_prices VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    one.provider, one.model, one.version, one.input, one.output, one.cache_read, one.cache_write,
                    one.cache_write_1h, one.cache_write_5m,
                )
                for one in prices
            ],
        )  # fmt: skip
        await cursor.execute(
            "SELECT greatest(%s, (SELECT rows_from FROM lobs.usage_state),"
            " date_bin('15 minutes', now() - keep, '2000-01-01 00:00+00') + interval '15 minutes')"
            " AS start FROM lobs.retention WHERE target = 'model_calls'",
            [since],
        )
        kept = await cursor.fetchone()
        await cursor.execute(_NEW_COST, {"gateway": gateway, "since": kept["start"] if kept else since})
        await cursor.execute(_SUMMARY)
        changes = [Change(**row) for row in await cursor.fetchall()]
        treatments = ["equivalent", "unpriced"] if unpriced else ["equivalent"]
        if apply and any(change.treatment in treatments for change in changes):
            await cursor.execute("DELETE FROM repriced WHERE treatment <> ALL(%s)", [treatments])
            await _write(connection, gateway)
    return changes


async def _write(connection: AsyncConnection[Any], gateway: str) -> None:
    async with connection.cursor(row_factory=dict_row) as cursor:
        # First, and in the order of the ledger's transactions: whoever takes locks in one order never deadlocks. The
        # exporter waits from here to the commit.
        await cursor.execute("LOCK TABLE lobs.model_calls IN ROW EXCLUSIVE MODE")
        await cursor.execute("SELECT 1 FROM lobs.usage_state FOR UPDATE")
        await cursor.execute(_ROWS)
        await cursor.execute(_SESSIONS)
        await cursor.execute(
            "SELECT array_agg(DISTINCT run_id) FILTER (WHERE run_id IS NOT NULL) AS runs FROM repriced"
        )
        found = await cursor.fetchone()
        runs = (found or {}).get("runs") or []
        events = await operations.refresh_runs(connection, gateway, runs) if runs else []
        # By days with a change, so that it is short.
        await cursor.execute(
            "SELECT lobs.rebuild_usage(min(ts), max(ts)) FROM repriced"
            " GROUP BY date_bin('1 day', ts, '2000-01-01 00:00+00')"
        )
        await outbox.publish(connection, events)
