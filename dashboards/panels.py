"""What all panels of a kind have in common. A board's panel is a call of one of these, with its own words.

Every panel must say its unit, what it shows (`description`: what, from where, what bad looks like) and what it says
when there is nothing (`no_value`): an empty panel must never look like zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from grafana_foundation_sdk.models import bargauge as bargauge_model
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import nodegraph as nodegraph_model
from grafana_foundation_sdk.models import stat as stat_model
from grafana_foundation_sdk.models import statetimeline as statetimeline_model
from grafana_foundation_sdk.models import table as table_model
from grafana_foundation_sdk.models import timeseries as timeseries_model

from dashboards import config
from dashboards.queries import AGENT, GATEWAY, MIXED, Target, now, series

Steps = Sequence[tuple[float | None, str]]
Colours = Mapping[str, str]

PLAIN: Final[Steps] = ((None, config.MUTED),)
ZERO_IS_GOOD: Final[Steps] = ((None, config.OK), (1, config.BAD))
ZERO_IS_GOOD_WARN: Final[Steps] = ((None, config.OK), (1, config.WARN))
DRIFT: Final[Steps] = ((None, config.OK), (0.02, config.BAD))


# --- links ---------------------------------------------------------------------------------------------------


KEPT: Final = "${kept}"  # `board.build` puts the board's variables here


def link_to(board: config.BoardRef, **chosen: str) -> dashboard.DashboardLink:
    """A drill-down that keeps the time range and what is chosen at the top, but for the variables named here: they get
    these values, for example `agent="${__data.fields.Agent}"`.
    """
    own = "".join(f"&var-{name}={value}" for name, value in chosen.items())
    return dashboard.DashboardLink(title=f"Open {board.title}", url=f"/d/{board.uid}?${{__url_time_range}}{KEPT}{own}")


def way_out(title: str, variable: str, path: str, tooltip: str) -> dashboard.DashboardLink:
    """A link in the head of a board to a page that is not Grafana's; `variable` holds its address."""
    return dashboard.DashboardLink(
        title=title,
        type_val=dashboard.DashboardLinkType.LINK,
        icon="external link",
        tooltip=tooltip,
        url=f"${{{variable}}}{path}",
        target_blank=True,
    )


def kept(url: str, names: Sequence[str]) -> str:
    """The link's address with the variables of its board, those left out that the link sets itself."""
    if KEPT not in url:
        return url
    others = "".join(f"&${{{name}:queryparam}}" for name in names if f"var-{name}=" not in url)
    return url.replace(KEPT, others)


