"""What our reading costs the gateway's writer: the time of its commits into an agent's database, with and without us.

The writer appends one row a transaction, as a gateway does, in WAL mode and without waiting for locks. The reader is
another process that looks for new rows all the time, which is far more often than the exporter does. Both take turns.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import statistics
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from benchmarks.corpus import make
from openclaw.stores import Position, Stores

ROUNDS = 4  # of each: without, with, without, …
COMMITS = 400
SIZE = 20_000_000
PAUSE = 0.001  # seconds between two commits
_EVENT = '{"type":"message","id":"w%d","message":{"role":"user","content":"' + "x" * 2000 + '"}}'


def _read(state: str, started: Event, stop: Event) -> None:
    stores = Stores(Path(state))
    positions: dict[str, Position] = {}
    while not stop.is_set():
        for source in stores.discover().sources:
            if stores.changed(source, positions.get(source.key)):
                positions[source.key] = stores.read(source, positions.get(source.key)).position
        started.set()
    stores.close()


def _write(connection: sqlite3.Connection, first: int) -> list[float]:
    """Milliseconds of each commit. Raises sqlite3.OperationalError when a lock is in the way."""
    (session,) = connection.execute("SELECT min(session_id) FROM transcript_events").fetchone()
    times = []
    for number in range(first, first + COMMITS):
        time.sleep(PAUSE)
        begun = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT INTO transcript_events VALUES (?, ?, ?, 0, NULL, 2000)", (session, number, _EVENT % number)
        )
        connection.execute("COMMIT")
        times.append((time.perf_counter() - begun) * 1000)
    return times


def run() -> list[dict[str, Any]]:
    """Median and 99th percentile of a commit, without a reader and with one."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-bench-sqlite-"))
    context = multiprocessing.get_context("spawn")
    times: dict[bool, list[float]] = {False: [], True: []}
    try:
        state = make(folder, "sqlite", SIZE)
        path = state / "agents" / "main" / "agent" / "openclaw-agent.sqlite"
        connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        connection.execute("PRAGMA synchronous = NORMAL")
        for turn in range(2 * ROUNDS):
            observed = bool(turn % 2)
            started, stop = context.Event(), context.Event()
            reader = context.Process(target=_read, args=(str(state), started, stop))
            if observed:
                reader.start()
                started.wait(60)
            times[observed] += _write(connection, 1_000_000 + turn * COMMITS)
            if observed:
                stop.set()
                reader.join(30)
        connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [
        {
            "name": f"a commit of the gateway's writer {'with' if observed else 'without'} our reader, {name}",
            "value": round(value, 3),
            "unit": "ms",
            "goal": "",
            "ok": True,
        }
        for observed, found in times.items()
        for name, value in (("p50", statistics.median(found)), ("p99", statistics.quantiles(found, n=100)[98]))
    ]


if __name__ == "__main__":
    for line in run():
        print(line)
