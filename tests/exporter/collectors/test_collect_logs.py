"""The log as metrics and rows: every line once, nothing secret, and errors that are alike as one."""

import json
import os
import pwd
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from cli.demo.gateway import ReplayGateway
from exporter.collectors import logs
from exporter.collectors.logs import LogsCollector, connector, redacted, signature
from lobservatory import logging
from openclaw.journal import Unit, owned_unit, parse_entry
from openclaw.log_lines import parse
from store.pool import open_pool

NOW = datetime(2026, 11, 21, 2, tzinfo=UTC)


def line(message, level="ERROR", subsystem="diagnostic", at="2026-11-21T01:00:00Z"):
    parts = {"0": json.dumps({"subsystem": subsystem}), "1": message} if subsystem else {"0": message}
    return json.dumps({**parts, "_meta": {"logLevelName": level}, "time": at, "message": message})


@pytest.mark.req("S1-8")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lane wait exceeded: waitedMs=3201 queueAhead=0", "lane wait exceeded: waitedMs=35004 queueAhead=2"),
        (
            "exec approval failed (id=85cc109e-dded-4f65-9e5b-78a9aa1a56b4): timeout after 60000ms\nTarget: x",
            "exec approval failed (id=862447a9-1362-4fab-a2b2-6ef68e0b3426): timeout after 500ms",
        ),
        (
            "read failed: File not found: /home/claw/workspace/missing-file.txt.",
            "read failed: File not found: /tmp/other/place.",
        ),
        ("lane=session:agent:main:cron:ea61:run:afe3 failed", "lane=session:agent:helper:main failed"),
        ("at 2026-11-21T01:19:28.559+00:00 gone", "at 2027-01-01 00:00:00Z gone"),
        ("conn=d5b93a3e…02b2 to ws://127.0.0.1:18789 lost", "conn=47cd35ce…bcd8 to wss://gate.example:1 lost"),
        ('slow write {"agentId":"main"}', 'slow write {"agentId":"other","pid":5}'),
    ],
)
def test_lines_that_differ_in_numbers_ids_paths_times_have_one_signature(first, second):
    assert signature("s", first) == signature("s", second)


def test_lines_that_say_something_else_stay_apart():
    different = {
        signature("a", "model not found"),
        signature("b", "model not found"),
        signature("a", "model not ready"),
        signature("", "model not found"),
    }
    assert len(different) == 4
    assert signature("", "") == "(empty)"
    assert len(signature("s", "word " * 1000)) <= 200


def test_secrets_and_parameters_of_tools_are_cut_out():
    logging.REDACTOR.learn("the-gateway-token-of-this-test")
    raw = line('read failed for the-gateway-token-of-this-test password=hunter2222 raw_params={"text":"dear diary"}')
    kept = redacted(parse(raw, NOW)).message
    assert "read failed" in kept
    for secret in ("the-gateway-token-of-this-test", "hunter2222", "diary"):
        assert secret not in kept


def test_half_a_secret_at_the_end_of_a_message_that_was_cut_goes_too():
    raw = line("word " * 395 + "and postgres://me:hunter2222hunter2222hunter2222hunter2222@host/db")
    parsed = parse(raw, NOW)
    assert "hunter2" in parsed.message
    assert "hunter" not in redacted(parsed).message
    assert redacted(parsed).message.endswith("and …")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def collector(gateway_dir, folder, *, connect=None, client=None, unit=None):
    return LogsCollector("home", client, gateway_dir, connect=connect, folders=[folder], unit=unit, now=lambda: NOW)


@pytest.mark.req("S1-8")
async def test_levels_are_counted_and_new_kinds_told_once(tmp_path, folder, helpers):
    path = folder / "openclaw-2026-11-21.log"
    path.write_text("\n".join([line("boom 1"), line("boom 2"), line("slow", "WARN"), line("fine", "INFO"), "junk", ""]))
    collecting = collector(tmp_path, folder)
    await collecting.refresh()
    shown = helpers.shown(collecting)
    assert shown["claw_log_lines_total", "home", "error"] == 2
    assert shown["claw_log_lines_total", "home", "warn"] == 1
    assert shown["claw_log_lines_total", "home", "info"] == 1
    assert shown["claw_log_lines_total", "home", "fatal"] == 0
    assert shown["claw_log_unreadable_lines_total", "home"] == 1
    assert shown["claw_log_new_signatures_total", "home", "error"] == 1
    assert shown["claw_log_new_signatures_total", "home", "warn"] == 1
    assert shown["claw_log_last_line_timestamp_seconds", "home"] == datetime(2026, 11, 21, 1, tzinfo=UTC).timestamp()
    assert shown["claw_log_source_info", "home", "file"] == 1
    with path.open("a") as file:
        file.write(line("boom 3") + "\n")
    await collecting.refresh()
    assert helpers.shown(collecting)["claw_log_lines_total", "home", "error"] == 3
    assert helpers.shown(collecting)["claw_log_new_signatures_total", "home", "error"] == 1


