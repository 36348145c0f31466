"""Agent databases: read-only, with and without a writer, of known and unknown schemas."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
import zstandard

from openclaw.stores import SourceError, Stores
from openclaw.stores import database as database_module
from tests.openclaw.state_builder import (
    BuiltSession,
    add_event,
    add_session,
    call,
    connect,
    header,
    insert,
    transcript,
    user,
    write_archive,
    write_database,
)

DATABASE = "agents/main/agent/openclaw-agent.sqlite"


class Reader:
    """Reads on from saved positions, as the exporter does over many looks."""

    def __init__(self, root, **options):
        self.root = root
        self.stores = Stores(root, **options)
        self.positions = {}
        self.chunks = []
        self.problems = ()

    def look(self):
        discovery = self.stores.discover()
        self.problems = discovery.problems
        self.chunks = []
        ids = []
        for source in discovery.sources:
            while self.stores.changed(source, self.positions.get(source.key)):
                chunk = self.stores.read(source, self.positions.get(source.key))
                self.chunks.append(chunk)
                self.positions[source.key] = chunk.position
                ids += [entry.id for entry in chunk.entries]
                if chunk.done:
                    break
        return ids


def session(session_id, *entries, **more):
    return BuiltSession(session_id, [header(session_id), *entries], **more)


def folder_of(root):
    return sorted(path.name for path in (root / "agents" / "main" / "agent").iterdir())


def test_a_cleanly_closed_database_is_read_without_leaving_a_trace(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    assert folder_of(tmp_path) == ["openclaw-agent.sqlite"]
    reader = Reader(tmp_path)
    assert reader.look() == ["a", "1"]
    assert folder_of(tmp_path) == ["openclaw-agent.sqlite"]


@pytest.mark.req("P-1")
def test_what_a_running_gateway_writes_is_seen_while_it_holds_the_database(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    reader = Reader(tmp_path)
    reader.look()
    writer = connect(tmp_path)
    add_event(writer, "a", 2, call("2"))
    assert reader.look() == ["2"]
    writer.execute("BEGIN IMMEDIATE")
    add_event(writer, "a", 3, call("3"))
    assert reader.look() == [], "not committed"
    writer.execute("COMMIT")
    assert reader.look() == ["3"]
    add_session(writer, session("b"))
    add_event(writer, "b", 0, header("b"), compressed=True)
    assert reader.look() == ["b"]
    writer.close()  # checkpoints and removes the WAL
    assert reader.look() == []
    assert reader.problems == ()


def test_reading_never_makes_the_writer_wait(tmp_path):
    writer = connect(tmp_path)
    writer.execute("PRAGMA busy_timeout = 0")
    add_session(writer, session("a"))
    reader = Reader(tmp_path, max_bytes=1)
    for number in range(50):
        add_event(writer, "a", number, call(str(number)))
        assert reader.look() == [str(number)]
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "nobody is in the way"
    writer.close()


def test_a_locked_database_is_said_to_be_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.05)
    write_database(tmp_path, [session("a", call("1"))])
    writer = connect(tmp_path)
    writer.execute("PRAGMA locking_mode = EXCLUSIVE")
    writer.execute("BEGIN EXCLUSIVE")
    add_event(writer, "a", 2, call("2"))
    reader = Reader(tmp_path)
    assert reader.look() == []
    (problem,) = reader.problems
    assert problem.fatal
    assert "locked" in problem.text
    writer.execute("COMMIT")
    writer.close()
    assert reader.look() == ["a", "1", "2"]


def test_a_rewritten_session_is_read_again(tmp_path):
    writer = connect(tmp_path)
    add_session(writer, session("a"))
    for seq, line in enumerate([header("a"), call("1"), call("2")]):
        add_event(writer, "a", seq, line)
    reader = Reader(tmp_path)
    reader.look()
    writer.execute("BEGIN")
    writer.execute("DELETE FROM transcript_events WHERE seq = 2")
    writer.execute("UPDATE transcript_rewrite_watermarks SET generation = 'g2'")
    writer.execute("COMMIT")
    add_event(writer, "a", 2, call("3"))
    assert reader.look() == ["a", "1", "3"]
    assert [chunk.restarted for chunk in reader.chunks] == [True]
    assert reader.look() == []
    writer.close()


def test_rows_that_vanish_without_a_new_generation_are_noticed(tmp_path):
    writer = connect(tmp_path)
    add_session(writer, session("a"))
    for seq in range(3):
        add_event(writer, "a", seq, call(str(seq)))
    reader = Reader(tmp_path)
    reader.look()
    writer.execute("DELETE FROM transcript_events WHERE seq > 0")
    assert reader.look() == ["0"]
    assert reader.look() == []
    writer.close()


def test_a_replaced_database_is_read_again(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    reader = Reader(tmp_path)
    reader.look()
    write_database(tmp_path / "other", [session("a", call("1"), call("2"))])
    shutil.move(tmp_path / "other" / DATABASE, tmp_path / DATABASE)
    assert reader.look() == ["a", "1", "2"]


def test_pages_are_bounded(tmp_path):
    write_database(tmp_path, [session("a", *(user(str(n), "x" * 10_000) for n in range(100)))])
    reader = Reader(tmp_path, max_bytes=100_000)
    assert reader.look() == ["a", *(str(n) for n in range(100))]
    assert len(reader.chunks) > 8


@pytest.mark.req("P-4")
def test_rows_that_cannot_be_decoded_are_counted_and_the_others_read(tmp_path):
    writer = connect(tmp_path)
    add_session(writer, session("a"))
    add_event(writer, "a", 0, call("0"))
    for seq in (1, 2, 3):
        add_event(writer, "a", seq, call(str(seq)), compressed=True)
    writer.execute("UPDATE transcript_events SET event_zstd = x'28B52FFD00FF' WHERE seq = 1")
    writer.execute("UPDATE transcript_events SET event_utf8_bytes = 5 WHERE seq = 2")
    add_event(writer, "a", 4, b"{broken")
    add_event(writer, "a", 5, b"[]")
    add_event(writer, "a", 6, call("6"))
    writer.close()
    reader = Reader(tmp_path)
    assert reader.look() == ["0", "3", "6"]
    rejects = [(reject.reason, reject.location.rpartition("@")[2]) for reject in reader.chunks[0].rejects]
    assert rejects == [("bad_json", "1"), ("bad_json", "2"), ("bad_json", "4"), ("not_object", "5")]


def test_a_compressed_row_cannot_fill_the_memory(tmp_path):
    writer = connect(tmp_path)
    add_session(writer, session("a"))
    add_event(writer, "a", 0, call("0"), compressed=True)
    bomb = zstandard.ZstdCompressor().compress(b"x" * 500_000_000)
    writer.execute("UPDATE transcript_events SET event_zstd = ?, event_utf8_bytes = 4194304", (bomb,))
    writer.close()
    code = (
        "import resource, sys; from pathlib import Path; from openclaw.stores import Stores\n"
        "stores = Stores(Path(sys.argv[1])); (source,) = stores.discover().sources\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(stores.read(source, None).rejects) == 1\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_row_beyond_the_limit_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "MAX_ENTRY", 1_000_000)
    write_database(tmp_path, [session("a", call("1"), user("2", "x" * 2_000_000), call("3"))])
    reader = Reader(tmp_path)
    assert reader.look() == ["a", "1", "3"]
    assert [reject.reason for reject in reader.chunks[0].rejects] == ["too_long"]


@pytest.mark.req("P-5")
def test_a_newer_schema_is_read_with_a_warning(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    reader = Reader(tmp_path)
    assert reader.look() == ["a", "1"]
    (problem,) = reader.problems
    assert (problem.fatal, problem.schema) == (False, True)
    assert "schema version 99 is newer than the known 23" in problem.text


@pytest.mark.req("P-5")
def test_an_unknown_schema_is_a_problem_and_not_zero(tmp_path):
    path = tmp_path / DATABASE
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE transcript_v2 (id INTEGER PRIMARY KEY)")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    reader = Reader(tmp_path)
    assert reader.look() == []
    (problem,) = reader.problems
    assert (problem.fatal, problem.schema) == (True, True)
    assert "unknown schema (version 99" in problem.text


def test_a_store_of_an_older_schema_is_read(tmp_path):
    path = tmp_path / DATABASE
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE transcript_events (session_id TEXT, seq INTEGER, event_json TEXT)")
    connection.executemany(
        "INSERT INTO transcript_events VALUES ('a', ?, ?)",
        [(seq, transcript([line]).decode()) for seq, line in enumerate([header("a"), call("1")])],
    )
    connection.commit()
    connection.close()
    assert Reader(tmp_path).look() == ["a", "1"]


def test_a_file_that_is_no_database_is_a_problem(tmp_path):
    path = tmp_path / DATABASE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database at all" * 100)
    reader = Reader(tmp_path)
    assert reader.look() == []
    assert "cannot be read: file is not a database" in reader.problems[0].text
    path.write_bytes(b"")
    assert reader.look() == []
    assert reader.problems == (), "an empty file is a database that is just being made"


def test_neighbours_of_the_database_are_not_taken_for_it(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    for name in ("generation-lock", "generation-writer", "reindex-lock"):
        shutil.copy(tmp_path / DATABASE, tmp_path / f"{DATABASE}.{name}.sqlite")
    assert Reader(tmp_path).look() == ["a", "1"]


@pytest.mark.req("P-2")
def test_archives_inside_the_database_count_until_they_are_files(tmp_path):
    archived = session("gone", call("7"))
    write_database(tmp_path, [session("a", call("1"))])
    path = write_archive(tmp_path, archived, compressed=True)
    row = {
        "session_id": "gone",
        "generation": "g",
        "session_key": "agent:main:dashboard:gone",
        "reason": "deleted",
        "encoding": "zstd",
        "archive_blob": path.read_bytes(),
        "archive_sha256": "0" * 64,
        "archive_name": path.name,
        "created_at": 1,
    }
    writer = connect(tmp_path)
    insert(writer, "session_transcript_archives", row)
    plain = {**row, "session_id": "plain", "encoding": "identity", "archive_name": "plain.jsonl.reset.x"}
    insert(writer, "session_transcript_archives", {**plain, "archive_blob": transcript([call("8")])})
    cold = {
        "session_id": "cold",
        "generation": "g",
        "archive_name": "cold.jsonl.zst",
        "archive_sha256": "0" * 64,
        "event_count": 1,
        "raw_bytes": 1,
        "archive_bytes": 1,
        "last_seq": 1,
        "archived_at": 1,
        "storage": "sqlite",
        "archive_blob": zstandard.ZstdCompressor().compress(transcript([call("9")])),
    }
    insert(writer, "session_transcript_cold_archives", cold)
    writer.close()
    assert sorted(Reader(tmp_path).look()) == ["1", "7", "8", "9", "a", "gone"], "the one with a file is read there"
    path.unlink()
    reader = Reader(tmp_path)
    assert sorted(reader.look()) == ["1", "7", "8", "9", "a", "gone"]
    assert {chunk.session_id for chunk in reader.chunks} == {"a", "gone", "plain", "cold"}
    assert reader.look() == []


# Who develops as a user misses these; CI runs as root.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@needs_root
def test_another_user_reads_a_stopped_gateways_database(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    allow(tmp_path)
    assert as_nobody(tmp_path) == "['a', '1'] ()"
    writer = connect(tmp_path)
    add_event(writer, "a", 2, call("2"))
    allow(tmp_path)
    assert as_nobody(tmp_path) == "['a', '1', '2'] ()", "with the writer's shared memory, read-only"
    writer.close()


@needs_root
def test_another_user_is_told_why_a_crashed_gateways_database_cannot_be_read(tmp_path):
    writer = connect(tmp_path)
    add_session(writer, session("a"))
    add_event(writer, "a", 0, call("1"))
    copy = tmp_path / "crashed"
    (copy / "agents/main/agent").mkdir(parents=True)
    for name in ("openclaw-agent.sqlite", "openclaw-agent.sqlite-wal"):
        shutil.copy(tmp_path / "agents/main/agent" / name, copy / "agents/main/agent" / name)
    writer.close()
    allow(tmp_path)
    answer = as_nobody(copy)
    assert answer.startswith("[] (")
    assert "its -wal file needs write permission" in answer


def on_a_read_only_mount(root):
    """What a reader sees where the file system itself refuses every write, also root's."""
    mounted = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && ! touch "$1/x" 2>&- && echo mounted'
    script = f'{mounted} && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(root), sys.executable, READ],
        check=False,
        capture_output=True,
        text=True,
    )
    made, _, answer = done.stdout.partition("\n")
    if made != "mounted":  # only root may; who develops as a user misses it, CI runs as root
        pytest.skip(f"no read-only mount can be made here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    return answer.strip()


def test_a_read_only_mount_is_read_while_the_gateway_runs_and_after_it_stopped(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    assert on_a_read_only_mount(tmp_path) == "['a', '1'] ()"
    writer = connect(tmp_path)
    add_event(writer, "a", 2, call("2"))
    assert on_a_read_only_mount(tmp_path) == "['a', '1', '2'] ()", "what is only in the WAL, too"
    add_event(writer, "a", 3, call("3"))
    assert on_a_read_only_mount(tmp_path) == "['a', '1', '2', '3'] ()"
    writer.close()
    assert on_a_read_only_mount(tmp_path) == "['a', '1', '2', '3'] ()"


def test_a_read_only_mount_after_a_crash_says_what_is_missing_and_is_no_zero(tmp_path):
    writer = connect(tmp_path)
    add_session(writer, session("a"))
    add_event(writer, "a", 0, call("1"))
    copy = tmp_path / "crashed"
    (copy / "agents/main/agent").mkdir(parents=True)
    for name in ("openclaw-agent.sqlite", "openclaw-agent.sqlite-wal"):
        shutil.copy(tmp_path / "agents/main/agent" / name, copy / "agents/main/agent" / name)
    writer.close()
    answer = on_a_read_only_mount(copy)
    assert answer.startswith("[] (")
    assert "its -wal file needs write permission" in answer


def allow(root):
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in root.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)


READ = (
    "import sys; from pathlib import Path; from openclaw.stores import Stores\n"
    "stores = Stores(Path(sys.argv[1])); found = stores.discover()\n"
    "ids = [e.id for s in found.sources for e in stores.read(s, None).entries]\n"
    "print(ids, found.problems)\n"
)


def as_nobody(root):
    code = "import os, openclaw.stores; os.setgid(65534); os.setuid(65534)\n" + READ
    done = subprocess.run([sys.executable, "-c", code, str(root)], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_reading_a_source_of_a_vanished_database_is_an_error_of_that_source(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    stores = Stores(tmp_path)
    (source,) = stores.discover().sources
    (tmp_path / DATABASE).unlink()
    with pytest.raises(SourceError, match="No such file"):
        stores.read(source, None)
