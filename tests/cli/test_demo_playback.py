import asyncio
import contextlib
import json
import socket
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.demo.gateway import ReplayGateway
from cli.demo.playback import Account, Stores, play
from cli.demo.state import prepare
from exporter.collectors.cron import CronCollector
from exporter.gateway.runs.tracker import RunTracker
from openclaw.client import GatewayClient
from openclaw.fields import instant
from openclaw.log_lines import parse
from tests.servers import PATIENCE_SECONDS

TOKEN = "demo-token"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def scan(state_dir):
    command = Path(sys.executable).with_name("lobservatory")
    process = await asyncio.create_subprocess_exec(
        command, "scan", str(state_dir), "--json", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


@contextlib.asynccontextmanager
async def playing(state_dir, **settings):
    stop, ready = asyncio.Event(), asyncio.Event()
    port = free_port()
    task = asyncio.create_task(
        play(state_dir, port, stop, token=TOKEN, loop_seconds=0, max_pause=0, ready=ready, **settings)
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        await task
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await task


def test_the_copy_is_a_state_directory_whose_past_ends_now(tmp_path):
    now = datetime.now(UTC)
    prepare(tmp_path / "state", port=18789, token=TOKEN, now=now)
    stores = Stores(tmp_path / "state")
    stores.close()
    newest = max(datetime.fromisoformat(entry["timestamp"]) for turn in stores.turns for entry in turn.entries)
    assert now - timedelta(minutes=10) < newest <= now + timedelta(seconds=1)
    agents = {turn.agent for turn in stores.turns}
    assert agents == {"main", "guarded", "helper", "legacy-main", "legacy-guarded", "legacy-helper"}
    config = json.loads((tmp_path / "state" / "openclaw.json").read_text(encoding="utf-8"))
    assert config["gateway"]["auth"]["token"] == TOKEN
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError, match="not empty"):
        prepare(tmp_path / "state", port=1, token=TOKEN, now=now)


async def test_turns_are_played_with_new_ids_and_the_gateway_counts_what_the_stores_hold(tmp_path):
    state_dir = tmp_path / "state"
    tracker, ended, steps = RunTracker("demo"), {}, set()

    def on_event(event):
        for operation in tracker.event(event, datetime.now(UTC)).operations:
            steps.update((step.name, step.status) for step in operation.steps)
            if operation.status != "in_progress":
                ended[operation.id] = operation

    async with playing(state_dir) as url:
        before = await scan(state_dir)
        async with GatewayClient(url, TOKEN) as client:
            await client.wait_connected(PATIENCE_SECONDS)
            tracker.jobs({str(job["id"]): job["name"] for job in (await client.call("cron.list"))["jobs"]})
            client.subscribe(on_event)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(ended) < 60:  # noqa: ASYNC110 - more than one pass of 49 turns, told by events
                    await asyncio.sleep(0.05)
            # Live: the databases are in WAL mode with a writer, and can be read beside it.
            database = state_dir / "agents" / "main" / "agent" / "openclaw-agent.sqlite"
            assert database.with_name(f"{database.name}-wal").exists()
            with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
                (rows,) = connection.execute("SELECT count(*) FROM transcript_events").fetchone()
            assert rows > 124
        types = {operation.type for operation in ended.values()}
        assert types == {"agent_task", "scheduled", "webhook"}
        assert {("exec", "completed"), ("exec", "failed"), ("read", "failed")} <= steps
    after = await scan(state_dir)
    assert after["calls"] > before["calls"]
    assert (after["duplicates"], after["rejected"], after["unpriced_calls"]) == (0, {}, 0)
    usage = Stores(state_dir)
    usage.close()
    account = usage.account
    names = {"input": "input", "output": "output", "cacheRead": "cache_read", "cacheWrite": "cache_write"}
    assert {names[name]: value for name, value in account.usage.tokens.items()} == {
        name: after["tokens"][name] for name in names.values()
    }
    assert account.usage.cost == pytest.approx(after["cost_usd"]["billed"], abs=1e-9)
    later = datetime.now(UTC) + timedelta(minutes=1)
    by_agent = account.sessions_answer(later, 1)["aggregates"]["byAgent"]
    assert {one["agentId"]: one["totals"]["totalCost"] for one in by_agent} == {
        agent: pytest.approx(group["cost_usd"], abs=1e-9) for agent, group in after["by_agent"].items()
    }
    assert account.cost_answer(later)["totals"] == account.usage.totals() | {
        "totalCost": pytest.approx(account.usage.cost)
    }


def test_the_gateways_account_is_some_seconds_old_and_says_so():
    account, at = Account(), datetime(2026, 11, 21, 1, tzinfo=UTC)
    message = {"role": "assistant", "usage": {"input": 7, "output": 1, "cost": {"total": 0.5}}}
    for agent, age in (("main", 60), ("main", 1), ("helper", 1)):
        account.add(agent, {"timestamp": (at - timedelta(seconds=age)).isoformat(), "message": message})
    first, second = account.cost_answer(at), account.cost_answer(at + timedelta(minutes=1))
    assert (first["totals"]["totalCost"], second["totals"]["totalCost"]) == (0.5, 1.5)
    assert instant(first["updatedAt"]) < at - timedelta(seconds=1)
    by_agent = account.sessions_answer(at + timedelta(minutes=1), 2)["aggregates"]["byAgent"]
    assert {one["agentId"]: one["totals"]["input"] for one in by_agent} == {"main": 14, "helper": 7}


async def test_no_job_is_late_or_failing_however_long_the_demo_runs(tmp_path):
    async with playing(tmp_path / "state") as url, GatewayClient(url, TOKEN) as client:
        await client.wait_connected(PATIENCE_SECONDS)
        collector = CronCollector("demo", client)
        await collector.refresh()
        samples = {(sample.metric, *sample.labels[1:]): sample.value for sample in collector.render()}
        now = datetime.now(UTC).timestamp()
        assert all(
            value > now for key, value in samples.items() if key[0] == "claw_cron_job_next_run_timestamp_seconds"
        )
        assert not any(value for key, value in samples.items() if key[0] == "claw_cron_job_consecutive_errors")
        assert not any(
            value for key, value in samples.items() if key[0] == "claw_cron_job_status" and key[2] == "error"
        )
        periods = {key[1]: value for key, value in samples.items() if key[0] == "claw_cron_job_period_seconds"}
        for job, period in periods.items():
            assert now - samples["claw_cron_job_last_run_timestamp_seconds", job] <= period
        runs = (await client.call("cron.runs", {"limit": 200}))["entries"]
        again = (await client.call("cron.runs", {"limit": 200}))["entries"]
        known = {(run["jobId"], run["runAtMs"]) for run in runs}
        assert {(run["jobId"], run["runAtMs"]) for run in again} >= known  # the past stays where it is
        assert all(instant(run["runAtMs"]) for run in runs)


async def test_the_log_ends_now_and_is_told_from_a_cursor_on():
    before = datetime.now(UTC)
    async with ReplayGateway(token=TOKEN) as gateway, GatewayClient(gateway.url, TOKEN) as client:
        await client.wait_connected(PATIENCE_SECONDS)
        first = await client.call("logs.tail", {"limit": 500})
        lines = [parse(line, before) for line in first["lines"]]
        assert len(lines) == 20
        assert all(before - timedelta(minutes=5) < line.at <= datetime.now(UTC) for line in lines)
        assert {line.level for line in lines} == {"info", "warn"}
        assert (await client.call("logs.tail", {"limit": 500, "cursor": first["cursor"]}))["lines"] == []
        gateway.log.write("agents/agent-command", "[agent] run r ended with stopReason=stop", before)
        (new,) = (await client.call("logs.tail", {"limit": 500, "cursor": first["cursor"]}))["lines"]
        assert parse(new, datetime.now(UTC)).message == "[agent] run r ended with stopReason=stop"
        anew = await client.call("logs.tail", {"limit": 5, "cursor": 1_000_000_000})  # of a longer file
        assert (anew["reset"], anew["truncated"], len(anew["lines"])) == (True, True, 5)


async def test_the_recorded_account_is_finished_and_ends_today():
    now = datetime.now(UTC)
    async with (
        ReplayGateway(token=TOKEN, now=now.timestamp) as gateway,
        GatewayClient(gateway.url, TOKEN) as client,
    ):
        await client.wait_connected(PATIENCE_SECONDS)
        cost = await client.call("usage.cost")
    assert cost["cacheStatus"]["status"] == "fresh"
    days = [day["date"] for day in cost["daily"]]
    assert (days[0], days[-1]) == (str(now.date() - timedelta(days=len(days) - 1)), str(now.date()))


async def test_a_port_that_is_taken_is_one_clear_error(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="address already in use"):
            await play(tmp_path / "state", taken.getsockname()[1], asyncio.Event(), token=TOKEN)
