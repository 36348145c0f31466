"""The boards, one file each, in the order in which they are listed."""

from __future__ import annotations

from dashboards.board import Board
from dashboards.boards import cost, cron, gateway, host, overview, quality, sessions


def all_boards() -> list[Board]:
    """Every board."""
    return [module.board() for module in (overview, cost, sessions, cron, gateway, host, quality)]
