"""Our own history of alerts and `alert-test`: real Alertmanager, real API process, fake Slack."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import yaml

from api.services.alert_history import AlertHistory
from cli.commands import alert_test
from lobservatory.errors import UserError
from lobservatory.settings import Listen, Settings
from store.pool import open_pool
from tests.alerts.stack import fast_alertmanager, fast_prometheus
from tests.fakes.exporter import fake_exporter
from tests.fakes.slack import fake_slack
from tests.live.stack import our_process, wait_ready
from tests.servers import (
    NO_PROMETHEUS,
    PATIENCE_SECONDS,
    POLL_SECONDS,
    alertmanager,
    free_port,
    post,
    prometheus,
    wait_for,
)
from tests.tools import REPOSITORY


@contextmanager
def running_api(postgres_dsn, folder):
    """The API as a process, with the token that Alertmanager is given; its address."""
    vault = folder / "secrets"
    vault.mkdir(mode=0o700)
    for name in ("api_token", "api_password"):
        (vault / name).write_text(secrets.token_urlsafe(32))
        (vault / name).chmod(0o600)
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "LOBS_DATABASE_URL": postgres_dsn,
        "LOBS_DATA_DIR": str(folder),
        "LOBS_API_LISTEN": address,
        "LOBS_PROMETHEUS_URL": NO_PROMETHEUS,
    }
    with our_process("api", settings, folder) as process:
        wait_ready(process, f"http://{address}/healthz", "the API")
        yield address


def alert(name, severity="warning", *, over=False):
    now = datetime.now(UTC)
    return {
        "labels": {"alertname": name, "gateway": "home", "severity": severity},
        "annotations": {"summary": name},
        "startsAt": "2026-11-20T21:05:00Z",
        "endsAt": (now if over else now + timedelta(minutes=5)).isoformat(),
    }


def history(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        return set(connection.execute("SELECT alert, status FROM public.alert_events").fetchall())


@pytest.mark.req("S1-7")
def test_history_has_everything_while_slack_is_away(tmp_path, postgres_dsn):
    with (
        running_api(postgres_dsn, tmp_path) as api,
        fake_slack() as slack,
        fast_alertmanager(tmp_path, slack.url, api_listen=api) as alerts,
    ):
        slack.down = True
        alerts.send([alert("CameAndWent"), alert("Stays")])
        wait_for(lambda: {("CameAndWent", "firing"), ("Stays", "firing")} <= history(postgres_dsn), "both are known")
        alerts.send([alert("CameAndWent", over=True)])
        wait_for(lambda: ("CameAndWent", "resolved") in history(postgres_dsn), "the end is known")
        wait_for(lambda: slack.failed, "Slack was tried")
        slack.down = False
        slack.wait(lambda messages: any(message.title.endswith("Stays · home") for message in messages))
        assert history(postgres_dsn) == {("CameAndWent", "resolved"), ("Stays", "firing")}
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            told = connection.execute("SELECT count(*) FROM lobs.events WHERE topic = 'alerts'").fetchone()
        assert told == (3,), "live clients heard of each change once"


def alerts_told(dsn):
    """(alert, status, told) of all, by name."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return sorted(connection.execute("SELECT alert, status, told FROM public.alert_events").fetchall())


