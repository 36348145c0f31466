"""A store that has files and gives no entries: from the store over the exporter to the shipped alert rule."""

import asyncio
import contextlib
import shutil
import sqlite3
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lobservatory.settings import Listen
from tests.alerts.stack import fast_prometheus
from tests.archives import extract
from tests.servers import wait_for

SAMPLES = Path(__file__).parents[2] / "fixtures" / "samples"
NO_ALERTMANAGER = SimpleNamespace(url="http://127.0.0.1:9")
ALERT = 'ALERTS{alertname="SourceEmpty",alertstate="firing"}'


@contextlib.asynccontextmanager
async def watched(lab, state_dir, folder):
    async with lab.running(lab.settings(state_dir, folder / "data", gateway_name="default")) as alive:
        stack = contextlib.ExitStack()
        address = Listen(host="127.0.0.1", port=alive.exporter.port)
        try:
            yield (
                alive,
                await asyncio.to_thread(
                    stack.enter_context,
                    fast_prometheus(folder / "prometheus", address, NO_ALERTMANAGER, hasten=["SourceEmpty"]),
                ),
            )
        finally:
            await asyncio.to_thread(stack.close)


async def until(prometheus, what, *, firing=True):
    await asyncio.to_thread(wait_for, lambda: bool(prometheus.query(ALERT)) == firing, what)


@pytest.mark.req("P-13")
async def test_a_transcript_without_a_line_fires_until_it_has_one(files_dir, tmp_path, lab):
    transcript = lab.transcript()
    transcript.path.write_bytes(b"")
    async with watched(lab, files_dir, tmp_path) as (alive, prometheus):
        assert (await alive.values("claw_source_files"))[("jsonl",)] == 1
        assert (await alive.values("claw_source_entries_total"))[("jsonl",)] == 0
        await until(prometheus, "the alert")
        transcript.append(lab.call())
        await until(prometheus, "its end", firing=False)


@pytest.mark.req("P-13")
async def test_sessions_whose_database_has_no_entry_fire(tmp_path, lab):
    with tarfile.open(SAMPLES / "state-2026.9.6.tar.gz") as archive:
        extract(archive, tmp_path)
    state_dir = tmp_path / ".openclaw"
    for agent in (state_dir / "agents").iterdir():
        shutil.rmtree(agent / "sessions", ignore_errors=True)
        for database in (agent / "agent").glob("openclaw-agent.sqlite"):
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA foreign_keys = 0")
                for table in ("transcript_events", "session_transcript_archives"):
                    connection.execute(f"DELETE FROM {table}")
                connection.commit()
    async with watched(lab, state_dir, tmp_path) as (alive, prometheus):
        assert (await alive.values("claw_source_files"))[("sqlite",)] > 0
        assert sum((await alive.values("claw_source_entries_total")).values()) == 0
        await alive.until("claw_sessions", lambda shown: sum(shown.values()) > 0)
        await until(prometheus, "the alert")
