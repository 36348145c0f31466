"""The whole chain with nothing replaced but Slack and the model: a real gateway spends, fails, dies and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from lobservatory.settings import Listen
from tests.alerts.stack import fast_alertmanager, fast_prometheus
from tests.fakes.slack import fake_slack
from tests.servers import ServerError, free_port, get, wait_for
from tests.tools import REPOSITORY


@pytest.fixture(scope="module")
def gateway(start_gateway):
    """One that these tests may break."""
    return start_gateway()


@contextmanager
def running_exporter(gateway, directory, **more):
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    environment |= {
        "LOBS_STATE_DIR": str(gateway.state_dir),
        "LOBS_GATEWAY_URL": gateway.url,
        "LOBS_GATEWAY_TOKEN": gateway.token,
        "LOBS_METRICS_LISTEN": f"127.0.0.1:{port}",
        "LOBS_DATA_DIR": str(directory / "data"),
        "LOBS_POLL_INTERVAL": "2",
        **more,
    }
    log = directory / "exporter.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "exporter"], env=environment, cwd=REPOSITORY, stdout=output, stderr=output
        )
    try:

        def answers():
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            try:
                return 'claw_gateway_up{gateway="default"} 1' in get(f"http://127.0.0.1:{port}/metrics")
            except ServerError:
                return False

        wait_for(answers, "the exporter sees the gateway", 60)
        yield Listen(host="127.0.0.1", port=port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
        told = {
            message.attachment["footer"]: message for message in slack.wait(lambda messages: len(messages) == 2, 120)
        }
        cost, cron = told["DailyCostHigh · warning"], told["CronJobFailing · warning"]
        billed = float(prometheus.query('sum(claw_cost_window_usd{window="today"})')[0]["value"][1])
        assert cost.text.startswith(f"{billed:.2f} US$ billed today; the limit is 0.00 US$.\n")
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
        fast_prometheus(
            tmp_path / "prometheus", exporter, alerts, hasten=["GatewayDown", "ExporterDown"]
        ) as prometheus,
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
        assert set(down.links) == {"Board", "Silence"}

        gateway.start()
        (_, back) = slack.wait(lambda messages: len(messages) == 2, 120)
        assert back.title == "✅ Resolved: The gateway does not answer · default"

        wait_for(lambda: {a["labels"]["alertname"] for a in alerts.alerts()} == {"Watchdog"}, "only the watchdog")
        assert [message.title for message in slack.messages] == [down.title, back.title]
        assert slack.refused == []
