"""The committed boards against the rules of the house; no server is needed but promtool."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import sqlglot
import yaml

from cli.commands.boards import boards as boards_command
from dashboards import config
from dashboards.__main__ import DIRECTORY, rendered
from dashboards.board import LayoutError, Row, _panels
from dashboards.boards import all_boards
from dashboards.panels import stat
from dashboards.queries import now
from lobservatory.metrics.catalogue import CATALOGUE
from tests.dashboards.grafana_macros import (
    TimeRange,
    boards,
    expand_promql,
    expand_sql,
    panel_queries,
    panels,
    questions,
)
from tests.tools import debian_tool

BOARDS = boards()
QUERIES = panel_queries()
PANELS = [(uid, panel) for uid, board in BOARDS.items() for panel in panels(board)]
SPAN = TimeRange.last(timedelta(hours=24))
VARIABLES = {
    "gateway": ["default", "o'neil.1"],
    "agent": ["main"],
    "model": ["m"],
    "channel": ["none"],
    "by": ["model"],
    "session": ["0e"],
}
PROMETHEUS_OWN = {"up", "ALERTS", "ALERTS_FOR_STATE"}
# The plugin's metrics: not ours, so not in the catalogue; only its own board may name them.
OFFICIAL_NAMES = Path(__file__).resolve().parents[1] / "fixtures" / "samples" / "official-metric-names.txt"
OFFICIAL = {
    name: (kind, set() if labels == "-" else set(labels.replace("?", "").split(",")))
    for name, kind, labels in (line.split("\t") for line in OFFICIAL_NAMES.read_text(encoding="utf-8").splitlines())
}
OFFICIAL_BOARD = "lobs-official"

# Titles of uids: a change here breaks bookmarks and links of people, so it is made on purpose or not at all.
UIDS = {
    "lobs-overview": "Overview",
    "lobs-cost": "Cost and tokens",
    "lobs-sessions": "Sessions",
    "lobs-session": "Session",
    "lobs-agents": "Agents",
    "lobs-operations": "Operations and tasks",
    "lobs-cron": "Cron",
    "lobs-gateway": "Gateway and channels",
    "lobs-host": "Host",
    "lobs-logs": "Logs and errors",
    "lobs-alerts": "Alerts",
    "lobs-quality": "Data quality",
    "lobs-official": "Official plugin",
}


def of(pairs):
    return pytest.mark.parametrize(("uid", "panel"), pairs, ids=[f"{uid}/{panel['title']}" for uid, panel in pairs])


def metric_names(expression):
    """Names of families in PromQL: what is left without labels, strings, functions and keywords."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]|\$\w+", "", bare)
    return {
        name
        for name in re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()", bare)
        if name not in {"and", "or", "unless", "by", "on", "bool", "offset", "inf", "nan"}
    }


