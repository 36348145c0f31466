"""A board: rows of panels, laid out and given the defaults that all boards share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from dashboards import config, events, panels, variables

COLUMNS = 24  # of Grafana's grid


@dataclass(frozen=True, slots=True)
class Row:
    """Panels from left to right, as many lines as they need. Without a title it has no head."""

    id: int
    title: str
    panels: Sequence[dashboard.Panel]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """What one board has of its own."""

    ref: config.BoardRef
    description: str
    rows: Sequence[Row]
    extra_variables: Sequence[dashboard.VariableModel] = ()
    extra_links: Sequence[dashboard.DashboardLink] = ()
    time_from: str = config.TIME_FROM


class LayoutError(Exception):
    """Panels of a line are not of one height or are wider than the grid."""


def _place(panels: Sequence[dashboard.Panel], top: int) -> int:
    """Give the panels their places from `top` on; the line below the last."""
    left, height = 0, 0
    for panel in panels:
        place = panel.grid_pos
        if place is None or place.w > COLUMNS:
            raise LayoutError(f"{panel.title}: no size, or wider than {COLUMNS} columns")
        if left + place.w > COLUMNS:
            left, top = 0, top + height
        if left and place.h != height:
            raise LayoutError(f"{panel.title}: {place.h} lines high beside {height}")
        place.x, place.y, height = left, top, place.h
        left += place.w
    return top + height


def _panels(rows: Sequence[Row]) -> list[dashboard.Panel | dashboard.RowPanel]:
    placed: list[dashboard.Panel | dashboard.RowPanel] = []
    top = 0
    for row in rows:
        inner: list[dashboard.Panel] = list(row.panels) if row.collapsed else []
        if row.title:
            place = dashboard.GridPos(h=1, w=COLUMNS, x=0, y=top)
            placed.append(
                dashboard.RowPanel(
                    id_val=row.id, title=row.title, collapsed=row.collapsed, grid_pos=place, panels=inner
                )
            )
            top += 1
        bottom = _place(row.panels, top)
        if not row.collapsed:
            placed.extend(row.panels)
            top = bottom
    return placed


def _keep_variables(placed: Sequence[dashboard.Panel | dashboard.RowPanel], names: Sequence[str]) -> None:
    """Links carry on what is chosen at the top of their board."""
    for panel in placed:
        if isinstance(panel, dashboard.RowPanel):
            _keep_variables(panel.panels, names)
        elif panel.field_config is not None:
            links = list(panel.field_config.defaults.links or [])
            for changed in panel.field_config.overrides:
                for one in changed.properties:
                    links += one.value if isinstance(one.value, list) and one.id_val == "links" else []
            for link in links:
                link.url = panels.kept(link.url or "", names)


def build(board: Board) -> dashboard.Dashboard:
    """The dashboard, with the data sources, variables, annotations and links that all boards have."""
    chosen = [
        variables.prometheus_data_source(),
        variables.postgres_data_source(),
        variables.gateway(),
        *board.extra_variables,
    ]
    placed = _panels(board.rows)
    _keep_variables(placed, [variable.name for variable in chosen])
    return dashboard.Dashboard(
        uid=board.ref.uid,
        title=board.ref.title,
        description=board.description,
        tags=[config.TAG],
        timezone=config.TIMEZONE,
        editable=False,  # provisioned: people save a copy
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(from_val=board.time_from, to="now"),
        timepicker=dashboard.TimePickerConfig(refresh_intervals=["10s", "30s", "1m", "5m", "15m", "1h"]),
        refresh=config.REFRESH,
        version=1,
        templating=dashboard.DashboardDashboardTemplating(list_val=chosen),
        annotations=dashboard.AnnotationContainer(
            list_val=[
                events.alerts(),
                events.gateway_starts(),
                events.watching_began(),
                events.first_ingest(),
                events.resets(),
            ]
        ),
        links=[
            dashboard.DashboardLink(
                title="Boards",
                type_val=dashboard.DashboardLinkType.DASHBOARDS,
                icon="external link",
                tags=[config.TAG],
                as_dropdown=True,
                include_vars=True,
                keep_time=True,
            ),
            dashboard.DashboardLink(
                title="Wall screen",
                type_val=dashboard.DashboardLinkType.LINK,
                icon="apps",
                tooltip="Without menus; Esc brings them back",
                url=f"/d/{board.ref.uid}?kiosk&refresh={config.REFRESH}",
                include_vars=True,
                keep_time=True,
            ),
            *board.extra_links,
        ],
        panels=placed,
    )


def to_json(built: dashboard.Dashboard) -> str:
    """The file's text: sorted keys and a last newline, so that a change is a small difference."""
    return json.dumps(built, cls=JSONEncoder, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
