"""`lobservatory up` for real: every part, in order, again after a crash, and nothing left behind."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
import pytest

from cli.demo.gateway import ReplayGateway
from cli.up.supervision import Supervision
from lobservatory.settings import PARTS
from tests import otlp
from tests.archives import extract
from tests.servers import PATIENCE_SECONDS, alertmanager, free_port, prometheus, quiet_port, wait_for
from tests.tools import debian_tool

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("lobservatory")
LISTENS = ("METRICS", "API", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")


class Installation:
    """One data directory, and the `up` processes that a test has started in it."""

    def __init__(self, folder, **environment):
        self.folder = folder
        self.data = folder / "data"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
        self.environment = {
            **clean,
            **{f"LOBS_{name}_LISTEN": "127.0.0.1:0" for name in LISTENS},
            "LOBS_DATA_DIR": str(self.data),
            "LOBS_STATE_DIR": str(folder / ".openclaw"),
            "LOBS_GATEWAY_URL": "ws://127.0.0.1:1",
            **environment,
        }
        self.started = []

    def up(self, *arguments, command="up"):
        output = self.folder / f"output-{len(self.started)}"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [str(PROGRAM), command, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process, output

    def ready(self, process, output, data=None):
        state = (data or self.data) / "run" / "up.json"

        def is_ready():
            assert process.poll() is None, output.read_text(encoding="utf-8")
            return state.exists() and "Ctrl-C stops everything." in output.read_text(encoding="utf-8")

        wait_for(is_ready, "lobservatory up")
        return json.loads(state.read_text(encoding="utf-8"))

    def processes(self):
        """Everything that runs for this data directory, whoever started it."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                if process.pid != os.getpid() and (str(self.data) in words or self.url in self.server_of(process)):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @property
    def url(self):
        return f"unix://{Supervision(self.data / 'run', self.data / 'logs').socket}"

    @staticmethod
    def server_of(process):
        try:
            return process.environ().get("SUPERVISOR_SERVER_URL", "")
        except (psutil.Error, OSError):
            return ""

    def statuses(self):
        return {s.name: s for s in Supervision(self.data / "run", self.data / "logs").statuses()}

    def assert_nothing_left(self):
        assert [(process.pid, process.cmdline()) for process in self.processes()] == []
        assert sorted(path.name for path in (self.data / "run").iterdir()) == []
        assert not list(self.data.rglob("*.pid"))

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_SECONDS)
        for process in self.processes():
            process.kill()


@pytest.fixture
def installation():
    # Not below pytest's own folder: as root PostgreSQL runs as another user, who cannot enter that.
    folder = Path(tempfile.mkdtemp(prefix="lobs-up-"))
    folder.chmod(0o755)
    with tarfile.open(ROOT / "tests/fixtures/samples/state-2026.9.6.tar.gz") as archive:
        extract(archive, folder)
    made = Installation(
        folder,
        LOBS_PROMETHEUS_BIN=str(debian_tool("prometheus")),
        LOBS_ALERTMANAGER_BIN=str(debian_tool("alertmanager")),
    )
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return answer.read().decode()


