"""supervisord as we drive it: words arrive as they were given, foreign programs see no setting of ours."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from cli.up import foreign, parts, postgres, secrets
from cli.up.supervision import LAST_STOP_SECONDS, STOP_SECONDS, Program, Supervision, last_line
from lobservatory.errors import UserError
from lobservatory.settings import Listen, Settings
from tests.servers import wait_for

WRITE = (
    "import json, os, sys, time; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w')); time.sleep(99)"
)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"


@pytest.fixture
def supervision():
    folder = Path(tempfile.mkdtemp(prefix="lobs-s-"))
    for name in ("run", "logs"):
        (folder / name).mkdir(mode=0o700)
    made = Supervision(folder / "run", folder / "logs")
    try:
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(folder)


def started(supervision, program):
    supervision.start([program], {**os.environ, "LOBS_GATEWAY_TOKEN": "hush"})
    supervision.start_program(program.name)


def written(path):
    def probe():
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text(encoding="utf-8"))

    return wait_for(probe, str(path))


def test_words_and_environment_arrive_as_they_are(supervision, tmp_path):
    words = ["a b", 'quo"te', "back\\slash", "100%", "%(here)s", "$__file{/x}", "'single'", "é", ""]
    program = Program(
        "echo",
        [sys.executable, "-c", WRITE, str(tmp_path / "out"), *words],
        environment={"A": "100% of $__file{/x} \"y\" 'z'"},
    )
    started(supervision, program)
    argv, environment = written(tmp_path / "out")
    assert argv == words
    assert environment["A"] == program.environment["A"]
    assert environment["LOBS_GATEWAY_TOKEN"] == "hush"


def test_a_foreign_program_sees_only_its_own_environment(supervision, tmp_path):
    program = Program(
        "echo", [sys.executable, "-c", WRITE, str(tmp_path / "out")], environment={"PATH": os.defpath}, clean=True
    )
    started(supervision, program)
    _, environment = written(tmp_path / "out")
    assert set(environment) - {"LC_CTYPE"} == {"PATH", "SUPERVISOR_SERVER_URL"}


def test_a_part_that_hangs_delays_the_stop_by_seconds_and_the_database_has_time_to_write():
    assert STOP_SECONDS < 10
    assert LAST_STOP_SECONDS >= 60


def test_a_part_that_does_not_stop_is_killed(supervision):
    program = Program("stubborn", [sys.executable, "-c", STUBBORN], stop_seconds=1)
    started(supervision, program)
    pid = running_pid(supervision, "stubborn")
    supervision.shutdown()
    assert not Path(f"/proc/{pid}").exists()
    assert list(supervision.run.iterdir()) == []


def running_pid(supervision, name):
    def probe():
        found = [status for status in supervision.statuses() if status.name == name and status.state == "RUNNING"]
        return found[0].pid if found else None

    return wait_for(probe, f"{name} ({last_line(supervision.logs / f'{name}.log')})")


def test_words_that_the_format_cannot_hold_are_refused(supervision):
    with pytest.raises(UserError, match="choose a plain path"):
        supervision.start([Program("x", ["/bin/true", "a ;b"])], os.environ)


@pytest.fixture
def grafana(tmp_path):
    """Grafana's layout, with a program that tells what it was given."""
    home = tmp_path / "grafana-home"
    (home / "bin").mkdir(parents=True)
    (home / "conf").mkdir()
    (home / "conf" / "defaults.ini").touch()
    binary = home / "bin" / "grafana"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    return binary


def test_grafana_gets_paths_of_secrets_and_never_secrets(grafana, tmp_path):
    data = tmp_path / "data"
    secrets.create(data, database=True)
    settings = Settings(data_dir=data, database_url="postgresql://lobs_writer:hunter2hunter2@db.example:5433/lobs")
    addresses = {"grafana": Listen.parse("127.0.0.1:3001"), "prometheus": Listen.parse("0.0.0.0:9091")}
    found = {"prometheus": None, "alertmanager": None, "grafana": grafana}
    (program,) = foreign.programs(settings, data, addresses, found, None)
    assert program.argv[:2] == [str(grafana), "server"]
    assert program.argv[-2:] == ["--homepath", str(grafana.parent.parent)]
    assert program.clean
    environment = program.environment
    assert environment["LOBS_GRAFANA_PROMETHEUS_URL"] == "http://127.0.0.1:9091"
    assert environment["LOBS_GRAFANA_POSTGRES_ADDRESS"] == "db.example:5433"
    assert environment["LOBS_GRAFANA_POSTGRES_SSLMODE"] == "verify-full"
    assert environment["LOBS_GRAFANA_HTTP_PORT"] == "3001"
    text = json.dumps([list(program.argv), dict(environment)])
    values = [path.read_text(encoding="utf-8").strip() for path in secrets.folder(data).iterdir()]
    assert not any(value in text for value in [*values, "hunter2"])
    for name in ("LOBS_GRAFANA_POSTGRES_PASSWORD", "LOBS_GRAFANA_ADMIN_PASSWORD"):
        path = Path(environment[name].removeprefix("$__file{").removesuffix("}"))
        assert path.stat().st_mode & 0o777 == 0o600


