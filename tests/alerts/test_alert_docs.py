"""docs/alerts.md says what the rules say, and its examples work."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib

import pytest
import yaml

from cli.up.monitoring import prepare_alertmanager
from lobservatory.settings import Settings
from lobservatory.thresholds import THRESHOLDS
from tests.alerts.stack import fast_alertmanager
from tests.fakes.mail import fake_mail
from tests.fakes.slack import fake_slack
from tests.servers import post, wait_for
from tests.tools import REPOSITORY, debian_tool

PAGE = (REPOSITORY / "docs" / "alerts.md").read_text()


def blocks(language):
    return [code.strip() for code in re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)]


def table(header):
    body = PAGE.partition(header)[2].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.strip().splitlines()[1:]]


def test_every_alert_is_listed_with_its_severity_and_patience():
    rules = [
        rule
        for path in sorted((REPOSITORY / "alerts" / "rules").glob("lobs-*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert table("| alert | severity | what | after |") == [
        [
            f"[{rule['alert']}](../alerts/runbooks/{rule['alert']}.md)",
            rule["labels"]["severity"],
            rule["annotations"]["summary"],
            rule.get("for", "at once"),
        ]
        for rule in rules
    ]


def test_every_threshold_is_listed_with_its_default():
    assert table("| threshold | default | unit | what it is compared with |") == [
        [f"{one.alert}.{one.severity}", f"{one.default:g}", one.unit, one.meaning] for one in THRESHOLDS
    ]


def test_example_of_thresholds_is_valid():
    general, budgets = blocks("toml")
    values = Settings.model_validate(tomllib.loads(budgets)).alert_thresholds()
    assert (values["BudgetBurn", "critical", ""], values["BudgetBurn", "critical", "main"]) == (200, 50)
    values = Settings.model_validate(tomllib.loads(general)).alert_thresholds()
    assert values["DailyCostHigh", "warning", ""] == 40
    assert values["HostDiskFull", "critical", ""] == 0.08


def merged(base, addition):
    """As the page means it: new routes before ours but for that of the history, receivers by name, other keys added."""
    result = {**base, **{key: value for key, value in addition.items() if key not in {"route", "receivers"}}}
    routes = addition.get("route", {}).get("routes", [])
    history, *others = base["route"]["routes"]
    result["route"] = {**base["route"], "routes": [history, *routes, *others]}
    replaced = {receiver["name"]: receiver for receiver in addition.get("receivers", [])}
    kept = [receiver for receiver in base["receivers"] if receiver["name"] not in replaced]
    result["receivers"] = kept + list(replaced.values())
    return result


@pytest.mark.parametrize("example", blocks("yaml"))
def test_examples_of_configuration_are_valid(tmp_path, example):
    settings = {"slack_webhook_url": "https://hooks.example/x"}
    ours = prepare_alertmanager(tmp_path, Settings.model_validate(settings), {})
    own = tmp_path / "own.yml"
    own.write_text(yaml.safe_dump(merged(yaml.safe_load(ours.read_text()), yaml.safe_load(example))))
    used = prepare_alertmanager(tmp_path, Settings.model_validate({**settings, "alertmanager_config": str(own)}), {})
    assert used.read_text() == own.read_text()
    checked = subprocess.run([debian_tool("amtool"), "check-config", used], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_example_of_a_try_reaches_slack_and_the_silence_silences(tmp_path):
    (curl,) = [code for code in blocks("sh") if code.startswith("curl")]
    (silence,) = [code for code in blocks("sh") if "silence add" in code]
    words = shlex.split(curl)
    body = yaml.safe_load(words[words.index("-d") + 1])
    with fake_slack() as slack, fast_alertmanager(tmp_path, slack.url) as alerts:
        post(next(word for word in words if word.startswith("http")).replace("http://127.0.0.1:9093", alerts.url), body)
        (message,) = slack.wait(lambda messages: len(messages) == 1)
        assert message.title == "🔴 It works · default"
        command = shlex.split(silence.replace("http://127.0.0.1:9093", alerts.url))
        subprocess.run([debian_tool("amtool"), *command[1:]], check=True, capture_output=True)
        assert [alert["status"]["state"] for alert in alerts.alerts()] == ["suppressed"]


def test_commands_for_rules_name_files_that_exist():
    (commands,) = [code for code in blocks("sh") if code.startswith("promtool")]
    for line in commands.splitlines():
        assert list(REPOSITORY.glob(line.split()[-1])), line


def test_resolution_of_a_tried_alert_takes_the_time_that_is_said():
    config = yaml.safe_load((REPOSITORY / "provisioning/alertmanager/alertmanager.yml").read_text())
    # Alertmanager's own default, which the page counts on, is 5 minutes.
    assert "resolve_timeout" not in config.get("global", {})
    waits = {route["matchers"][0]: route.get("group_wait") for route in config["route"]["routes"]}
    assert waits['severity="critical"'] == "10s"


def example(word):
    """The one that has this word."""
    (found,) = [yaml.safe_load(code) for code in blocks("yaml") if word in code]
    return found


@pytest.mark.req("S1-7")
def test_quiet_hours_mute_warnings_only_and_a_webhook_hears_all(tmp_path):
    """With a night that never ends; what mutes Slack mutes neither the webhook nor critical alerts."""
    quiet = example("time_intervals")
    quiet["time_intervals"][0]["time_intervals"] = [{"times": [{"start_time": "00:00", "end_time": "24:00"}]}]
    hook = example("my-hook")
    with fake_slack() as slack, fake_slack() as other:
        (receiver,) = hook["receivers"]
        receiver["webhook_configs"] = [{"url": other.url.replace("/services", "/other/services")}]
        ours = prepare_alertmanager(
            tmp_path / "ours", Settings.model_validate({"slack_webhook_url": slack.url}), {}
        ).read_text()
        own = tmp_path / "own.yml"
        own.write_text(yaml.safe_dump(merged(merged(yaml.safe_load(ours), quiet), hook)))
        with fast_alertmanager(tmp_path / "am", slack.url, alertmanager_config=str(own)) as alerts:
            for number, severity in enumerate(("warning", "critical")):
                labels = {"alertname": f"Of{severity}", "gateway": "home", "severity": severity}
                alerts.send([{"labels": labels, "annotations": {"summary": severity}}])
                wait_for(lambda before=number: len(other.refused) > before, "the webhook hears of it")
            slack.wait(bool)
            assert [message.title for message in slack.messages] == ["🔴 critical · home"]


HOSTILE = "<b onload=x>&'\"{{ .ExternalURL }} <!channel>"


@pytest.mark.req("S1-7")
def test_the_mail_of_the_example_arrives_with_names_as_names(tmp_path):
    mail = example("email_configs")
    ((config,),) = [receiver["email_configs"] for receiver in mail["receivers"]]
    secret = tmp_path / "smtp_password"
    secret.write_text("a password for tests only")
    with fake_mail(config["auth_username"], secret.read_text()) as server, fake_slack() as slack:
        config |= {"smarthost": f"127.0.0.1:{server.port}", "auth_password_file": str(secret), "require_tls": False}
        ours = prepare_alertmanager(
            tmp_path / "ours", Settings.model_validate({"slack_webhook_url": slack.url}), {}
        ).read_text()
        own = tmp_path / "own.yml"
        own.write_text(yaml.safe_dump(merged(yaml.safe_load(ours), mail)))
        with fast_alertmanager(tmp_path / "am", slack.url, alertmanager_config=str(own)) as alerts:
            labels = {"alertname": "GatewayDown", "gateway": "home", "severity": "critical", "agent": HOSTILE}
            alerts.send([{"labels": labels, "annotations": {"summary": "The gateway does not answer"}}])
            (told,) = server.wait(1)
            slack.wait(bool)  # the first one, as before
    assert (told["To"], told["From"]) == (config["to"], config["from"])
    assert "GatewayDown home" in told["Subject"]
    page = told.get_body(("html",)).get_content()
    assert "The gateway does not answer" in page
    assert "<b onload" not in page
    assert "&lt;b onload=x&gt;" in page
    assert server.refused == 0
