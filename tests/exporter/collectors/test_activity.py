"""Signs of life, repeated calls, failed compactions, allowances, updates: what alerts need beside the polls."""

import json
from datetime import UTC, datetime
from pathlib import Path

from exporter.collectors.activity import MOST_SESSIONS, Activity
from exporter.collectors.approvals import ApprovalsCollector
from exporter.collectors.cron import CronCollector
from exporter.collectors.sessions import SessionsCollector
from openclaw.protocol import Pushed
from openclaw.state_records import StateRecords

EVENTS = Path(__file__).parents[2] / "fixtures" / "samples" / "events.jsonl"
BASE = 1_795_000_000  # epoch seconds
NOW = datetime(2026, 11, 21, 1, 30, tzinfo=UTC)


def pushed(event, payload):
    return Pushed(event=event, payload=payload, seq=1)


def tool(call_id, args, key="agent:main:main", event="agent", phase="start"):
    data = {"phase": phase, "name": "exec", "toolCallId": call_id, "args": args}
    return pushed(event, {"stream": "tool", "sessionKey": key, "agentId": "main", "data": data})


def ended(key="agent:main:main"):
    return pushed("agent", {"stream": "lifecycle", "sessionKey": key, "agentId": "main", "data": {"phase": "end"}})


def test_the_same_call_in_a_row_is_counted_and_another_begins_anew():
    activity = Activity()
    for number in range(5):
        activity.pushed(tool(f"c{number}", {"command": "ls", "cwd": "/"}))
        activity.pushed(tool(f"c{number}", {"cwd": "/", "command": "ls"}, event="session.tool"))
        activity.pushed(tool(f"c{number}", None, phase="result"))
    assert activity.repeats() == {"main": 5}
    activity.pushed(tool("x", {"command": "pwd"}))
    assert activity.repeats() == {"main": 1}
    activity.pushed(ended())
    assert activity.repeats() == {"main": 0}


def test_a_repeated_call_through_another_tool_is_seen():
    activity = Activity()
    for number in range(4):
        activity.pushed(tool(f"c{number}", {"id": "browser", "args": {"url": "x"}}))
        inner = tool(f"tool_search_code:c{number}:browser:{number}", {"url": "x"})
        inner.payload["data"]["parentToolCallId"] = f"c{number}"
        activity.pushed(inner)
    assert activity.repeats() == {"main": 4}


def test_sessions_do_not_mix_and_are_bounded():
    activity = Activity()
    for number in range(MOST_SESSIONS + 10):
        activity.pushed(tool("c", {"command": "ls"}, key=f"agent:main:dashboard:{number}"))
    assert activity.repeats() == {"main": 1}
    assert activity.last_event("agent:main:dashboard:0") is None
    assert activity.last_event(f"agent:main:dashboard:{MOST_SESSIONS}") is not None


def test_recorded_events_have_signs_of_life_and_no_failed_compaction():
    activity = Activity(clock=lambda: 7.0)
    for line in EVENTS.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        activity.pushed(pushed(event["event"], event.get("payload")))
    assert activity.last_event("agent:main:main") == 7
    assert not +activity.failed_compactions
    assert max(activity.repeats().values()) <= 2
    failed = {"operation": "compact", "phase": "end", "sessionKey": "agent:main:main", "agentId": "main"}
    activity.pushed(pushed("session.operation", {**failed, "completed": False}))
    activity.pushed(pushed("session.operation", {**failed, "completed": True}))
    assert activity.failed_compactions == {"main": 1}


def running(key, updated, **more):
    return {"key": key, "sessionId": key, "hasActiveRun": True, "updatedAt": updated, "agentId": "main", **more}


