"""The command: what it offers, how it starts, and how it fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lobservatory

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("lobservatory")


def run(*arguments, tmp_path, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    return subprocess.run(
        [str(PROGRAM), *arguments],
        cwd=tmp_path,
        env={**clean, "HOME": str(tmp_path), "LOBS_DATA_DIR": str(tmp_path / "data"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command(tmp_path):
    done = run("--help", tmp_path=tmp_path)
    assert done.returncode == 0
    for command in ("up", "demo", "scan", "doctor", "migrate", "openapi", "version", "secrets", "backfill"):
        assert f"│ {command} " in done.stdout, command
    assert "│ docs " not in done.stdout


def test_version(tmp_path):
    assert run("version", tmp_path=tmp_path).stdout.startswith(f"lobservatory {lobservatory.__version__} (Python 3.")


def test_starting_the_command_imports_no_server_and_no_database():
    code = (
        "import sys; import cli.app; "
        "print([m for m in ('fastapi', 'uvicorn', 'psycopg', 'supervisor', 'websockets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_openapi_document_is_printed_and_written(tmp_path):
    document = json.loads(run("openapi", tmp_path=tmp_path).stdout)
    assert document["openapi"].startswith("3.")
    assert "/api/operations" in document["paths"]
    assert run("openapi", "-o", "here.json", tmp_path=tmp_path).returncode == 0
    assert json.loads((tmp_path / "here.json").read_text(encoding="utf-8")) == document


MISTAKES = [
    (("up",), {"LOBS_GATEWAY_TOKN": "x"}, "unknown setting LOBS_GATEWAY_TOKN: did you mean LOBS_GATEWAY_TOKEN?"),
    (("up",), {"LOBS_TIMEZONE": "Mars/Olympus"}, "LOBS_TIMEZONE: 'Mars/Olympus' is not an IANA time zone"),
    (("up",), {"LOBS_API_LISTEN": "8787"}, "LOBS_API_LISTEN: '8787' is not host:port"),
    (("up",), {"LOBS_CONFIG_FILE": "/nowhere.toml"}, "LOBS_CONFIG_FILE: there is no file /nowhere.toml"),
    (("up",), {"LOBS_PROMETHEUS_BIN": "/nowhere"}, "LOBS_PROMETHEUS_BIN: /nowhere is no program"),
    (
        ("up",),
        {"LOBS_GRAFANA_BIN": "~nobody-here/x"},
        "LOBS_GRAFANA_BIN: '~nobody-here/x' begins with a user who has no",
    ),
    (("up",), {"LOBS_PRICES_FILE": "/nowhere.toml"}, "LOBS_PRICES_FILE: /nowhere.toml cannot be read: No such file"),
    (("up",), {"LOBS_GATEWAY_NAME": "red\x1b[31m"}, "LOBS_GATEWAY_NAME: 'red\\x1b[31m' is not printable text"),
    (("backup", "x" * 300), {}, f"{'x' * 300}: File name too long"),
    (("boards", "--export", "/proc/x"), {}, "--export: /proc/x cannot be written"),
    (("boards", "--export", "/dev/null"), {}, "--export: /dev/null is a file: name a folder"),
    (("backup", "-"), {}, "backup: it cannot be written to standard output"),
    (("up",), {"LOBS_CONFIG_FILE": "/etc/passwd"}, "LOBS_CONFIG_FILE: /etc/passwd: not valid TOML: "),
    (("up",), {"LOBS_PRICES_FILE": "/etc/passwd"}, "LOBS_PRICES_FILE: /etc/passwd: not valid TOML: "),
    (("up",), {"LOBS_API_PASSWORD_FILE": "/nowhere"}, "LOBS_API_PASSWORD_FILE: /nowhere: there is no such file; write"),
    (("up",), {"LOBS_DATA_DIR": "/proc/lobs"}, "LOBS_DATA_DIR: /proc/lobs cannot be made"),
    (("doctor",), {"LOBS_GATEWAY_URL": "http://x"}, "LOBS_GATEWAY_URL: 'http://x' is not a WebSocket URL"),
    (("doctor",), {"LOBS_CONFIG_FILE": "~nobody-here/x"}, "LOBS_CONFIG_FILE: '~nobody-here/x' begins with a user who"),
    (
        ("backfill",),
        {"LOBS_PROMETHEUS_BIN": "~nobody-here/x"},
        "LOBS_PROMETHEUS_BIN: '~nobody-here/x' begins with a us",
    ),
    (
        ("scan",),
        {"LOBS_PRICES_FILE": "/nowhere", "LOBS_STATE_DIR": "."},
        "LOBS_PRICES_FILE: /nowhere cannot be read: No ",
    ),
    (
        ("alert-test", "--alertmanager", "http://127.0.0.1:1"),
        {},
        "alert-test: Alertmanager does not answer at http://127.0.0.1:1/api/v2/status: Connection refused; start it",
    ),
    (("migrate",), {}, "migrate: no database is configured"),
    (("openapi", "-o", "/nowhere/x"), {}, "--output: /nowhere/x cannot be written"),
    (("docs", "nowhere"), {}, "nowhere: there is no such directory"),
]


@pytest.mark.parametrize(("arguments", "environment", "line"), MISTAKES, ids=[mistake[2][:30] for mistake in MISTAKES])
def test_a_mistake_is_one_line_and_a_status(arguments, environment, line, tmp_path):
    done = run(*arguments, tmp_path=tmp_path, **environment)
    assert done.returncode not in {0, -6}
    assert done.stderr.startswith(f"lobservatory: {line}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("token", "create", "x", "--days", "-1"), "'--days': must be "),
        (("token", "create", "x", "--days", "soon"), "'--days': must be "),
        (("token", "create", "x", "--scope", "all"), "'--scope': 'all' is not one of 'read',"),
        (("migrate", "--create-roles-on-port", "x"), "'--create-roles-on-port': must be "),
    ],
)
def test_a_wrong_option_is_said_in_our_words(arguments, says, tmp_path):
    done = run(*arguments, tmp_path=tmp_path)
    assert done.returncode == 2
    assert f"Invalid value for {says}" in done.stderr
    assert "Input should" not in done.stderr


@pytest.mark.parametrize("command", ["version", "openapi", "doctor"])
def test_a_full_disk_is_one_line(command, tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [str(PROGRAM), command],
            cwd=tmp_path,
            env={**os.environ, "LOBS_DATA_DIR": str(tmp_path / "data"), "LOBS_STATE_DIR": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "lobservatory: output: No space left on device\n"


PROGRAMS = [[str(PROGRAM), "up"], *([sys.executable, "-P", "-m", name] for name in ("exporter", "api"))]


@pytest.mark.parametrize("program", PROGRAMS, ids=["up", "exporter", "api"])
def test_two_mistakes_are_two_lines_of_each_program(program, tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    environment = {**clean, "HOME": str(tmp_path), "LOBS_COMMANDS": "maybe", "LOBS_API_LISTEN": "8787"}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "lobservatory: LOBS_API_LISTEN: '8787' is not host:port, for example 127.0.0.1:8787",
        "lobservatory: LOBS_COMMANDS: 'maybe' is not true or false, for example true",
    ]


def test_a_wrong_database_is_one_line_without_its_password(tmp_path):
    url = "postgresql://lobs_owner:hunter2hunter2@127.0.0.1:1/lobservatory"
    done = run("migrate", tmp_path=tmp_path, LOBS_MIGRATE_URL=url)
    assert done.returncode == 1
    assert done.stderr.startswith("lobservatory: ")
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_secrets_are_made_once_private_and_never_printed(tmp_path):
    first = run("secrets", tmp_path=tmp_path)
    folder = tmp_path / "data" / "secrets"
    assert first.stdout == f"secrets: {folder}\n"
    values = {path.name: path.read_text(encoding="utf-8").strip() for path in folder.iterdir()}
    assert {"api_password", "grafana_admin_password", "postgres_lobs_reader"} <= set(values)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert all(len(value) >= 32 for value in values.values())
    assert len(set(values.values())) == len(values)
    assert not any(value in first.stdout + first.stderr for value in values.values())
    run("secrets", tmp_path=tmp_path)
    assert {path.name: path.read_text(encoding="utf-8").strip() for path in folder.iterdir()} == values


def test_a_secret_that_others_can_read_is_refused_with_the_remedy(tmp_path):
    run("secrets", tmp_path=tmp_path)
    path = tmp_path / "data" / "secrets" / "api_password"
    path.chmod(0o644)
    done = run("secrets", tmp_path=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"lobservatory: {path} can be read by others: chmod 600 {path}\n"
