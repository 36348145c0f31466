import asyncio
import contextlib

import psycopg
import pytest
from psycopg.rows import dict_row

from exporter.gateway import GatewayWatch
from exporter.registry import Registry
from exporter.runner import Runner
from store import outbox
from store.pool import open_pool

pytestmark = pytest.mark.live


async def rows(dsn, query):
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute(query)
        return await cursor.fetchall()


async def eventually(found):
    async with asyncio.timeout(60):
        while not await found():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.1)


async def drive(live_gateway):
    async with live_gateway.driver() as driver:
        assert (await driver.turn("Say hello", "agent:main:dashboard:watched"))["ok"]
        assert (await driver.turn("Run [[exec echo hello]]", "agent:main:dashboard:watched"))["ok"]
        assert (await driver.turn("Run [[exec sh -c 'exit 3']]", "agent:main:dashboard:watched"))["ok"]
        assert (await driver.turn("Delegate [[spawn say hi]]", "agent:main:dashboard:watched"))["ok"]
        assert not (await driver.turn("Fail [[err 404]]", "agent:main:dashboard:watched"))["ok"]
        job = await driver.cron("watched report", "Report [[exec echo cron]]")
        status, _ = await asyncio.to_thread(
            live_gateway.post, "/hooks/agent", {"message": "From outside", "name": "Live", "agentId": "main"}
        )
        assert status == 200
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
            hello = await watch.client.wait_connected()
            assert hello.scopes == ("operator.read",)
            job = await drive(live_gateway)

            async def all_ended():
                found = await rows(
                    postgres_reader_dsn,
                    "SELECT type, status FROM operations WHERE session_key LIKE '%watched%' OR type <> 'agent_task'"
                    " OR 'subagent' = ANY(tags)",
                )
                return (
                    len(found) >= 8
                    and {"scheduled", "webhook"} <= {row["type"] for row in found}
                    and all(row["status"] != "in_progress" for row in found)
                )

            await eventually(all_ended)
            own = await rows(
                postgres_reader_dsn,
                "SELECT o.*, (SELECT array_agg(s.name || ' ' || s.status ORDER BY s.position) FROM operation_steps s"
                " WHERE s.operation_id = o.id) AS steps FROM operations o ORDER BY o.started_at",
            )
            watched = [row for row in own if row["session_key"] == "agent:main:dashboard:watched"]
            told = [(row["status"], row["steps"]) for row in watched if "announce" not in row["tags"]]
            assert told == [
                ("completed", None),
                ("completed", ["exec completed"]),
                ("completed", ["exec failed"]),
                ("completed", ["sessions_spawn completed"]),
                ("failed", None),
            ]
            codes = [row["disposition"]["errorCode"] for row in watched if row["status"] == "failed"]
            assert "model_not_found" in codes
            scheduled = [row for row in own if row["cron_job_id"] == job]
            assert [(row["name"], row["status"], row["steps"]) for row in scheduled] == [
                ("watched report", "completed", ["exec completed"])
            ]
            subagents = [row for row in own if "subagent" in row["tags"]]
            assert subagents[-1]["metadata"]["parentSessionKey"] == "agent:main:dashboard:watched"

            jobs = await rows(postgres_reader_dsn, "SELECT * FROM cron_jobs WHERE name = 'watched report'")
            assert (jobs[0]["schedule"], jobs[0]["period_seconds"]) == ("0 3 * * * (UTC)", 86400)

            async def history():
                return await rows(
                    postgres_reader_dsn, f"SELECT 1 FROM cron_runs WHERE job_id = '{job}' AND status = 'ok'"
                )

            await eventually(history)

            async def every_collector():
                samples = {(sample.metric, sample.labels[-1]): sample.value for sample in runner.render()}
                names = [collector.name for collector in watch.collectors if collector.name != "usage"]
                return all(samples.get(("lobservatory_collector_success", name)) == 1 for name in names)

            await eventually(every_collector)
            assert set(watch.client.stats.frames_dropped) <= {"late_reply"}  # on a busy machine
            assert not watch.client.stats.gaps
            # A gateway that has just started may say once that its own account is not available yet.
            assert {method for method, _ in watch.client.stats.rpc_errors} <= {"usage.cost"}
            activities = await rows(postgres_reader_dsn, "SELECT event, activity FROM agent_events")
            assert {"event": "tool_start", "activity": "Running a command"} in activities
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert [event for event in messages if event.topic == "agents" and event.kind == "tool_start"]