async def test_silence_of_a_run_counts_from_its_last_sign_of_life(gateway, helpers):
    seconds = int(NOW.timestamp())
    old = (seconds - 10_000) * 1000
    listed = [running("agent:main:main", old), running("agent:main:dashboard:x", old)]
    gateway.answers["sessions.list"] = lambda _params: {"sessions": listed}
    now = [NOW]
    activity = Activity(clock=lambda: seconds + 500.0)
    metric = ("claw_active_run_last_event_timestamp_seconds", "home", "main")
    async with helpers.watched(gateway) as client:
        collector = SessionsCollector("home", client, activity=activity, now=lambda: now[0])
        await collector.refresh()
        assert helpers.shown(collector)[metric] == seconds, "what was before the first poll is not held against it"
        now[0] = datetime.fromtimestamp(seconds + 1000, UTC)
        activity.pushed(tool("c", {"command": "ls"}))
        await collector.refresh()
        samples = helpers.shown(collector)
        assert samples[metric] == seconds, "the quietest run of the agent"
        assert samples["claw_tool_call_repeats_max", "home", "main"] == 1
        assert samples["claw_compaction_failures_total", "home", "main"] == 0
        listed.pop()
        await collector.refresh()
        assert helpers.shown(collector)[metric] == seconds + 500
        listed.clear()
        await collector.refresh()
        assert metric not in helpers.shown(collector)


async def test_people_are_not_jobs(gateway, helpers):
    keys = ("agent:main:main", "agent:main:dashboard:x", "agent:main:cron:j", "agent:main:subagent:s")
    listed = [
        {"key": key, "sessionId": key, "lastInteractionAt": (BASE + number) * 1000} for number, key in enumerate(keys)
    ]
    listed.append({"key": "agent:other:main", "sessionId": "o"})
    gateway.answers["sessions.list"] = lambda _params: {"sessions": listed}
    async with helpers.watched(gateway) as client:
        collector = SessionsCollector("home", client)
        await collector.refresh()
    found = {key: value for key, value in helpers.shown(collector).items() if "last_human" in key[0]}
    assert found == {("claw_agent_last_human_timestamp_seconds", "home", "main"): BASE + 1}


async def test_last_success_of_a_job_comes_from_the_history_and_delivery_from_the_job(gateway, helpers):
    job = {"id": "j1", "name": "j", "schedule": {"kind": "every", "everyMs": 60000}}
    state = {"lastRunStatus": "error", "lastRunAtMs": (BASE + 3000) * 1000, "lastDeliveryStatus": "not-delivered"}
    jobs = [{**job, "state": state}]
    runs = [
        {"jobId": "j1", "status": "ok", "runAtMs": (BASE + 2000) * 1000},
        {"jobId": "gone", "status": "ok", "runAtMs": BASE * 1000},
    ]
    gateway.answers["cron.list"] = lambda _params: {"jobs": jobs}
    gateway.answers["cron.runs"] = lambda _params: {"entries": runs}
    success = ("claw_cron_job_last_success_timestamp_seconds", "home", "j1")
    delivery = ("claw_cron_job_delivery_failed", "home", "j1")
    async with helpers.watched(gateway) as client:
        collector = CronCollector("home", client)
        await collector.refresh()
        samples = helpers.shown(collector)
        assert samples[success] == BASE + 2000
        assert delivery not in samples, "the run itself failed: that is another alert"
        runs.clear()
        state |= {"lastRunStatus": "ok", "lastRunAtMs": (BASE + 4000) * 1000}
        await collector.refresh()
        samples = helpers.shown(collector)
        assert (samples[success], samples[delivery]) == (BASE + 4000, 1)
        state |= {"lastRunStatus": "error", "lastDeliveryStatus": "unknown"}
        await collector.refresh()
        assert helpers.shown(collector)[success] == BASE + 4000, "kept while the job exists"
        jobs.clear()
        await collector.refresh()
        assert success not in helpers.shown(collector)


async def test_a_job_that_never_worked_has_no_success(gateway, helpers):
    async with helpers.watched(gateway) as client:
        collector = CronCollector("home", client)
        await collector.refresh()
    names = {key[2]: key[3] for key in helpers.shown(collector) if key[0] == "claw_cron_job_info"}
    succeeded = {
        names[key[2]] for key in helpers.shown(collector) if key[0] == "claw_cron_job_last_success_timestamp_seconds"
    }
    assert "nightly report" in succeeded
    assert "failing job" not in succeeded


async def test_expired_approvals_of_a_day(newer_state_dir, helpers):
    records = StateRecords(newer_state_dir)
    for now, expected in ((NOW, 1), (datetime(2026, 11, 23, tzinfo=UTC), 0)):
        collector = ApprovalsCollector("home", records, now=lambda now=now: now)
        await collector.refresh()
        assert helpers.shown(collector)["claw_exec_approvals_expired", "home"] == expected
