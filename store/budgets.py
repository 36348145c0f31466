"""Budgets of the month: the threshold BudgetBurn, and what the boards' own view says is used of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from store.pool import Connection

ALERT: Final = "BudgetBurn"
SEVERITY: Final = "critical"


async def limits(connection: Connection) -> list[dict[str, Any]]:
    """Budgets set at run time: `gateway` and `agent` ('' is all of them) and `value` in US$ (0: none)."""
    cursor = await connection.execute(
        "SELECT gateway, agent, value FROM lobs.alert_thresholds WHERE alert = %s AND severity = %s"
        " ORDER BY gateway, agent",
        [ALERT, SEVERITY],
    )
    return await cursor.fetchall()


async def spent(connection: Connection, gateways: Sequence[str] | None) -> list[dict[str, Any]]:
    """What was billed this month, in US$, by `gateway` and `agent`: the definition that the boards show."""
    cursor = await connection.execute(
        "SELECT gateway, agent, sum(cost_usd) AS cost_usd"
        " FROM public.cost_windows((SELECT value FROM lobs.settings WHERE key = 'timezone'))"
        " WHERE window_name = 'month' AND (%(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s))"
        " GROUP BY 1, 2",
        {"gateways": None if gateways is None else list(gateways)},
    )
    return await cursor.fetchall()
