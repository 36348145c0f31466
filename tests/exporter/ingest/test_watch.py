"""Writes are noticed; folders that appear in a burst too."""

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.ingest import inotify
from exporter.ingest.watch import Watch, Watchdog, concerns_transcripts
from tests.servers import PATIENCE_SECONDS

linux = pytest.mark.skipif(not inotify.available, reason="inotify is Linux'")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/agents/main/sessions/x.jsonl", True),
        ("/a/agents/main/sessions/x.jsonl.reset.2026-11-21T00-48-54.007Z", True),
        ("/a/agents/main/sessions/x.jsonl.deleted.2026.ab.zst", True),
        ("/a/agents/main/agent/openclaw-agent.sqlite-wal", True),
        ("/a/agents/main/sessions/sessions.json", True),
        ("/a/agents/main/agent/openclaw-agent.sqlite-shm", False),
        ("/a/agents/main/sessions/x.trajectory.jsonl", False),
        ("/a/agents/main/sessions/x.jsonl.lock", False),
        ("/a/agents/main/agent/models.json", False),
    ],
)
def test_only_what_holds_entries_matters(path, expected):
    assert concerns_transcripts(path) is expected


@pytest.fixture(params=[pytest.param("inotify", marks=linux), "watchdog"])
async def watch(request, tmp_path, monkeypatch):
    monkeypatch.setattr(inotify, "available", request.param == "inotify")
    (tmp_path / "agents" / "main" / "sessions").mkdir(parents=True)
    (tmp_path / "agents" / "main" / "sessions" / "old.jsonl").touch()
    watch = Watch(tmp_path)
    watch.ensure()
    assert watch.native
    yield watch
    watch.stop()


async def test_a_write_ends_the_wait(watch, tmp_path):
    with (tmp_path / "agents" / "main" / "sessions" / "old.jsonl").open("ab") as file:
        file.write(b"x\n")
    assert await watch.wait(PATIENCE_SECONDS)


async def test_a_rename_ends_the_wait(watch, tmp_path):
    old = tmp_path / "agents" / "main" / "sessions" / "old.jsonl"
    old.rename(old.with_name("old.jsonl.reset.2026-11-21T00-48-54.007Z"))
    assert await watch.wait(PATIENCE_SECONDS)


async def test_what_does_not_matter_does_not_end_the_wait(watch, tmp_path):
    (tmp_path / "agents" / "main" / "sessions" / "x.trajectory.jsonl").write_bytes(b"x")
    (tmp_path / "agents" / "main" / "sessions" / "old.jsonl").read_bytes()
    assert not await watch.wait(0.3)


async def test_a_poke_from_a_thread_ends_the_wait(watch):
    await asyncio.to_thread(watch.poke)
    assert await watch.wait(PATIENCE_SECONDS)


@linux
async def test_every_write_in_a_burst_of_new_folders_is_followed_by_a_notification(tmp_path):
    (tmp_path / "agents").mkdir()
    watch = Watch(tmp_path)
    watch.ensure()
    for number in range(50):
        sessions = tmp_path / "agents" / f"agent-{number}" / "sessions"
        sessions.mkdir(parents=True)
        (sessions / "a.jsonl").write_bytes(b"one\n")
        assert await watch.wait(PATIENCE_SECONDS)
        while await watch.wait(0.01):
            pass  # all notifications of the creation
        with (sessions / "a.jsonl").open("ab") as file:
            file.write(b"two\n")
        assert await watch.wait(PATIENCE_SECONDS)
    watch.stop()


async def test_a_folder_that_appears_later_is_watched_from_the_next_look(tmp_path):
    watch = Watch(tmp_path)
    watch.ensure()
    assert not watch.native
    sessions = tmp_path / "agents" / "main" / "sessions"
    sessions.mkdir(parents=True)
    watch.ensure()
    assert watch.native
    (sessions / "a.jsonl").write_bytes(b"x\n")
    assert await watch.wait(PATIENCE_SECONDS)
    watch.stop()


