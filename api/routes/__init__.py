"""Thin routes: parse, call a service, answer. A new group of routes is one file and one line here."""

from __future__ import annotations

from api.routes import (
    auth,
    boards,
    budgets,
    chat,
    commands,
    control,
    dispatch,
    live,
    monitoring,
    operations,
    pages,
    runs,
    tasks,
    thresholds,
    webhooks,
)

# Commands first: /api/agents/spawn is no agent's id.
ROUTERS = (
    pages.router,
    auth.router,
    operations.router,
    tasks.router,
    boards.router,
    budgets.router,
    thresholds.router,
    webhooks.router,
    commands.router,
    control.router,
    dispatch.router,
    runs.router,
    chat.router,
    monitoring.router,
    live.router,
)
