"""What counters would have counted, by quarter hour, from stored rows: for history that nobody was there to scrape.

The names, labels and amounts are those of `exporter.accounting.increments`, at the time of the call and not of its
reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row, tuple_row

QUARTER: Final = timedelta(minutes=15)
Increment = tuple[datetime, str, tuple[str, ...], Decimal]  # beginning of the quarter hour, metric, labels, amount

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
# Whole quarter hours come from the rollup, which outlives its rows; a part of one only from rows.
_WHOLE: Final = """
SELECT bucket AS at, agent, provider, model, kind, billing, input_tokens, output_tokens, cache_read_tokens,
       cache_write_tokens, reasoning_tokens, cost_usd, unpriced_calls, unpriced_tokens
FROM public.usage_15m WHERE gateway = %(gateway)s AND bucket >= %(since)s AND bucket < %(until)s
"""
_PART: Final = """
SELECT ts AS at, agent, provider, model, kind, billing, input_tokens, output_tokens, cache_read_tokens,
       cache_write_tokens, reasoning_tokens, coalesce(cost_usd, 0) AS cost_usd,
       (cost_basis = 'unpriced')::int AS unpriced_calls,
       CASE WHEN cost_basis = 'unpriced' THEN input_tokens + output_tokens + cache_read_tokens + cache_write_tokens
            ELSE 0 END AS unpriced_tokens
FROM lobs.model_calls WHERE gateway = %(gateway)s AND ts >= %(since)s AND ts < %(until)s
"""
# Label values in the order of the catalogue, behind the gateway.
_COUNTED: Final = (
    (
        "claw_model_calls_total",
        """
SELECT date_bin('15 minutes', ts, '2000-01-01 00:00+00'), ARRAY[agent, provider, model, kind, outcome], count(*)
FROM lobs.model_calls
WHERE gateway = %(gateway)s AND ts >= %(since)s AND ts < %(until)s
GROUP BY 1, 2
""",
    ),
    (
        # A call begins before it ends. The index is on its beginning, and a tool runs for hours at most.
        "claw_tool_calls_total",
        """
SELECT date_bin('15 minutes', finished_at, '2000-01-01 00:00+00'), ARRAY[agent, tool, outcome], count(*)
FROM lobs.tool_calls
WHERE gateway = %(gateway)s AND outcome IS NOT NULL AND finished_at >= %(since)s AND finished_at < %(until)s
  AND ts >= %(since)s::timestamptz - interval '1 day' AND ts < %(until)s::timestamptz + interval '1 day'
GROUP BY 1, 2
""",
    ),
    (
        "claw_tool_calls_started_total",
        """
SELECT date_bin('15 minutes', ts, '2000-01-01 00:00+00'), ARRAY[agent, tool], count(*)
FROM lobs.tool_calls
WHERE gateway = %(gateway)s AND position >= 0 AND ts >= %(since)s AND ts < %(until)s
GROUP BY 1, 2
""",
    ),
    (
        "claw_compactions_total",
        """
SELECT date_bin('15 minutes', ts, '2000-01-01 00:00+00'), ARRAY[agent], count(*)
FROM lobs.session_events
WHERE gateway = %(gateway)s AND event = 'compaction' AND ts >= %(since)s AND ts < %(until)s
GROUP BY 1, 2
""",
    ),
)
METRICS: Final = (
    "claw_tokens_total",
    "claw_reasoning_tokens_total",
    "claw_cost_usd_total",
    "claw_equivalent_cost_usd_total",
    "claw_unpriced_tokens_total",
    "claw_unpriced_calls_total",
    *(metric for metric, _ in _COUNTED),
)


def quarter_of(at: datetime) -> datetime:
    """The beginning of its quarter hour."""
    return _EPOCH + (at - _EPOCH) // QUARTER * QUARTER


def hold_still(connection: psycopg.Connection[Any]) -> None:
    """All that is asked in this transaction is answered as of one instant. It must be the first of it."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def first_call(connection: psycopg.Connection[Any], gateway: str) -> datetime | None:
    """The quarter hour of the oldest call that is known."""
    row = connection.execute("SELECT min(bucket) FROM public.usage_15m WHERE gateway = %s", [gateway]).fetchone()
    return row[0] if row else None


def totals(connection: psycopg.Connection[Any], gateway: str) -> dict[tuple[str, tuple[str, ...]], Decimal]:
    """The counters as they are committed now."""
    found = connection.cursor(row_factory=tuple_row).execute(
        "SELECT metric, labels, value FROM lobs.totals WHERE gateway = %s AND metric = ANY(%s)", [gateway, [*METRICS]]
    )
    return {(metric, tuple(labels)): value for metric, labels, value in found}


def increments(
    connection: psycopg.Connection[Any], gateway: str, since: datetime, until: datetime
) -> Iterator[Increment]:
    """What was counted from `since` (included) to `until` (not included), in no order. `since`: the beginning of a
    quarter hour."""
    edge = quarter_of(until)
    given = {"gateway": gateway, "since": since, "until": until}
    for statement, span in ((_WHOLE, given | {"until": edge}), (_PART, given | {"since": max(since, edge)})):
        with connection.cursor(row_factory=dict_row) as cursor:
            for row in cursor.execute(statement, span):
                yield from _used(gateway, row)
    for metric, statement in _COUNTED:
        with connection.cursor(row_factory=tuple_row) as cursor:
            for at, labels, number in cursor.execute(statement.encode(), given):
                yield at, metric, (gateway, *labels), Decimal(number)


def _used(gateway: str, row: dict[str, Any]) -> Iterator[Increment]:
    at = quarter_of(row["at"])
    labels = (gateway, row["agent"], row["provider"], row["model"], row["kind"])
    cost = "claw_cost_usd_total" if row["billing"] == "billed" else "claw_equivalent_cost_usd_total"
    for metric, names, amount in (
        *(
            ("claw_tokens_total", (*labels, kind), row[f"{kind}_tokens"])
            for kind in ("input", "output", "cache_read", "cache_write")
        ),
        ("claw_reasoning_tokens_total", labels, row["reasoning_tokens"]),
        (cost, labels, row["cost_usd"]),
        ("claw_unpriced_tokens_total", (gateway, row["provider"], row["model"]), row["unpriced_tokens"]),
        ("claw_unpriced_calls_total", (gateway, row["provider"], row["model"]), row["unpriced_calls"]),
    ):
        if amount:
            yield at, metric, names, Decimal(amount)
