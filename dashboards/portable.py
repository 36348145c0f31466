"""The boards as files for another Grafana's import page, which asks for the data sources (`__inputs`)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, Final

from dashboards import config

LEAST_GRAFANA: Final = "12.0.0"
# Variable of a board → name of the input, title of the data source's type, the type.
INPUTS: Final = {
    config.PROMETHEUS_VARIABLE: ("DS_PROMETHEUS", "Prometheus", config.PROMETHEUS_TYPE),
    config.POSTGRES_VARIABLE: ("DS_POSTGRESQL", "PostgreSQL", config.POSTGRES_TYPE),
}


def portable(board: Mapping[str, Any]) -> dict[str, Any]:
    """The board with inputs in place of our data sources: Grafana puts what is chosen at the import for `${DS_…}`."""
    made: dict[str, Any] = copy.deepcopy(dict(board))
    for variable in made["templating"]["list"]:
        if variable["name"] in INPUTS:
            value = f"${{{INPUTS[variable['name']][0]}}}"
            variable["current"] = {"selected": True, "text": value, "value": value}
    kinds = {
        panel["type"] for row in made["panels"] for panel in (row, *row.get("panels", ())) if panel["type"] != "row"
    }
    made["__inputs"] = [
        {
            "name": name,
            "label": title,
            "description": "The database of Lobservatory, as lobs_reader"
            if type_ == config.POSTGRES_TYPE
            else "The Prometheus that scrapes Lobservatory",
            "type": "datasource",
            "pluginId": type_,
            "pluginName": title,
        }
        for name, title, type_ in INPUTS.values()
    ]
    made["__elements"] = {}
    made["__requires"] = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": LEAST_GRAFANA},
        *(
            {"type": "datasource", "id": type_, "name": title, "version": "1.0.0"}
            for _, title, type_ in INPUTS.values()
        ),
        *({"type": "panel", "id": kind, "name": kind, "version": ""} for kind in sorted(kinds)),
    ]
    made["id"] = None
    made["editable"] = True  # it is theirs now
    return made


def playlist(uids: list[str]) -> dict[str, Any]:
    """What `POST /api/playlists` takes."""
    items = [{"type": "dashboard_by_uid", "value": uid, "order": order} for order, uid in enumerate(uids, 1)]
    return {"name": "OpenClaw on the wall", "interval": "1m", "items": items}


def to_json(document: Mapping[str, Any]) -> str:
    """As the boards themselves are written."""
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