def test_the_committed_json_is_what_the_code_builds():
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.json")}
    assert on_disk == rendered(), "run `make dashboards`"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What `lobservatory boards --export` writes."""
    folder = tmp_path_factory.mktemp("boards") / "new"
    boards_command(export=folder)
    return folder


def test_every_board_is_exported(exported):
    assert {path.name for path in exported.iterdir()} == {*(f"{uid}.json" for uid in BOARDS), "playlist.json"}


@pytest.mark.parametrize("uid", BOARDS)
def test_an_imported_board_has_the_data_sources_that_were_chosen_at_the_import(uid, exported):
    """Grafana puts what was chosen for `${name}` of each input into every text, and drops the inputs."""
    text = (exported / f"{uid}.json").read_text(encoding="utf-8")
    inputs = json.loads(text)["__inputs"]
    assert {one["pluginId"] for one in inputs} == {config.PROMETHEUS_TYPE, config.POSTGRES_TYPE}
    assert all(one["type"] == "datasource" and one["label"] and one["pluginName"] for one in inputs)
    for one in inputs:
        text = text.replace(f"${{{one['name']}}}", f"uid-of-{one['pluginId']}")
    assert "${DS_" not in text
    imported = json.loads(text)
    required = {(one["type"], one["id"]) for one in imported["__requires"]}
    assert {("panel", panel["type"]) for panel in panels(imported)} <= required
    for variable in imported["templating"]["list"][:2]:
        assert variable["current"]["value"] == f"uid-of-{variable['query']}"
    same = {key: value for key, value in imported.items() if not key.startswith("__") and key not in {"id", "editable"}}
    for before, after in zip(BOARDS[uid]["templating"]["list"], same["templating"]["list"], strict=True):
        after["current"] = before["current"]
    assert same == {key: value for key, value in BOARDS[uid].items() if key not in {"id", "editable"}}


def test_the_playlist_is_of_boards_that_exist(exported):
    made = json.loads((exported / "playlist.json").read_text(encoding="utf-8"))
    assert {item["value"] for item in made["items"]} <= set(BOARDS)
    assert [item["order"] for item in made["items"]] == list(range(1, len(made["items"]) + 1))


def data_links(uid):
    for panel in panels(BOARDS[uid]):
        settings = panel["fieldConfig"]
        yield from settings["defaults"].get("links", [])
        for many in settings["overrides"]:
            yield from (link for one in many["properties"] if one["id"] == "links" for link in one["value"])


@pytest.mark.parametrize("uid", BOARDS)
def test_links_keep_the_time_range_and_every_variable_or_set_it(uid):
    names = [variable["name"] for variable in BOARDS[uid]["templating"]["list"]]
    for link in data_links(uid):
        assert "${__url_time_range}" in link["url"]
        for name in names:
            assert (f"${{{name}:queryparam}}" in link["url"]) != (f"var-{name}=" in link["url"]), link["url"]


@pytest.mark.parametrize("uid", BOARDS)
def test_every_board_has_a_link_to_itself_without_menus(uid):
    (wall,) = (link for link in BOARDS[uid]["links"] if link["title"] == "Wall screen")
    assert wall["url"].startswith(f"/d/{uid}?kiosk")
    assert wall["keepTime"]
    assert wall["includeVars"]


def test_uids_are_unique_and_stable():
    assert {uid: board["title"] for uid, board in BOARDS.items()} == UIDS
    assert len({board.ref.uid for board in all_boards()}) == len(all_boards())


def test_building_twice_gives_the_same_bytes():
    assert rendered() == rendered()


@pytest.mark.parametrize("uid", BOARDS)
def test_panel_ids_are_explicit_and_unique(uid):
    ids = [panel["id"] for panel in BOARDS[uid]["panels"]] + [
        inner["id"] for row in BOARDS[uid]["panels"] if row["type"] == "row" for inner in row["panels"]
    ]
    assert all(isinstance(number, int) and number > 0 for number in ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("uid", BOARDS)
def test_no_two_panels_overlap_and_none_leaves_the_grid(uid):
    taken = set()
    for panel in BOARDS[uid]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_of_a_line_must_be_of_one_height():
    def panel(height, width=12):
        return stat(1, "T", [now("up")], unit="none", description="d", no_value="n", height=height, width=width)

    with pytest.raises(LayoutError, match="5 lines high beside 4"):
        _panels([Row(100, "", [panel(4), panel(5)])])
    with pytest.raises(LayoutError, match="wider than 24"):
        _panels([Row(100, "", [panel(4, 25)])])


@pytest.mark.parametrize("uid", BOARDS)
def test_at_most_twenty_panels_are_open(uid):
    assert sum(panel["type"] != "row" for panel in BOARDS[uid]["panels"]) <= config.MAX_OPEN_PANELS


@of(PANELS)
def test_every_panel_says_what_it_shows_in_which_unit_and_what_nothing_looks_like(uid, panel):
    defaults = panel["fieldConfig"]["defaults"]
    assert len(panel["description"]) > 20
    assert defaults["unit"]
    assert defaults["noValue"] not in {"", "0"}
    assert not panel["title"][0].islower()


@of(PANELS)
def test_every_target_has_a_ref_id_and_a_data_source_variable(uid, panel):
    refs = [target["refId"] for target in panel["targets"]]
    assert refs == sorted(set(refs))
    allowed = {"${prometheus_datasource}", "${postgres_datasource}"}
    assert {target["datasource"]["uid"] for target in panel["targets"]} <= allowed
    for target in panel["targets"]:
        wanted = "grafana-postgresql-datasource" if "rawSql" in target else "prometheus"
        assert target["datasource"]["type"] == wanted


@pytest.mark.req("S1-14")
@of(PANELS)
def test_colours_are_names_of_the_palette_so_that_every_theme_works(uid, panel):
    assert not re.findall(r'"(#[0-9a-fA-F]{3,8}|rgba?\([^"]*)"', str(panel["fieldConfig"]).replace("'", '"'))


@pytest.mark.parametrize("uid", BOARDS)
def test_every_board_has_the_shared_variables_annotations_and_links(uid):
    board = BOARDS[uid]
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names[:3] == ["prometheus_datasource", "postgres_datasource", "gateway"]
    gateway = board["templating"]["list"][2]
    assert gateway["multi"]
    assert gateway["includeAll"]
    assert "allValue" not in gateway, "Grafana would put .* into SQL"
    assert {annotation["name"] for annotation in board["annotations"]["list"]} == {
        "Alerts",
        "Gateway starts",
        "Watching began",
        "First ingest",
        "Session resets",
    }
    assert board["links"][0]["tags"] == [config.TAG]
    assert config.TAG in board["tags"]


def links(board):
    for panel in panels(board):
        yield from panel["fieldConfig"]["defaults"].get("links", [])
        yield from panel.get("links", [])
        for override in panel["fieldConfig"]["overrides"]:
            for setting in override["properties"]:
                if setting["id"] == "links":
                    yield from setting["value"]


@pytest.mark.parametrize("uid", BOARDS)
def test_every_linked_board_exists_and_keeps_the_time_and_the_gateway(uid):
    targets = [link["url"] for link in links(BOARDS[uid])]
    for url in targets:
        match = re.fullmatch(r"/d/([a-z-]+)\?\$\{__url_time_range\}&(.*)", url)
        assert match, url
        assert match[1] in BOARDS
        assert "gateway" in match[2]


RECORDING = Path(__file__).resolve().parents[2] / "alerts" / "rules" / "lobs-recording.yml"
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load(RECORDING.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}


def assert_metrics_are_known(expression, known):
    for metric in metric_names(expression):
        family = re.sub(r"_(bucket|sum|count)$", "", metric)
        assert metric in known or (family in CATALOGUE and CATALOGUE[family].type == "histogram"), metric


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_names_say_what_of_what_and_use_known_metrics(name):
    assert re.fullmatch(r"claw:[a-z_]+:[a-z0-9_]+", name)
    assert_metrics_are_known(RECORDED[name], set(CATALOGUE))
    assert not re.search(r"(rate|increase)\(claw_(equivalent_)?cost", RECORDED[name]), "late history is no new cost"


def test_there_are_twenty_questions_about_metrics_that_exist():
    asked = questions()
    numbers = [question.split(". ")[0] for question, _ in asked if re.match(r"\d+\. ", question)]
    assert numbers == [str(number) for number in range(1, 21)]
    for question, expression in asked:
        assert question.endswith("?")
        assert_metrics_are_known(expression, {*CATALOGUE, *RECORDED})


def test_the_page_of_questions_lists_what_is_recorded():
    page = (RECORDING.parents[2] / "docs" / "promql.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(claw:\S+)` \|", page, flags=re.MULTILINE)) == set(RECORDED)


def expressions():
    found = [(query.name, query.text) for query in QUERIES if not query.is_sql]
    for uid, board in BOARDS.items():
        marks = [item for item in board["annotations"]["list"] if "expr" in item]
        found += [(f"{uid}/annotation/{item['name']}", item["expr"]) for item in marks]
    return found


def test_no_quantile_of_nothing_is_shown():
    """It is NaN, which `>= 0` drops."""
    for name, expression in [*expressions(), *RECORDED.items()]:
        assert expression.count("histogram_quantile(") == expression.count(" >= 0"), name


@pytest.mark.parametrize(("name", "expression"), expressions(), ids=[name for name, _ in expressions()])
def test_every_metric_is_in_the_catalogue(name, expression):
    for metric in metric_names(expression):
        family = re.sub(r"_(bucket|sum|count)$", "", metric)
        if name.startswith(OFFICIAL_BOARD) and metric.startswith("openclaw_"):
            assert metric in OFFICIAL or OFFICIAL[family][0] == "histogram"
            continue
        known = metric in CATALOGUE or metric in PROMETHEUS_OWN
        assert known or (family in CATALOGUE and CATALOGUE[family].type == "histogram"), metric


@pytest.mark.req("P-15")
def test_the_board_of_the_plugin_shows_only_its_metrics_by_labels_that_they_have():
    shown = [query for query in QUERIES if query.board == OFFICIAL_BOARD]
    assert len(shown) > 10
    for query in shown:
        names = metric_names(query.text)
        assert all(name.startswith("openclaw_") or name == "up" for name in names)
        for labels in re.findall(r"\bby \(([^)]*)\)", query.text):
            for name in names - {"up"}:
                family = name if name in OFFICIAL else name.removesuffix("_bucket")
                # The scrape job gives the gateway to each of them.
                assert {label.strip() for label in labels.split(",")} <= OFFICIAL[family][1] | {"le", "gateway"}


@pytest.mark.req("P-15")
def test_no_other_board_shows_the_plugin():
    others = [query for query in QUERIES if query.board != OFFICIAL_BOARD]
    assert not [query.name for query in others if "openclaw_" in query.text]


def test_the_search_for_metric_names_finds_them():
    found = metric_names('sum by (a) (rate(claw_x_total{b="c"}[5m])) / on (gateway) claw_y offset 5m or 0 * count(up)')
    assert found == {"claw_x_total", "claw_y", "up"}


@pytest.mark.parametrize(("name", "expression"), expressions(), ids=[name for name, _ in expressions()])
def test_labels_that_are_asked_for_are_labels_of_the_metric(name, expression):
    for metric, matchers in re.findall(r"\b((?:claw|lobservatory)_\w+)\{([^}]*)\}", expression):
        family = metric if metric in CATALOGUE else re.sub(r"_(bucket|sum|count)$", "", metric)
        # Prometheus gives the target's label to what the exporter says about itself.
        labels = {*CATALOGUE[family].labels, *(["gateway"] if family.startswith("lobservatory_") else [])}
        labels |= {"le"} if family != metric else set()
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= labels, metric


@pytest.mark.parametrize(("name", "expression"), expressions(), ids=[name for name, _ in expressions()])
def test_rates_use_the_rate_interval_and_nothing_is_a_rate_of_a_gauge(name, expression):
    for function, metric, window in re.findall(r"\b(rate|irate|increase)\((\w+)(?:\{[^}]*\})?\[([^\]]+)\]", expression):
        known = {key: metric.type for key, metric in CATALOGUE.items()} | {
            key: kind for key, (kind, _) in OFFICIAL.items()
        }
        family = metric if metric in known else re.sub(r"_(bucket|sum|count)$", "", metric)
        assert known[family] in {"counter", "histogram"}
        # A fixed window only where the description gives it as the meaning of the panel.
        assert window in {"$__rate_interval", "$__range", "1h"}, f"{function} over {window}"


def test_every_promql_parses(tmp_path):
    rules = [
        {"record": f"query:{number}", "expr": expand_promql(expression, SPAN, VARIABLES)}
        for number, (_, expression) in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
    done = subprocess.run(
        [debian_tool("promtool"), "check", "rules", "--lint=none", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


SQL = [query for query in QUERIES if query.is_sql]


@pytest.mark.parametrize("query", SQL, ids=[query.name for query in SQL])
def test_every_sql_is_one_bounded_select_over_views_for_the_chosen_gateways(query):
    statements = sqlglot.parse(expand_sql(query.text, SPAN, VARIABLES), dialect="postgres")
    assert len(statements) == 1
    select = statements[0]
    assert isinstance(select, sqlglot.exp.Query)
    tables = {table.sql("postgres") for table in select.find_all(sqlglot.exp.Table)}
    assert not any(name.startswith("lobs.") for name in tables)
    assert query.text.count("gateway = ANY (ARRAY[${gateway:sqlstring}]::text[])") >= 1
    bounded = re.search(r"\$__time(Filter|From)\(", query.text) or "LIMIT" in query.text or tables == {"cron_jobs"}
    assert bounded, "an unbounded query: give it $__timeFilter or LIMIT"


def test_expansion_is_as_grafana_does_it():
    span = TimeRange.last(timedelta(hours=1))
    assert expand_promql('x{g=~"$gateway"}[$__rate_interval]', span, {"gateway": ["a.b"]}) == 'x{g=~"a\\\\.b"}[60s]'
    assert expand_promql('x{g=~"$gateway"}', span, {"gateway": ["a", "b"]}) == 'x{g=~"(a|b)"}'
    assert "ARRAY['a','o''neil']" in expand_sql("ARRAY[${gateway:sqlstring}]", span, {"gateway": ["a", "o'neil"]})
    assert expand_sql("$__timeFilter(ts)", span, {}).startswith("ts BETWEEN '20")
    assert 'floor(extract(epoch from ts)/300)*300 AS "time"' in expand_sql("$__timeGroupAlias(ts,5m)", span, {})