@pytest.mark.req("S1-7")
async def test_history_has_what_another_alert_inhibits(tmp_path, postgres_dsn):
    """Alertmanager tells nobody of it; Prometheus recorded it."""
    channel = 'claw_channel_connected{gateway="default",channel="irc"}'
    with (
        running_api(postgres_dsn, tmp_path) as api,
        fake_exporter() as exporter,
        fast_alertmanager(tmp_path, "", api_listen=api) as alerts,
    ):
        exporter.set(claw_gateway_up=1)
        exporter.samples |= {channel.replace("connected", "configured"): 1, channel: 1}
        listen = Listen(host="127.0.0.1", port=exporter.port)
        async with open_pool(postgres_dsn) as pool:
            with fast_prometheus(tmp_path / "prometheus", listen, alerts) as prometheus:
                own = AlertHistory(pool, prometheus.url, settle=timedelta(0))

                async def looked():
                    await own.look()
                    return alerts_told(postgres_dsn)

                exporter.set(claw_gateway_up=0)
                wait_for(lambda: ("GatewayDown", "firing") in history(postgres_dsn), "it was told")
                exporter.samples[channel] = 0
                both = [("ChannelDown", "firing", False), ("GatewayDown", "firing", True)]
                await wait_for_answer(looked, both)
                (muted,) = [one for one in alerts.alerts() if one["labels"]["alertname"] == "ChannelDown"]
                assert muted["status"]["state"] == "suppressed"
                exporter.samples[channel] = 1
                await wait_for_answer(looked, [("ChannelDown", "resolved", False), both[1]])
                exporter.set(claw_gateway_up=1)
                wait_for(lambda: ("GatewayDown", "resolved") in history(postgres_dsn), "its end was told")
                assert await looked() == [("ChannelDown", "resolved", False), ("GatewayDown", "resolved", True)]


async def wait_for_answer(ask, expected):
    """As `wait_for`, of a coroutine."""
    answer = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (answer := await ask()) != expected:  # noqa: ASYNC110 - over HTTP, as users look
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"last answer: {answer}") from error


@pytest.mark.req("P-13")
@pytest.mark.parametrize("webhook", ["slack", "none"])
def test_the_watchdog_reaches_the_api_by_default(tmp_path, postgres_dsn, webhook):
    with (
        running_api(postgres_dsn, tmp_path) as api,
        fake_slack() as slack,
        fast_alertmanager(tmp_path, slack.url if webhook == "slack" else "", api_listen=api) as alerts,
        psycopg.connect(postgres_dsn, autocommit=True) as connection,
    ):
        alerts.send([alert("Watchdog", "none")])
        wait_for(lambda: connection.execute("SELECT heard_at FROM public.alert_watchdog").fetchone(), "it is heard")
        assert history(postgres_dsn) == set()
        assert slack.messages == []


