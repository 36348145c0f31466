"""The exporter: CPU of a scrape with 10,000 series, and how soon an appended entry is on `/metrics`."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.corpus import SCHEMA
from exporter.accounting import Accountant, BillingPolicy, price_book
from exporter.ingest.counters import OnRegistry
from exporter.ingest.ingest import Ingest
from exporter.ingest.thread import IngestThread
from exporter.ingest.watch import Watch
from exporter.metrics.registry import Registry
from lobservatory.metrics.exposition import Format, Sample
from openclaw.stores import Stores
from store.ledger.checkpoint import CheckpointLedger

SERIES = 10_000
SCRAPES = 15
SESSIONS = 1_000
APPENDS = 400
PER_SECOND = 200
RENDER_GOAL_MS = 15
LOOP_GOAL_MS = 20


def registry_with(series: int) -> Registry:
    """Half of the series from accounting (some raised between scrapes), half from collectors (all change)."""
    registry = Registry()
    registry.begin()
    families = ("claw_cost_usd_total", "claw_reasoning_tokens_total", "claw_equivalent_cost_usd_total")
    for number in range(series // 2):
        labels = ("home", f"agent-{number % 40}", "anthropic", f"model-{number // 3}", "main")
        registry.add(registry.admit({(families[number % 3], labels): number + 1}))
    gauges = ("claw_active_runs", "claw_session_context_ratio_max", "claw_cron_job_enabled", "claw_cron_job_status")
    names = [
        (gauges[number % 4], ("home", f"job-{number // 4}", "ok")[: 3 if number % 4 == 3 else 2])  # noqa: PLR2004
        for number in range(series - series // 2)
    ]
    rounds = iter(range(1_000_000))

    def render() -> Iterator[Sample]:
        offset = next(rounds)
        for number, (metric, labels) in enumerate(names):
            yield Sample(metric, labels, offset + number * 0.37)

    registry.register("gauges", render)
    return registry


def measure_render() -> list[dict[str, Any]]:
    """CPU of one scrape, rendering and encoding; compression apart (it runs in a thread)."""
    registry = registry_with(SERIES)
    text = registry.render(Format.OPENMETRICS)
    count = sum(1 for line in text.splitlines() if not line.startswith("#"))
    rendering, packing = [], []
    for scrape in range(SCRAPES):
        labels = ("home", f"agent-{scrape}", "anthropic", f"model-{scrape}", "main")
        registry.add(registry.admit({("claw_cost_usd_total", labels): 1}))
        started = time.process_time()
        body = registry.render(Format.OPENMETRICS, prometheus=True).encode()
        rendering.append((time.process_time() - started) * 1000)
        started = time.process_time()
        gzip.compress(body, 1, mtime=0)
        packing.append((time.process_time() - started) * 1000)
    return [
        {
            "name": f"/metrics with {count:,} series, CPU",
            "value": round(statistics.median(rendering), 1),
            "unit": "ms",
            "goal": f"< {RENDER_GOAL_MS}",
            "ok": statistics.median(rendering) < RENDER_GOAL_MS,
        },
        {
            "name": "the same compressed, CPU of the compression",
            "value": round(statistics.median(packing), 1),
            "unit": "ms",
            "goal": "",
            "ok": True,
        },
    ]


def entry() -> bytes:
    """One assistant entry, as a gateway writes it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (
        f'{{"type":"message","id":"{uuid.uuid4()}","timestamp":"{now}","message":{{"role":"assistant","content":[],'
        '"provider":"fake","model":"fake-1","usage":{"input":10,"output":5,"cacheRead":3,"cacheWrite":0,'
        '"totalTokens":18,"cost":{"total":0.001}},"stopReason":"stop"}}\n'
    ).encode()


Append = Callable[[int], float]  # writes one entry to the session of that number; tells when it began


def jsonl_sessions(folder: Path) -> Append:
    """Sessions in files, with an entry each."""
    sessions = folder / "agents" / "main" / "sessions"
    sessions.mkdir(parents=True)
    paths = [sessions / f"{uuid.uuid4()}.jsonl" for _ in range(SESSIONS)]
    for path in paths:
        path.write_bytes(b'{"type":"session","version":3,"id":"' + path.stem.encode() + b'"}\n' + entry())

    def append(session: int) -> float:
        with paths[session].open("ab") as file:
            begun = time.perf_counter()
            file.write(entry())
        return begun

    return append


