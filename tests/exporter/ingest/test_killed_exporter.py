"""The exporter, killed at random moments of its ingest and of its live tail: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from decimal import Decimal

import psycopg
import pytest

from store.ledger.postgres import PostgresLedger

NOBODY = "ws://127.0.0.1:9"
BOOKS = """
SELECT (SELECT count(*) FROM model_calls), (SELECT count(DISTINCT entry_id) FROM model_calls),
       (SELECT coalesce(sum(cost_usd), 0) FROM model_calls), (SELECT coalesce(sum(calls), 0) FROM sessions),
       (SELECT coalesce(sum(cost_usd), 0) FROM usage_15m),
       (SELECT coalesce(sum(value), 0) FROM lobs.totals WHERE metric = 'claw_model_calls_total'),
       (SELECT coalesce(sum(value), 0) FROM lobs.totals WHERE metric = 'claw_cost_usd_total')
"""
UNIT = Decimal("0.01")


class Writer(threading.Thread):
    """Appends calls to transcripts, as a gateway does, until it is told to stop."""

    def __init__(self, transcripts, call):
        super().__init__(daemon=True)
        self._transcripts, self._call = transcripts, call
        self._stop_asked = threading.Event()
        self.written = 0

    def run(self):
        while not self._stop_asked.wait(0.002):
            self.write(1)

    def write(self, count):
        for _ in range(count):
            self._transcripts[self.written % len(self._transcripts)].append(self._call(UNIT))
            self.written += 1

    def stop(self):
        self._stop_asked.set()
        self.join()


@pytest.fixture
def kill(lab, life, tmp_path, postgres_dsn, postgres_owner_dsn):
    """Kills an exporter again and again, then lets one come to its end."""

    def start(rounds):
        writer = Writer([lab.transcript() for _ in range(5)], lab.call)
        writer.write(3_000)  # more than one life may read
        writer.start()
        try:
            kill_lives(rounds, environment(lab.state_dir, tmp_path, postgres_dsn), postgres_owner_dsn)
        finally:
            writer.stop()
        asyncio.run(finish(writer.written))
        with psycopg.connect(postgres_owner_dsn) as connection:
            assert connection.execute(BOOKS).fetchone()[:2] == (writer.written, writer.written)

    async def finish(written):
        alive = life(lab.state_dir, PostgresLedger(postgres_dsn, "g"))
        async with alive.running():
            await alive.until(lambda: alive.exact("claw_model_calls_total") == written)
            assert alive.exact("claw_cost_usd_total") == written * UNIT

    return start


def environment(state_dir, tmp_path, dsn):
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    variables |= {
        "LOBS_STATE_DIR": str(state_dir),
        "LOBS_DATA_DIR": str(tmp_path / "data"),
        "LOBS_DATABASE_URL": dsn,
        "LOBS_GATEWAY_NAME": "g",
        "LOBS_METRICS_LISTEN": "127.0.0.1:0",
        "LOBS_GATEWAY_URL": NOBODY,
    }
    return variables


def kill_lives(rounds, variables, owner_dsn):
    chance = random.Random()
    kept = 0
    for _ in range(rounds):
        command = [sys.executable, "-P", "-m", "exporter"]
        with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE) as process:
            try:
                line, wanted = b"-", chance.choice([b"exporter started", b"first scan", b"first scan has ended"])
                while line and wanted not in line:
                    line = process.stderr.readline()
                    if b"first scan has ended" in line or (kept and b"gateway not connected" in line):
                        break  # a later life tells nothing of its first look
                threading.Event().wait(chance.random() * 0.3)
            finally:
                process.kill()
        with psycopg.connect(owner_dsn) as connection:
            rows, distinct, cost, *sums = connection.execute(BOOKS).fetchone()
        assert rows == distinct >= kept
        assert [cost, *sums] == [rows * UNIT, rows, rows * UNIT, rows, rows * UNIT]
        kept = rows


@pytest.mark.req("P-2")
def test_an_exporter_killed_twenty_times(kill):
    kill(20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_an_exporter_killed_two_hundred_times(kill):
    kill(200)
