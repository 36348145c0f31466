"""The doctor against real parts: it finds what is wrong and says what to do."""

import contextlib
import io
import json
import os
import re
import socket
import tarfile

import psycopg
import pytest

from cli import doctor
from cli.demo.gateway import ReplayGateway
from cli.up import secrets
from cli.up.supervision import Supervision
from lobservatory.settings import Billing, Listen, Settings
from openclaw.state_dir import OpenClawConfig
from tests.archives import extract
from tests.fakes.exporter import fake_exporter
from tests.servers import alertmanager, free_port, prometheus

SERVERS = ("metrics", "api", "prometheus", "alertmanager", "grafana")
NOWHERE = {f"{part}_listen": f"127.0.0.1:{free_port()}" for part in SERVERS}
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


OUR_RULES = "rule_files: [rules.yml]"
WATCHDOG = "groups: [{name: a, rules: [{alert: Watchdog, expr: vector(1)}]}]"
OUR_HISTORY = (
    "route: {receiver: ours}\n"
    "receivers: [{name: ours, webhook_configs: [{url: 'http://127.0.0.1:1/api/webhooks/alertmanager'}]}]"
)
OTHERS = "route: {receiver: none}\nreceivers: [{name: none}]"


@contextlib.contextmanager
def of_others(tmp_path, **values):
    """Settings where a Prometheus and an Alertmanager run that have nothing of ours."""
    for name, text in (("p", "{}"), ("a", OTHERS)):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.yml").write_text(text)
    with prometheus(tmp_path / "p", tmp_path / "p.yml") as one, alertmanager(tmp_path / "a", tmp_path / "a.yml") as two:
        listens = {
            "prometheus_listen": one.url.removeprefix("http://"),
            "alertmanager_listen": two.url.removeprefix("http://"),
        }
        yield settings(data_dir=tmp_path, **listens, **values)


@pytest.mark.req("P-13")
def test_an_alert_that_cannot_come_is_wrong_whatever_was_heard_before(postgres_dsn, tmp_path):
    """The database of another installation may be the one that was heard."""
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("INSERT INTO lobs.alert_watchdog (heard_at) VALUES (now() - interval '1 minute')")
    with of_others(tmp_path, database_url=postgres_dsn) as unnamed:
        named = unnamed.model_copy(
            update={
                "prometheus_url": unnamed.prometheus_listen.url,
                "alertmanager_url": unnamed.alertmanager_listen.url,
            }
        )
        (line,) = [line for line in doctor.database(named) if line.part == "alerts"]
    assert line.level == "wrong"
    assert line.text == (
        "the alert that fires always does not come here: Prometheus lacks our alert rules and Alertmanager lacks the"
        " receiver that keeps our history (docs/operation.md#servers-of-your-own)"
    )


def test_servers_that_nobody_has_named_are_somebody_elses(tmp_path):
    """Debian's packages start both: that is no fault, and `up` goes out of their way."""
    with of_others(tmp_path) as unnamed:
        lines = list(doctor.servers(unnamed))
    for part in ("prometheus", "alertmanager"):
        ((level, text),) = of(lines, part)
        assert level == "note"
        listen = getattr(unnamed, f"{part}_listen")
        assert text.startswith(f"{listen} is taken")
        assert f"to use that one, set LOBS_{part.upper()}_URL={listen.url}" in text
        assert text.endswith("until then `lobservatory up` takes the next free port")


@pytest.mark.parametrize("named", [True, False], ids=["named", "beside our exporter"])
def test_servers_that_should_work_for_us_say_what_they_lack(tmp_path, named):
    with of_others(tmp_path) as found, fake_exporter() as exporter:
        values = {"metrics_listen": Listen(host="127.0.0.1", port=exporter.port)}
        if named:
            values = {f"{part}_url": getattr(found, f"{part}_listen").url for part in ("prometheus", "alertmanager")}
        lines = list(doctor.servers(found.model_copy(update=values)))
    how = "docs/operation.md#servers-of-your-own"
    assert of(lines, "prometheus") == [
        ("wrong", f"it lacks the scrape job lobservatory: {how}"),
        ("wrong", f"it lacks our alert rules: {how}"),
    ]
    assert of(lines, "alertmanager") == [
        ("note", f"sends nothing to Slack: your Alertmanager decides who is told ({how})"),
        ("wrong", f"it lacks the receiver that keeps our history: {how}"),
    ]


