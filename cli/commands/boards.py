"""`lobservatory boards`: the Grafana dashboards as files for another Grafana's import page, which asks for the data
sources (`__inputs`). Made from the JSON that Grafana is provisioned with, so nothing that builds boards is needed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from lobservatory.errors import UserError

FOLDER: Final = Path(__file__).resolve().parents[2] / "dashboards" / "json"
LEAST_GRAFANA: Final = "12.0.0"
PLAYLIST: Final = "playlist.json"
# Type of a data source → name of the input, title of the type, what to choose.
INPUTS: Final = {
    "prometheus": ("DS_PROMETHEUS", "Prometheus", "The Prometheus that scrapes Lobservatory"),
    "grafana-postgresql-datasource": ("DS_POSTGRESQL", "PostgreSQL", "The database of Lobservatory, as lobs_reader"),
}
# What a wall turns through: what is true now, not what one looks up.
WALL: Final = ("lobs-overview", "lobs-cost", "lobs-agents", "lobs-cron", "lobs-gateway", "lobs-alerts")


def boards(
    *,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="DIR",
            help="Write them for another Grafana's import page, with a playlist. Replaces files of the same names.",
        ),
    ] = None,
) -> None:
    """List the Grafana dashboards, or export them for a Grafana of your own."""
    if export is None:
        for board in provisioned():
            typer.echo(f"{board['uid']:16} {board['title']}")
        return
    files = for_import()
    if export.exists() and not export.is_dir():
        raise UserError(f"--export: {export} is a file: name a folder, new or with files that may be replaced")
    try:
        export.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (export / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--export: {error.filename or export} cannot be written: {error.strerror}") from error
    typer.echo(
        f"boards: {len(files) - 1} dashboards and {PLAYLIST} in {export} (docs/dashboards.md: how to import them)"
    )


def provisioned() -> Iterator[dict[str, Any]]:
    """The dashboards as Grafana is provisioned with them, by file name. Raises UserError."""
    paths = sorted(FOLDER.glob("*.json"))
    if not paths:
        raise UserError(f"boards: there are none in {FOLDER}: install Lobservatory again")
    for path in paths:
        board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        yield board


def for_import() -> dict[str, str]:
    """File name → text of what another Grafana takes. Raises UserError."""
    made = {f"{board['uid']}.json": to_json(portable(board)) for board in provisioned()}
    return {**made, PLAYLIST: to_json(playlist(WALL))}


def portable(board: Mapping[str, Any]) -> dict[str, Any]:
    """The board with inputs in place of our data sources: Grafana puts what is chosen at the import for `${DS_…}`."""
    made: dict[str, Any] = copy.deepcopy(dict(board))
    inputs = {}
    for variable in made["templating"]["list"]:
        if variable["type"] == "datasource":
            name, title, description = INPUTS[variable["query"]]
            inputs[variable["query"]] = {
                "name": name,
                "label": title,
                "description": description,
                "type": "datasource",
                "pluginId": variable["query"],
                "pluginName": title,
            }
            variable["current"] = {"selected": True, "text": f"${{{name}}}", "value": f"${{{name}}}"}
    kinds = {
        panel["type"] for row in made["panels"] for panel in (row, *row.get("panels", ())) if panel["type"] != "row"
    }
    made["__inputs"] = list(inputs.values())
    made["__elements"] = {}
    made["__requires"] = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": LEAST_GRAFANA},
        *(
            {"type": "datasource", "id": one["pluginId"], "name": one["pluginName"], "version": "1.0.0"}
            for one in inputs.values()
        ),
        *({"type": "panel", "id": kind, "name": kind, "version": ""} for kind in sorted(kinds)),
    ]
    made["id"] = None
    made["editable"] = True  # it is theirs now
    return made


def playlist(uids: tuple[str, ...]) -> dict[str, Any]:
    """What `POST /api/playlists` takes."""
    items = [{"type": "dashboard_by_uid", "value": uid, "order": order} for order, uid in enumerate(uids, 1)]
    return {"name": "OpenClaw on the wall", "interval": "1m", "items": items}


def to_json(document: Mapping[str, Any]) -> str:
    """As the boards themselves are written."""
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
