"""`lobservatory scan` at the command line: JSON, tables, filters, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from decimal import Decimal

import pytest
import typer
from typer.testing import CliRunner

from cli.app import scan
from cli.commands import scan as command
from lobservatory.errors import UserError
from lobservatory.settings import Billing, Settings
from openclaw.state_dir import StateDirError
from tests.openclaw.state_builder import BuiltSession, build, call, header, write_database

KEYS = {
    "calls",
    "tokens",
    "cost_usd",
    "unpriced_calls",
    "duplicates",
    "rejected",
    "sessions",
    "by_model",
    "by_agent",
    "by_kind",
    "by_day",
    "tools",
    "nested_tools",
    "sources",
}


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("LOBS_STATE_DIR", "OPENCLAW_STATE_DIR", "LOBS_TIMEZONE"):
        monkeypatch.delenv(name, raising=False)
    app = typer.Typer()
    app.command()(scan)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def state(tmp_path):
    entries = [
        call("1", cost=0.1, timestamp="2026-11-19T23:30:00Z"),
        call("2", cost=0.00000001, timestamp="2026-11-20T12:00:00Z", model="[red]m\x1b[31m"),
    ]
    return build(tmp_path / "state", [BuiltSession("a", [header("a"), *entries], key="agent:main:main")], "jsonl")


def test_json_has_exactly_the_documented_keys(run, state):
    done = run(state, "--json")
    answer = json.loads(done.stdout, parse_float=Decimal)
    assert done.exit_code == 0
    assert done.stderr == ""
    assert answer.keys() == KEYS
    assert answer["cost_usd"] == {"billed": Decimal("0.10000001"), "equivalent": 0}
    assert answer["tokens"] == {"input": 20, "output": 10, "cache_read": 0, "cache_write": 0, "reasoning": 0}
    assert answer["by_kind"]["main"] == {"calls": 2, "tokens": answer["tokens"], "cost_usd": Decimal("0.10000001")}
    assert set(answer["by_day"]) == {"2026-11-19", "2026-11-20"}
    assert answer["sources"]["jsonl"]["entries"] == 3


@pytest.mark.parametrize(
    ("since", "zone", "calls"),
    [
        ("2026-11-20", "UTC", 1),
        ("2026-11-20", "Europe/Berlin", 2),
        ("2026-11-19T23:30:00Z", "UTC", 2),
        ("2026-11-19T23:30:00.001Z", "UTC", 1),
        ("2026-11-20T13:00:00+01:00", "UTC", 1),
        ("2026-11-20T13:00:00", "Europe/Berlin", 1),
        ("2026-11-20T13:00:01", "Europe/Berlin", 0),
    ],
)
def test_since_and_zone(run, state, since, zone, calls):
    answer = json.loads(run(state, "--json", "--since", since, "--tz", zone).stdout)
    assert answer["calls"] == calls
    assert answer["sessions"] == min(calls, 1)


def test_tables_show_the_totals_and_no_escape_of_a_name(run, state):
    done = run(state)
    assert done.exit_code == 0
    assert "$0.100000 " in done.stdout
    assert "[red]m" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


@pytest.mark.parametrize("columns", [20, 40, 60])
def test_on_a_narrow_terminal_every_number_is_whole(run, state, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [line.split() for line in run(state).stdout.splitlines()]
    assert ["main", "2", "20", "10", "0", "0", "0.100000"] in lines
    assert ["2026-11-19", "1", "10", "5", "0", "0", "0.100000"] in lines


# Sums that end in a 5 behind the sixth decimal, and sums that rounding twice or rounding each call would change.
SUMS = {
    "0.0000005": (["0.0000005"], "0.000000"),
    "0.0000015": (["0.0000005"] * 3, "0.000002"),
    "0.00000249995": (["0.00000249995"], "0.000002"),
    "0.0000025000000001": (["0.0000025", "0.0000000000000001"], "0.000003"),
    "0.00040000049": (["0.0000001"] * 4_000 + ["0.00000000049"], "0.000400"),
    "345.1234565": (["345", "0.1234565"], "345.123456"),
}


@pytest.mark.parametrize("exact", SUMS)
def test_a_sum_keeps_its_digits_and_is_rounded_once_for_people(run, tmp_path, exact):
    costs, shown = SUMS[exact]
    entries = [call(f"c{number}", cost=cost) for number, cost in enumerate(map(float, costs))]
    directory = build(tmp_path / "state", [BuiltSession("a", [header("a"), *entries])], "jsonl")
    answer = json.loads(run(directory, "--json").stdout, parse_float=Decimal)
    assert answer["cost_usd"]["billed"] == sum(map(Decimal, costs)) == Decimal(exact)
    for groups in ("by_model", "by_agent", "by_kind", "by_day"):
        assert [group["cost_usd"] for group in answer[groups].values()] == [Decimal(exact)]
    # The line at the top, and the column of each of the four tables.
    assert re.findall(r"\d[\d,]*\.\d+", run(directory).stdout) == [shown, "0.000000", *[shown] * 4]


def test_nothing_at_all_is_shown_without_empty_words(run, tmp_path):
    (tmp_path / "state").mkdir()
    lines = [line.strip() for line in run(tmp_path / "state").stdout.splitlines()]
    assert "model calls            0" in lines
    assert not [line for line in lines if "()" in line or "US$" in line]


def test_one_of_a_thing_is_one(run, tmp_path):
    failed = call("1", cost=0, stop="error")
    directory = build(tmp_path / "state", [BuiltSession("a", [failed])], "jsonl")
    text = run(directory).stdout
    assert re.search(r"model calls +1  \(1 error\) *\n", text)
    assert re.search(r"read, jsonl +1 file, 1 entry, [\d,]+ bytes *\n", text)


@pytest.mark.parametrize("option", [("--since", "last week"), ("--since", "2026-13-01"), ("--tz", "Mars/Base")])
def test_a_wrong_option_is_one_clear_line(run, state, option):
    error = run(state, *option).exception
    assert isinstance(error, UserError)
    assert error.exit_status == 2
    assert option[1] in str(error)
    assert "for example" in str(error)
    assert "\n" not in str(error)


def test_a_wrong_directory_is_one_clear_line(run, tmp_path):
    for name in ("missing", "other"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "photo.jpg").touch()
        error = run(tmp_path / name).exception
        assert isinstance(error, StateDirError)
        assert str(tmp_path / name) in str(error)


def test_an_empty_state_directory_is_said_to_be_empty(run, tmp_path):
    (tmp_path / "state").mkdir()
    done = run(tmp_path / "state", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["calls"] == 0
    assert "no session was found" in done.stderr


@pytest.mark.req("P-5")
def test_what_cannot_be_read_is_no_silent_zero(run, tmp_path):
    write_database(tmp_path / "state", [BuiltSession("a", [call("1")])])
    path = tmp_path / "state/agents/main/agent/openclaw-agent.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    done = run(tmp_path / "state", "--json")
    assert (done.exit_code, json.loads(done.stdout)["calls"]) == (0, 1)
    assert "schema version 99 is newer" in done.stderr
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE transcript_events")
    connection.close()
    done = run(tmp_path / "state", "--json")
    assert done.exit_code == 1
    assert "unknown schema" in done.stderr
    assert "the totals are incomplete" in done.stderr


def test_what_a_scan_takes_for_granted_are_the_defaults_of_the_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("LOBS_")]:
        monkeypatch.delenv(name)
    defaults = Settings()
    assert command.wanted() == command.Wanted()
    assert command.Wanted(billing=defaults.billing) == (
        defaults.state_dir,
        defaults.timezone,
        Billing(equivalent=(), billed=()),
        defaults.prices_file,
    )
    monkeypatch.setenv("LOBS_TIMEZONE", "Europe/Berlin")
    assert command.wanted().timezone == "Europe/Berlin"
    (tmp_path / "lobservatory.toml").write_text('timezone = "Asia/Tokyo"')
    monkeypatch.delenv("LOBS_TIMEZONE")
    assert command.wanted().timezone == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("arguments", "understood"),
    [
        ([], (None, False, None, None)),
        (["/s", "--json"], ("/s", True, None, None)),
        (["--since", "2026-11-01", "--tz=UTC", "/s"], ("/s", False, "2026-11-01", "UTC")),
        (["--help"], None),
        (["--since"], None),
        (["--since", "--json"], None),
        (["--tz", "UTC", "--tz", "UTC"], None),
        (["/s", "/t"], None),
        (["--", "/s"], None),
        (["--jsn"], None),
        ([""], None),
    ],
)
def test_arguments_without_a_mistake_need_no_parser(monkeypatch, arguments, understood):
    asked = []

    def run(state_dir, *, as_json, since, tz):
        asked.append((None if state_dir is None else str(state_dir), as_json, since, tz))
        return 0

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command.gc, "disable", lambda: None)
    assert command.run_plainly(arguments) == (None if understood is None else 0)
    assert asked == ([] if understood is None else [understood])