def test_what_keeps_ours_from_starting_is_wrong(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        lines = list(doctor.servers(settings(data_dir=tmp_path, metrics_listen=taken, api_listen="no.invalid:80")))
    ((level, text),) = of(lines, "exporter")
    assert level == "wrong"
    assert text.startswith(f"LOBS_METRICS_LISTEN: {taken} is taken by process {os.getpid()} ")
    ((level, text),) = of(lines, "api")
    assert level == "wrong"
    assert text.startswith("LOBS_API_LISTEN: the host of no.invalid:80 is not known")


@contextlib.contextmanager
def run_of_up(data, state):
    """What an `up` leaves beside its supervisord, which runs; nothing of it answers."""
    for name in ("run", "logs"):
        (data / name).mkdir(mode=0o700, parents=True)
    (data / "run" / "up.json").write_text(json.dumps(state))
    supervision = Supervision(data / "run", data / "logs")
    supervision.start([], dict(os.environ))
    try:
        yield
    finally:
        supervision.shutdown()


def test_a_running_one_that_does_not_answer_has_a_log(tmp_path):
    addresses = {"exporter": NOWHERE["metrics_listen"], "api": NOWHERE["api_listen"]}
    url = f"http://{NOWHERE['prometheus_listen']}"
    state = {"addresses": {**addresses, "prometheus": NOWHERE["prometheus_listen"]}, "urls": {"prometheus": url}}
    with run_of_up(tmp_path, state):
        lines = list(doctor.servers(settings(data_dir=tmp_path)))
    assert of(lines, "exporter") == [
        ("wrong", f"it does not answer on {addresses['exporter']}: its log says why ({tmp_path}/logs/exporter.log)")
    ]
    assert of(lines, "prometheus") == [
        ("wrong", f"it does not answer at {url}: its log says why ({tmp_path}/logs/prometheus.log)")
    ]
    assert of(lines, "grafana")[0][1].startswith("there is none. ")
    # After a power cut its files are still there, and nothing runs.
    lines = list(doctor.servers(settings(data_dir=tmp_path)))
    assert {line.level for line in lines} == {"note"}
    assert of(lines, "exporter")[0][1].endswith("`lobservatory up` starts it")


def test_a_demo_is_not_taken_for_yours(tmp_path):
    with run_of_up(tmp_path / "demo", {"addresses": {}, "urls": {}}):
        (line,) = doctor.servers(settings(data_dir=tmp_path))
    assert (line.level, line.part) == ("note", "demo")
    assert "`lobservatory demo` is running" in line.text
    assert not of(doctor.servers(settings(data_dir=tmp_path)), "demo"), "after a power cut"


def test_the_database_of_a_run_that_a_power_cut_ended_is_not_running(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "database_url").write_text("postgresql://lobs_writer:hunter2@127.0.0.1:1/lobservatory\n")
    assert of(doctor.database(settings(data_dir=tmp_path)), "database") == [
        ("note", "the embedded one is not running: `lobservatory up` starts it")
    ]


def test_what_up_would_refuse_is_found(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch(0o600)
    monkeypatch.setenv("LOBS_PROMETHEUS_BIN", str(tmp_path / "none"))
    refused = settings(data_dir=file, alertmanager_config=tmp_path / "none", api_password_file=tmp_path / "none")
    lines = [*doctor.programs(refused), *doctor.vault(refused)]
    assert {line.level for line in lines} == {"wrong"}
    assert [line.text.partition(": ")[0] for line in lines] == [
        "LOBS_PROMETHEUS_BIN",
        "LOBS_ALERTMANAGER_CONFIG",
        "LOBS_API_PASSWORD_FILE",
        "LOBS_DATA_DIR",
    ]


@pytest.mark.req("P-13")
@pytest.mark.parametrize("minutes", [None, 1, 700])
def test_alerts_that_cannot_have_come_yet_are_no_fault(postgres_dsn, tmp_path, monkeypatch, minutes):
    """After a start, also one after a night without power or with the database of another, the first takes a while."""
    if minutes is not None:
        with psycopg.connect(postgres_dsn) as connection:
            connection.execute(
                "INSERT INTO lobs.alert_watchdog (heard_at) VALUES (now() - %s * interval '1 minute')", [minutes]
            )
    for name, text in (("p", OUR_RULES), ("a", OUR_HISTORY)):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.yml").write_text(text)
    (tmp_path / "rules.yml").write_text(WATCHDOG)
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


WEBHOOK = "webhook_configs: [{url: 'http://127.0.0.1:8787/api/webhooks/alertmanager'}]"


@pytest.mark.parametrize(
    ("values", "config", "level", "says"),
    [
        ({}, f"{WEBHOOK}, slack_configs: []", "ok", "sends to Slack"),
        ({}, WEBHOOK, "note", "set LOBS_SLACK_WEBHOOK_URL"),
        ({"slack_webhook_url": "https://hooks.example/S"}, WEBHOOK, "note", "set after it had started: start it again"),
        ({"slack_webhook_url": "https://hooks.example/S"}, "", "note", "your Alertmanager decides who is told"),
        ({"alertmanager_config": "/own.yml"}, WEBHOOK, "note", "LOBS_ALERTMANAGER_CONFIG, which decides"),
    ],
)
def test_the_receiver_of_alertmanager(values, config, level, says):
    (line,) = doctor.receivers(settings(**values), {"config": {"original": config}})
    assert line.level == level
    assert says in line.text


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
