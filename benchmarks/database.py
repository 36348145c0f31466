"""Inserts and queries of the service on a large database: 100,000 activities and 1,000,000 model calls of 30 days.

Every one is a function that the API or the exporter calls, in a transaction of its own on a durable cluster (fsync on),
one after the other; what is measured is the time until its answer is there (an insert: until it is committed).
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.dashboards import fill_calls
from cli.up import postgres
from store import agents, cost, feed, monitoring, operations, tasks, traces
from store.ledger.postgres import PostgresLedger
from store.migrate import migrate
from store.pool import Connection, open_pool
from store.rows import ModelCall

ACTIVITIES = 100_000
CALLS = 1_000_000
TASKS = 1_000
ROUNDS = 60
INSERT_GOAL_MS = 10
QUERY_GOAL_MS = 20
MONTH_GOAL_MS = 100  # what sums up 30 days, as a panel of a board does
GATEWAY = "bench"

Action = Callable[[Connection], Awaitable[object]]

# 100 activities a task, as many rows in the feed, and an operation for every tenth.
HUB = (
    (
        "INSERT INTO lobs.tasks (id, title, status, priority, created_at)"
        " SELECT 'task_' || n, 'Task ' || n, (ARRAY['todo', 'done', 'review'])[1 + n %% 3], 'medium',"
        " now() - n * interval '40 minutes' FROM generate_series(1, %(tasks)s) AS n"
    ),
    (
        "INSERT INTO lobs.task_activities (task_id, activity_type, message, agent_id, created_at)"
        " SELECT 'task_' || 1 + n %% %(tasks)s, 'updated', 'step ' || n, 'agent-' || n %% 12,"
        " now() - (%(activities)s - n) * interval '25 seconds' FROM generate_series(1, %(activities)s) AS n"
    ),
    (
        "INSERT INTO lobs.activity_feed (at, type, actor, action, target_type, target_id)"
        " SELECT now() - (%(activities)s - n) * interval '25 seconds', 'task', 'agent-' || n %% 12,"
        " (ARRAY['updated', 'created'])[1 + n %% 2], 'task', 'task_' || n %% %(tasks)s"
        " FROM generate_series(1, %(activities)s) AS n"
    ),
    (
        "INSERT INTO lobs.feed_counts SELECT (at AT TIME ZONE 'UTC')::date, type, action, actor, count(*)"
        " FROM lobs.activity_feed GROUP BY 1, 2, 3, 4"
    ),
    (
        "INSERT INTO lobs.operations (id, gateway, type, name, status, source, created_at, updated_at)"
        " SELECT 'op_' || n, 'bench', 'agent_task', 'operation ' || n, 'completed', 'run', at, at"
        " FROM (SELECT n, now() - n * interval '4 minutes' AS at"
        " FROM generate_series(1, %(activities)s / 10) AS n) AS o"
    ),
    (
        "INSERT INTO lobs.task_sessions (task_id, openclaw_session_id, agent_name)"
        " SELECT 'task_' || n, 'agent:agent-' || n %% 12 || ':s' || n, 'agent-' || n %% 12"
        " FROM generate_series(1, %(tasks)s) AS n"
    ),
    "ANALYZE",
)


def fill(connection: psycopg.Connection[Any], activities: int, model_calls: int) -> None:
    """The history, made by SQL. As the owner, in autocommit."""
    for statement in HUB:
        connection.execute(
            statement.encode(), {"tasks": TASKS, "activities": activities} if "%(" in statement else None
        )
    fill_calls(connection, model_calls)


def queries(at: datetime, model_calls: int) -> dict[str, Action]:
    """What people ask for, by name."""
    session = f"s{model_calls // 400 // 24 * 24}"
    return {
        "activities of a task, newest 100": lambda c: tasks.activities(c, "task_7"),
        "feed, newest 100": lambda c: feed.page(c, before=None, limit=100),
        "feed, 100 from the middle": lambda c: feed.page(c, before=50_000, limit=100),
        "figures of the feed": feed.statistics,
        "tasks, newest 100": lambda c: tasks.list_tasks(c, tasks.TaskFilter()),
        "operations, newest 100": lambda c: operations.list_operations(c, operations.OperationFilter()),
        "operations since a minute ago": lambda c: operations.list_operations(
            c, operations.OperationFilter(since=at - timedelta(minutes=1))
        ),
        "sessions, newest 100": lambda c: monitoring.sessions(c, gateways=None, limit=100),
        "sessions of the hub, newest 100": lambda c: monitoring.hub_sessions(
            c, gateways=None, session_type=None, status=None, limit=100
        ),
        "calls of a run": lambda c: traces.calls_of_run(
            c, GATEWAY, session, at - timedelta(days=31), at - timedelta(days=1), run_id="no-such-run"
        ),
        "agents with their figures": agents.agents,
        "cost by model, 24 h": lambda c: monitoring.cost_groups(c, "24h", "model", None),
        "cost by model, 7 d": lambda c: monitoring.cost_groups(c, "7d", "model", None),
        "cost by day, 30 d": lambda c: monitoring.cost_groups(c, "30d", "day", None),
        "windows of money, up to 30 d": lambda c: cost.windows(c, GATEWAY, "Europe/Berlin", at),
        "usual cost of this hour": lambda c: cost.hour_baseline(c, GATEWAY, "Europe/Berlin", at),
    }


INSERTS: dict[str, Action] = {
    "insert an activity": lambda c: tasks.add_activity(
        c, "task_7", activity_type="updated", message="one more step", agent_id="agent-1"
    ),
    "insert a row of the feed": lambda c: feed.add(
        c, type="task", actor="agent-1", action="updated", target_type="task", target_id="task_7"
    ),
    "create a task": lambda c: tasks.create(c, title="one more", actor="bench"),
    "create an operation": lambda c: operations.create(
        c, type="agent_task", name="one more", gateway=GATEWAY, steps=[operations.NewStep("a", "a")]
    ),
}


async def _timed(act: Callable[[], Awaitable[object]], rounds: int) -> list[float]:
    """Milliseconds, in order of size; two rounds before warm up."""
    taken = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        await act()
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken[2:])


async def _live_call(dsn: str, rounds: int) -> list[float]:
    """One model call as it comes in: identity, row, quarter hour, session, agent and total in one commit."""
    ledger = PostgresLedger(dsn, GATEWAY)
    await ledger.open()
    numbers = iter(range(1_000_000))

    async def insert() -> None:
        number = next(numbers)
        call = ModelCall(
            GATEWAY, "agent-1", "s-live", f"live-{number}", number.to_bytes(16, "big"), datetime.now(UTC), "anthropic",
            "model-1", "main", "ok", 1000, 200, 9000, 100, 0, Decimal("0.0123"), "reported", "billed",
        )  # fmt: skip
        async with ledger.transaction() as transaction:
            await transaction.insert_model_calls([call])
            await transaction.add_totals({("claw_model_calls_total", (GATEWAY,)): 1})

    try:
        return await _timed(insert, rounds)
    finally:
        await ledger.close()


async def measure(dsn: str, model_calls: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round, by name."""
    found = {}
    async with open_pool(dsn) as pool:
        at = datetime.now(UTC)
        for name, act in {**INSERTS, **queries(at, model_calls)}.items():

            async def once(act: Action = act) -> None:
                async with pool.connection() as connection:
                    await act(connection)

            found[name] = await _timed(once, rounds)
    found["insert a model call"] = await _live_call(dsn, rounds)
    return found


def run(activities: int = ACTIVITIES, model_calls: int = CALLS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """The 95th percentile of each, beside its goal."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-bench-database-"))
    folder.chmod(0o755)  # as root the server runs as another user, who has to enter
    try:
        cluster = postgres.prepare(folder)
        with cluster.run():
            migrate(cluster.dsn(postgres.OWNER))
            with psycopg.connect(cluster.dsn(postgres.OWNER), autocommit=True) as connection:
                fill(connection, activities, model_calls)
            found = asyncio.run(measure(cluster.dsn(), model_calls, rounds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = []
    asked = queries(datetime.now(UTC), model_calls)
    for name, taken in found.items():
        goal = MONTH_GOAL_MS if "30 d" in name else QUERY_GOAL_MS if name in asked else INSERT_GOAL_MS
        p95 = taken[int(0.95 * (len(taken) - 1))]
        rows.append(
            {
                "name": f"{name}, p95 (median {statistics.median(taken):.1f} ms)",
                "value": round(p95, 1),
                "unit": "ms",
                "goal": f"< {goal}",
                "ok": p95 < goal,
            }
        )
    return rows


if __name__ == "__main__":
    for line in run():
        print(line)
