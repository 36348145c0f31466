import asyncio
import contextlib

import psycopg
import pytest
from psycopg.rows import dict_row

from exporter.collectors.scheduler import Runner
from exporter.gateway.watch import GatewayWatch
from exporter.metrics.registry import Registry
from store import outbox
from store.pool import open_pool
from tests.servers import PATIENCE_SECONDS

pytestmark = pytest.mark.live


async def rows(dsn, query):
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute(query)
        return await cursor.fetchall()


async def operations(dsn, which):
    return await rows(
        dsn,
        "SELECT o.*, (SELECT array_agg(s.name || ' ' || s.status ORDER BY s.position) FROM operation_steps s"
        f" WHERE s.operation_id = o.id) AS steps FROM operations o WHERE {which} ORDER BY o.started_at",
    )


async def becomes(look, expected):
    """What is awaited happens in another process; when it does not, the assertion shows how it is instead."""
    end = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while (found := await look()) != expected and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.1)
    assert found == expected


async def drive(live_gateway):
    async with live_gateway.driver() as driver:
        assert (await driver.turn("Say hello", "agent:main:dashboard:watched"))["ok"]
        assert (await driver.turn("Run [[exec echo hello]]", "agent:main:dashboard:watched"))["ok"]
        assert (await driver.turn("Run [[exec sh -c 'exit 3']]", "agent:main:dashboard:watched"))["ok"]
        assert (await driver.turn("Delegate [[spawn say hi]]", "agent:main:dashboard:watched"))["ok"]
        assert not (await driver.turn("Fail [[err 404]]", "agent:main:dashboard:watched"))["ok"]
        job = await driver.cron("watched report", "Report [[exec echo cron]]")
        await asyncio.to_thread(live_gateway.hook, message="From outside", name="Live", agentId="main")
    return job


@pytest.mark.req("S0-18", "S1-3", "S1-11", "S3-9", "S4-2", "S4-5", "S4-6", "S4-9", "S4-14", "S4-16")
async def test_a_real_gateway_is_watched_with_operator_read_alone(live_gateway, postgres_dsn, postgres_reader_dsn):
    messages = []

    async def follow():
        async with contextlib.aclosing(outbox.follow(postgres_dsn, 0)) as events:
            async for event in events:
                messages.append(event)  # noqa: PERF401 - seen while it goes on

    async with open_pool(postgres_dsn, name="live") as pool:
        watch = GatewayWatch(
            "live",
            live_gateway.url,
            lambda: live_gateway.token,
            state_dir=live_gateway.state_dir,
            pool=pool,
            interval=1,
        )
        runner = Runner(Registry(), "live", watch.collectors)
        tasks = [asyncio.create_task(work) for work in (watch.run(runner.wake), runner.run(), follow())]
        try:
            hello = await watch.client.wait_connected(PATIENCE_SECONDS)
            assert hello.scopes == ("operator.read",)
            job = await drive(live_gateway)

            async def watched():
                found = await operations(postgres_reader_dsn, "session_key = 'agent:main:dashboard:watched'")
                own = [row for row in found if "announce" not in row["tags"]]
                return [(row["status"], (row["disposition"] or {}).get("errorCode"), row["steps"]) for row in own]

            await becomes(
                watched,
                [
                    ("completed", None, None),
                    ("completed", None, ["exec completed"]),
                    ("completed", None, ["exec failed"]),
                    ("completed", None, ["sessions_spawn completed"]),
                    ("failed", "model_not_found", None),
                ],
            )

            async def others():
                # Not what the gateway schedules by itself: a heartbeat every half an hour.
                found = await operations(
                    postgres_reader_dsn, f"type = 'webhook' OR cron_job_id = '{job}' OR 'subagent' = ANY(tags)"
                )
                return sorted(
                    (row["type"], row["status"], row["cron_job_id"], row["metadata"].get("parentSessionKey"))
                    for row in found
                )

            await becomes(
                others,
                [
                    ("agent_task", "completed", None, "agent:main:dashboard:watched"),
                    ("scheduled", "completed", job, None),
                    ("webhook", "completed", None, None),
                ],
            )
            (scheduled,) = await operations(postgres_reader_dsn, f"cron_job_id = '{job}'")
            assert (scheduled["name"], scheduled["steps"]) == ("watched report", ["exec completed"])

            async def kept():
                jobs = await rows(
                    postgres_reader_dsn, "SELECT schedule, period_seconds FROM cron_jobs WHERE name = 'watched report'"
                )
                runs = await rows(postgres_reader_dsn, f"SELECT status FROM cron_runs WHERE job_id = '{job}'")
                return jobs, runs

            await becomes(kept, ([{"schedule": "0 3 * * * (UTC)", "period_seconds": 86400}], [{"status": "ok"}]))
            names = {collector.name for collector in watch.collectors if collector.name != "usage"}

            async def failing():
                samples = {(sample.metric, sample.labels[-1]): sample.value for sample in runner.render()}
                return {name for name in names if samples.get(("lobservatory_collector_success", name)) != 1}

            await becomes(failing, set())

            async def told():
                return any(event.topic == "agents" and event.kind == "tool_start" for event in messages)

            await becomes(told, expected=True)
            assert set(watch.client.stats.frames_dropped) <= {"late_reply"}  # on a busy machine
            assert not watch.client.stats.gaps
            # A busy gateway may let a question wait for too long or ask for patience; each is asked again, as above.
            for_now = {"TIMEOUT", "UNAVAILABLE"}
            assert {call for call in watch.client.stats.rpc_errors if call[1] not in for_now} == set()
            activities = await rows(postgres_reader_dsn, "SELECT event, activity FROM agent_events")
            assert {"event": "tool_start", "activity": "Running a command"} in activities
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
