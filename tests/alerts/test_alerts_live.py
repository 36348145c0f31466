"""The whole chain with nothing replaced but Slack and the model: a real gateway spends, fails, dies and comes back."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from lobservatory.settings import Listen
from tests.alerts.stack import fast_alertmanager, fast_prometheus
from tests.fakes.slack import fake_slack
from tests.live.stack import gateway_settings, our_process, wait_ready
from tests.servers import get, wait_for


@pytest.fixture(scope="module")
def gateway(start_gateway):
    """One that these tests may break."""
    return start_gateway()


@contextmanager
def running_exporter(gateway, folder, **more):
    """Where it listens."""
    settings = gateway_settings(gateway, folder, LOBS_POLL_INTERVAL="2", **more)
    listen = Listen.parse(settings["LOBS_METRICS_LISTEN"])
    with our_process("exporter", settings, folder) as process:
        wait_ready(process, f"{listen.url}/healthz", "the exporter")
        wait_for(lambda: 'claw_gateway_up{gateway="default"} 1' in get(f"{listen.url}/metrics"), "it sees the gateway")
        yield listen


@pytest.mark.live
@pytest.mark.req("S1-7")
async def test_cost_over_the_limit_and_a_failing_job_are_told_with_numbers_and_names(gateway, tmp_path):
    config = tmp_path / "lobservatory.toml"
    config.write_text("daily_cost_limit = 0.0001\n[thresholds.CronJobFailing]\nwarning = 1\n")
    hasten = ["DailyCostHigh", "CronJobFailing"]
    with (
        running_exporter(gateway, tmp_path, LOBS_CONFIG_FILE=str(config)) as exporter,
        fake_slack() as slack,
        fast_alertmanager(tmp_path / "am", slack.url) as alerts,
        fast_prometheus(tmp_path / "prometheus", exporter, alerts, hasten=hasten) as prometheus,
    ):
        wait_for(lambda: prometheus.query("claw_gateway_up == 1"), "the first scrape")
        assert slack.messages == []
        async with gateway.driver() as driver:
            await driver.turn("Say hello")
            await driver.cron("failing job", "Fail [[err 404]]")
        expected = {"DailyCostHigh · warning", "CronJobFailing · warning"}

        def told(messages):
            found = {message.attachment["footer"]: message for message in messages}
            return found if expected <= set(found) else None

        messages = told(slack.wait(told))
        cost, cron = messages["DailyCostHigh · warning"], messages["CronJobFailing · warning"]
        # What it was when the alert was evaluated: a turn may have gone on meanwhile.
        billed = prometheus.query('sum(claw_cost_window_usd{window="today"})[10m:1s]')[0]["values"]
        assert cost.text.split("\n")[0] in {
            f"{float(value):.2f} US$ billed today; the limit is 0.00 US$." for _, value in billed
        }
        assert cron.text.startswith("Failed runs in a row: 1; the threshold is 1.\n")
        assert "name `failing job`" in cron.text
        assert slack.refused == []


@pytest.mark.live
@pytest.mark.req("S1-7")
def test_killed_gateway_is_one_message_and_its_return_another(gateway, tmp_path):
    with (
        running_exporter(gateway, tmp_path) as exporter,
        fake_slack() as slack,
        fast_alertmanager(tmp_path / "am", slack.url) as alerts,
        # Not ExporterDown: Prometheus 3 takes 5 s to know its targets, and until then nothing is scraped.
        fast_prometheus(tmp_path / "prometheus", exporter, alerts, hasten=["GatewayDown"]) as prometheus,
    ):
        wait_for(lambda: prometheus.query("claw_gateway_up == 1"), "the first scrape")
        wait_for(alerts.alerts, "the watchdog")
        thresholds = {
            (one["metric"]["alert"], one["metric"]["severity"]) for one in prometheus.query("claw_alert_threshold")
        }
        assert ("DailyCostHigh", "warning") in thresholds
        assert slack.messages == []

        gateway.kill()
        (down,) = slack.wait(lambda messages: len(messages) == 1)
        assert down.title == "🔴 The gateway does not answer · default"
        assert set(down.links) == {"Board", "Runbook", "Silence"}

        gateway.start()
        (_, back) = slack.wait(lambda messages: len(messages) == 2)
        assert back.title == "✅ Resolved: The gateway does not answer · default"

        wait_for(lambda: {a["labels"]["alertname"] for a in alerts.alerts()} == {"Watchdog"}, "only the watchdog")
        assert [message.title for message in slack.messages] == [down.title, back.title]
        assert slack.refused == []