def test_everything_starts_is_shown_and_stops_without_a_trace(installation):
    process, output = installation.up()
    state = installation.ready(process, output)
    rows = {row["part"]: row for row in state["rows"]}
    assert rows["openclaw"]["state"] == "found"
    assert rows["openclaw"]["url"] == str(installation.folder / ".openclaw")
    ours = ("postgres", "exporter", "api", "prometheus", "alertmanager")
    assert {name: rows[name]["state"] for name in ours} == dict.fromkeys(ours, "running")
    assert rows["gateway"]["state"] == "not answering"
    assert "Start the gateway, or set LOBS_GATEWAY_URL" in rows["gateway"]["note"]
    assert {name: rows[name]["state"] for name in ("slack", "commands", "chat")} == dict.fromkeys(
        ("slack", "commands", "chat"), "off"
    )
    assert not any(row["warning"] for row in rows.values())
    text = output.read_text(encoding="utf-8")
    for row in rows.values():
        assert row["url"] in text
    page = get(rows["api"]["url"])
    assert f'href="{rows["prometheus"]["url"]}/"' in page
    if rows["grafana"]["state"] == "missing":
        assert "LOBS_GRAFANA_BIN" in text
        assert "Not here: Grafana" in page
        assert "grafana_admin_password" not in text

    # Passwords: the place is told, the values are not; neither there nor in a log nor on a command line.
    folder = installation.data / "secrets"
    assert str(folder) in text
    values = [path.read_text(encoding="utf-8").strip() for path in folder.iterdir()]
    logs = "".join(
        path.read_text(encoding="utf-8", errors="replace") for path in (installation.data / "logs").iterdir()
    )
    words = " ".join(" ".join(process.cmdline()) for process in installation.processes())
    assert not any(value in text + logs + words for value in values)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}

    # The parts know each other: rows are in the database, and Prometheus scrapes the exporter.
    url = (installation.data / "run" / "database_url").read_text(encoding="utf-8").strip()
    wait_for(lambda: count(url, "model_calls") == 32, "rows")
    metrics = wait_for(lambda: "claw_cost_usd_total" in (text := get(rows["exporter"]["url"])) and text, "totals")
    total = sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("claw_cost_usd_total{"))
    assert round(total, 7) == 0.2985902
    prometheus = rows["prometheus"]["url"]
    wait_for(lambda: '"value"' in get(f'{prometheus}/api/v1/query?query=up{{job="lobservatory"}}==1'), "a scrape")

    # The alert that fires always comes all the way within one minute, and until then nobody calls it lost.
    doctor, told = installation.up(command="doctor")
    doctor.wait(PATIENCE_SECONDS)
    (alerts,) = re.findall("^(note|ok) +alerts +(.*)", told.read_text(encoding="utf-8"), re.MULTILINE)
    assert alerts[1].startswith(("not heard yet: ", "the alert that fires always was heard")), alerts
    wait_for(lambda: count(url, "alert_watchdog") == 1, "the watchdog")

    # A second one finds the first.
    second, told = installation.up()
    assert second.wait(PATIENCE_SECONDS) == 0
    assert "Already running since" in told.read_text(encoding="utf-8")
    assert f"process {process.pid}" in told.read_text(encoding="utf-8")
    assert rows["exporter"]["url"] in told.read_text(encoding="utf-8")
    assert process.poll() is None

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()
    assert "Everything is stopped" in output.read_text(encoding="utf-8")


def count(url, view):
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {view}").fetchone()
    return row[0] if row else 0


def test_a_crashed_part_is_started_again(installation):
    process, output = installation.up()
    installation.ready(process, output)
    before = installation.statuses()
    for name in ("exporter", "postgres"):
        os.kill(before[name].pid, signal.SIGKILL)
    wait_for(
        lambda: all(
            (now := installation.statuses().get(name)) and now.state == "RUNNING" and now.pid != before[name].pid
            for name in ("exporter", "postgres")
        ),
        "both running again",
    )
    wait_for(lambda: "exporter had ended" in output.read_text(encoding="utf-8"), "the news")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()


def test_after_kill_9_of_up_the_next_one_recovers_also_with_a_long_path(installation):
    installation.data = installation.folder / ("long-" * 20) / "data"
    installation.data.parent.mkdir(parents=True)
    installation.environment["LOBS_DATA_DIR"] = str(installation.data)
    process, output = installation.up()
    installation.ready(process, output)
    process.kill()
    process.wait(PATIENCE_SECONDS)
    assert installation.statuses()["exporter"].state == "RUNNING", "the parts outlive their starter"
    process, output = installation.up()
    installation.ready(process, output)
    assert "An earlier run ended without stopping its parts" in output.read_text(encoding="utf-8")
    socket_file = Path(installation.url.removeprefix("unix://"))
    assert len(str(socket_file)) < 90
    assert socket_file.parent.stat().st_mode & 0o777 == 0o700
    process.send_signal(signal.SIGHUP)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()
    assert not socket_file.parent.exists()


def test_after_kill_9_of_supervisord_nothing_is_left(installation):
    process, output = installation.up()
    installation.ready(process, output)
    (supervisord,) = [p for p in installation.processes() if "supervisor.supervisord" in p.cmdline()]
    supervisord.kill()
    assert process.wait(PATIENCE_SECONDS) == 1
    assert "lobservatory: supervisord is gone" in output.read_text(encoding="utf-8")
    installation.assert_nothing_left()


def test_without_an_openclaw_it_runs_and_says_what_to_do(installation):
    installation.environment["LOBS_STATE_DIR"] = "/nowhere"
    process, output = installation.up()
    state = installation.ready(process, output)
    rows = {row["part"]: row for row in state["rows"]}
    assert rows["openclaw"]["state"] == "missing"
    assert rows["openclaw"]["note"].startswith("state directory /nowhere does not exist: ")
    assert 'claw_gateway_up{gateway="default"} 0' in get(rows["exporter"]["url"]), "metrics stay up"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()