async def test_a_folder_that_was_replaced_is_watched_anew(watch, tmp_path):
    (tmp_path / "agents").rename(tmp_path / "before")
    (tmp_path / "agents" / "main" / "sessions").mkdir(parents=True)
    watch.ensure()
    while await watch.wait(0.05):
        pass
    (tmp_path / "agents" / "main" / "sessions" / "new.jsonl").write_bytes(b"x\n")
    assert await watch.wait(PATIENCE_SECONDS)


async def test_without_notifications_it_polls(tmp_path, monkeypatch):
    def none_left(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "agents").mkdir()
    monkeypatch.setattr(Watch, "_notifications", none_left)
    monkeypatch.setattr("exporter.ingest.watch.POLL", 0.01)
    watch = Watch(tmp_path)
    watch.ensure()
    assert not watch.native
    assert not await watch.wait()


BURST = """
import os, sys
from pathlib import Path
agents, writes = Path(sys.argv[1]), int(sys.argv[2])
files = [os.open(agents / "main" / "sessions" / name, os.O_WRONLY | os.O_APPEND) for name in ("old.jsonl", "new.jsonl")]
for number in range(writes):
    os.write(files[number % 2], b"x")
(agents / "late" / "sessions").mkdir(parents=True)
(agents / "late" / "sessions" / "a.jsonl").write_bytes(b"one")
"""


def burst(agents):
    """More events than the kernel keeps, while the loop of the caller stands still; then a new folder."""
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    subprocess.run([sys.executable, "-c", BURST, agents, str(4 * kept)], check=True)


@linux
async def test_of_a_burst_that_is_larger_than_the_kernels_queue_nothing_is_left_unread(tmp_path):
    """The folder that appears at its end is told of nowhere else than by the overflow. watchdog 7.1 only logs that one:
    with it, the folder waits for the next look by itself."""
    sessions = tmp_path / "agents" / "main" / "sessions"
    sessions.mkdir(parents=True)
    for name in ("old.jsonl", "new.jsonl"):
        (sessions / name).touch()
    watch = Watch(tmp_path)
    watch.ensure()
    burst(tmp_path / "agents")
    written = set()
    while "" not in written:
        assert await watch.wait(PATIENCE_SECONDS)
        written |= watch.take()
    while await watch.wait(0.1):
        watch.take()
    late = tmp_path / "agents" / "late" / "sessions" / "a.jsonl"
    with late.open("ab") as file:
        file.write(b"two\n")
    assert await watch.wait(PATIENCE_SECONDS)
    assert str(late) in watch.take()
    watch.stop()


async def test_a_name_that_is_no_utf_8_is_told_and_stops_nothing(watch, tmp_path):
    """watchfiles 1.3 ends its watch at such a name, with an error and without the write."""
    for name in (b"\xff.jsonl", b"old.jsonl"):
        path = tmp_path / "agents" / "main" / "sessions" / os.fsdecode(name)
        with path.open("ab") as file:
            file.write(b"x\n")
        written = set()
        while str(path) not in written:
            assert await watch.wait(PATIENCE_SECONDS)
            written |= watch.take()


@linux
async def test_after_an_overflow_of_the_queue_everything_is_looked_at(tmp_path):
    told = []
    watcher = inotify.Inotify(tmp_path, 2, told.append)
    (tmp_path / "appeared").mkdir()
    watcher._folders = {watch: known for watch, known in watcher._folders.items() if known[1] == 0}
    watcher._event(-1, inotify.IN_Q_OVERFLOW, "")
    assert told == [""]
    assert str(tmp_path / "appeared") in {folder for folder, _ in watcher._folders.values()}
    watcher.close()


async def test_the_portable_notifier_starts_and_stops_its_threads(tmp_path):
    notifier = Watchdog(tmp_path, lambda _: None)
    assert notifier._observer.is_alive()
    notifier.close()
    assert not notifier._observer.is_alive()
