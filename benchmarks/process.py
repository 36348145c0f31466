"""The exporter as a process: how soon it is back after a restart, what it costs at rest, and how it grows.

Without a database (the checkpoint file), with `python -P -m exporter` itself on a free port.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import corpus
from benchmarks.exporter import entry
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
SIZES = (100_000_000, 300_000_000, 1_200_000_000)  # bytes; the corpus of the last one is that of the full scan
RESTARTS = 5
RESTART_GOAL_S = 1.0
IDLE_FILES = 5_000
IDLE_SECONDS = 40.0
IDLE_GOAL_PERCENT = 0.5
_COMPLETE = b"\nclaw_model_calls_total{"  # accounting families are absent until the first scan has ended
_DEADLINE = 300.0


@contextmanager
def exporter(state: Path, data: Path) -> Iterator[tuple[psutil.Process, float]]:
    """A running exporter, and the seconds from its start to the first complete scrape."""
    address = f"127.0.0.1:{free_port()}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOBS_")} | {
        "LOBS_STATE_DIR": str(state),
        "LOBS_DATA_DIR": str(data),
        "LOBS_METRICS_LISTEN": address,
        "LOBS_LOG_LEVEL": "error",
    }
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-P", "-m", "exporter"], env=environment, cwd=data)
    try:
        yield psutil.Process(process.pid), _complete(f"http://{address}/metrics", process) - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _complete(url: str, process: subprocess.Popen[bytes]) -> float:
    """When the first scrape with the totals was answered."""
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                if _COMPLETE in answer.read():
                    return time.perf_counter()
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.005)
    raise RuntimeError(f"the exporter gave no complete scrape within {_DEADLINE:g} s")


def measure_growth(cache: Path) -> list[dict[str, Any]]:
    """First scan, restart and memory at each size."""
    rows = []
    for size in SIZES:
        state = corpus.make(cache / "corpus", "jsonl", size)
        with tempfile.TemporaryDirectory(prefix="lobs-bench-") as folder:
            data = Path(folder)
            with exporter(state, data) as (_process, first):
                pass
            warm, memory = [], 0.0
            for _ in range(RESTARTS):
                with exporter(state, data) as (process, seconds):
                    warm.append(seconds)
                    memory = max(memory, process.memory_info().rss / 1e6)
        named = f"{size / 1e6:,.0f} MB of JSONL"
        restart = statistics.median(warm)
        rows += [
            _row(f"{named}: start to the first complete scrape, nothing read before", round(first, 2), "s"),
            _row(f"{named}: the same after a restart", round(restart, 2), "s", RESTART_GOAL_S),
            _row(f"{named}: memory after a restart", round(memory, 1), "MB"),
        ]
    return rows


def measure_idle() -> list[dict[str, Any]]:
    """CPU of an exporter with many sessions in which nothing happens."""
    with tempfile.TemporaryDirectory(prefix="lobs-bench-") as folder:
        state, data = Path(folder) / "state", Path(folder) / "data"
        sessions = state / "agents" / "main" / "sessions"
        sessions.mkdir(parents=True)
        data.mkdir()
        for _ in range(IDLE_FILES):
            name = str(uuid.uuid4())
            head = b'{"type":"session","version":3,"id":"' + name.encode() + b'"}\n'
            (sessions / f"{name}.jsonl").write_bytes(head + entry())
        with exporter(state, data) as (process, _seconds):
            time.sleep(5)  # what follows the first scan is not rest
            before, began = _cpu(process), time.perf_counter()
            time.sleep(IDLE_SECONDS)
            share = 100 * (_cpu(process) - before) / (time.perf_counter() - began)
            memory = process.memory_info().rss / 1e6
        shutil.rmtree(state)
    return [
        _row(f"at rest, {IDLE_FILES:,} session files: CPU of one core", round(share, 2), "%", IDLE_GOAL_PERCENT),
        _row("the same: memory", round(memory, 1), "MB"),
    ]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _row(name: str, value: float, unit: str, goal: float | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "goal": "" if goal is None else f"≤ {goal:g}",
        "ok": goal is None or value <= goal,
    }


def run() -> list[dict[str, Any]]:
    """All measurements of the process: name, value, unit, goal, ok."""
    return [*measure_growth(ROOT / ".cache" / "bench"), *measure_idle()]


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['value']} {row['unit']} (goal {row['goal'] or '-'})")