def test_stop_ends_a_running_one_and_what_a_crash_has_left(installation):
    process, output = installation.up()
    installation.ready(process, output)
    stopper, told = installation.up("--stop")
    assert stopper.wait(PATIENCE_SECONDS) == 0
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()
    process, output = installation.up()
    installation.ready(process, output)
    process.kill()
    process.wait(PATIENCE_SECONDS)
    stopper, told = installation.up("--stop")
    assert stopper.wait(PATIENCE_SECONDS) == 0
    assert "Stopped what an earlier run had left." in told.read_text(encoding="utf-8")
    installation.assert_nothing_left()


def test_a_taken_port_is_one_line_that_names_the_setting(installation):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        installation.environment["LOBS_API_LISTEN"] = f"127.0.0.1:{port}"
        process, output = installation.up()
        assert process.wait(PATIENCE_SECONDS) == 1
    lines = [line for line in output.read_text(encoding="utf-8").splitlines() if line.startswith("lobservatory:")]
    assert len(lines) == 1
    assert lines[0].startswith(f"lobservatory: LOBS_API_LISTEN: 127.0.0.1:{port} is taken by process {os.getpid()} (")
    assert "Traceback" not in output.read_text(encoding="utf-8")
    installation.assert_nothing_left()


EMPTY = "scrape_configs: []\n"


