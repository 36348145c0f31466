"""Budgets of the month: the threshold BudgetBurn, and what the boards' own view says is used of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from store.pool import Connection
from store.reading import read

ALERT: Final = "BudgetBurn"
SEVERITY: Final = "critical"


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget set at run time, in US$ (0: none). "" in `gateway` or `agent`: all of them."""

    gateway: str
    agent: str
    value: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What an agent was billed this month, in US$."""

    gateway: str
    agent: str
    cost_usd: Decimal | None


async def limits(connection: Connection) -> list[Limit]:
    """Budgets set at run time."""
    return await read(
        connection,
        Limit,
        "SELECT gateway, agent, value FROM lobs.alert_thresholds WHERE alert = %s AND severity = %s"
        " ORDER BY gateway, agent",
        [ALERT, SEVERITY],
    )


async def spent(connection: Connection, gateways: Sequence[str] | None) -> list[Spent]:
    """What was billed this month, in US$, by `gateway` and `agent`: the definition that the boards show."""
    return await read(
        connection,
        Spent,
        "SELECT gateway, agent, sum(cost_usd) AS cost_usd"
        " FROM public.cost_windows((SELECT value FROM lobs.settings WHERE key = 'timezone'))"
        " WHERE window_name = 'month' AND (%(gateways)s::text[] IS NULL OR gateway = ANY(%(gateways)s))"
        " GROUP BY 1, 2",
        {"gateways": None if gateways is None else list(gateways)},
    )
