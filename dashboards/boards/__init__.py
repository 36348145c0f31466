"""The boards, one file each, in the order in which they are listed."""

from __future__ import annotations

from dashboards.board import Board
from dashboards.boards import overview


def all_boards() -> list[Board]:
    """Every board."""
    return [overview.board()]