def doctor(installation):
    return subprocess.run(
        [str(PROGRAM), "doctor"],
        cwd=installation.folder,
        env=installation.environment,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_a_taken_port_of_an_optional_part_moves_it_and_all_that_ask_it_know(installation, tmp_path):
    """As after `apt install prometheus`, whose service has the port already."""
    (tmp_path / "empty.yml").write_text(EMPTY)
    # The next port is ours, some seconds after it was found free.
    with prometheus(tmp_path, tmp_path / "empty.yml", port=quiet_port()) as theirs:
        installation.environment["LOBS_PROMETHEUS_LISTEN"] = f"127.0.0.1:{theirs.port}"
        installation.environment["LOBS_METRICS_LISTEN"] = "0.0.0.0:0"
        process, output = installation.up()
        rows = {row["part"]: row for row in installation.ready(process, output)["rows"]}
        row = rows["prometheus"]
        assert row["state"] == "running"
        ours = row["url"]
        assert ours != theirs.url
        taken = f"127.0.0.1:{theirs.port} is taken by process {theirs.process.pid} (prometheus), a Prometheus"
        assert row["warning"].startswith(f"{taken}: to use that one, set LOBS_PROMETHEUS_URL={theirs.url}; ")
        assert rows["exporter"]["warning"].startswith("open to the network (0.0.0.0:")

        known = json.loads(get(f"{ours}/api/v1/status/config"))["data"]["yaml"]
        assert "job_name: lobservatory" in known, "it is ours that answers there"
        assert f'href="{ours}/"' in get(rows["api"]["url"])
        wait_for(lambda: '"value"' in get(f'{ours}/api/v1/query?query=up{{job="lobservatory"}}==1'), "a scrape")
        said = doctor(installation)
        assert f"scrapes {rows['exporter']['url']}" in said
        assert "note  exporter      open to the network (0.0.0.0:" in said
        tried = subprocess.run(
            [str(PROGRAM), "alert-test"],
            cwd=installation.folder,
            env=installation.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"Prometheus at {ours} evaluates the rules" in tried.stdout, tried.stderr
        assert "note: Prometheus sends" not in tried.stdout, "it sends to this run's Alertmanager"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()


def test_a_prometheus_of_yours_is_used_and_what_it_lacks_is_told(installation, tmp_path):
    config = tmp_path / "prometheus.yml"
    config.write_text(EMPTY)
    with prometheus(tmp_path, config) as theirs:
        installation.environment["LOBS_PROMETHEUS_URL"] = theirs.url
        process, output = installation.up()
        rows = {row["part"]: row for row in installation.ready(process, output)["rows"]}
        assert (rows["prometheus"]["state"], rows["prometheus"]["url"]) == ("yours", theirs.url)
        lacking = "it lacks the scrape job lobservatory and our alert rules: docs/operation.md#"
        assert rows["prometheus"]["warning"].startswith(lacking)
        assert "prometheus" not in installation.statuses()
        assert f'href="{theirs.url}/"' in get(rows["api"]["url"])
        assert "WRONG prometheus    it lacks the scrape job lobservatory" in doctor(installation)

        # As docs/operation.md says.
        exporter = rows["exporter"]["url"].removeprefix("http://").removesuffix("/metrics")
        alertmanager = rows["alertmanager"]["url"].removeprefix("http://")
        config.write_text(
            f"""
rule_files: [{ROOT}/alerts/rules/*.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{alertmanager}"]}}]}}]}}
scrape_configs:
  - job_name: lobservatory
    honor_labels: true
    static_configs: [{{targets: ["{exporter}"], labels: {{gateway: default}}}}]
"""
        )
        theirs.reload()

        def shown_anew():
            second, told = installation.up()
            assert second.wait(PATIENCE_SECONDS) == 0
            return "it lacks" not in told.read_text(encoding="utf-8")

        wait_for(shown_anew, "the table of a second one")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert theirs.process.poll() is None
    installation.assert_nothing_left()


def test_an_alertmanager_of_yours_gets_the_alerts_of_our_prometheus(installation, tmp_path):
    (tmp_path / "am.yml").write_text("{route: {receiver: mine}, receivers: [{name: mine}]}\n")
    with alertmanager(tmp_path, tmp_path / "am.yml") as theirs:
        installation.environment["LOBS_ALERTMANAGER_URL"] = theirs.url
        installation.environment["LOBS_GRAFANA_URL"] = "http://127.0.0.1:1"
        process, output = installation.up()
        rows = {row["part"]: row for row in installation.ready(process, output)["rows"]}
        assert (rows["alertmanager"]["state"], rows["alertmanager"]["url"]) == ("yours", theirs.url)
        assert rows["alertmanager"]["warning"].startswith("it lacks the receiver that keeps our history: docs/")
        assert rows["slack"]["state"] == "yours"
        assert rows["grafana"]["state"] in {"away", "running"}
        wait_for(
            lambda: "Watchdog" in get(f"{theirs.url}/api/v2/alerts"),
            "the alert that fires always",
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()


@contextlib.contextmanager
def replayed(port):
    """A gateway that answers with recorded replies, in a thread."""

    async def serve(stop, ready):
        gateway = ReplayGateway(token="a-good-token-of-a-gateway")
        await gateway.start(port=port)
        ready.set()
        await asyncio.to_thread(stop.wait)
        await gateway.stop()

    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve(stop, ready)), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_SECONDS)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_gateway_that_is_started_later_is_shown_as_it_is_then(installation):
    port = free_port()
    installation.environment["LOBS_GATEWAY_URL"] = f"ws://127.0.0.1:{port}"
    installation.environment["LOBS_GATEWAY_TOKEN"] = "a-good-token-of-a-gateway"
    installation.environment["LOBS_WITHOUT"] = "prometheus, alertmanager, grafana"
    process, output = installation.up()
    rows = {row["part"]: row for row in installation.ready(process, output)["rows"]}
    assert rows["gateway"]["state"] == "not answering"
    assert {rows[name]["state"] for name in PARTS} == {"off"}
    assert "Not here: Grafana, Prometheus, Alertmanager" in get(rows["api"]["url"])

    def is_connected():
        second, told = installation.up()
        assert second.wait(PATIENCE_SECONDS) == 0
        (line,) = [line for line in told.read_text(encoding="utf-8").splitlines() if line.startswith("gateway ")]
        return "connected" in line

    with replayed(port):
        wait_for(is_connected, "its answer")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()


def test_a_database_of_yours_is_used_and_shown_without_its_password(installation, postgres_dsn):
    installation.environment["LOBS_DATABASE_URL"] = postgres_dsn
    process, output = installation.up()
    state = installation.ready(process, output)
    rows = {row["part"]: row for row in state["rows"]}
    assert "postgres" not in rows
    assert rows["database"]["state"] == "yours"
    assert rows["api"]["state"] == "running"
    assert urlsplit(postgres_dsn).password not in output.read_text(encoding="utf-8")
    wait_for(lambda: count(postgres_dsn, "model_calls") == 32, "rows")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()


def test_a_database_that_is_away_or_too_old_is_one_line(installation, postgres_owner_dsn):
    for url, said in (
        ("postgresql://lobs_writer:hunter2hunter2@127.0.0.1:1/lobservatory", "127.0.0.1"),
        (urlunsplit(urlsplit(postgres_owner_dsn)._replace(path="/template1")), "run lobservatory migrate"),
    ):
        installation.environment["LOBS_DATABASE_URL"] = url
        process, output = installation.up()
        assert process.wait(PATIENCE_SECONDS) == 1
        text = output.read_text(encoding="utf-8")
        (line,) = [line for line in text.splitlines() if line.startswith("lobservatory:")]
        assert said in line
        assert urlsplit(url).password not in text
        assert "Traceback" not in text
        installation.assert_nothing_left()


def test_the_demo_needs_nothing_says_so_and_leaves_nothing(installation):
    shutil.rmtree(installation.folder / ".openclaw")
    # What the surrounding says of a real installation is not for the demo.
    installation.environment["LOBS_GATEWAY_TOKEN"] = "of-the-real-gateway"
    installation.environment["LOBS_SLACK_WEBHOOK_URL"] = "http://127.0.0.1:1/real"
    installation.environment["LOBS_PROMETHEUS_URL"] = "http://1.invalid"
    installation.environment["LOBS_API_PASSWORD_FILE"] = "/nowhere"
    pagers = installation.folder / "alertmanager.yml"
    pagers.write_text("route: {receiver: pagers}\nreceivers: [{name: pagers}]\n")
    own = {"gateway_token": "of-the-real-gateway", "alertmanager_config": str(pagers)}
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in own.items())
    (installation.folder / "lobservatory.toml").write_text("".join(lines))
    collector = otlp.Receiver()
    installation.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    process, output = installation.up(command="demo")
    state = installation.ready(process, output, installation.data / "demo")
    assert output.read_text(encoding="utf-8").startswith("Lobservatory DEMO: recorded data")
    rows = {row["part"]: row for row in state["rows"]}
    assert rows["gateway"]["state"] == "connected"
    assert [row["note"] for name, row in rows.items() if name in {"slack", "commands", "chat"}] == [
        "not in the demo"
    ] * 3
    working = {"running", "found", "connected", "off"}
    assert [name for name, row in rows.items() if row["state"] not in working] in ([], ["grafana"])
    assert "1.invalid" not in get(rows["api"]["url"])

    def is_alive():
        text = get(rows["exporter"]["url"])
        return 'claw_gateway_up{gateway="demo"} 1' in text and "claw_cost_usd_total{" in text and text

    text = wait_for(is_alive, "the gateway and the first scan")
    calls = [line for line in text.splitlines() if line.startswith("claw_model_calls_total{")]
    assert any('agent="legacy-main"' in line for line in calls)
    assert any('agent="main"' in line for line in calls)
    assert not any('gateway="demo"' not in line for line in calls)
    receivers = json.loads(get(f"{rows['alertmanager']['url']}/api/v2/receivers"))
    assert [one["name"] for one in receivers] == ["shown", "history", "watchdog"], "a demo tells nobody outside"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    collector.close()
    assert collector.requests == [], "a demo sends no traces"
    assert not (installation.data / "demo").exists()
    assert [(process.pid, process.cmdline()) for process in installation.processes()] == []