@pytest.mark.req("S4-12")
@pytest.mark.parametrize("version", ["2026.9.6", "2026.4.27"])
async def test_without_files_the_gateway_is_asked(version, tmp_path, folder, helpers):
    async with (
        ReplayGateway(token=helpers.token, replies=helpers.recordings(version)) as replay,
        helpers.watched(replay) as client,
    ):
        collecting = collector(tmp_path, folder, client=client)
        await collecting.refresh()
        shown = helpers.shown(collecting)
        assert shown["claw_log_source_info", "home", "rpc"] == 1
        levels = [value for key, value in shown.items() if key[0] == "claw_log_lines_total"]
        assert sum(levels) == 20
        await collecting.refresh()
        replay.log.write("cron", "a line of its own", NOW)
        await collecting.refresh()
        await collecting.refresh()
        again = [value for key, value in helpers.shown(collecting).items() if key[0] == "claw_log_lines_total"]
        assert sum(again) == 21, "each line once, however often the gateway is asked"


async def rows(dsn, statement):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute(statement)
        return await cursor.fetchall()


@pytest.mark.req("S1-8", "S4-12")
async def test_rows_are_written_once_over_a_restart_and_a_rotation(postgres_dsn, tmp_path, folder, helpers):
    path = folder / "openclaw-2026-11-21.log"
    path.write_text(f"{line('boom 1')}\n{line('Dear diary', 'INFO', '')}\n{line('ready', 'INFO')}\n")
    async with open_pool(postgres_dsn) as pool:
        connect = connector(pool, 5.0)
        await collector(tmp_path, folder, connect=connect).refresh()
        with path.open("a") as file:
            file.write(line("boom 2", at="2026-11-21T01:30:00Z") + "\n")
        path.rename(folder / "openclaw-2026-11-21.log.1")
        path.write_text(line("boom 3", at="2026-11-21T00:30:00Z") + "\n")
        again = collector(tmp_path, folder, connect=connect)
        await again.refresh()
        await again.refresh()
    found = await rows(postgres_dsn, "SELECT signature, level, count, first_seen_at, last_seen_at FROM log_signatures")
    assert found == [
        (
            "diagnostic: boom <n>",
            "error",
            3,
            datetime(2026, 11, 21, 0, 30, tzinfo=UTC),
            datetime(2026, 11, 21, 1, 30, tzinfo=UTC),
        )
    ]
    kept = await rows(postgres_dsn, "SELECT level, message FROM log_lines ORDER BY message")
    assert kept == [("error", "boom 1"), ("error", "boom 2"), ("error", "boom 3"), ("info", "ready")]
    assert helpers.shown(again)["claw_log_new_signatures_total", "home", "error"] == 0  # known before the restart


async def test_what_cannot_be_written_waits_and_is_written_once(postgres_dsn, tmp_path, folder, monkeypatch):
    (folder / "openclaw-1.log").write_text(line("boom 1") + "\n")
    async with open_pool(postgres_dsn) as pool:
        collecting = collector(tmp_path, folder, connect=connector(pool, 5.0))
        save = logs.rows.save

        async def away(*_):
            raise psycopg.OperationalError("the database is away")

        monkeypatch.setattr(logs.rows, "save", away)
        await collecting.refresh()
        monkeypatch.setattr(logs.rows, "save", save)
        await collecting.refresh()
        await collecting.refresh()
    assert await rows(postgres_dsn, "SELECT count FROM log_signatures") == [(1,)]
    assert await rows(postgres_dsn, "SELECT count(*) FROM log_lines") == [(1,)]


