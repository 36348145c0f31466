"""The doctor against real parts: it finds what is wrong and says what to do."""

import io
import re
import tarfile

import psycopg
import pytest

from lobservatory import doctor
from lobservatory.demo.gateway import ReplayGateway
from lobservatory.runner import secrets
from lobservatory.settings import Billing, Settings
from openclaw.state_dir import OpenClawConfig
from tests.archives import extract
from tests.servers import alertmanager, prometheus

SERVERS = ("metrics", "api", "prometheus", "alertmanager", "grafana")
NOWHERE = {f"{part}_listen": f"127.0.0.1:{port}" for port, part in enumerate(SERVERS, 1)}
SAMPLES = "tests/fixtures/samples"


def settings(**values):
    """With nothing at any part's address, not even what runs on this machine."""
    return Settings.model_validate({**NOWHERE, **values})


def of(lines, part):
    return [(line.level, line.text) for line in lines if line.part == part]


@pytest.fixture
def state(tmp_path, request):
    with tarfile.open(request.config.rootpath / SAMPLES / "state-2026.9.6.tar.gz") as archive:
        extract(archive, tmp_path)
    return tmp_path / ".openclaw"


@pytest.fixture
async def replay():
    gateway = ReplayGateway(token="a-good-token-of-a-gateway")
    port = await gateway.start()
    yield gateway, f"ws://127.0.0.1:{port}"
    await gateway.stop()


async def test_a_gateway_that_answers_is_ok(replay, tmp_path):
    _, url = replay
    settings = Settings(gateway_url=url, gateway_token="a-good-token-of-a-gateway", data_dir=tmp_path)
    lines = await doctor.gateway(settings, OpenClawConfig())
    assert [line.level for line in lines] == ["ok", "ok"]
    assert lines[0].text.startswith(f"{url}: version 2026.")
    assert "operator.read" in lines[1].text


async def test_a_wrong_token_is_told_at_once_and_never_shown(replay, tmp_path):
    _, url = replay
    settings = Settings(gateway_url=url, gateway_token="not-the-token-at-all", data_dir=tmp_path)
    lines = await doctor.gateway(settings, OpenClawConfig())
    assert [line.level for line in lines] == ["wrong"]
    assert "Set LOBS_GATEWAY_TOKEN" in lines[0].text
    assert "not-the-token" not in lines[0].text


async def test_a_missing_scope_is_named(replay, tmp_path):
    gateway, url = replay
    gateway.faults.missing_scope["cron.list"] = "operator.read"
    settings = Settings(gateway_url=url, gateway_token="a-good-token-of-a-gateway", data_dir=tmp_path)
    scopes = of(await doctor.gateway(settings, OpenClawConfig()), "scopes")
    assert [level for level, _ in scopes] == ["wrong"]
    assert scopes[0][1].startswith("cron.list: ")
    assert scopes[0][1].count("cron.list") == 1
    assert "operator.read" in scopes[0][1]


async def test_a_call_that_the_gateway_refuses_is_named_once(replay, tmp_path):
    gateway, url = replay
    gateway.faults.missing_methods.add("status")
    gateway.faults.drop_on.add("cron.list")
    settings = Settings(gateway_url=url, gateway_token="a-good-token-of-a-gateway", data_dir=tmp_path)
    refused = [line for line in await doctor.gateway(settings, OpenClawConfig()) if line.level != "ok"]
    assert [line.level for line in refused] == ["note", "wrong"]
    for line, method in zip(refused, ("status", "cron.list"), strict=True):
        assert re.match(rf"{method}: (?!{method}:)", line.text), line.text


async def test_no_gateway_says_how_to_get_one(tmp_path):
    settings = Settings(gateway_url="ws://127.0.0.1:1", data_dir=tmp_path)
    (line,) = await doctor.gateway(settings, OpenClawConfig())
    assert (line.level, line.text) == (
        "wrong",
        "ws://127.0.0.1:1: nothing listens there. Start the gateway, or set LOBS_GATEWAY_URL",
    )


