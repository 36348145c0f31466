"""The gateway's log: what a line says, and a tail that neither loses nor repeats one."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from openclaw.log_lines import FIRST_LOOK, MAX_LINE, Position, Tail, candidates, parse
from openclaw.state_dir import load_config

SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples"
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def recorded(version):
    reply = json.loads((SAMPLES / f"rpc-{version}" / "logs.tail.json").read_text(encoding="utf-8"))["response"]
    return [parse(line, NOW) for line in reply["payload"]["lines"]]


@pytest.mark.req("S4-12")
@pytest.mark.parametrize("version", ["2026.9.6", "2026.4.27"])
def test_every_recorded_line_has_level_time_and_message(version):
    lines = recorded(version)
    assert len(lines) == 20
    assert {line.level for line in lines} == {"info", "warn"}
    assert all(line.at.year == 2026 and line.at != NOW and line.message for line in lines)
    assert "gateway/ws" in {line.subsystem for line in lines}


def test_subsystem_and_session_are_found_where_versions_put_them():
    newer, older = recorded("2026.9.6"), recorded("2026.4.27")
    assert {line.subsystem for line in newer} >= {"session-sqlite", "agent/embedded", "state/database-verify", ""}
    assert {line.subsystem for line in older} >= {"cron", "diagnostic"}
    assert "agent:guarded:main" in {line.session for line in older}


@pytest.mark.parametrize("raw", ["", "no json", "[1]", "null", '{"a":', "[" * 100_000])
def test_what_is_no_line_is_none(raw):
    assert parse(raw, NOW) is None


def test_strange_fields_are_no_harm():
    line = parse('{"0": {"x": 1}, "_meta": 7, "time": "yesterday", "message": ["no"]}', NOW)
    assert (line.at, line.level, line.subsystem, line.session, line.message) == (NOW, "unknown", "", None, "")


def lines(tail, *paths, limit=1 << 20):
    return [line.decode().strip() for line in tail.read(paths, limit)]


def known(path):
    """A tail that has been here before the file had anything."""
    tail = Tail([Position("0:0", 0)])
    assert lines(tail, path) == []
    return tail


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "gateway.log"
    path.touch()
    return path


def test_an_unfinished_line_waits_for_its_end(path):
    tail = known(path)
    path.write_text("one\ntw")
    assert lines(tail, path) == ["one"]
    with path.open("a") as file:
        file.write("o\n")
    assert lines(tail, path) == ["two"]
    assert lines(tail, path) == []


def test_a_renamed_file_is_read_to_its_end_and_the_new_one_from_its_start(path, tmp_path):
    tail = known(path)
    path.write_text("one\n")
    assert lines(tail, path) == ["one"]
    with path.open("a") as file:
        file.write("two\n")
    path.rename(tmp_path / "gateway.1.log")
    path.write_text("three\n")
    assert sorted(lines(tail, *candidates(path))) == ["three", "two"]
    assert lines(tail, *candidates(path)) == []


def test_a_file_truncated_or_replaced_in_place_is_read_anew(path):
    tail = known(path)
    path.write_text("one\ntwo\nthree\n")
    assert len(lines(tail, path)) == 3
    path.write_text("four\n")  # shorter
    assert lines(tail, path) == ["four"]
    with path.open("r+") as file:  # the same inode, longer, and another beginning
        file.write("five is longer\n")
    assert lines(tail, path) == ["five is longer"]


def test_positions_carry_over_a_restart(path):
    tail = known(path)
    path.write_text("one\n")
    assert lines(tail, path) == ["one"]
    with path.open("a") as file:
        file.write("two\n")
    assert lines(Tail(tail.positions.values()), path) == ["two"]


def test_the_first_look_reads_the_end_of_the_newest_file_only(tmp_path):
    old, new = tmp_path / "openclaw-2026-01-01.log", tmp_path / "openclaw-2026-01-02.log"
    old.write_text("old\n")
    os.utime(old, (1, 1))
    new.write_text("".join(f"{number:07d}\n" for number in range(FIRST_LOOK)))
    found = lines(Tail(), *candidates(None, [tmp_path]), limit=1 << 30)
    assert found[-1] == f"{FIRST_LOOK - 1:07d}"
    assert FIRST_LOOK // 8 - 2 < len(found) <= FIRST_LOOK // 8


def test_a_line_of_megabytes_is_skipped_and_counted_in_constant_memory(path):
    tail = known(path)
    path.write_bytes(b"x" * (MAX_LINE * 3) + b"\nafter\n")
    assert lines(tail, path, limit=1 << 30) == ["after"]
    assert tail.skipped == 1


def test_a_line_longer_than_a_look_is_skipped_over_several_looks_while_it_grows(path):
    tail = known(path)
    with path.open("wb", buffering=0) as file:
        for _ in range(10):
            file.write(b"x" * (1 << 20))
            assert lines(tail, path, limit=MAX_LINE) == []
        looks = 0
        file.write(b" the end\nafter\nnot fini")
        while not (found := lines(tail, path, limit=1 << 20)):
            looks += 1
            assert looks < 12
        assert found == ["after"]
        file.write(b"shed\n")
    assert lines(tail, path, limit=1 << 20) == ["not finished"]
    assert tail.skipped == 1


def test_a_new_file_is_not_within_the_long_line_of_the_one_before_it(path):
    tail = known(path)
    path.write_bytes(b"x" * (MAX_LINE * 3))
    assert lines(tail, path) == []
    path.write_bytes(b"a\nb\n")  # truncated in place
    assert lines(tail, path) == ["a", "b"]


def test_at_midnight_the_last_lines_of_the_old_file_and_the_first_of_the_new_one_are_read(tmp_path):
    old, new = tmp_path / "openclaw-2026-01-01.log", tmp_path / "openclaw-2026-01-02.log"
    old.write_text("a\n")
    tail = Tail()
    assert lines(tail, *candidates(None, [tmp_path])) == ["a"]
    with old.open("a") as file:
        file.write("b\nhalf")
    new.write_text("d\n")
    assert lines(tail, *candidates(None, [tmp_path])) == ["b", "d"]
    with old.open("a") as file:
        file.write(" a line\n")
    assert lines(tail, *candidates(None, [tmp_path])) == ["half a line"]


def test_one_look_is_bounded_and_the_next_goes_on(path):
    tail = known(path)
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    first = lines(tail, path, limit=50)
    assert 0 < len(first) < 20
    assert first + lines(tail, path) == [f"line {number}" for number in range(100)]


def test_links_archives_and_strangers_are_no_log_files(tmp_path):
    for name in ("openclaw-1.log", "openclaw-1.log.gz", "notes.txt", "openclaw-2.log.1"):
        (tmp_path / name).touch()
    (tmp_path / "openclaw-3.log").symlink_to("/etc/passwd")
    assert {path.name for path in candidates(None, [tmp_path, tmp_path / "none"])} == {
        "openclaw-1.log",
        "openclaw-2.log.1",
    }


def test_the_configured_file_is_known(tmp_path):
    (tmp_path / "openclaw.json").write_text('{logging: {file: "/var/log/claw.log"}}')
    assert load_config(tmp_path, environment={}).log_file == Path("/var/log/claw.log")
    (tmp_path / "openclaw.json").write_text("{logging: {file: 7}}")
    assert load_config(tmp_path, environment={}).log_file is None