# --- field configuration --------------------------------------------------------------------------------------


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Absolute steps; the first has no value and colours everything below the second."""
    return dashboard.ThresholdsConfig(
        mode=dashboard.ThresholdsMode.ABSOLUTE,
        steps=[dashboard.Threshold(value=value, color=colour) for value, colour in steps],
    )


def words(mapping: Mapping[str, tuple[str, str]]) -> list[dashboard.ValueMapping]:
    """Values shown as words in a colour: `{"1": ("Up", "green")}`."""
    options = {
        value: dashboard.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(mapping.items())
    }
    return [dashboard.ValueMap(options=options)]


def nothing(text: str, colour: str) -> dashboard.ValueMapping:
    """What is not there in its own words and colour: by default it would get the colour of zero."""
    return dashboard.SpecialValueMap(
        options=dashboard.DashboardSpecialValueMapOptions(
            match=dashboard.SpecialValueMatch.NULL_AND_NAN,
            result=dashboard.ValueMappingResult(text=text, color=colour, index=100),
        )
    )


def override(name: str, **properties: object) -> dashboard.DashboardFieldConfigSourceOverrides:
    """Settings of one field, by its name as it is shown. `custom__width=90` is the property `custom.width`."""
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(id_val="byName", options=name),
        properties=[
            dashboard.DynamicConfigValue(id_val=key.replace("__", "."), value=value)
            for key, value in properties.items()
        ],
    )


def override_like(pattern: str, **properties: object) -> dashboard.DashboardFieldConfigSourceOverrides:
    """Settings of the fields whose names match a regular expression, as `override` writes them."""
    changed = override(pattern, **properties)
    changed.matcher = dashboard.MatcherConfig(id_val="byRegexp", options=pattern)
    return changed


def override_all(**properties: object) -> dashboard.DashboardFieldConfigSourceOverrides:
    """Settings of every field, as `override` writes them."""
    return override_like(".*", **properties)


def fixed(colour: str) -> dict[str, str]:
    """The value of a property `color`."""
    return {"mode": "fixed", "fixedColor": colour}


# The panel's `no_value` is for the empty panel; Grafana would put it into every empty cell as well.
_EMPTY_CELL = override_all(noValue="-")


def dashed(name: str) -> dashboard.DashboardFieldConfigSourceOverrides:
    """A line that is a limit, not a measurement."""
    return override(
        name, custom__lineStyle={"fill": "dash", "dash": [8, 6]}, custom__fillOpacity=0, custom__lineWidth=1
    )


def _colour_overrides(colours: Colours) -> list[dashboard.DashboardFieldConfigSourceOverrides]:
    return [override(name, color=fixed(colour)) for name, colour in colours.items()]


def _assemble(panel: dashboard.Panel, targets: Sequence[Target], width: int, height: int) -> dashboard.Panel:
    """Explicit refIds, data source and size, so that the JSON says all and Grafana adds nothing."""
    for target, ref_id in zip(targets, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=False):
        target.ref_id = ref_id
    sources = {target.datasource.type_val for target in targets if target.datasource}
    panel.targets = list(targets)
    panel.datasource = targets[0].datasource if len(sources) == 1 else MIXED
    panel.grid_pos = dashboard.GridPos(w=width, h=height)
    return panel


# --- kinds of panels ------------------------------------------------------------------------------------------


def stat(
    id_: int,
    title: str,
    targets: Sequence[Target],
    *,
    unit: str,
    description: str,
    no_value: str,
    steps: Steps = PLAIN,
    mappings: Mapping[str, tuple[str, str]] | None = None,
    background: bool = False,
    sparkline: bool = False,
    name_only: bool = False,
    named: bool = False,
    decimals: int | None = None,
    min_val: float | None = None,
    max_val: float | None = None,
    links: Sequence[dashboard.DashboardLink] = (),
    overrides: Sequence[dashboard.DashboardFieldConfigSourceOverrides] = (),
    transformations: Sequence[dashboard.DataTransformerConfig] = (),
    width: int = 4,
    height: int = 4,
) -> dashboard.Panel:
    """One big value a series; `name_only` shows the series' name instead (a version), `named` its name even
    when it is the only one.
    """
    panel = dashboard.Panel(
        type_val="stat",
        id_val=id_,
        title=title,
        description=description,
        transformations=list(transformations),
        options=stat_model.Options(
            graph_mode=common.BigValueGraphMode.AREA if sparkline else common.BigValueGraphMode.NONE,
            color_mode=common.BigValueColorMode.BACKGROUND if background else common.BigValueColorMode.VALUE,
            justify_mode=common.BigValueJustifyMode.AUTO,
            text_mode=common.BigValueTextMode.NAME
            if name_only
            else common.BigValueTextMode.VALUE_AND_NAME
            if named
            else common.BigValueTextMode.AUTO,
            reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields=""),
            orientation=common.VizOrientation.AUTO,
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                decimals=decimals,
                min_val=min_val,
                max_val=max_val,
                no_value=no_value,
                thresholds=thresholds(steps),
                color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS),
                mappings=[
                    *(words(mappings) if mappings else []),
                    nothing(no_value, config.NEUTRAL if background else config.MUTED),
                ],
                links=list(links),
            ),
            overrides=list(overrides),
        ),
    )
    return _assemble(panel, targets, width, height)


def timeseries(
    id_: int,
    title: str,
    targets: Sequence[Target],
    *,
    unit: str,
    description: str,
    no_value: str,
    bars: bool = False,
    stacked: bool = False,
    colours: Colours | None = None,
    decimals: int | None = None,
    min_val: float | None = 0,
    max_val: float | None = None,
    steps: Steps = PLAIN,
    show_steps: bool = False,
    legend_calcs: Sequence[str] = (),
    legend_right: bool = False,
    interval: str | None = None,
    points: int | None = None,
    links: Sequence[dashboard.DashboardLink] = (),
    overrides: Sequence[dashboard.DashboardFieldConfigSourceOverrides] = (),
    transformations: Sequence[dashboard.DataTransformerConfig] = (),
    width: int = 12,
    height: int = 8,
) -> dashboard.Panel:
    """Lines, or bars, over time. A gap is a gap: nothing is drawn where nothing was measured.

    `points`: how many bars or points at most; few of them gather what is rare, over a day as over ten minutes.
    """
    legend_mode = common.LegendDisplayMode.TABLE if legend_right else common.LegendDisplayMode.LIST
    panel = dashboard.Panel(
        type_val="timeseries",
        id_val=id_,
        title=title,
        description=description,
        interval=interval,
        max_data_points=points,
        transformations=list(transformations),
        options=timeseries_model.Options(
            legend=common.VizLegendOptions(
                display_mode=legend_mode,
                placement=common.LegendPlacement.RIGHT if legend_right else common.LegendPlacement.BOTTOM,
                show_legend=True,
                calcs=list(legend_calcs),
            ),
            tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING),
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                decimals=decimals,
                min_val=min_val,
                max_val=max_val,
                no_value=no_value,
                color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.PALETTE_CLASSIC),
                thresholds=thresholds(steps),
                links=list(links),
                custom=common.GraphFieldConfig(
                    draw_style=common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE,
                    line_width=0 if bars else 1 if stacked else 2,
                    fill_opacity=80 if bars else 50 if stacked else 0,
                    line_interpolation=common.LineInterpolation.LINEAR,
                    show_points=common.VisibilityMode.NEVER if bars or stacked else common.VisibilityMode.AUTO,
                    point_size=4,
                    span_nulls=False,
                    stacking=common.StackingConfig(
                        mode=common.StackingMode.NORMAL if stacked else common.StackingMode.NONE, group="A"
                    ),
                    thresholds_style=common.GraphThresholdsStyleConfig(
                        mode=common.GraphThresholdsStyleMode.DASHED
                        if show_steps
                        else common.GraphThresholdsStyleMode.OFF
                    ),
                ),
            ),
            overrides=[*_colour_overrides(colours or {}), *overrides],
        ),
    )
    return _assemble(panel, targets, width, height)


def bar_gauge(
    id_: int,
    title: str,
    targets: Sequence[Target],
    *,
    unit: str,
    description: str,
    no_value: str,
    steps: Steps = PLAIN,
    colour: str | None = None,
    decimals: int | None = None,
    min_val: float | None = 0,
    max_val: float | None = None,
    links: Sequence[dashboard.DashboardLink] = (),
    overrides: Sequence[dashboard.DashboardFieldConfigSourceOverrides] = (),
    rows_are_values: bool = False,
    width: int = 6,
    height: int = 8,
) -> dashboard.Panel:
    """Horizontal bars, one a series (or one a row of an SQL result)."""
    fixed_colour = dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=colour)
    panel = dashboard.Panel(
        type_val="bargauge",
        id_val=id_,
        title=title,
        description=description,
        options=bargauge_model.Options(
            display_mode=common.BarGaugeDisplayMode.BASIC,
            value_mode=common.BarGaugeValueMode.TEXT,
            orientation=common.VizOrientation.HORIZONTAL,
            show_unfilled=True,
            text=common.VizTextDisplayOptions(title_size=13, value_size=20),
            reduce_options=common.ReduceDataOptions(values=rows_are_values, calcs=["lastNotNull"], fields=""),
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                decimals=decimals,
                min_val=min_val,
                max_val=max_val,
                no_value=no_value,
                thresholds=thresholds(steps),
                color=fixed_colour if colour else dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS),
                links=list(links),
            ),
            overrides=list(overrides),
        ),
    )
    return _assemble(panel, targets, width, height)


def table(
    id_: int,
    title: str,
    targets: Sequence[Target],
    *,
    description: str,
    no_value: str,
    unit: str = "short",
    sort_by: str | None = None,
    descending: bool = True,
    links: Mapping[str, dashboard.DashboardLink] | None = None,
    overrides: Sequence[dashboard.DashboardFieldConfigSourceOverrides] = (),
    transformations: Sequence[dashboard.DataTransformerConfig] = (),
    width: int = 12,
    height: int = 9,
) -> dashboard.Panel:
    """Rows. Each column's unit and words are overrides; `links`: column → where a click on it leads."""
    sort = [common.TableSortByFieldState(display_name=sort_by, desc=descending)] if sort_by else []
    panel = dashboard.Panel(
        type_val="table",
        id_val=id_,
        title=title,
        description=description,
        transformations=list(transformations),
        options=table_model.Options(show_header=True, cell_height=common.TableCellHeight.SM, sort_by=sort),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                no_value=no_value,
                thresholds=thresholds(PLAIN),
                custom={
                    "align": "auto",
                    "cellOptions": {"type": "auto"},
                    "filterable": False,
                    "inspect": False,
                    "minWidth": 60,
                },
            ),
            overrides=[
                _EMPTY_CELL,
                *[override(column, links=[link]) for column, link in (links or {}).items()],
                *overrides,
            ],
        ),
    )
    return _assemble(panel, targets, width, height)