def test_stores_schema_and_billing_are_told(state, tmp_path):
    settings = Settings(data_dir=tmp_path, billing=Billing(equivalent=("flaky",), billed=()))
    lines = list(doctor.stores(state, settings, OpenClawConfig(subscription_providers=frozenset({"sub"}))))
    assert [line.level for line in lines if line.part != "billing"] == ["ok", "ok"]
    assert of(lines, "schema") == [("ok", "agent databases have schema version 23")]
    assert of(lines, "billing") == [
        ("ok", "fake: billed (the default)"),
        ("ok", "flaky: equivalent ([billing] equivalent in lobservatory.toml)"),
        ("ok", "sub: equivalent (its profile at the gateway is a subscription)"),
    ]


def test_a_schema_that_nobody_knows_is_wrong_and_not_nothing(state, tmp_path):
    import sqlite3  # noqa: PLC0415 - this test only

    (path, *_) = state.glob("agents/*/agent/openclaw-agent.sqlite")
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 4711")
    lines = list(doctor.stores(state, Settings(data_dir=tmp_path), OpenClawConfig()))
    assert any(level == "wrong" and "4711" in text for level, text in of(lines, "stores"))


def test_secrets_that_others_can_read_are_wrong(tmp_path):
    secrets.create(tmp_path)
    assert of(doctor.vault(Settings(data_dir=tmp_path)), "secrets")[0][0] == "ok"
    path = tmp_path / "secrets" / "api_token"
    path.chmod(0o640)
    assert of(doctor.vault(Settings(data_dir=tmp_path)), "secrets") == [
        ("wrong", f"{path} can be read by others: chmod 600 {path}")
    ]


def test_the_database_is_looked_at(postgres_dsn, tmp_path):
    lines = list(doctor.database(settings(database_url=postgres_dsn, data_dir=tmp_path)))
    assert {line.level for line in lines if line.part != "alerts"} == {"ok"}
    assert [line.part for line in lines] == ["database", "migrations", "extension", "roles", "alerts"]
    assert of(lines, "roles") == [("ok", "lobs_writer writes, lobs_reader reads views only")]


@pytest.mark.req("P-13")
@pytest.mark.parametrize(("minutes", "level"), [(None, "note"), (3, "ok"), (40, "wrong")])
def test_alerts_that_do_not_come_any_more_are_wrong(postgres_dsn, tmp_path, minutes, level):
    if minutes is not None:
        with psycopg.connect(postgres_dsn) as connection:
            connection.execute(
                "INSERT INTO lobs.alert_watchdog (heard_at) VALUES (now() - %s * interval '1 minute')", [minutes]
            )
    lines = doctor.database(settings(database_url=postgres_dsn, data_dir=tmp_path))
    (line,) = [line for line in lines if line.part == "alerts"]
    assert line.level == level
    assert minutes is None or f"{minutes} min" in line.text


