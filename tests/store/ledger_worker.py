"""A process that keeps books until it is killed: reads numbered entries, counts each once, saves where it is.

    python ledger_worker.py postgres <dsn> | checkpoint <folder>

The "source" is the sequence 0, 1, 2, …; every entry is met twice (as a fork would), and the position is saved with
what was read. Each commit is reported on stdout. On its start it prints `open`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from store.ledger.checkpoint import CheckpointLedger
from store.ledger.contract import Ledger, LedgerHeldError, LedgerUnavailableError
from store.ledger.postgres import PostgresLedger
from store.rows import ModelCall, OutboxEvent, Position, ToolCall, ToolResult

T0 = datetime(2026, 3, 1, tzinfo=UTC)
CALLS = ("claw_model_calls_total", ("gw", "main"))
COST = ("claw_cost_usd_total", ("gw", "main"))
UNIT = Decimal("0.0106344")


def rows(number: int) -> tuple[ModelCall, ToolCall, ToolResult]:
    """What one entry gives."""
    entry, mark, at = f"e{number}", number.to_bytes(16, "big"), T0 + timedelta(seconds=number)
    call = ModelCall(
        "gw", "main", f"s{number % 5}", entry, mark, at, "p", "m", "main", "ok", 10, 5, 2, 1, 3, UNIT, "reported",
        "billed",
    )  # fmt: skip
    tool = ToolCall("gw", "main", f"s{number % 5}", entry, mark, 0, f"c{number}", "read", at, "main")
    result = ToolResult("gw", "main", f"s{number % 5}", f"r{number}", mark, f"c{number}", "read", at, "ok")
    return call, tool, result


def say(*words: object) -> None:
    """One line for the test that watches."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def work(ledger: Ledger) -> None:
    """Keep books for ever."""
    while True:
        try:
            await ledger.open()
        except LedgerHeldError:  # the server has not yet noticed that our predecessor was killed
            await asyncio.sleep(0.05)
            continue
        break
    say("open")
    chance = random.Random()
    while True:
        try:
            position = (await ledger.positions()).get("source")
            start = position.offset if position else 0
            size = chance.choice([1, 3, 40])
            # Some of what was read before comes again.
            numbers = list(range(max(0, start - size), start + size))
            calls, tools, results = zip(*(rows(number) for number in numbers), strict=True)
            async with ledger.transaction() as transaction:
                new = await transaction.insert_model_calls(calls)
                await transaction.insert_tool_calls(tools)
                await transaction.insert_tool_results(results)
                await transaction.add_totals({CALLS: sum(new), COST: UNIT * sum(new)})
                await transaction.save_positions([Position("gw", "source", start + size)])
                await transaction.publish([OutboxEvent("tasks", "read", {"upto": start + size})])
        except LedgerUnavailableError as error:
            say("away", error)
            await asyncio.sleep(0.05)
        else:
            say("read", start + size)


if __name__ == "__main__":
    kind, where = sys.argv[1:]
    asyncio.run(work(PostgresLedger(where, "gw") if kind == "postgres" else CheckpointLedger(Path(where), "gw")))
