"""A whole exporter whose PostgreSQL is stopped while sessions grow: metrics go on, and then nothing is missing."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from cli.up import postgres
from store.migrate import migrate
from tests.servers import PATIENCE_SECONDS

CALLS = "claw_model_calls_total"


class Server:
    """A migrated server that a test may stop and start."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.process = None

    async def start(self):
        self.process = self.cluster.start()
        await asyncio.to_thread(self.cluster.wait_ready, self.process)

    async def end(self, how):
        self.process.send_signal(how)
        await asyncio.to_thread(self.process.wait, PATIENCE_SECONDS)


@pytest.fixture
def server():
    folder = Path(tempfile.mkdtemp(prefix="lobs-pg-"))
    folder.chmod(0o755)
    try:
        cluster = postgres.prepare(folder)
        with cluster.run():
            migrate(cluster.dsn(postgres.OWNER))
        one = Server(cluster)
        yield one
        if one.process is not None:
            postgres.stop(one.process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.req("P-2")
async def test_a_database_that_is_away_while_sessions_grow(lab, tmp_path, server, monkeypatch):
    """Stopped, and later killed."""
    monkeypatch.setattr("exporter.ingest.ingest.LAST_RETRY", 0.2)
    await server.start()
    known, counted, failures = lab.transcript(), 50, 0
    known.append(b"".join(lab.call("0.01") for _ in range(counted)))
    async with lab.running(lab.settings(lab.state_dir, tmp_path / "data", dsn=server.cluster.dsn())) as alive:
        for how in (signal.SIGINT, signal.SIGKILL):
            expected = counted
            await alive.until(CALLS, lambda shown, expected=expected: sum(shown.values()) == expected)
            await server.end(how)
            newborn = lab.transcript()
            for _ in range(20):
                known.append(b"".join(lab.call("0.01") for _ in range(10)))
                newborn.append(b"".join(lab.call("0.01", model="newborn") for _ in range(5)))
            shown = await alive.until(
                "lobservatory_commit_failures_total",
                lambda shown, before=failures: shown.get(("unavailable",), 0) >= before + 3,
            )
            failures = shown["unavailable",]
            assert sum((await alive.values(CALLS)).values()) == counted  # what is committed, neither more nor less
            await server.start()
            counted += 300
        await alive.until(CALLS, lambda shown: sum(shown.values()) == counted)
    with psycopg.connect(server.cluster.dsn(postgres.OWNER)) as connection:
        for query in (
            "SELECT count(DISTINCT entry_id), sum(cost_usd) FROM model_calls",
            "SELECT sum(calls), sum(cost_usd) FROM usage_15m",
            "SELECT sum(calls), sum(cost_usd) FROM sessions",
        ):
            assert connection.execute(query).fetchone() == (counted, Decimal(counted) / 100), query