@pytest.mark.req("P-13")
@pytest.mark.parametrize("minutes", [None, 1, 700])
def test_alerts_that_cannot_have_come_yet_are_no_fault(postgres_dsn, tmp_path, monkeypatch, minutes):
    """After a start, also one after a night without power or with the database of another, the first takes a while."""
    if minutes is not None:
        with psycopg.connect(postgres_dsn) as connection:
            connection.execute(
                "INSERT INTO lobs.alert_watchdog (heard_at) VALUES (now() - %s * interval '1 minute')", [minutes]
            )
    for name, text in (("p", "{}"), ("a", "route: {receiver: none}\nreceivers: [{name: none}]")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.yml").write_text(text)
    with prometheus(tmp_path / "p", tmp_path / "p.yml") as one, alertmanager(tmp_path / "a", tmp_path / "a.yml") as two:
        settings = Settings.model_validate(
            {
                "database_url": postgres_dsn,
                "data_dir": tmp_path,
                "prometheus_listen": one.url.removeprefix("http://"),
                "alertmanager_listen": two.url.removeprefix("http://"),
            }
        )
        (early,) = [line for line in doctor.database(settings) if line.part == "alerts"]
        monkeypatch.setattr(doctor, "_FIRST_WATCHDOG_MINUTES", 0)
        (late,) = [line for line in doctor.database(settings) if line.part == "alerts"]
    assert early.level == "note"
    assert re.fullmatch(
        r"not heard yet: Prometheus and Alertmanager have been up for \d+ s, and it comes within 3 min", early.text
    )
    assert late.level == "wrong"
    assert late.text.startswith("never heard, and" if minutes is None else f"not heard for {minutes} min, and")
    assert "lobservatory alert-test" in late.text


def test_a_reader_that_can_read_tables_is_wrong(postgres_dsn, postgres_owner_dsn, tmp_path):
    with psycopg.connect(postgres_owner_dsn) as connection:
        connection.execute("GRANT USAGE ON SCHEMA lobs TO lobs_reader")
        connection.execute("GRANT SELECT ON lobs.model_calls TO lobs_reader")
    lines = list(doctor.database(settings(database_url=postgres_dsn, data_dir=tmp_path)))
    assert of(lines, "roles") == [("wrong", "lobs_reader can read 1 base table: run `lobservatory migrate`")]


def test_a_database_that_is_away_is_one_line_without_its_password(tmp_path):
    url = "postgresql://lobs_writer:hunter2hunter2@127.0.0.1:1/lobservatory"
    (line,) = doctor.database(settings(database_url=url, data_dir=tmp_path))
    assert line.level == "wrong"
    assert "hunter2" not in line.text
    assert "\n" not in line.text


def test_a_listener_that_others_reach_is_a_note(tmp_path):
    values = {**NOWHERE, "data_dir": tmp_path, "api_listen": "0.0.0.0:2", "metrics_listen": "[::]:3"}
    settings = Settings.model_validate(values)
    opened = [line for line in doctor.servers(settings) if line.text.startswith("open to the network")]
    assert [(line.level, line.part) for line in opened] == [("note", "exporter"), ("note", "api")]
    assert "(0.0.0.0:2)" in opened[1].text


TARGET = {"labels": {"job": "lobservatory"}, "scrapeUrl": "http://127.0.0.1:9464/metrics", "lastError": "refused"}


@pytest.mark.parametrize(("health", "level"), [("up", "ok"), ("unknown", "note"), ("down", "wrong")])
def test_the_target_of_prometheus(health, level):
    answer = {"data": {"activeTargets": [{**TARGET, "health": health}]}}
    assert [line.level for line in doctor.targets(answer)] == [level]


def test_a_prometheus_without_our_target_is_wrong():
    assert [line.level for line in doctor.targets({"data": {"activeTargets": []}})] == ["wrong"]


def test_the_receiver_of_alertmanager():
    assert [line.level for line in doctor.receivers([{"name": "slack"}, {"name": "watchdog"}])] == ["ok"]
    assert [line.level for line in doctor.receivers([{"name": "shown"}])] == ["note"]


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        ({"database": "ok", "version": "12.3.1"}, "ok", "version 12.3.1"),
        ({"database": "ok"}, "ok", "answers"),
        ({"database": "ok", "version": "10.2.3"}, "note", "made for 12"),
        ({"database": "failing"}, "wrong", "its own database: failing"),
    ],
)
def test_the_health_of_grafana(answer, level, text):
    (line,) = doctor.grafana(answer)
    assert line.level == level
    assert text in line.text


def test_every_server_has_a_line_also_one_that_is_not_there(tmp_path):
    lines = list(doctor.servers(Settings.model_validate({"data_dir": tmp_path, **NOWHERE})))
    assert [line.part for line in lines] == ["exporter", *SERVERS[1:]]
    assert {line.level for line in lines} == {"note"}
    assert "LOBS_GRAFANA_BIN" in of(lines, "grafana")[0][1]


def test_run_ends_with_1_when_something_is_wrong(state, tmp_path, capsys):
    assert doctor.run(settings(state_dir=state, data_dir=tmp_path, gateway_url="ws://127.0.0.1:1")) == 1
    printed = io.StringIO(capsys.readouterr().out).readlines()
    assert sum(line.startswith("WRONG") for line in printed) == 1
    assert all(line.startswith(("ok   ", "note ", "WRONG")) for line in printed)
