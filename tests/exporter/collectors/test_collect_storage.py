"""Sizes of the state directory."""

import tarfile
from pathlib import Path

import pytest

from exporter.collectors.storage import PARTS, StorageCollector, measure, part_of
from tests.archives import extract

SAMPLES = Path(__file__).parents[2] / "fixtures" / "samples"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("agents/main/agent/openclaw-agent.sqlite", "agent_database"),
        ("agents/main/agent/openclaw-agent.sqlite-wal", "agent_wal"),
        ("agents/main/agent/openclaw-agent.sqlite-shm", "agent_wal"),
        ("state/openclaw.sqlite", "state_database"),
        ("state/openclaw.sqlite-wal", "state_wal"),
        ("tasks/runs.sqlite", "state_database"),
        ("agents/main/sessions/a.jsonl", "transcripts"),
        ("agents/main/sessions/a.trajectory.jsonl", "transcripts"),
        ("agents/main/sessions/a.jsonl.reset.2026-11-21T00-48-54.007Z", "archives"),
        ("agents/main/sessions/a.jsonl.deleted.2026-11-21T00-48-54.007Z.ab.zst", "archives"),
        ("agents/main/sessions/cold/abc.jsonl.zst", "archives"),
        ("logs/gateway.txt", "logs"),
        ("openclaw.json", "other"),
    ],
)
def test_every_file_has_its_part(path, part):
    assert part_of(path) == part


@pytest.mark.req("P-18")
@pytest.mark.parametrize("version", ["2026.9.6", "2026.4.27"])
async def test_the_parts_add_up_to_the_directory(tmp_path, version):
    with tarfile.open(SAMPLES / f"state-{version}.tar.gz") as archive:
        extract(archive, tmp_path)
    state_dir = tmp_path / ".openclaw"
    (state_dir / "link").symlink_to("/")
    total = sum(path.lstat().st_size for path in state_dir.rglob("*") if path.is_file() and not path.is_symlink())
    collector = StorageCollector("g", state_dir)
    await collector.refresh()
    samples = list(collector.render())
    shown = {sample.labels[1]: sample.value for sample in samples if sample.metric == "claw_state_dir_bytes"}
    assert set(shown) == set(PARTS)
    databases = {sample.labels[1:]: sample.value for sample in samples if sample.metric == "claw_sqlite_bytes"}
    assert databases == {
        (
            path.relative_to(state_dir).as_posix().removesuffix("-wal"),
            "wal" if path.name.endswith("-wal") else "main",
        ): path.stat().st_size
        for pattern in ("*.sqlite", "*.sqlite-wal")
        for path in state_dir.rglob(pattern)
    }
    assert databases
    assert sum(shown.values()) == total
    assert shown["transcripts"] + shown["agent_database"] > 0


async def test_a_directory_that_vanished_fails_and_shows_nothing_old(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "openclaw.sqlite").write_bytes(b"x" * 10)
    collector = StorageCollector("g", tmp_path / "state")
    await collector.refresh()
    assert {sample.labels[1:]: sample.value for sample in collector.render() if sample.value} == {
        ("state_database",): 10,
        ("openclaw.sqlite", "main"): 10,
    }
    (tmp_path / "state").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        await collector.refresh()
    assert list(collector.render()) == []
    assert measure(tmp_path / "away").parts["state_database"] == 10
