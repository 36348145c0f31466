"""`python -P -m dashboards` writes every board to `dashboards/json/`, and removes what is none any more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from dashboards.board import build, to_json
from dashboards.boards import all_boards

DIRECTORY: Final = Path(__file__).parent / "json"


def rendered() -> dict[str, str]:
    """File name → text of every board."""
    return {f"{board.ref.uid}.json": to_json(build(board)) for board in all_boards()}


def main() -> None:
    """Write what changed and say so."""
    files = rendered()
    DIRECTORY.mkdir(exist_ok=True)
    for path in sorted(DIRECTORY.glob("*.json")):
        if path.name not in files:
            path.unlink()
            sys.stdout.write(f"removed {path.name}\n")
    for name, text in files.items():
        path = DIRECTORY / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"written {name}\n")


if __name__ == "__main__":
    main()
