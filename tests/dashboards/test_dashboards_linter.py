"""The rules of Grafana's own dashboard-linter, each under its name and as strict as there.

Where the linter looks at some types of panels only, we look at all. What does not hold is in NOT_HELD, with a reason
and with what is demanded instead.
"""

from __future__ import annotations

import re
import subprocess
from datetime import timedelta

import pytest
import yaml

from dashboards import config
from tests.dashboards.grafana_macros import TimeRange, boards, expand_promql, panel_queries, panels
from tests.tools import debian_tool

BOARDS = boards()
PANELS = [(uid, panel) for uid, board in BOARDS.items() for panel in panels(board)]
QUERIES = [query for query in panel_queries() if not query.is_sql]
SPAN = TimeRange.last(timedelta(hours=24))
CHOSEN = {name: ["a", "b"] for name in ("gateway", "agent", "model", "channel")} | {"by": ["model"], "session": ["s"]}

NOT_HELD = {
    "template-job-rule": "our names (claw_, lobservatory_, openclaw_) are of one job each: a menu of jobs would offer "
    "one entry. Instead: the variable gateway, with the same demands",
    "target-job-rule": "as above. Instead: every selector matches the variable gateway",
    "template-instance-rule": "the gateway is our instance. Instead: the variable gateway",
    "target-instance-rule": "the gateway is our instance. Instead: every selector matches the variable gateway",
    "template-job-rule allValue .+": "Grafana would put it into SQL too, where All must be the list of values",
    "template-datasource-rule of PostgreSQL": "the linter would have it named grafana-postgresql-datasource_datasource "
    "after the type, which is another one before Grafana 10.4. Instead: postgres_datasource",
    "template-label-promql-rule of SQL": "channels and sessions come from PostgreSQL; the linter takes every variable "
    "for PromQL. Instead: the SQL is run in test_dashboards_history",
    "target-logql-rule": "no board asks Loki",
    "target-logql-auto-rule": "no board asks Loki",
    "target-counter-agg-rule": "the queries of BARE_COUNTERS mean everything there ever was, and say so",
}
BARE_COUNTERS = {
    "lobs-cost/All time/A": "everything ever billed",
    "lobs-cost/All time/B": "everything that a subscription ever covered",
    "lobs-quality/Unpriced calls/A": "calls that were ever without a price",
    "lobs-quality/Collectors/D": "failures since the start",
    "lobs-quality/Sources/D": "entries ever read",
    "lobs-quality/Sources/F": "entries ever met twice",
    "lobs-quality/Sources/G": "entries ever refused",
}
# Of the linter's list (all units of Grafana), those that boards use.
UNITS = {
    *("none", "short", "percentunit", "currencyUSD", "bytes", "Bps", "s", "ms", "cpm", "celsius", "watt"),
    *("dateTimeFromNow", "dateTimeAsIsoNoDateIfToday"),
}
GLOBAL = {"ALERTS", "ALERTS_FOR_STATE"}  # some have no gateway: they have a matcher of their own
of_panels = pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}/{panel['title']}" for uid, panel in PANELS])
of_queries = pytest.mark.parametrize("query", QUERIES, ids=[query.name for query in QUERIES])
of_boards = pytest.mark.parametrize("uid", BOARDS)


def variables(uid):
    return {variable["name"]: variable for variable in BOARDS[uid]["templating"]["list"]}


@of_boards
def test_template_datasource_rule(uid):
    found = [variable for variable in variables(uid).values() if variable["type"] == "datasource"]
    assert [(one["name"], one["label"], one["query"]) for one in found] == [
        ("prometheus_datasource", "Prometheus data source", config.PROMETHEUS_TYPE),
        ("postgres_datasource", "PostgreSQL data source", config.POSTGRES_TYPE),
    ]


@of_boards
def test_template_instance_rule_for_the_gateway(uid):
    gateway = variables(uid)["gateway"]
    assert gateway["type"] == "query"
    assert gateway["datasource"]["uid"] == "${prometheus_datasource}"
    assert gateway["label"] == "Gateway"
    assert gateway["multi"]
    assert gateway["includeAll"]
    assert "allValue" not in gateway


@of_boards
def test_template_label_promql_rule(uid, tmp_path):
    asked = [one["definition"] for one in variables(uid).values() if isinstance(one["query"], dict)]
    rules = []
    for number, definition in enumerate(asked):
        function, expression, _ = re.fullmatch(r"(\w+)\((.+), (\w+)\)", definition).groups()
        assert function in {"label_names", "label_values", "metrics", "query_result"}
        rules.append({"record": f"variable:{number}", "expr": expand_promql(expression, SPAN, CHOSEN)})
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "variables", "rules": rules}]}))
    done = subprocess.run(
        [debian_tool("promtool"), "check", "rules", "--lint=none", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@of_boards
def test_template_on_time_change_reload_rule(uid):
    assert all(one["refresh"] == 2 for one in variables(uid).values() if one["type"] == "query")


@of_boards
def test_uneditable_dashboard(uid):
    assert BOARDS[uid]["editable"] is False


@of_panels
def test_panel_datasource_rule(uid, panel):
    templated = {f"${{{name}}}" for name, one in variables(uid).items() if one["type"] == "datasource"}
    assert panel["datasource"]["uid"] in templated
    assert all(target["datasource"]["uid"] in templated for target in panel["targets"])


@of_panels
def test_panel_title_description_rule(uid, panel):
    assert panel["title"]
    assert panel["description"]


@of_panels
def test_panel_units_rule(uid, panel):
    settings = panel["fieldConfig"]
    changed = [one["value"] for many in settings["overrides"] for one in many["properties"] if one["id"] == "unit"]
    assert {settings["defaults"]["unit"], *changed} <= UNITS


@of_panels
def test_panel_no_targets_rule(uid, panel):
    assert panel["targets"]


@of_queries
def test_target_rate_interval_rule(query):
    for function, window in re.findall(r"\b(rate|irate)\([^\[\]]*\[([^\]]+)\]", query.text):
        assert window == "$__rate_interval", function


@of_queries
def test_target_counter_agg_rule(query):
    counters = re.findall(r"(\w*)\(?\b(\w+_total)\b(\{[^}]*\})?(\[)?", query.text)
    for _, metric, matchers, ranged in counters:
        present = f"0 * count({metric}{matchers})" in query.text  # whether it is there, not how much
        assert ranged or present or query.name in BARE_COUNTERS, metric
    for function in re.findall(r"(\w+)\(\w+_total(?:\{[^}]*\})?\[", query.text):
        assert function in {"rate", "irate", "increase"}


@of_queries
def test_target_instance_rule_for_the_gateway(query):
    bare = re.sub(r"\b(by|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", query.text)
    selectors = re.findall(r"\b((?:claw|lobservatory|openclaw)_\w+|up|ALERTS(?:_FOR_STATE)?)\b(\{[^}]*\})?", bare)
    assert selectors
    for metric, matchers in selectors:
        if metric in GLOBAL:
            assert 'gateway=~"$gateway' in matchers or 'alertname="Watchdog"' in matchers
        elif not metric.endswith("_info"):  # an _info is joined on the gateway of what is chosen
            assert 'gateway=~"$gateway"' in matchers, metric


@pytest.mark.parametrize("name", sorted(BARE_COUNTERS))
def test_every_exclusion_is_of_a_query_that_exists(name):
    assert name in {query.name for query in QUERIES}


def test_every_exclusion_has_a_reason():
    assert all(len(reason) > 15 for reason in [*NOT_HELD.values(), *BARE_COUNTERS.values()])