ANOTHER_ANSWERS = """\
#!{python}
import http.server, os, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

listen = next(word.partition("=")[2] for word in sys.argv if word.startswith("--web.listen-address="))
host, _, port = listen.rpartition(":")
server = http.server.HTTPServer((host, int(port)), Answer)
if os.fork():
    os._exit(1)
server.serve_forever()
"""


def test_a_part_that_ended_is_not_running_where_another_process_answers(installation):
    """Simulated: the program ends at once, and what listens at its address is not what was started."""
    program = installation.folder / "prometheus"
    program.write_text(ANOTHER_ANSWERS.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    installation.environment["LOBS_PROMETHEUS_BIN"] = str(program)
    process, output = installation.up()
    rows = {row["part"]: row for row in installation.ready(process, output)["rows"]}
    assert rows["prometheus"]["state"] == "not ready"
    assert rows["exporter"]["state"] == "running"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()


def test_a_data_directory_may_have_a_percent_sign_in_its_name(installation):
    installation.data = installation.folder / "50%done %(here)s"
    installation.environment |= {"LOBS_DATA_DIR": str(installation.data), "LOBS_WITHOUT": "prometheus,alertmanager"}
    process, output = installation.up()
    assert {row["part"]: row["state"] for row in installation.ready(process, output)["rows"]}["api"] == "running"
    assert (installation.data / "logs" / "api.log").stat().st_size
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    installation.assert_nothing_left()