async def test_a_flood_of_kinds_stays_bounded(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(logs, "MOST_WAITING", 10)
    words = ("".join(chr(97 + int(digit)) for digit in str(number)) for number in range(500))
    (folder / "openclaw-1.log").write_text("".join(line(f"{word} broke") + "\n" for word in words))
    collecting = collector(tmp_path, folder)
    counted = []
    monkeypatch.setattr(collecting, "_new", type(collecting._new)())
    await collecting.refresh()
    counted.append(collecting._new["error"])
    assert counted == [11]  # ten of their own, and one for all others


UNIT = Unit("openclaw-gateway.service", 1000)
# Answers as journalctl does: what lies after a cursor or a time, oldest first; an unknown cursor is an error.
JOURNALCTL = """#!{python}
import json, sys
entries = [json.loads(line) for line in open({journal!r})]
open({asked!r}, "a").write(json.dumps(sys.argv[1:]) + chr(10))
for argument in sys.argv[1:]:
    name, _, value = argument.partition("=")
    if name == "--after-cursor":
        cursors = [entry["__CURSOR"] for entry in entries]
        if value not in cursors:
            sys.exit(1)
        entries = entries[cursors.index(value) + 1:]
    elif name == "--since":
        entries = [entry for entry in entries if int(entry["__REALTIME_TIMESTAMP"]) >= round(float(value[1:]) * 1e6)]
    elif name == "--lines":
        entries = entries[-int(value):]
for entry in entries:
    print(json.dumps(entry))
"""


@pytest.fixture
def journald(tmp_path, monkeypatch):
    """A journal: `write` adds entries in journalctl's own form, `rotate` forgets all cursors that were given."""
    path, asked, program = tmp_path / "journal", tmp_path / "asked", tmp_path / "bin" / "journalctl"
    path.touch()
    program.parent.mkdir()
    program.write_text(JOURNALCTL.format(python=sys.executable, journal=str(path), asked=str(asked)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    entries = []

    def store():
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def write(message, **fields):
        number = len(entries)
        stamp = str(1_795_230_000_000_000 + number * 1_000_000)
        ours = {"PRIORITY": "6", "SYSLOG_IDENTIFIER": "node", "_PID": "4242"}
        entries.append(
            {"__CURSOR": f"s=1;i={number}", "__REALTIME_TIMESTAMP": stamp, "MESSAGE": message, **ours, **fields}
        )
        store()

    def rotate():
        for number, entry in enumerate(entries):
            entry["__CURSOR"] = f"s=2;i={number}"
        store()

    def questions():
        return [json.loads(question) for question in asked.read_text().splitlines()]

    return SimpleNamespace(write=write, rotate=rotate, questions=questions)


SYSTEMD = {"SYSLOG_IDENTIFIER": "systemd", "_PID": "1"}


@pytest.mark.req("S1-8", "S4-12")
async def test_without_files_everything_of_the_unit_comes_from_journald(tmp_path, folder, helpers, journald):
    journald.write("\u001b[36m[gateway]\u001b[39m listening on ws://127.0.0.1:18789")
    journald.write('{"time":"2026-11-21T01:00:00Z","level":"error","subsystem":"cron","message":"job 7 failed"}')
    journald.write(list("caf\u00e9 broke".encode("latin-1")), PRIORITY="3")
    journald.write("openclaw-gateway.service: Main process exited, code=killed", PRIORITY="4", **SYSTEMD)
    collecting = collector(tmp_path, folder, unit=UNIT)
    await collecting.refresh()
    await collecting.refresh()
    shown = helpers.shown(collecting)
    assert {key[2]: value for key, value in shown.items() if key[0] == "claw_log_lines_total" and value} == {
        "unknown": 1,
        "error": 2,
        "warn": 1,
    }
    assert [key[2] for key in shown if key[0] == "claw_log_source_info"] == ["journald"]
    first, second = journald.questions()
    assert "--lines=200" in first
    assert "--after-cursor=s=1;i=3" in second
    assert "_SYSTEMD_USER_UNIT=openclaw-gateway.service" in first


@pytest.mark.req("S1-8", "S4-12")
async def test_beside_files_journald_adds_only_what_they_have_not(postgres_dsn, tmp_path, folder, helpers, journald):
    (folder / "openclaw-1.log").write_text(line("job 7 failed", subsystem="cron") + "\n")
    journald.write("[cron] job 7 failed", PRIORITY="3")
    journald.write("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory")
    journald.write("openclaw-gateway.service: Failed with result 'oom-kill'.", PRIORITY="4", **SYSTEMD)
    async with open_pool(postgres_dsn) as pool:
        connect = connector(pool, 5.0)
        collecting = collector(tmp_path, folder, connect=connect, unit=UNIT)
        await collecting.refresh()
        journald.write("openclaw-gateway.service: Scheduled restart job, counter is at 1.", PRIORITY="4", **SYSTEMD)
        await collector(tmp_path, folder, connect=connect, unit=UNIT).refresh()  # after a restart
    sources = [key[2] for key in helpers.shown(collecting) if key[0] == "claw_log_source_info"]
    assert sources == ["file", "journald"]
    kept = await rows(postgres_dsn, "SELECT level, subsystem, message FROM log_lines ORDER BY id")
    assert kept == [
        ("error", "cron", "job 7 failed"),
        ("fatal", "process", "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory"),
        ("warn", "systemd", "openclaw-gateway.service: Failed with result 'oom-kill'."),
        ("warn", "systemd", "openclaw-gateway.service: Scheduled restart job, counter is at 1."),
    ]


async def test_a_lost_cursor_and_a_flood_lose_and_double_nothing(tmp_path, folder, helpers, journald, monkeypatch):
    monkeypatch.setattr(logs, "_JOURNAL_BYTES", 1_000)
    monkeypatch.setattr("exporter.collectors.programs._READ", 1_000)
    collecting = collector(tmp_path, folder, unit=UNIT)
    for number in range(20):
        journald.write(f"broke {number}", PRIORITY="3")
    for _ in range(20):  # each look takes a part
        await collecting.refresh()
    journald.write("broke, too", PRIORITY="3")
    journald.rotate()
    await collecting.refresh()  # the cursor is refused
    await collecting.refresh()
    assert helpers.shown(collecting)["claw_log_lines_total", "home", "error"] == 21
    assert len({tuple(question) for question in journald.questions()}) > 3


def test_a_unit_is_known_by_the_home_of_its_owner_only(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in (".openclaw", ".openclaw-work", "elsewhere"):
        (home / name).mkdir(parents=True)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(home)))
    assert owned_unit(home / ".openclaw") == Unit("openclaw-gateway.service", os.getuid())
    assert owned_unit(home / ".openclaw-work") == Unit("openclaw-gateway-work.service", os.getuid())
    assert owned_unit(home / "elsewhere") is None
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(tmp_path)))
    assert owned_unit(home / ".openclaw") is None
    assert owned_unit(Path("/nowhere/.openclaw")) is None


