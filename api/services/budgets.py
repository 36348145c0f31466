"""Budgets: the thresholds of the alert BudgetBurn, beside what the month has cost by the boards' own definition."""

from __future__ import annotations

from collections import defaultdict

from api.models.budgets import Budget
from api.security.scopes import Actor
from api.services.agents import gateways_of
from lobservatory.settings import Settings
from store import budgets as rows
from store.pool import Pool


class BudgetService:
    """Budgets, read only: they are set as thresholds."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._own = settings.gateway_name
        self._settings = {
            agent: value
            for (alert, severity, agent), value in settings.alert_thresholds().items()
            if (alert, severity) == (rows.ALERT, rows.SEVERITY)
        }

    async def budgets(self, actor: Actor) -> list[Budget]:
        """By gateway and agent; a budget of 0 is none. The settings' hold for every gateway that has no other."""
        async with self._pool.connection() as connection:
            overrides = await rows.limits(connection)
            spent = await rows.spent(connection, gateways_of(actor))
        used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for row in spent:
            used[row.gateway][row.agent] += float(row.cost_usd or 0)
            used[row.gateway][""] += float(row.cost_usd or 0)
        named = {one.gateway for one in overrides if one.gateway}
        gateways = sorted(one for one in {self._own, *used, *named} if actor.sees(one))
        found = []
        for gateway in gateways:
            limits = dict(self._settings)
            for wanted in ("", gateway):  # those of this gateway win over those of all
                limits |= {one.agent: one.value for one in overrides if one.gateway == wanted}
            found += [
                Budget(
                    gateway=gateway,
                    agent=agent or None,
                    limit_usd=limit,
                    used_usd=used[gateway][agent],
                    used_ratio=used[gateway][agent] / limit,
                )
                for agent, limit in sorted(limits.items())
                if limit > 0
            ]
        return found
