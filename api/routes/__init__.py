"""Thin routes: parse, call a service, answer. A new group of routes is one file and one line here."""

from __future__ import annotations

from api.routes import auth, live, monitoring, operations, pages, tasks

ROUTERS = (pages.router, auth.router, operations.router, tasks.router, monitoring.router, live.router)
