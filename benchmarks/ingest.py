"""First ingest into the database: rows of every kind per second, through the ledger that the exporter uses.

Rows are made before the clock starts: what is measured is hashing, deciding what is new, writing, raising sums and
committing, on a durable cluster (fsync on). The mix is that of a coding agent: for each model call 1.5 tool calls with
their results, now and then a session event; 24 calls of a session in a row.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from cli.up import postgres
from store.ledger.postgres import PostgresLedger
from store.migrate import migrate
from store.rows import ModelCall, Position, SessionEvent, ToolCall, ToolResult

GOAL = 40_000  # rows/s
CALLS = 60_000
BATCH = 2_500  # model calls of one transaction: about 10,000 rows, as the exporter's batches
ROUNDS = 3
T0 = datetime(2026, 1, 1, tzinfo=UTC)

Batch = tuple[list[ModelCall], list[ToolCall], list[ToolResult], list[SessionEvent]]


def batches(calls: int, seed: int) -> Iterator[Batch]:
    """Deterministic rows."""
    chance = random.Random(seed)
    models = [("anthropic", "claude-sonnet-4"), ("openai", "gpt-5"), ("fake", "fake-1")]
    batch: Batch = ([], [], [], [])
    for number in range(calls):
        agent = f"agent-{number // 24 % 7}"
        session = f"{seed:04x}{number // 24:012x}"
        provider, model = models[number // 240 % 3]
        entry, mark = f"{seed:08x}-{number:012x}", (seed << 64 | number).to_bytes(16, "big")
        at = T0 + timedelta(seconds=number * 30, milliseconds=chance.randrange(1000))
        run = f"run-{seed}-{number // 6}"
        call = ModelCall(
            "bench", agent, session, entry, mark, at, provider, model, "main", "ok", chance.randrange(5000),
            chance.randrange(900), chance.randrange(90_000), chance.randrange(4000), chance.randrange(100),
            Decimal(chance.randrange(10**7)) / 10**8, "reported", "billed", f"agent:{agent}:main", None, "telegram",
            run, chance.randrange(60_000),
        )  # fmt: skip
        batch[0].append(call)
        for position in range(chance.choice([1, 2])):
            call_id = f"call_{seed}_{number}_{position}"
            tool = chance.choice(["read", "exec", "write", "search"])
            batch[1].append(ToolCall("bench", agent, session, entry, mark, position, call_id, tool, at, "main", run))
            result = f"{entry}-{position}"
            later = at + timedelta(milliseconds=chance.randrange(9000))
            batch[2].append(
                ToolResult("bench", agent, session, result, mark, call_id, tool, later, "ok", 0, None, 4096)
            )
        if number % 40 == 0:
            batch[3].append(SessionEvent("bench", agent, session, f"{entry}-e", mark, at, "compaction", {"before": 9}))
        if len(batch[0]) == BATCH:
            yield batch
            batch = ([], [], [], [])
    if batch[0]:
        yield batch


async def ingest(dsn: str, work: list[Batch]) -> tuple[int, float]:
    """Rows and seconds."""
    ledger = PostgresLedger(dsn, "bench")
    await ledger.open()
    rows = 0
    started = time.perf_counter()
    for number, (calls, tools, results, events) in enumerate(work):
        async with ledger.transaction() as transaction:
            new = await transaction.insert_model_calls(calls)
            await transaction.insert_tool_calls(tools)
            await transaction.insert_tool_results(results)
            await transaction.insert_session_events(events)
            await transaction.add_totals({("claw_model_calls_total", ("bench",)): sum(new)})
            await transaction.save_positions([Position("bench", f"source-{number}", 1)])
        rows += len(calls) + len(tools) + len(results) + len(events)
    elapsed = time.perf_counter() - started
    await ledger.close()
    return rows, elapsed


def run(calls: int = CALLS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Medians of the rounds: the first ingest, and the same rows again (all of them seen before)."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-bench-"))
    folder.chmod(0o755)  # as root the server runs as another user, who has to enter
    first: list[float] = []
    again: list[float] = []
    try:
        cluster = postgres.prepare(folder)
        with cluster.run():
            migrate(cluster.dsn(postgres.OWNER))
            for seed in range(rounds):
                work = list(batches(calls, seed))
                rows, seconds = asyncio.run(ingest(cluster.dsn(), work))
                first.append(rows / seconds)
                rows, seconds = asyncio.run(ingest(cluster.dsn(), work))
                again.append(rows / seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [
        {
            "name": "first ingest into the database",
            "value": round(statistics.median(first)),
            "unit": "rows/s",
            "goal": f"≥ {GOAL}",
            "ok": statistics.median(first) >= GOAL,
        },
        {
            "name": "the same rows again",
            "value": round(statistics.median(again)),
            "unit": "rows/s",
            "goal": f"≥ {GOAL}",
            "ok": statistics.median(again) >= GOAL,
        },
    ]


if __name__ == "__main__":
    for line in run():
        print(line)
