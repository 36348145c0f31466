"""Reading the windows of money. Their definition is in the migrations: `public.cost_windows`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from store.pool import Connection


async def windows(connection: Connection, gateway: str, zone: str, at: datetime) -> dict[tuple[str, str], Decimal]:
    """Billed US dollars by (agent, window) at an instant."""
    cursor = await connection.execute(
        "SELECT agent, window_name, cost_usd FROM public.cost_windows(%s, %s) WHERE gateway = %s", [zone, at, gateway]
    )
    return {(row["agent"], row["window_name"]): row["cost_usd"] for row in await cursor.fetchall()}


async def hour_baseline(connection: Connection, gateway: str, zone: str, at: datetime) -> dict[str, Decimal]:
    """The usual billed US dollars of this hour of the clock, by agent."""
    cursor = await connection.execute(
        "SELECT agent, cost_usd FROM public.cost_hour_baseline(%s, %s) WHERE gateway = %s", [zone, at, gateway]
    )
    return {row["agent"]: row["cost_usd"] for row in await cursor.fetchall()}