def command(alerts, folder, prometheus=""):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LOBS_DATA_DIR": str(folder)}
    return subprocess.run(
        [REPOSITORY / ".venv/bin/lobservatory", "alert-test", "--alertmanager", alerts,
         "--prometheus", prometheus or f"http://127.0.0.1:{free_port()}"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.req("S1-7")
def test_alert_test_says_that_it_arrived(tmp_path, postgres_dsn):
    with (
        running_api(postgres_dsn, tmp_path) as api,
        fake_slack() as slack,
        fast_alertmanager(tmp_path, slack.url, api_listen=api) as alerts,
        fake_exporter() as exporter,
        fast_prometheus(
            tmp_path / "prometheus", Listen(host="127.0.0.1", port=exporter.port), alerts, hasten=()
        ) as rules,
    ):
        exporter.set(claw_gateway_up=1)
        wait_for(alerts.alerts, "Prometheus has sent the watchdog")
        done = command(alerts.url, tmp_path, rules.url)
        assert done.returncode == 0, done.stderr
        assert "took the alert" in done.stdout
        assert "sent to Slack" in done.stdout
        assert "sent to our history" in done.stdout
        assert f"Prometheus at {rules.url} evaluates the rules" in done.stdout
        assert "note" not in done.stdout
        message = slack.wait(bool)[0]
        assert message.title == "🔴 This is a test: the chain of alerts works · default"
        wait_for(lambda: ("AlertTest", "firing") in history(postgres_dsn), "it is in the history")


def test_alert_test_says_what_was_not_delivered(tmp_path):
    with fake_slack() as slack, fast_alertmanager(tmp_path, slack.url, api_listen=f"127.0.0.1:{free_port()}") as alerts:
        settings = Settings.model_validate({"data_dir": tmp_path})
        with pytest.raises(UserError, match=r"not delivered to .*our history"):
            list(alert_test.run(settings, alerts.url, wait=15))
        slack.wait(bool)


def tried(alerts, folder):
    """What it says without waiting long: (lines before the error, the error)."""
    lines = []
    with pytest.raises(UserError) as refused:
        lines.extend(alert_test.run(Settings.model_validate({"data_dir": folder}), alerts.url, wait=3))
    return lines, str(refused.value)


def test_alert_test_says_what_keeps_slack_from_it(tmp_path):
    nowhere = f"127.0.0.1:{free_port()}"
    with fast_alertmanager(tmp_path / "none", "", api_listen=nowhere) as alerts:
        lines, _ = tried(alerts, tmp_path)
        assert lines[1].endswith("set LOBS_SLACK_WEBHOOK_URL or LOBS_SLACK_WEBHOOK_URL_FILE (docs/alerts.md)")
    with fake_slack() as slack:
        with fast_alertmanager(tmp_path / "wrong", f"{slack.url}/x", api_listen=nowhere) as alerts:
            assert "not delivered to Slack, our history" in tried(alerts, tmp_path)[1]
            wait_for(lambda: "no_service" in slack.refused, "Slack was asked")
        with fast_alertmanager(tmp_path / "silenced", slack.url, api_listen=nowhere) as alerts:
            now = datetime.now(UTC)
            silence = {
                "matchers": [{"name": "gateway", "value": "default", "isRegex": False, "isEqual": True}],
                "startsAt": now.isoformat(),
                "endsAt": (now + timedelta(hours=1)).isoformat(),
                "createdBy": "me",
                "comment": "an upgrade",
            }
            post(f"{alerts.url}/api/v2/silences", silence)
            assert f"a silence covers it: end it at {alerts.url}/#/silences" in tried(alerts, tmp_path)[1]
        with fast_alertmanager(tmp_path / "inhibited", slack.url, api_listen=nowhere) as alerts:
            down = alert("ExporterDown", "critical")
            alerts.send([{**down, "labels": {**down["labels"], "gateway": "default"}}])
            slack.wait(bool)
            assert "another alert inhibits it" in tried(alerts, tmp_path)[1]


def test_alert_test_sends_nothing_to_an_alertmanager_that_nobody_has_named(tmp_path):
    """What runs at the usual address may page people who know nothing of us. Named, it is asked."""
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: pager}\nreceivers: [{name: pager}]\n")
    with alertmanager(tmp_path / "a", tmp_path / "alertmanager.yml") as alerts:
        settings = Settings.model_validate(
            {"data_dir": tmp_path, "alertmanager_listen": alerts.url.removeprefix("http://")}
        )
        with pytest.raises(UserError, match="is not ours, and nothing was sent there: start `lobservatory up`"):
            list(alert_test.run(settings, wait=0))
        assert alerts.alerts() == []
        lines = []
        with pytest.raises(UserError, match="Prometheus does not answer"):
            lines.extend(alert_test.run(settings, alerts.url, NO_PROMETHEUS, wait=0))
        assert lines[1].endswith("your Alertmanager decides who is told (docs/operation.md#servers-of-your-own)")
        assert [one["labels"]["alertname"] for one in alerts.alerts()] == ["AlertTest"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("scrape_configs: []\n", "does not evaluate our rules"),
        ("rule_files: [always.yml]\n", "knows no Alertmanager"),
    ],
)
def test_alert_test_looks_where_alerts_begin(tmp_path, config, says):
    rules = {"groups": [{"name": "a", "interval": "1s", "rules": [{"alert": "Watchdog", "expr": "vector(1)"}]}]}
    (tmp_path / "always.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    with (
        alertmanager(tmp_path / "a", tmp_path / "alertmanager.yml") as alerts,
        prometheus(tmp_path / "p", tmp_path / "prometheus.yml") as server,
    ):
        wait_for(lambda: "rule" not in config or server.alerts(), "the rule is evaluated")
        with pytest.raises(UserError, match=says):
            list(alert_test.run(Settings.model_validate({"data_dir": tmp_path}), alerts.url, server.url))


def test_alert_test_without_alertmanager_says_so_in_one_line(tmp_path):
    done = command(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert done.returncode != 0
    assert "Alertmanager does not answer" in done.stderr
    assert "Traceback" not in done.stderr
