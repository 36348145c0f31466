"""From a metric to Slack: our rules in a real Prometheus, a real Alertmanager, a fake Slack."""

from __future__ import annotations

import re
from contextlib import contextmanager

import pytest

from lobservatory.settings import Listen
from tests.alerts.stack import fast_alertmanager, fast_prometheus
from tests.fakes.exporter import fake_exporter
from tests.fakes.slack import fake_slack
from tests.servers import wait_for

HEALTHY = {
    "claw_gateway_up": 1,
    "claw_gateway_ready": 1,
    'claw_channel_configured{gateway="default",channel="irc"}': 1,
    'claw_channel_connected{gateway="default",channel="irc"}': 1,
}
CHANNEL = 'claw_channel_connected{gateway="default",channel="irc"}'


@contextmanager
def chain(directory, exporter):
    with (
        fake_slack() as slack,
        fast_alertmanager(directory / "alertmanager", slack.url) as alerts,
        fast_prometheus(directory / "prometheus", Listen(host="127.0.0.1", port=exporter.port), alerts) as prometheus,
    ):
        yield slack, alerts, prometheus


@pytest.fixture
def exporter():
    with fake_exporter() as server:
        server.set(claw_gateway_up=1, claw_gateway_ready=1)
        server.samples |= {series: value for series, value in HEALTHY.items() if "{" in series}
        yield server


def known(alerts):
    return {
        (alert["labels"]["alertname"], alert["status"]["state"])
        for alert in alerts.alerts()
        if alert["labels"]["alertname"] != "Watchdog"
    }


@pytest.mark.req("S1-7")
def test_a_gateway_that_dies_is_one_message_and_its_return_another(tmp_path, exporter):
    with chain(tmp_path, exporter) as (slack, alerts, prometheus):
        wait_for(lambda: [a["labels"]["alertname"] for a in alerts.alerts()] == ["Watchdog"], "the watchdog alone")
        exporter.set(claw_gateway_up=0, claw_gateway_ready=0)
        # What follows from it comes after it: two groups of rules are evaluated at different moments.
        wait_for(lambda: known(alerts) == {("GatewayDown", "active")}, "its alert")
        exporter.samples[CHANNEL] = 0
        wait_for(
            lambda: known(alerts) == {("GatewayDown", "active"), ("ChannelDown", "suppressed")}, "one alert, one muted"
        )
        (down,) = slack.wait(lambda messages: len(messages) == 1)
        assert down.title == "🔴 The gateway does not answer · default"
        assert down.attachment["color"] == "danger"
        assert re.search(r"since \d\d:\d\d UTC, \w{3} \d+ \w{3}\n", down.text)
        assert set(down.links) == {"Board", "Runbook", "Silence"}
        assert down.links["Runbook"] == "http://127.0.0.1:8787/runbooks/GatewayDown.md"

        # The exporter is away for a while: its own alert, and no recovery that did not happen.
        exporter.down = True
        (_, blind) = slack.wait(lambda messages: len(messages) == 2)
        assert blind.title == "🔴 The exporter does not answer · default"
        wait_for(lambda: ("GatewayDown", "suppressed") in known(alerts), "muted by the exporter's own")
        exporter.down = False
        (*_, sees) = slack.wait(lambda messages: len(messages) == 3)
        assert sees.title == "✅ Resolved: The exporter does not answer · default"

        # What was muted is back, then ends first: two rules are evaluated one after the other, and a scrape may come
        # between them.
        wait_for(
            lambda: known(alerts) == {("GatewayDown", "active"), ("ChannelDown", "suppressed")}, "both, as they were"
        )
        exporter.samples[CHANNEL] = 1
        wait_for(lambda: {name for name, _ in known(alerts)} == {"GatewayDown"}, "the muted alert has ended")
        exporter.set(claw_gateway_up=1, claw_gateway_ready=1)
        (*_, back) = slack.wait(lambda messages: len(messages) == 4)
        assert back.title == "✅ Resolved: The gateway does not answer · default"
        wait_for(lambda: known(alerts) == set(), "nothing left")
        wait_for(lambda: len(prometheus.alerts()) == 1, "the watchdog alone")
        assert len(slack.messages) == 4
        assert slack.refused == []


def test_cost_and_cron_say_who_how_much_and_the_limit(tmp_path, exporter):
    with chain(tmp_path, exporter) as (slack, _, _):
        exporter.samples |= {
            'claw_cost_window_usd{gateway="default",agent="main",window="today"}': 7.5,
            'claw_cost_window_usd{gateway="default",agent="work",window="today"}': 3.25,
            'claw_alert_threshold{gateway="default",alert="DailyCostHigh",severity="warning"}': 10,
            'claw_cron_job_consecutive_errors{gateway="default",cron_job="j1"}': 4,
            'claw_cron_job_enabled{gateway="default",cron_job="j1"}': 1,
            'claw_cron_job_info{gateway="default",cron_job="j1",name="night backup",agent="main"}': 1,
        }
        messages = {m.attachment["footer"]: m for m in slack.wait(lambda messages: len(messages) >= 2)}
        assert set(messages) == {"DailyCostHigh · warning", "CronJobFailing · warning"}
        cost, cron = messages["DailyCostHigh · warning"], messages["CronJobFailing · warning"]
        assert cost.title == "🟠 Today costs more than its limit · default"
        assert cost.text.startswith("10.75 US$ billed today; the limit is 10.00 US$.\nsince ")
        assert cron.title == "🟠 A cron job fails · default"
        assert cron.text.startswith("Failed runs in a row: 4.\nagent `main` cron_job `j1` name `night backup` since ")


def evaluated(prometheus):
    """When each group of alerts that is evaluated every second was evaluated last."""
    return {
        group["name"]: group["lastEvaluation"]
        for group in prometheus.api("rules", type="alert")["groups"]
        if group["interval"] == 1
    }


def wait_for_evaluation(prometheus):
    """Of all of them, once more."""
    before = evaluated(prometheus)
    wait_for(lambda: all(evaluated(prometheus)[name] != at for name, at in before.items()), "another evaluation")


def test_nothing_fires_without_an_official_plugin_or_data(tmp_path, exporter):
    exporter.samples.clear()
    with chain(tmp_path, exporter) as (slack, alerts, prometheus):
        # No port for itself was given here, and there is no official plugin.
        wait_for(
            lambda: {target["scrapePool"] for target in prometheus.targets()} == {"lobservatory", "alertmanager"},
            "the targets are known",
        )
        for _ in range(5):
            wait_for_evaluation(prometheus)
        assert {alert["labels"]["alertname"] for alert in prometheus.alerts()} == {"Watchdog"}
        assert known(alerts) == set()
        assert slack.messages == []