def state_timeline(
    id_: int,
    title: str,
    targets: Sequence[Target],
    *,
    description: str,
    no_value: str,
    mappings: Mapping[str, tuple[str, str]],
    unit: str = "none",
    links: Sequence[dashboard.DashboardLink] = (),
    transformations: Sequence[dashboard.DataTransformerConfig] = (),
    width: int = 12,
    height: int = 8,
) -> dashboard.Panel:
    """One band a series, coloured by its value; a gap where nothing was measured."""
    panel = dashboard.Panel(
        type_val="state-timeline",
        id_val=id_,
        title=title,
        description=description,
        transformations=list(transformations),
        options=statetimeline_model.Options(
            show_value=common.VisibilityMode.AUTO,
            row_height=0.8,
            merge_values=True,
            # The bands carry their words; a legend would name the gaps as well.
            legend=common.VizLegendOptions(
                display_mode=common.LegendDisplayMode.LIST, placement=common.LegendPlacement.BOTTOM, show_legend=False
            ),
            tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.SINGLE),
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                no_value=no_value,
                mappings=words(mappings),
                # Not by thresholds: Grafana would then merge the states that lie between two of them.
                color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.PALETTE_CLASSIC),
                links=list(links),
                custom=statetimeline_model.FieldConfig(line_width=0, fill_opacity=80, span_nulls=False),
            ),
            overrides=[],
        ),
    )
    return _assemble(panel, targets, width, height)


