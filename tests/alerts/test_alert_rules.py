"""Rules, their promtool tests, runbooks, thresholds, configuration and documentation belong together, both ways."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import yaml

from lobservatory.metrics.catalogue import CATALOGUE
from lobservatory.thresholds import THRESHOLDS
from tests.alerts import cases
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
ALERTMANAGER = yaml.safe_load((REPOSITORY / "provisioning/alertmanager/alertmanager.yml").read_text())
RUNBOOKS = {path.stem: path.read_text() for path in sorted((ALERTS / "runbooks").glob("*.md"))}


def blocks(language):
    return [
        (name, code.strip())
        for name, text in RUNBOOKS.items()
        for code in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    ]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_known(expression):
    """Every metric, and every label that is matched, is in the catalogue."""
    expression = HISTOGRAM.sub("", expression)
    for name in set(re.findall(r"\b(?:claw|lobservatory)_\w+", expression)):
        assert name in CATALOGUE, f"{name} is not in the catalogue"
    for name, matchers in re.findall(r"\b((?:claw|lobservatory)_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r"\"[^\"]*\"|'[^']*'", "''", matchers)))
        assert labels <= {*CATALOGUE[name].labels, "gateway"}, f"{name} has no label {labels}"


@pytest.mark.req("P-5", "P-6", "P-7", "P-8", "P-9", "P-10", "P-11", "P-12", "P-14", "S4-9")
def test_rules_pass_their_unit_tests():
    promtool = debian_tool("promtool")
    files = sorted((ALERTS / "tests").glob("*.yml"))
    with ThreadPoolExecutor(2) as pool:  # a file at a time would take one processor
        list(pool.map(lambda path: run(promtool, "test", "rules", path), files))


def test_rules_are_valid():
    run(debian_tool("promtool"), "check", "rules", "--lint-fatal", *rule_files())


def test_a_wrong_expectation_fails(tmp_path):
    """So that a green run of promtool means something."""
    text = (ALERTS / "tests" / "money_test.yml").read_text()
    changed = text.replace("25.00 US$ billed today", "24.00 US$ billed today").replace(
        "../rules", str(ALERTS / "rules")
    )
    (tmp_path / "wrong.yml").write_text(changed)
    done = subprocess.run([debian_tool("promtool"), "test", "rules", tmp_path / "wrong.yml"], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1
    assert "24.00 US$" in done.stderr + done.stdout


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_rule_is_well_made(rule):
    assert re.fullmatch(r"([A-Z][a-z]+)+", rule["alert"])
    assert set(rule["labels"]) == {"severity"}, "names and ids come from the series"
    assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}
    note = rule["annotations"]
    assert set(note) == {"summary", "description", "action", "runbook", "board"}
    assert "{{" not in note["summary"], "constant, so that a group of alerts has one"
    assert len(note["summary"]) <= 60, "one line of a phone"
    assert "{{" not in note["action"]
    assert len(note["action"]) <= 100, "one sentence"
    # Labels are shown by the message's template, which escapes them; here they may only select a threshold.
    assert set(re.findall(r"\$labels\.\w+", note["description"])) <= {"$labels.gateway", "$labels.agent"}
    assert not re.search(r"{{\s*\$labels", note["description"])
    assert note["runbook"] == f"alerts/runbooks/{rule['alert']}.md"
    assert_known(rule["expr"])
    assert_known(note["description"])
    if rule["alert"] != "Watchdog":
        number, unit = re.fullmatch(r"(\d+)([smh])", rule["for"]).groups()
        assert int(number) * SECONDS[unit] >= 2 * SCRAPE_SECONDS, "outlives a missed scrape"
        # These two know of their own that something is missing.
        assert ("keep_firing_for" in rule) == (rule["alert"] not in {"ExporterDown", "GatewayDown"})


def test_boards_that_alerts_link_to_exist():
    boards = {f"/d/{path.stem}" for path in (REPOSITORY / "dashboards" / "json").rglob("*.json")}
    assert {rule["annotations"]["board"] for rule in RULES} <= boards


def test_money_is_never_a_rate_of_a_counter():
    for rule in RULES:
        assert not re.search(r"(rate|increase|delta)\(claw_(equivalent_)?cost", rule["expr"]), rule["alert"]


# --- both ways ---------------------------------------------------------------------------------------------------


TRIALS = cases.trials()
KNOWN = cases.rules()
EVERY_RULE = [key for key in KNOWN if key[0] != "Watchdog"]  # it fires always


@pytest.mark.parametrize(("name", "severity"), EVERY_RULE, ids=lambda value: value)
def test_every_rule_is_tried_in_every_case(name, severity):
    """Or it is said why there is no such case."""
    _, rule = KNOWN[name, severity]
    tried, reasons = set(), {}
    for trial in TRIALS:
        if (trial.alert, trial.severity) == (name, severity):
            tried |= cases.Made(trial, rule).cases
            reasons |= trial.reasons(rule)
    assert {"plain", "absent", "two exporters", "gateway restart"} <= tried
    for case in set(cases.CASES) - tried:
        assert len(reasons.get(case, "")) > 10, f"{case}: neither tried nor is there a reason"


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.title)
def test_reasons_are_of_cases_that_are_not_tried(trial):
    made = cases.Made(trial, KNOWN[trial.alert, trial.severity][1])
    assert set(trial.without) <= set(cases.CASES)
    assert not set(trial.without) & made.cases


def test_cases_are_made_from_their_source():
    here = {path.name: path.read_text() for path in cases.TARGET.glob("cases_*_test.yml")}
    assert here == cases.pages(), "run: make cases"


@pytest.mark.parametrize(("name", "severity"), EVERY_RULE, ids=lambda value: value)
def test_every_text_is_tested(name, severity):
    """With its numbers, in one test that shows the alert silent, firing and over."""
    by_test = {}
    texts = []
    for test in TESTS:
        for one in test.get("alert_rule_test", []):
            if one["alertname"] == name:
                expected = one.get("exp_alerts") or []
                by_test.setdefault(test["name"], []).append(bool(expected))
                texts += [alert for alert in expected if alert["exp_labels"]["severity"] == severity]
    assert texts
    assert all(alert["exp_annotations"]["description"] for alert in texts)
    assert any(states[0] is False and True in states and states[-1] is False for states in by_test.values())


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


def test_routes_name_alerts_that_exist():
    for route in ALERTMANAGER["route"]["routes"]:
        for name in re.findall(r'alertname!?="(\w+)"', " ".join(route["matchers"])):
            assert name in NAMES


# --- inhibition --------------------------------------------------------------------------------------------------

# Families that only the gateway's RPC and its events tell, and those that come from files, the host or ourselves.
FROM_GATEWAY = re.compile(
    r"claw_(cron|channel|exec|session|active_run|agent_(?!events)|provider_quota|reconcile|event_stream)"
    r"|claw_(tool_call_repeats|compaction_failures)"
    r"|claw_gateway_(up|ready|restarts|update)|lobservatory_collector"
)
FROM_ELSEWHERE = re.compile(
    r"claw_(source|rejected|host|state_dir|cost|tokens|unpriced|model_call|tool_calls|alert_threshold)"
    r"|claw_gateway_(resident|start)|lobservatory_(database|commit|label)"
)


def follows_from_gateway(rule):
    """What is asked first is what the rule is about; the rest are conditions."""
    families = re.findall(r"\b(?:claw|lobservatory)_\w+", rule["expr"])
    for family in families:
        assert bool(FROM_GATEWAY.match(family)) != bool(FROM_ELSEWHERE.match(family)), f"who tells {family}?"
    return bool(families) and bool(FROM_GATEWAY.match(families[0]))


def silenced_by(name):
    """The alerts that one silences in its gateway."""
    (rule,) = [one for one in ALERTMANAGER["inhibit_rules"] if one["source_matchers"] == [f'alertname="{name}"']]
    assert rule["equal"] == ["gateway"]
    (matcher,) = rule["target_matchers"]
    operator, names = re.fullmatch(r'alertname(=~|!~)"([\w|]+)"', matcher).groups()
    return set(names.split("|")) if operator == "=~" else set(NAMES) - set(names.split("|"))


def test_a_dead_gateway_silences_all_that_follows_from_it():
    expected = {rule["alert"] for rule in RULES if follows_from_gateway(rule)} - {"GatewayDown"}
    assert silenced_by("GatewayDown") == expected


def test_a_dead_exporter_silences_everything_of_its_gateway():
    assert silenced_by("ExporterDown") == set(NAMES) - {"ExporterDown", "Watchdog"}


def test_a_dead_database_silences_what_cannot_be_kept():
    assert silenced_by("DatabaseDown") == {"IngestFailing", "SourceStale"}


def test_critical_silences_the_warning_of_whatever_has_both():
    (rule,) = [one for one in ALERTMANAGER["inhibit_rules"] if one["source_matchers"] == ['severity="critical"']]
    assert rule["target_matchers"] == ['severity=~"warning|info"']
    assert {"alertname", "gateway"} <= set(rule["equal"])
    both = {name for name in NAMES if len({severity for alert, severity in KNOWN if alert == name}) > 1}
    assert both == {"BudgetBurn", "HostDiskFull"}
    labels = {label for trial in TRIALS if trial.alert in both for label in trial.labels}
    assert labels <= set(rule["equal"])


# --- what runbooks tell people to type ---------------------------------------------------------------------------


def test_queries_of_runbooks_name_what_exists():
    for _, query in blocks("promql"):
        assert_known(query)


def test_sql_of_runbooks_runs_as_the_reader(postgres_reader_dsn):
    with psycopg.connect(postgres_reader_dsn, autocommit=True) as connection:
        for name, statement in blocks("sql"):
            assert statement.lower().startswith("select"), name
            connection.execute(statement)