@pytest.mark.parametrize("raw", ["", "junk", "[]", "3", '{"MESSAGE":"no cursor"}'])
def test_what_is_no_entry_of_a_journal_is_none(raw):
    assert parse_entry(raw, NOW) is None


@pytest.mark.parametrize("message", [None, 7, [], [300], {"a": 1}, ["one", "two"], "{", "{}", '{"message":3}'])
def test_any_message_of_a_journal_is_a_line(message):
    assert parse_entry(json.dumps({"__CURSOR": "c", "MESSAGE": message}), NOW).line.at == NOW


def gateway_dir(folder, log_file=None):
    folder.mkdir()
    config = {"logging": {"file": str(log_file)}} if log_file else {}
    (folder / "openclaw.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.req("S1-8")
async def test_gateways_that_share_a_log_are_both_named_with_what_to_set(tmp_path, helpers, monkeypatch):
    """Which lines are whose nobody can tell, so they count for both: that is said, once, and shown."""
    warned: list[str] = []
    monkeypatch.setattr(logs.log, "warning", lambda event, **values: warned.append(f"{event} {values}"))
    own, other = gateway_dir(tmp_path / "own"), gateway_dir(tmp_path / "other")
    apart = gateway_dir(tmp_path / "apart", tmp_path / "apart.log")
    found = [(1, own), (2, other), (3, apart)]
    now = NOW

    def collector(state_dir):
        return LogsCollector(
            "home", None, state_dir, folders=[tmp_path], neighbours=lambda: found, now=lambda: now
        )  # fmt: skip

    (tmp_path / "openclaw-2026-11-21.log").write_text(line("boom") + "\n", encoding="utf-8")
    watcher = collector(own)
    for _ in range(2):
        await watcher.refresh()
    assert helpers.shown(watcher)["claw_log_shared_gateways", "home"] == 1
    said = [words for words in warned if "same log files" in words]
    assert len(said) == 1
    assert f"home ({own})" in said[0]
    assert f"{other} (process 2)" in said[0]
    assert "logging.file" in said[0]
    assert str(apart) not in said[0]

    found[:] = [(1, own), (4, None)]  # another user's, of which nothing can be seen
    now += timedelta(minutes=6)
    await watcher.refresh()
    assert helpers.shown(watcher)["claw_log_shared_gateways", "home"] == 1
    found[:] = [(1, own)]
    await watcher.refresh()
    assert helpers.shown(watcher)["claw_log_shared_gateways", "home"] == 1, "not looked for at every refresh"
    now += timedelta(minutes=6)
    await watcher.refresh()
    assert helpers.shown(watcher)["claw_log_shared_gateways", "home"] == 0

    (tmp_path / "apart.log").write_text(line("boom") + "\n", encoding="utf-8")
    found[:] = [(1, own), (3, apart), (4, None)]
    with_its_own = collector(apart)
    await with_its_own.refresh()
    assert helpers.shown(with_its_own)["claw_log_shared_gateways", "home"] == 0
