"""Files that are written, truncated, replaced, renamed and torn while they are read."""

from __future__ import annotations

import os
import resource
from dataclasses import replace

import pytest

from openclaw.stores import SourceError, Stores
from openclaw.stores import entries as entries_module
from openclaw.stores import files as files_module
from openclaw.stores.discovery import classify
from tests.openclaw.state_builder import BuiltSession, call, header, sessions_folder, transcript, user, write_archive


class Reader:
    """Reads on from saved positions, as the exporter does over many looks."""

    def __init__(self, root, **options):
        self.root = root
        self.options = options
        self.positions = {}
        self.chunks = []
        self.stores = Stores(root, **options)

    def look(self, **limits):
        """Ids of the entries that this look gave, by source name."""
        discovery = self.stores.discover()
        assert discovery.problems == ()
        self.positions = self.stores.followed(discovery, self.positions)
        self.chunks = []
        ids = []
        for source in discovery.sources:
            while self.stores.changed(source, self.positions.get(source.key)):
                chunk = self.stores.read(source, self.positions.get(source.key), **limits)
                self.chunks.append(chunk)
                self.positions[source.key] = chunk.position
                ids += [entry.id for entry in chunk.entries]
                if chunk.done:
                    break
        return ids

    def restart(self):
        self.stores.close()
        self.stores = Stores(self.root, **self.options)

    @property
    def rejects(self):
        return [(reject.reason, reject.location) for chunk in self.chunks for reject in chunk.rejects]

    @property
    def restarted(self):
        return [chunk.source.path.name for chunk in self.chunks if chunk.restarted]


@pytest.fixture
def folder(tmp_path):
    return sessions_folder(tmp_path)


def lines(*ids):
    return transcript(call(name) for name in ids)


def append(path, content):
    with path.open("ab") as file:
        file.write(content)


def test_only_what_was_appended_is_read(tmp_path, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines("1", "2"))
    reader = Reader(tmp_path)
    assert reader.look() == ["1", "2"]
    assert reader.look() == []
    assert reader.chunks == [], "an unchanged file is not even opened"
    append(path, lines("3"))
    assert reader.look() == ["3"]
    reader.restart()
    assert reader.look() == []
    assert reader.restarted == []


def test_a_line_counts_when_its_newline_is_there(tmp_path, folder):
    path = folder / "a.jsonl"
    whole = lines("1")
    line = transcript([call("2", model="modèle-日本")])
    inside = line.index("日".encode()) + 1
    path.write_bytes(whole + line[:inside])
    reader = Reader(tmp_path)
    assert reader.look() == ["1"]
    assert reader.chunks[-1].lag == inside
    assert reader.look() == []
    append(path, line[inside:-1])
    assert reader.look() == []
    append(path, b"\n")
    assert reader.look() == ["2"]
    assert reader.chunks[-1].entries[0].message.model == "modèle-日本"
    assert reader.chunks[-1].lag == 0


def test_a_truncated_file_is_read_again(tmp_path, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines("1", "2", "3"))
    reader = Reader(tmp_path)
    reader.look()
    path.write_bytes(lines("1"))
    assert reader.look() == ["1"]
    assert reader.restarted == ["a.jsonl"]
    assert reader.chunks[0].position.generation == 1


def test_a_file_truncated_and_grown_beyond_its_old_size_is_read_again(tmp_path, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines("1", "2"))
    reader = Reader(tmp_path)
    reader.look()
    path.write_bytes(lines("x", "y", "z"))
    assert reader.look() == ["x", "y", "z"]
    assert reader.restarted == ["a.jsonl"]


def test_a_file_changed_at_the_same_size_is_read_again(tmp_path, folder):
    path = folder / "a.jsonl"
    content = lines("1", "2", "3")
    path.write_bytes(content)
    reader = Reader(tmp_path)
    reader.look()
    later = path.stat().st_mtime_ns + 5_000_000
    path.write_bytes(content.replace(b'"2"', b'"8"'))
    os.utime(path, ns=(later, later))
    assert reader.look() == ["1", "8", "3"]