def test_links_of_boards_lead_to_where_our_pages_and_alertmanager_are(grafana, tmp_path):
    def links(**listens):
        addresses = {"grafana": Listen.parse("127.0.0.1:3001"), **{k: Listen.parse(v) for k, v in listens.items()}}
        found = {"prometheus": None, "alertmanager": None, "grafana": grafana}
        settings = Settings(data_dir=tmp_path, database_url="postgresql://x@localhost/y")
        (program,) = foreign.programs(settings, tmp_path, addresses, found, None)
        folder = Path(program.environment["LOBS_GRAFANA_DASHBOARDS_DIR"])
        assert {path.name for path in folder.iterdir()} == {path.name for path in foreign.DASHBOARDS.iterdir()}
        boards = [json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()]
        variables = [variable for board in boards for variable in board["templating"]["list"]]
        shown = {variable["name"]: variable for variable in variables if variable["name"].endswith("_url")}
        assert all(variable["current"]["value"] == variable["query"] for variable in shown.values())
        return folder, {name: variable["query"] for name, variable in shown.items()}

    folder, usual = links(api="127.0.0.1:8787", alertmanager="127.0.0.1:9093")
    assert folder == foreign.DASHBOARDS
    assert usual == {"pages_url": "http://127.0.0.1:8787", "alertmanager_url": "http://127.0.0.1:9093"}
    folder, moved = links(api="127.0.0.1:18787", alertmanager="0.0.0.0:19093")
    assert folder.is_relative_to(tmp_path)
    assert moved == {"pages_url": "http://127.0.0.1:18787", "alertmanager_url": "http://127.0.0.1:19093"}


def test_grafana_is_told_of_servers_of_yours(grafana, tmp_path):
    settings = Settings(
        data_dir=tmp_path,
        database_url="postgresql://x@localhost/y",
        prometheus_url="http://127.0.0.1:9190",
        alertmanager_url="https://am.example.org",
    )
    found = {"prometheus": None, "alertmanager": None, "grafana": grafana}
    (program,) = foreign.programs(settings, tmp_path, {"grafana": Listen.parse("127.0.0.1:3001")}, found, None)
    assert program.environment["LOBS_GRAFANA_PROMETHEUS_URL"] == "http://127.0.0.1:9190"
    board = Path(program.environment["LOBS_GRAFANA_DASHBOARDS_DIR"]) / "lobs-alerts.json"
    assert '"https://am.example.org"' in board.read_text(encoding="utf-8")


def test_every_variable_that_provisioning_wants_is_given(grafana, tmp_path):
    import re  # noqa: PLC0415 - this test only

    texts = [
        path.read_text(encoding="utf-8") for path in (foreign.PROVISIONING / "grafana").rglob("*") if path.is_file()
    ]
    wanted = set(re.findall(r"\$__env\{(\w+)\}", "\n".join(texts)))
    addresses = {"grafana": Listen.parse("127.0.0.1:3001"), "prometheus": Listen.parse("127.0.0.1:9091")}
    found = {"prometheus": None, "alertmanager": None, "grafana": grafana}
    tmp_path.joinpath("data").mkdir()
    settings = Settings(data_dir=tmp_path / "data", database_url="postgresql://x@localhost/y")
    (program,) = foreign.programs(settings, tmp_path / "data", addresses, found, None)
    assert wanted
    assert wanted <= set(program.environment)


def test_foreign_programs_are_found_by_variable_and_by_path(tmp_path):
    binary = tmp_path / "prometheus-alertmanager"
    binary.write_text("#!/bin/sh\n")
    alertmanager = parts.FOREIGN["alertmanager"]
    assert parts.find(alertmanager, {"PATH": str(tmp_path)}) is None, "it cannot be run"
    binary.chmod(0o755)
    assert parts.find(alertmanager, {"PATH": str(tmp_path)}) == binary
    other = tmp_path / "mine"
    shutil.copy(binary, other)
    assert parts.find(alertmanager, {"PATH": str(tmp_path), "LOBS_ALERTMANAGER_BIN": str(other)}) == other
    with pytest.raises(UserError, match=r"LOBS_ALERTMANAGER_BIN: .* is no program that can be run"):
        parts.find(alertmanager, {"LOBS_ALERTMANAGER_BIN": str(tmp_path)})


def test_the_database_of_grafana_is_ours_or_yours(tmp_path):
    cluster = postgres.Cluster(root=tmp_path, binaries=tmp_path, user=None, port=4321, passwords={})
    assert foreign.database(Settings(), cluster) == foreign.Database("127.0.0.1:4321", "lobservatory", "disable")
    yours = Settings(database_url="postgresql://u:p@localhost/mine?sslmode=require")
    assert foreign.database(yours, None) == foreign.Database("localhost:5432", "mine", "require")
