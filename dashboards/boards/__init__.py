"""The boards, one file each, in the order in which they are listed."""

from __future__ import annotations

from dashboards.board import Board
from dashboards.boards import (
    agents,
    alerts,
    cost,
    cron,
    gateway,
    host,
    logs,
    official,
    operations,
    overview,
    quality,
    session,
    sessions,
)


def all_boards() -> list[Board]:
    """Every board."""
    modules = (
        overview,
        cost,
        sessions,
        session,
        agents,
        operations,
        cron,
        gateway,
        host,
        logs,
        alerts,
        quality,
        official,
    )
    return [module.board() for module in modules]
