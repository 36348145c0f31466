"""`python -P -m dashboards` writes every board and removes what is none any more: to `dashboards/json/` for
provisioning, to `dashboards/import/` for another Grafana's import page, with a playlist beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from dashboards import config
from dashboards.board import build, to_json
from dashboards.boards import all_boards
from dashboards.portable import playlist, portable
from dashboards.portable import to_json as document_json

FOLDER: Final = Path(__file__).parent
DIRECTORY: Final = FOLDER / "json"
# What a wall turns through: what is true now, not what one looks up.
WALL: Final = (config.OVERVIEW, config.COST, config.AGENTS, config.CRON, config.GATEWAY, config.ALERTS)


def rendered() -> dict[str, str]:
    """File name → text of every board."""
    return {f"{board.ref.uid}.json": to_json(build(board)) for board in all_boards()}


def for_import() -> dict[str, str]:
    """File name → text of what another Grafana takes."""
    boards = {name: document_json(portable(json.loads(text))) for name, text in rendered().items()}
    return {**boards, "playlist.json": document_json(playlist([ref.uid for ref in WALL]))}


def main() -> None:
    """Write what changed and say so."""
    for directory, files in ((DIRECTORY, rendered()), (FOLDER / "import", for_import())):
        directory.mkdir(exist_ok=True)
        for path in sorted(directory.glob("*.json")):
            if path.name not in files:
                path.unlink()
                sys.stdout.write(f"removed {directory.name}/{path.name}\n")
        for name, text in files.items():
            path = directory / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                sys.stdout.write(f"written {directory.name}/{name}\n")


if __name__ == "__main__":
    main()
