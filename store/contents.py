"""What a database of ours holds: whether anything was recorded yet, and a summary for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql

# Tables with rows before anything was recorded: what migrations put there.
_SHIPPED = frozenset({"alert_rules", "retention", "settings", "usage_state"})
# Of each of these tables migrations make one row.
_ONE_SHIPPED = frozenset({"boards"})
_CONNECT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Contents:
    """Sums over the whole database."""

    model_calls: int
    sessions: int
    tasks: int
    billed_usd: Decimal
    first: datetime | None
    last: datetime | None

    def __str__(self) -> str:
        """As one line for a person."""
        money = f"US$ {self.billed_usd:.2f} billed"
        if self.first and self.last:
            money += f", {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}"
        return f"model calls: {self.model_calls} ({money}), sessions: {self.sessions}, tasks: {self.tasks}"


def contents(dsn: str) -> Contents:
    """The sums, as any role that may read the views. Raises psycopg.Error."""
    with psycopg.connect(dsn, connect_timeout=_CONNECT_SECONDS) as connection:
        row = connection.execute(
            "SELECT count(*), (SELECT count(*) FROM public.sessions), (SELECT count(*) FROM public.tasks),"
            " coalesce(sum(cost_usd) FILTER (WHERE billing = 'billed'), 0), min(ts), max(ts) FROM public.model_calls"
        ).fetchone()
    if row is None:
        raise AssertionError("an aggregate always has a row")
    return Contents(*row)


def is_ours(connection: psycopg.Connection[Any]) -> bool:
    """Whether the database has a schema of ours, of whatever version."""
    return connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'lobs'").fetchone() is not None


def is_blank(connection: psycopg.Connection[Any]) -> bool:
    """Whether nothing was recorded yet: no schema, or no row but those of the migrations."""
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'lobs'").fetchall()
    for (table,) in tables:
        if table not in _SHIPPED:
            query = sql.SQL("SELECT 1 FROM {} LIMIT 2").format(sql.Identifier("lobs", table))
            if len(connection.execute(query).fetchall()) > (table in _ONE_SHIPPED):
                return False
    return True