def heatmap(
    id_: int,
    title: str,
    targets: Sequence[Target],
    *,
    description: str,
    no_value: str,
    unit: str,
    points: int = config.FEW_POINTS,
    names_width: int = 150,
    width: int = 12,
    height: int = 8,
) -> dashboard.Panel:
    """One row a series, the darker the more; each cell is one step of time."""
    panel = dashboard.Panel(
        type_val="heatmap",
        id_val=id_,
        title=title,
        description=description,
        max_data_points=points,
        options=heatmap_model.Options(
            calculate=False,
            color=heatmap_model.HeatmapColorOptions(
                mode=heatmap_model.HeatmapColorMode.SCHEME,
                scheme="Oranges",
                scale=heatmap_model.HeatmapColorScale.EXPONENTIAL,
                exponent=0.5,
                steps=32,
            ),
            cell_gap=1,
            # The least that is drawn: a cell without a call stays empty.
            filter_values=heatmap_model.FilterValueRange(le=1e-9),
            cell_values=heatmap_model.CellValues(unit=unit),
            # Grafana measures numbers, not names: a long one would be cut.
            y_axis=heatmap_model.YAxisConfig(axis_placement=common.AxisPlacement.LEFT, axis_width=names_width),
            rows_frame=heatmap_model.RowsHeatmapOptions(layout=common.HeatmapCellLayout.AUTO),
            legend=heatmap_model.HeatmapLegend(show=True),
            tooltip=heatmap_model.HeatmapTooltip(mode=common.TooltipDisplayMode.SINGLE, y_histogram=False),
            show_value=common.VisibilityMode.NEVER,
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(unit=unit, no_value=no_value), overrides=[]
        ),
    )
    return _assemble(panel, targets, width, height)