def sqlite_sessions(folder: Path) -> Append:
    """Sessions in an agent's database, with an entry each; every later one is a transaction of its own, as a gateway's
    is."""
    path = folder / "agents" / "main" / "agent" / "openclaw-agent.sqlite"
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(SCHEMA)
    names = [str(uuid.uuid4()) for _ in range(SESSIONS)]
    numbers = [0] * SESSIONS

    def insert(session: int) -> None:
        row = (names[session], numbers[session], entry().decode().strip(), int(time.time() * 1000))
        connection.execute("INSERT INTO transcript_events VALUES (?, ?, ?, ?, NULL, 300)", row)
        numbers[session] += 1

    connection.execute("BEGIN")
    for session, name in enumerate(names):
        connection.execute("INSERT INTO session_windows VALUES (?, ?, 0)", (name, f"agent:main:dashboard:{name}"))
        connection.execute("INSERT INTO transcript_rewrite_watermarks VALUES (?, 'g', 0)", (name,))
        insert(session)
    connection.execute("COMMIT")

    def append(session: int) -> float:
        begun = time.perf_counter()
        insert(session)
        return begun

    return append


async def _latencies(folder: Path, sessions: Callable[[Path], Append]) -> tuple[list[float], float]:
    """Seconds from each append to the counter that counts it, and the longest time that the main loop stood still."""
    append = sessions(folder)
    registry = Registry(zero_hold=0)
    ledger = CheckpointLedger(folder / "data", "bench")

    def make(on_registry: OnRegistry) -> Ingest:
        return Ingest(
            gateway="bench",
            stores=Stores(folder),
            accountant=Accountant("bench", price_book(), BillingPolicy()),
            ledger=ledger,
            watch=Watch(folder),
            registry=registry,
            on_registry=on_registry,
        )

    seen: list[float] = []
    changed = asyncio.Event()
    add = registry.add

    def watched(committed: Any) -> None:
        add(committed)
        count = sum(
            int(registry.total("claw_model_calls_total", ("bench", "main", "fake", "fake-1", kind, "ok")))
            for kind in ("dashboard", "unknown")
        )
        now = time.perf_counter()
        seen.extend([now] * (count - len(seen)))
        changed.set()

    registry.add = watched  # type: ignore[method-assign]  # the probe of this measurement
    thread = IngestThread(make)
    thread.start()
    while thread.ingest.status.first_scan != "done":  # noqa: ASYNC110 - before the clock starts
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    seen[:] = [0.0] * SESSIONS
    written: list[float] = []

    def write() -> None:
        begun = time.perf_counter()
        for number in range(APPENDS):
            time.sleep(max(0.0, begun + number / PER_SECOND - time.perf_counter()))
            written.append(append(number * 37 % SESSIONS))

    writer = threading.Thread(target=write)
    writer.start()
    longest, before = 0.0, time.perf_counter()
    while len(seen) < SESSIONS + APPENDS:
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, before = max(longest, now - before - 0.001), now
    writer.join()
    await thread.stop(5)
    return [shown - at for shown, at in zip(seen[SESSIONS:], written, strict=True)], longest


def measure_latency() -> list[dict[str, Any]]:
    """Append → committed → counter, over many sessions."""
    sys.setswitchinterval(0.001)  # as `python -m exporter` does
    rows: list[dict[str, Any]] = []
    for store, sessions, goal in (("JSONL", jsonl_sessions, 10), ("SQLite", sqlite_sessions, 50)):
        with tempfile.TemporaryDirectory(prefix="lobs-bench-") as folder:
            latencies, longest = asyncio.run(_latencies(Path(folder), sessions))
        milliseconds = sorted(latency * 1000 for latency in latencies)
        rows += [
            {
                "name": f"append → counter on /metrics, {store}, {SESSIONS:,} sessions, {PER_SECOND}/s, {name}",
                "value": round(milliseconds[int(len(milliseconds) * share)], 1),
                "unit": "ms",
                "goal": f"< {goal}" if name == "p99" else "",
                "ok": name != "p99" or milliseconds[int(len(milliseconds) * share)] < goal,
            }
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ]
        rows.append(
            {
                "name": "the same, longest pause of the loop that serves /metrics",
                "value": round(longest * 1000, 1),
                "unit": "ms",
                "goal": f"< {LOOP_GOAL_MS}",
                "ok": longest * 1000 < LOOP_GOAL_MS,
            }
        )
    return rows


def run() -> list[dict[str, Any]]:
    """All measurements of the exporter: name, value, unit, goal, ok."""
    return [*measure_render(), *measure_latency()]


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['value']} {row['unit']} (goal {row['goal'] or '-'})")
