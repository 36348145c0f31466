"""Rules, their promtool tests, runbooks, thresholds, configuration and documentation belong together, both ways."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml

from lobservatory.catalogue import CATALOGUE
from lobservatory.thresholds import THRESHOLDS
from tests.tools import REPOSITORY, debian_tool

ALERTS = REPOSITORY / "alerts"
SCRAPE_SECONDS = 15
SECTIONS = ["Meaning", "Impact", "Look", "Do", "When it lies"]
HISTOGRAM = re.compile(r"(?<=_duration_seconds)_(?:bucket|count|sum)\b")
SECONDS = {"s": 1, "m": 60, "h": 3600}


def rule_files():
    return sorted((ALERTS / "rules").glob("*.yml"))


ALL_RULES = [
    rule for path in rule_files() for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
]
RULES = [rule for rule in ALL_RULES if "alert" in rule]  # the others record: tests/dashboards
PER_AGENT = {(one.alert, one.severity) for one in THRESHOLDS if one.per_agent}
NAMES = sorted({rule["alert"] for rule in RULES})
TESTS = [
    test for path in sorted((ALERTS / "tests").glob("*.yml")) for test in yaml.safe_load(path.read_text())["tests"]
]
RUNBOOKS = {path.stem: path.read_text() for path in sorted((ALERTS / "runbooks").glob("*.md"))}


def blocks(language):
    return [
        (name, code.strip())
        for name, text in RUNBOOKS.items()
        for code in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    ]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_known(expression):
    """Every metric, and every label that is matched, is in the catalogue."""
    expression = HISTOGRAM.sub("", expression)
    for name in set(re.findall(r"\b(?:claw|lobservatory)_\w+", expression)):
        assert name in CATALOGUE, f"{name} is not in the catalogue"
    for name, matchers in re.findall(r"\b((?:claw|lobservatory)_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r"\"[^\"]*\"|'[^']*'", "''", matchers)))
        assert labels <= {*CATALOGUE[name].labels, "gateway"}, f"{name} has no label {labels}"


@pytest.mark.req("P-14")
def test_rules_pass_their_unit_tests():
    run(debian_tool("promtool"), "test", "rules", *sorted((ALERTS / "tests").glob("*.yml")))


def test_rules_are_valid():
    run(debian_tool("promtool"), "check", "rules", "--lint-fatal", *rule_files())


def test_a_wrong_expectation_fails(tmp_path):
    """So that a green run of promtool means something."""
    text = (ALERTS / "tests" / "money_test.yml").read_text()
    changed = text.replace("25.00 US$ billed today", "24.00 US$ billed today").replace(
        "../rules", str(ALERTS / "rules")
    )
    (tmp_path / "wrong.yml").write_text(changed)
    done = subprocess.run([debian_tool("promtool"), "test", "rules", tmp_path / "wrong.yml"], check=False, timeout=60,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1
    assert "24.00 US$" in done.stderr + done.stdout


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_rule_is_well_made(rule):
    assert re.fullmatch(r"([A-Z][a-z]+)+", rule["alert"])
    assert set(rule["labels"]) == {"severity"}, "names and ids come from the series"
    assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}
    note = rule["annotations"]
    assert set(note) == {"summary", "description", "runbook", "board"}
    assert "{{" not in note["summary"], "constant, so that a group of alerts has one"
    assert len(note["summary"]) <= 60, "one line of a phone"
    # Labels are shown by the message's template, which escapes them; here they may only select a threshold.
    assert set(re.findall(r"\$labels\.\w+", note["description"])) <= {"$labels.gateway", "$labels.agent"}
    assert not re.search(r"{{\s*\$labels", note["description"])
    assert note["runbook"] == f"alerts/runbooks/{rule['alert']}.md"
    assert_known(rule["expr"])
    assert_known(note["description"])
    if rule["alert"] != "Watchdog":
        number, unit = re.fullmatch(r"(\d+)([smh])", rule["for"]).groups()
        assert int(number) * SECONDS[unit] >= 2 * SCRAPE_SECONDS, "outlives a missed scrape"


def test_boards_that_alerts_link_to_exist():
    boards = {f"/d/{path.stem}" for path in (REPOSITORY / "dashboards" / "json").rglob("*.json")}
    assert {rule["annotations"]["board"] for rule in RULES} <= boards


def test_money_is_never_a_rate_of_a_counter():
    for rule in RULES:
        assert not re.search(r"(rate|increase|delta)\(claw_(equivalent_)?cost", rule["expr"]), rule["alert"]


# --- both ways ---------------------------------------------------------------------------------------------------


def expectations(name):
    """[(test, eval time, number of expected alerts)] of one alert."""
    return [
        (test["name"], one["eval_time"], len(one.get("exp_alerts") or []))
        for test in TESTS
        for one in test.get("alert_rule_test", [])
        if one["alertname"] == name
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Watchdog"])
def test_alert_is_tested_before_firing_after_and_absent(name):
    expected = expectations(name)
    by_test = {}
    for test, _, number in expected:
        by_test.setdefault(test, []).append(bool(number))
    assert any(states[0] is False and True in states and states[-1] is False for states in by_test.values()), (
        "one test shows it silent, firing and recovered"
    )
    absent = {test: states for test, states in by_test.items() if "absent" in test}
    # Only ExporterDown is about absence itself.
    assert absent
    assert any(not any(states) for states in absent.values()) or name == "ExporterDown"


def test_only_known_alerts_are_tested():
    assert {one["alertname"] for test in TESTS for one in test.get("alert_rule_test", [])} == set(NAMES)


def test_alerts_and_runbooks_are_the_same():
    assert sorted(RUNBOOKS) == NAMES


@pytest.mark.parametrize("name", sorted(RUNBOOKS))
def test_runbook_has_its_parts(name):
    text = RUNBOOKS[name]
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == SECTIONS
    assert len(re.findall(r"^```\w+$", text, flags=re.MULTILINE)) >= 3
    for other in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", text):
        assert other in {*NAMES, "OpenClaw"}, f"{other} is no alert"


def test_thresholds_and_rules_have_the_same_numbers():
    found = {}
    for rule in RULES:
        own = (rule["alert"], rule["labels"]["severity"])
        # What a budget is, and at which share of it to warn: both rules may look at both.
        allowed = {("BudgetBurn", "warning"), ("BudgetBurn", "critical")} if rule["alert"] == "BudgetBurn" else {own}
        pattern = (
            r'claw_alert_threshold\{alert="(\w+)",severity="(\w+)"(?:,agent="")?\}\)'
            r"\s+or\s+([\d.]+) \* group by \(gateway\)"
        )
        with_default = re.findall(pattern, rule["expr"])
        for alert, severity, default in with_default:
            assert (alert, severity) in allowed
            found.setdefault((alert, severity), set()).add(float(default))
        # Without a default: those of single agents, and budgets, of which 0 is none.
        single = re.findall(r'claw_alert_threshold\{alert="(\w+)",severity="(\w+)",agent!=""\}', rule["expr"])
        budgets = re.findall(
            r'claw_alert_threshold\{alert="(BudgetBurn)",severity="(critical)",agent=""\}\) > 0', rule["expr"]
        )
        assert {*single, *budgets} <= allowed & PER_AGENT
        assert rule["expr"].count("claw_alert_threshold") == len(with_default) + len(single) + len(budgets)
        if own in PER_AGENT and rule["alert"] != "BudgetBurn":
            assert single, "an agent may have its own"
        for alert, severity in re.findall(r"alert='(\w+)',severity='(\w+)'", rule["annotations"]["description"]):
            assert (alert, severity) in allowed
    expected = {(one.alert, one.severity): {one.default} for one in THRESHOLDS}
    assert expected.pop(("BudgetBurn", "critical")) == {0.0}
    assert found == expected


def test_inhibition_and_routes_name_alerts_that_exist():
    text = (REPOSITORY / "provisioning" / "alertmanager" / "alertmanager.yml").read_text()
    named = {name for value in re.findall(r'alertname[=!]~?"([\w|]+)"', text) for name in value.split("|")}
    assert named <= set(NAMES)
    assert {"GatewayDown", "ExporterDown", "DatabaseDown", "Watchdog"} <= named


# --- what runbooks tell people to type ---------------------------------------------------------------------------


def test_queries_of_runbooks_are_valid(tmp_path):
    queries = blocks("promql")
    for _, query in queries:
        assert_known(query)
    rules = [{"record": f"runbook:{name}:{number}", "expr": query} for number, (name, query) in enumerate(queries)]
    path = Path(tmp_path / "queries.yml")
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}))
    run(debian_tool("promtool"), "check", "rules", path)


def test_sql_of_runbooks_runs_as_the_reader(postgres_reader_dsn):
    with psycopg.connect(postgres_reader_dsn, autocommit=True) as connection:
        for name, statement in blocks("sql"):
            assert statement.lower().startswith("select"), name
            connection.execute(statement)


def test_commands_of_runbooks_exist():
    ours = subprocess.run([REPOSITORY / ".venv/bin/lobservatory", "--help"], capture_output=True, text=True, timeout=60,
                          check=True).stdout  # fmt: skip
    for name, command in blocks("sh"):
        program, *rest = command.split()
        assert program in {"curl", "openclaw", ".venv/bin/lobservatory", "df"}, name
        if program == ".venv/bin/lobservatory":
            assert re.search(rf"│ {rest[0]} ", ours), f"{name}: there is no command {rest[0]}"