def rewritten_in_the_middle(path, old, new, more):
    """In place, at the same length, with head and tail as they were; then it grows."""
    content = path.read_bytes()
    assert len(old) == len(new)
    assert content.index(old) > 512
    assert len(content) - content.index(old) > 512
    with path.open("r+b") as file:
        file.seek(content.index(old))
        file.write(new)
        file.seek(0, os.SEEK_END)
        file.write(more)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_rewritten_in_the_middle_that_grew_is_no_append(tmp_path, folder, restarted):
    path = folder / "a.jsonl"
    path.write_bytes(lines(*(f"{number:04}" for number in range(40))))
    reader = Reader(tmp_path)
    assert len(reader.look()) == 40
    append(path, lines("0040"))
    assert reader.look() == ["0040"]
    if restarted:
        reader.restart()
    rewritten_in_the_middle(path, b'"0020"', b'"late"', lines("0041"))
    found = reader.look()
    assert len(found) == 42
    assert found[20] == "late"
    assert reader.restarted == ["a.jsonl"]
    append(path, lines("0042"))
    assert reader.look() == ["0042"], "and then it goes on as ever"


def test_a_long_file_is_compared_when_it_has_grown_enough_and_after_a_restart(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(files_module, "_COMPARED", 4096)
    path = folder / "a.jsonl"
    path.write_bytes(lines(*(f"{number:04}" for number in range(400))))
    reader = Reader(tmp_path)
    compared = []
    checksum = files_module._checksum
    monkeypatch.setattr(
        files_module,
        "_checksum",
        lambda content, start, end, *more: compared.append(start) or checksum(content, start, end, *more),
    )
    assert len(reader.look(max_bytes=10_000)) == 400, "read in parts"
    assert compared.count(0) == 1, "a part that was read just now is not compared with itself"
    del compared[:]
    append(path, lines("0400"))
    assert reader.look() == ["0400"]
    assert 0 not in compared
    rewritten_in_the_middle(path, b'"0020"', b'"late"', lines(*(f"{number:04}" for number in range(401, 410))))
    assert "late" in reader.look()
    reader.restart()
    rewritten_in_the_middle(path, b'"0030"', b'"last"', lines("0410"))
    assert "last" in reader.look()


def test_a_position_of_a_former_version_goes_on_and_is_compared_from_then_on(tmp_path, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines(*(f"{number:04}" for number in range(40))))
    reader = Reader(tmp_path)
    reader.look()
    ((key, position),) = reader.positions.items()
    start, _, end = position.fingerprint.rpartition(":")
    reader.positions[key] = replace(position, fingerprint=f"{start.partition('.')[0]}:{end}")
    reader.restart()
    assert reader.look() == []
    append(path, lines("0040"))
    assert reader.look() == ["0040"]
    rewritten_in_the_middle(path, b'"0020"', b'"late"', lines("0041"))
    assert "late" in reader.look()


def test_a_replaced_file_is_known_anew(tmp_path, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines("1", "2"))
    reader = Reader(tmp_path)
    reader.look()
    other = folder / "b.tmp"
    other.write_bytes(lines("1", "2", "3"))
    other.replace(path)
    assert reader.look() == ["1", "2", "3"]


def test_an_inode_given_to_another_file_is_not_taken_for_the_old_one(tmp_path, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines("1", "2"))
    reader = Reader(tmp_path)
    reader.look()
    inode = path.stat().st_ino
    path.rename(folder / "b.jsonl")
    (folder / "b.jsonl").write_bytes(transcript([header("b")]) + lines("8", "9"))
    assert (folder / "b.jsonl").stat().st_ino == inode
    assert reader.look() == ["b", "8", "9"]


@pytest.mark.parametrize("cold", [False, True])
def test_an_inode_given_to_a_compressed_archive_is_not_taken_for_the_old_one(tmp_path, folder, cold):
    """The offset of a transcript that is gone would be a place in the middle of what the archive holds."""
    path = folder / "a.jsonl"
    path.write_bytes(transcript([header("a")]) + lines("1", "2"))
    reader = Reader(tmp_path)
    reader.look()
    ((_, position),) = reader.positions.items()
    path.unlink()
    archive = write_archive(tmp_path, BuiltSession("b", [header("b"), *map(call, "3456")]), compressed=True)
    if cold:
        (folder / "cold").mkdir()
        archive = archive.rename(folder / "cold" / f"{'0' * 64}.jsonl.zst")
    status = archive.stat()
    inode = f"{status.st_dev}:{status.st_ino}"  # as if the system had given it the same one
    reader.positions = {
        key: replace(position, fingerprint=f"{inode}:{position.fingerprint.split(':', 2)[2]}")
        for key in reader.positions
    }
    assert reader.look() == ["b", "3", "4", "5", "6"]
    assert reader.look() == []


def test_a_reset_renames_and_nothing_is_read_twice(tmp_path, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines("1", "2"))
    reader = Reader(tmp_path)
    reader.look()
    append(path, lines("3"))
    path.rename(folder / "a.jsonl.reset.2026-11-21T01-26-03.604Z")
    path.write_bytes(lines("4"))
    assert sorted(reader.look()) == ["3", "4"]
    assert reader.look() == []


def test_the_last_line_of_an_archive_counts_without_a_newline(tmp_path, folder):
    (folder / "a.jsonl.deleted.2026-11-21T01-26-03.604Z").write_bytes(lines("1", "2")[:-1])
    (folder / "b.jsonl.deleted.2026-11-21T01-26-03.604Z").write_bytes(lines("3", "4")[:-9])
    reader = Reader(tmp_path)
    assert reader.look() == ["1", "2", "3"]
    assert [reason for reason, _ in reader.rejects] == ["bad_json"]
    assert reader.look() == []


@pytest.mark.parametrize("compressed", [True, False])
def test_a_big_archive_is_read_in_bounded_pieces(tmp_path, compressed):
    many = [call(str(number), content=[{"type": "text", "text": "x" * 40_000}]) for number in range(200)]
    write_archive(tmp_path, BuiltSession("a", many), compressed=compressed)
    reader = Reader(tmp_path, max_bytes=1_000_000)
    assert reader.look() == [str(number) for number in range(200)]
    assert len(reader.chunks) > 4
    assert reader.look() == []


def test_a_compressed_archive_is_read_on_after_a_restart(tmp_path):
    many = [call(str(number), content=[{"type": "text", "text": "x" * 40_000}]) for number in range(100)]
    write_archive(tmp_path, BuiltSession("a", many), compressed=True)
    reader = Reader(tmp_path, max_bytes=1_000_000)
    (source,) = reader.stores.discover().sources
    first = reader.stores.read(source, None)
    assert not first.done
    reader.positions[source.key] = first.position
    reader.restart()
    assert reader.look() == [str(number) for number in range(len(first.entries), 100)]


def test_a_broken_compressed_archive_is_one_reject(tmp_path):
    path = write_archive(tmp_path, BuiltSession("a", [call(str(n)) for n in range(50)]), compressed=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    reader = Reader(tmp_path)
    reader.look()
    assert [reason for reason, _ in reader.rejects] == ["bad_json"]
    assert reader.look() == []


def test_cold_archives_belong_to_the_session_in_their_header(tmp_path, folder):
    path = write_archive(tmp_path, BuiltSession("a", [header("the-session"), call("1")]), compressed=True)
    (folder / "cold").mkdir()
    path.rename(folder / "cold" / ("ab" * 32 + ".jsonl.zst"))
    (folder / "cold" / "x.trajectory.jsonl").write_bytes(lines("sidecar"))
    reader = Reader(tmp_path)
    assert reader.look() == ["the-session", "1"]
    assert [chunk.session_id for chunk in reader.chunks] == ["the-session"]


@pytest.mark.req("P-4")
def test_a_huge_line_is_skipped_in_bounded_memory_and_counted(tmp_path, folder):
    path = folder / "a.jsonl"
    with path.open("wb") as file:
        file.write(lines("1"))
        file.write(b'{"type":"message","id":"huge","message":{"role":"user","content":"')
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'"}}\n')
        file.write(lines("2"))
    reader = Reader(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reader.look() == ["1", "2"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000, "kilobytes"
    assert reader.rejects == [("too_long", f"agents/main/sessions/a.jsonl@{len(lines('1'))}")]


def test_long_lines_that_are_not_huge_are_read_whole(tmp_path, folder):
    text = "x" * (3 * files_module.BLOCK)
    content = transcript([user("1", text), call("2", content=[{"type": "text", "text": text}])])
    (folder / "a.jsonl").write_bytes(content)
    assert Reader(tmp_path).look() == ["1", "2"]


def test_a_line_at_every_buffer_edge(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(files_module, "BLOCK", 700)
    content = b"".join(transcript([user(str(n), "é" * (n * 7 % 900)), call(f"c{n}")]) for n in range(120))
    (folder / "a.jsonl").write_bytes(content)
    expected = [name for n in range(120) for name in (str(n), f"c{n}")]
    assert Reader(tmp_path).look() == expected
    assert Reader(tmp_path, max_bytes=1).look() == expected


def test_a_line_of_exactly_the_limit(tmp_path, folder, monkeypatch):
    line = lines("1")
    monkeypatch.setattr(files_module, "MAX_ENTRY", len(line) - 1)
    monkeypatch.setattr(entries_module, "MAX_ENTRY", len(line) - 1)
    longer = transcript([call("2", model="fake-1x")])
    (folder / "a.jsonl").write_bytes(line + longer + line)
    reader = Reader(tmp_path)
    assert reader.look() == ["1", "1"]
    assert [reason for reason, _ in reader.rejects] == ["too_long"]


def test_binary_junk_and_blank_lines(tmp_path, folder):
    junk = bytes(range(256)).replace(b"\n", b"") * 10
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines("1") + junk + b"\n\r\n \n\x00\n" + lines("2"))
    reader = Reader(tmp_path)
    assert reader.look() == ["1", "2"]
    assert [reason for reason, _ in reader.rejects] == ["bad_json", "bad_json"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ("jsonl", "a")),
        ("a-topic-42.jsonl", ("jsonl", "a-topic-42")),
        ("a.jsonl.reset.2026-11-21T00-48-54.007Z", ("archive", "a")),
        ("a.jsonl.deleted.2026-11-21T00-48-54.007Z", ("archive", "a")),
        ("a.jsonl.deleted.2026-11-21T00-48-54.007Z.d72e.zst", ("archive", "a")),
        ("a.jsonl.reset.x.jsonl.deleted.y", ("archive", "a.jsonl.reset.x")),
        ("a.jsonl.zst", ("archive", "a")),
        ("a.trajectory.jsonl", None),
        ("a.trajectory-path.json", None),
        ("a.checkpoint.d8a59938-2c37-42cb-af78-7b7870c8aecb.jsonl", None),
        ("a.checkpoint.d8a59938-2c37-42cb-af78-7b7870c8aecb.jsonl.deleted.y", None),
        ("a.jsonl.bak-27799-1795224301593", None),
        ("a.jsonl.bak", None),
        ("sessions.json", None),
        ("sessions.json.bak", None),
        ("a.jsonl.lock", None),
        ("a.jsonl.4711.tmp", None),
        (".jsonl", None),
    ],
)
def test_names(name, expected):
    found = classify(name)
    assert (None if found is None else (found.store, found.session_id)) == expected


@pytest.mark.req("P-5")
def test_links_are_followed_inside_the_state_directory_only_and_every_target_once(tmp_path):
    state = tmp_path / "state"
    folder = sessions_folder(state)
    (folder / "b.jsonl").write_bytes(lines("1"))
    (folder / "a.jsonl").symlink_to(folder / "b.jsonl")
    os.link(folder / "b.jsonl", folder / "c.jsonl")
    (tmp_path / "outside.jsonl").write_bytes(lines("secret"))
    (folder / "out.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")
    (folder / "gone.jsonl").symlink_to(folder / "nothing.jsonl")
    other = state / "elsewhere"
    other.mkdir()
    (other / "moved.jsonl").write_bytes(lines("2"))
    (folder / "moved.jsonl").symlink_to(other / "moved.jsonl")
    (state / "agents" / "again").symlink_to(state / "agents" / "main")
    (state / "agents" / "loop").symlink_to(state / "agents")
    stores = Stores(state)
    discovery = stores.discover()
    assert [(source.agent, source.path.name) for source in discovery.sources] == [
        ("main", "b.jsonl"),
        ("main", "moved.jsonl"),
    ]
    assert [problem.path.name for problem in discovery.problems] == ["out.jsonl"]
    assert not any(problem.fatal for problem in discovery.problems)


def test_a_pipe_with_the_name_of_a_transcript_stops_nobody(tmp_path, folder):
    os.mkfifo(folder / "a.jsonl")
    (folder / "b.jsonl").write_bytes(lines("1"))
    assert Reader(tmp_path).look() == ["1"]


def test_a_file_that_vanishes_between_listing_and_reading_is_an_error_of_that_file(tmp_path, folder):
    (folder / "a.jsonl").write_bytes(lines("1"))
    stores = Stores(tmp_path)
    (source,) = stores.discover().sources
    source.path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        stores.read(source, None)


def test_new_agents_and_sessions_are_noticed(tmp_path, folder):
    reader = Reader(tmp_path)
    assert reader.look() == []
    (folder / "a.jsonl").write_bytes(lines("1"))
    assert reader.look() == ["1"]
    (sessions_folder(tmp_path, "second") / "b.jsonl").write_bytes(lines("2"))
    assert reader.look() == ["2"]


def test_agents_without_sessions_and_names_that_are_no_text(tmp_path, folder):
    (tmp_path / "agents" / "empty").mkdir()
    (tmp_path / "agents" / "file").touch()
    with open(os.fsencode(folder) + b"/b\xff.jsonl", "wb") as file:  # noqa: PTH123 - a name that is no text
        file.write(lines("1"))
    reader = Reader(tmp_path)
    assert reader.look() == ["1"]
    assert list(reader.positions) == ["agents/main/sessions/b\\xff.jsonl"]