def node_graph(
    id_: int,
    title: str,
    nodes: Target,
    edges: Target,
    *,
    description: str,
    no_value: str,
    arcs: Colours,
    names: Mapping[str, str],
    width: int = 12,
    height: int = 12,
) -> dashboard.Panel:
    """Who started whom. `nodes`: id, title, mainstat (a text) and one arc column a colour; `edges`: id, source,
    target. Grafana tells the two results apart by these names; `names` are the legend's words for columns.
    """
    panel = dashboard.Panel(
        type_val="nodeGraph",
        id_val=id_,
        title=title,
        description=description,
        transformations=[dashboard.DataTransformerConfig(id_val="organize", options={"renameByName": dict(names)})],
        options=nodegraph_model.Options(
            nodes=nodegraph_model.NodeOptions(
                arcs=[nodegraph_model.ArcOption(field=field, color=colour) for field, colour in arcs.items()]
            )
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(unit="none", no_value=no_value), overrides=[]
        ),
    )
    return _assemble(panel, [nodes, edges], width, height)


# --- panels that two boards have ----------------------------------------------------------------------------


def in_progress(id_: int, *, width: int) -> dashboard.Panel:
    """Runs of the chosen agents and sub-agents of the chosen gateways, now."""
    return stat(
        id_,
        "In progress",
        [
            now(f"sum(claw_active_runs{{{AGENT}}})", "runs"),
            now(f"sum(claw_subagents_running{{{GATEWAY}}})", "sub-agents"),
        ],
        unit="none",
        decimals=0,
        description="Runs of the chosen agents in progress, and sub-agents of the chosen gateways. A number that stays "
        "is work that hangs.",
        no_value="Gateway not read yet",
        width=width,
    )


def tokens_by_class(
    id_: int, matcher: str, *, links: Sequence[dashboard.DashboardLink] = (), width: int = 6
) -> dashboard.Panel:
    """Tokens a minute of the calls that match; the classes add up."""
    return timeseries(
        id_,
        "Tokens by class",
        [
            series(
                f"60 * sum by (token_type) (rate(claw_tokens_total{{{matcher}}}[$__rate_interval]))", "{{token_type}}"
            )
        ],
        unit="short",
        description="Tokens a minute by class (claw_tokens_total). cache_read is cheap; much input beside little "
        "cache_read means that the prompt cache does not work.",
        no_value="No calls yet",
        stacked=True,
        colours=config.TOKEN_COLOURS,
        points=config.MANY_POINTS,
        links=links,
        width=width,
    )


# --- columns of tables ----------------------------------------------------------------------------------------


def badge(name: str, mapping: Mapping[str, tuple[str, str]], width: int = 110) -> Any:
    """A column whose values are words on a coloured ground."""
    return override(
        name,
        mappings=words(mapping),
        custom__cellOptions={"type": "color-background", "mode": "basic"},
        custom__align="center",
        custom__width=width,
    )


def coloured(name: str, mapping: Mapping[str, tuple[str, str]], width: int = 110) -> Any:
    """A column whose values are words in a colour, where a coloured ground would be too loud."""
    visible = {
        value: (text, config.MUTED if ink == config.NO_GROUND else ink) for value, (text, ink) in mapping.items()
    }
    return override(
        name,
        mappings=words(visible),
        custom__cellOptions={"type": "color-text"},
        custom__width=width,
    )


def hidden(name: str) -> Any:
    """A column that only links use."""
    return override(name, custom__hidden=True)


def count_badge(name: str, steps: Steps, width: int = 100) -> Any:
    """A column of numbers coloured by steps."""
    return override(
        name,
        thresholds=thresholds(steps),
        custom__cellOptions={"type": "color-text"},
        custom__width=width,
        decimals=0,
    )


def drift_badge(name: str) -> Any:
    """A column of differences: more than 2 % is an error of one of the two sides."""
    return override(
        name,
        thresholds=thresholds(DRIFT),
        custom__cellOptions={"type": "color-text"},
        custom__width=70,
        decimals=2,
    )


def ratio_gauge(name: str, steps: Steps, width: int = 140) -> Any:
    """A column of ratios as bars."""
    return override(
        name,
        unit="percentunit",
        min=0,
        max=1,
        decimals=0,
        thresholds=thresholds(steps),
        custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
        custom__width=width,
    )


def merged(columns: Mapping[str, str], hidden: Sequence[str] = ()) -> list[dashboard.DataTransformerConfig]:
    """Several `rows` queries with the same labels as one table; `columns` gives order and names of what is shown."""
    return [
        dashboard.DataTransformerConfig(id_val="merge", options={}),
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(["Time", *hidden], True),
                "indexByName": {name: index for index, name in enumerate(columns)},
                "renameByName": {name: shown for name, shown in columns.items() if name != shown},
            },
        ),
    ]
