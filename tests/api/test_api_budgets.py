"""Budgets over HTTP."""

from __future__ import annotations

import pytest

from api.security.scopes import Scope
from tests.api.conftest import connected, new_token, started

SPENT = [("home", "main", "billed", 30), ("home", "helper", "billed", 10), ("home", "main", "equivalent", 500),
         ("work", "main", "billed", 7)]  # fmt: skip


@pytest.fixture
async def spent(database):
    await database.execute(
        "INSERT INTO lobs.agents (gateway, agent, configured, first_call_at) VALUES ('home', 'main', true, now()),"
        " ('home', 'helper', true, now()), ('work', 'main', true, now())"
    )
    for gateway, agent, billing, cost in SPENT:
        await database.execute(
            "INSERT INTO lobs.usage_15m (bucket, gateway, agent, provider, model, kind, billing, calls, input_tokens,"
            " output_tokens, cost_usd, unpriced_calls)"
            " VALUES (date_trunc('hour', now()), %s, %s, 'p', 'm', 'user', %s, 1, 1, 1, %s, 0)",
            [gateway, agent, billing, cost],
        )


async def test_no_budget_is_no_row(client, spent):
    assert (await client.get("/api/budgets")).json() == []


async def test_budgets_of_the_file_and_of_run_time(settings, spent, database):
    table = {"BudgetBurn": {"critical": 100.0, "agents": {"helper": {"critical": 20.0}}}}
    chosen = settings.model_validate({**settings.model_dump(exclude_unset=True), "thresholds": table})
    await database.execute(
        "INSERT INTO lobs.alert_thresholds (alert, severity, gateway, agent, value) VALUES"
        " ('BudgetBurn', 'critical', 'work', '', 14), ('BudgetBurn', 'critical', '', 'main', 60),"
        " ('BudgetBurn', 'critical', 'work', 'helper', 0), ('BudgetBurn', 'warning', '', '', 0.5)"
    )
    async with started(chosen) as app, connected(app, await new_token(app, Scope.READ)) as client:
        found = (await client.get("/api/budgets")).json()
        assert [tuple(one.values()) for one in found] == [
            ("home", None, 100, 40, 0.4),
            ("home", "helper", 20, 10, 0.5),
            ("home", "main", 60, 30, 0.5),
            ("work", None, 14, 7, 0.5),
            ("work", "main", 60, 7, pytest.approx(7 / 60)),
        ]
        async with connected(app, await new_token(app, Scope.READ, ["work"])) as limited:
            assert {one["gateway"] for one in (await limited.get("/api/budgets")).json()} == {"work"}
