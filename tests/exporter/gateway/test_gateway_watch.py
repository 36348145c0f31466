import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from psycopg.rows import dict_row

from api.services.agents import AgentService
from cli.demo.gateway import ReplayGateway
from exporter.collectors.scheduler import Runner
from exporter.gateway.feed import OperationsFeed
from exporter.gateway.watch import GatewayWatch
from exporter.metrics.registry import Registry
from openclaw.protocol import Pushed
from store import outbox
from store.pool import open_pool
from tests.servers import PATIENCE_SECONDS

EVENTS = Path(__file__).parents[2] / "fixtures" / "gateway" / "runs-2026.9.6.jsonl"
TOKEN = "a-token"


def recorded_now():
    """The recorded frames, moved so that they end now."""
    lines = EVENTS.read_text(encoding="utf-8").splitlines()
    newest = max(json.loads(line)["payload"].get("ts", 0) for line in lines)
    by = int(time.time() * 1000) - newest
    return [shifted(json.loads(line), by) for line in lines]


def shifted(value, by):
    if isinstance(value, dict):
        return {key: shifted(item, by) for key, item in value.items()}
    if isinstance(value, list):
        return [shifted(item, by) for item in value]
    return value + by if isinstance(value, int) and value > 1_700_000_000_000 else value


async def eventually(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - what is awaited happens in another process or task
            await asyncio.sleep(0.02)


@pytest.fixture
async def pool(postgres_dsn):
    async with open_pool(postgres_dsn, name="test") as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(watch, registry=None):
    runner = Runner(registry or Registry(), "home", watch.collectors)
    tasks = [asyncio.create_task(watch.run(runner.wake)), asyncio.create_task(runner.run())]
    try:
        yield runner
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def rows(dsn, query):
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute(query)
        return await cursor.fetchall()


@pytest.mark.req("S0-18", "S1-11", "S1-3", "S4-5")
async def test_what_a_gateway_does_becomes_rows_and_messages(pool, postgres_dsn, postgres_reader_dsn):
    messages = []

    async def follow():
        async with contextlib.aclosing(outbox.follow(postgres_dsn, 0)) as events:
            async for event in events:
                messages.append(event)  # noqa: PERF401 - seen while it goes on

    following = asyncio.create_task(follow())
    async with ReplayGateway(token=TOKEN) as gateway:
        watch = GatewayWatch("home", gateway.url, lambda: TOKEN, pool=pool, interval=0.5)
        async with running(watch):
            await watch.client.wait_connected(PATIENCE_SECONDS)

            async def listed():
                return len(await rows(postgres_reader_dsn, "SELECT * FROM cron_jobs")) == 8

            await eventually(listed)
            for frame in recorded_now():
                await gateway.emit(frame["event"], frame["payload"])

            async def ended():
                found = await rows(postgres_reader_dsn, "SELECT status FROM operations WHERE run_id IS NOT NULL")
                return len(found) >= 10 and all(row["status"] != "in_progress" for row in found)

            await eventually(ended)
            told = await rows(
                postgres_reader_dsn,
                "SELECT o.type, o.name, o.status, o.disposition, s.name AS step, s.status AS s"
                " FROM operations o LEFT JOIN operation_steps s ON s.operation_id = o.id ORDER BY o.started_at",
            )
            by_step = {row["step"]: row for row in told if row["step"]}
            assert set(by_step) == {"exec", "read", "sessions_spawn"}
            assert (by_step["read"]["status"], by_step["read"]["s"]) == ("completed", "failed")
            failed = [row["disposition"]["errorCode"] for row in told if row["status"] == "failed"]
            assert "model_not_found" in failed
            assert {row["type"] for row in told} == {"agent_task", "scheduled", "webhook"}
            assert len(await rows(postgres_reader_dsn, "SELECT * FROM sessions")) >= 8
            agents = await rows(postgres_reader_dsn, "SELECT agent, state FROM agents WHERE configured")
            assert {row["agent"] for row in agents} == {"main", "guarded", "helper"}
            events = await rows(postgres_reader_dsn, "SELECT event, activity FROM agent_events ORDER BY id")
            assert {"event": "tool_start", "activity": "Reading notes.md"} in events

            async def published():
                return sum(message.topic == "agents" for message in messages) == len(events)

            await eventually(published)
            before = len(await rows(postgres_reader_dsn, "SELECT * FROM operations"))
            for frame in recorded_now():  # the same runs again: nothing new
                await gateway.emit(frame["event"], frame["payload"])
            await gateway.drop_clients()

            async def connected_again():
                return watch.client.stats.reconnects == 1 and watch.client.state == "connected"

            await eventually(connected_again)
            await watch.client.call("health")
            assert len(await rows(postgres_reader_dsn, "SELECT * FROM operations")) == before
    following.cancel()
    created = [message for message in messages if message.kind == "operation_created"]
    assert len({message.payload["id"] for message in created}) == len(created) == before


def states_of_metrics(registry):
    return {
        sample.labels["agent"]: sample.labels["state"]
        for family in parse_text(registry.render(prometheus=False))
        for sample in family.samples
        if sample.name == "claw_agent_state" and sample.value
    }


@pytest.mark.req("S1-11")
async def test_the_api_and_the_metrics_tell_the_same_state_of_every_agent(pool):
    """Of agents of which nothing was heard, too; and while the gateway is away. The next poll is an hour away."""
    registry, agents = Registry(), AgentService(pool)

    async def both():
        return states_of_metrics(registry), {row.id: row.status for row in await agents.status()}

    async def agree(expected):
        async def same():
            return await both() == (expected, expected)

        try:
            await eventually(same)
        except TimeoutError:
            assert await both() == (expected, expected)  # says what they are

    async with ReplayGateway(token=TOKEN) as gateway:
        watch = GatewayWatch("home", gateway.url, lambda: TOKEN, pool=pool, interval=3600)
        async with running(watch, registry) as runner:
            await agree({"main": "idle", "guarded": "idle", "helper": "idle"})
            assert {row.last_activity_at for row in await agents.status()} == {None}, "a poll is no activity"
            run = {"runId": "r", "sessionKey": "agent:main:main", "agentId": "main", "stream": "lifecycle"}
            await gateway.emit("agent", {**run, "data": {"phase": "start"}, "ts": int(time.time() * 1000)})
            await agree({"main": "thinking", "guarded": "idle", "helper": "idle"})
            await gateway.stop()

            async def away():
                return watch.client.connected is False

            await eventually(away)
            runner.wake("agents")
            await agree(dict.fromkeys(("main", "guarded", "helper"), "offline"))
            await gateway.start(port=gateway.port)

            async def back():
                metrics, api = await both()
                return metrics == api and "offline" not in api.values()

            await eventually(back)


@pytest.mark.req("S0-18")
async def test_a_run_that_ended_while_the_exporter_was_away_is_ended(pool, postgres_reader_dsn):
    frames = [frame for frame in recorded_now() if frame["payload"].get("runId", "").startswith("737ec447")]
    first = OperationsFeed("home", pool)
    for frame in frames[:3]:
        first.pushed(Pushed(frame["event"], frame["payload"], None))
    assert await first.step()
    query = "SELECT run_id, status FROM operations"
    run_id = frames[0]["payload"]["runId"]
    assert await rows(postgres_reader_dsn, query) == [{"run_id": run_id, "status": "in_progress"}]

    again = OperationsFeed("home", pool)
    at = datetime.now(UTC) + timedelta(minutes=1)
    session = {"key": "agent:main:dashboard:x", "sessionId": "other", "hasActiveRun": False, "activeRunIds": []}
    again.sessions_listed([{**session, "lastRunId": run_id, "status": "done"}], at)
    assert await again.step()
    assert await rows(postgres_reader_dsn, query) == [{"run_id": run_id, "status": "completed"}]


async def test_without_a_database_states_and_counts_are_kept():
    feed = OperationsFeed("home", None)
    feed.cron_listed({}, [])
    for frame in recorded_now():
        feed.pushed(Pushed(frame["event"], frame["payload"], None))
    while feed._queue:
        assert await feed.step()
    assert feed.event_counts["main", "tool_start"] == 4
    assert feed.states["main"].state == "idle"
    assert not feed._unsaved


@pytest.mark.parametrize("at_first", [True, False])
async def test_while_the_database_is_away_nothing_is_lost(pool, postgres_reader_dsn, at_first):
    class Sometimes:
        away = at_first

        @contextlib.asynccontextmanager
        async def connection(self):
            if self.away:
                raise psycopg.OperationalError("connection refused")
            async with pool.connection() as connection:
                yield connection

    database = Sometimes()
    feed = OperationsFeed("home", database)
    feed.cron_listed({}, [])
    if not at_first:
        assert await feed.step()
        database.away = True
    for frame in recorded_now():
        feed.pushed(Pushed(frame["event"], frame["payload"], None))
    assert not await feed.step()
    database.away = False
    while feed._queue or feed._unsaved:
        assert await feed.step()
    found = await rows(postgres_reader_dsn, "SELECT status FROM operations")
    assert sorted(row["status"] for row in found) == ["completed"] * 9 + ["failed"]
