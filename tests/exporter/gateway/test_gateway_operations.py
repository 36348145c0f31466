import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.gateway.runs.activities import activity_text, file_name
from exporter.gateway.runs.derived import merged
from exporter.gateway.runs.tracker import RunTracker
from openclaw.protocol import Pushed
from store.operations import run_operation_id

FIXTURES = Path(__file__).parents[2] / "fixtures"
EVENTS = [
    json.loads(line) for line in (FIXTURES / "gateway" / "runs-2026.9.6.jsonl").read_text(encoding="utf-8").splitlines()
]
SESSIONS = json.loads((FIXTURES / "samples" / "rpc-2026.9.6" / "sessions.list.json").read_text(encoding="utf-8"))
LISTED = SESSIONS["response"]["payload"]["sessions"]
CRON_RUNS = json.loads((FIXTURES / "samples" / "rpc-2026.9.6" / "cron.runs.json").read_text(encoding="utf-8"))
NOW = datetime.fromtimestamp(1795226615, UTC)  # shortly after the last recorded event
ASKED = datetime.fromtimestamp(1795224076, UTC)  # when the sessions were listed


def pushed(frame):
    return Pushed(frame["event"], frame["payload"], frame["seq"])


def tracker():
    made = RunTracker("home")
    made.jobs({})
    return made


def played(events=EVENTS, into=None):
    runs = into or tracker()
    return merged([runs.event(pushed(frame), NOW) for frame in events])


def lifecycle(phase, run="r1", key="agent:main:main", at=NOW, **data):
    stamp = int(at.timestamp() * 1000)
    payload = {"runId": run, "sessionKey": key, "sessionId": f"s-{run}", "agentId": key.split(":")[1], "ts": stamp}
    return Pushed("agent", {**payload, "stream": "lifecycle", "data": {"phase": phase, **data}}, None)


def item(phase, call, name, run="r1", key="agent:main:main", **data):
    payload = {"runId": run, "sessionKey": key, "agentId": "main", "stream": "item", "ts": int(NOW.timestamp() * 1000)}
    return Pushed(
        "agent", {**payload, "data": {"phase": phase, "kind": "tool", "toolCallId": call, "name": name, **data}}, None
    )


@pytest.mark.req("S0-18")
def test_the_runs_of_a_real_gateway_become_operations():
    runs = tracker()
    derived = played(into=runs)
    assert runs.active == 0
    told = {
        operation.id: (operation.type, operation.name, operation.status, [(s.name, s.status) for s in operation.steps])
        for operation in derived.operations
    }
    assert sorted(told.values()) == sorted(
        [
            ("agent_task", "Run of main", "completed", []),
            ("agent_task", "Run of main", "completed", [("exec", "completed")]),
            ("agent_task", "Run of main", "completed", [("read", "failed")]),
            ("agent_task", "Run of main", "completed", [("sessions_spawn", "completed")]),
            ("agent_task", "Run of main", "failed", []),
            ("agent_task", "Sub-agent of main", "completed", []),
            ("agent_task", "Report of a sub-agent to main", "completed", []),
            ("scheduled", "nightly", "completed", [("exec", "completed")]),
            ("scheduled", "Heartbeat of main", "completed", []),
            ("webhook", "Webhook run of main", "completed", []),
        ]
    )
    first = told[run_operation_id("home", "4d04e363-fa56-40b2-9ffa-926016a44ee1")]
    assert first == ("agent_task", "Run of main", "completed", [])


def test_an_operation_says_when_how_long_and_why_it_failed():
    operations = {operation.run_id: operation for operation in played().operations}
    failed = operations["7c8d8745-f86b-4054-88b8-7a77d4904b8f"]
    assert failed.disposition["success"] is False
    assert failed.disposition["errorCode"] == "model_not_found"
    command = operations["737ec447-0cbb-41fb-8186-edc2b6a91afc"]
    (step,) = command.steps
    assert step.duration_ms == (step.completed_at - step.started_at) / timedelta(milliseconds=1) > 0
    assert command.started_at <= step.started_at <= step.completed_at <= command.completed_at
    assert command.metadata["model"] == "fake-1"
    subagent = next(operation for operation in operations.values() if "subagent" in operation.tags)
    assert subagent.metadata["parentSessionKey"] == "agent:main:main"
    scheduled = next(operation for operation in operations.values() if operation.cron_job_id)
    assert scheduled.cron_job_id == "f58712a9-fd49-4bce-b50e-a27bb16c50da"
    assert scheduled.run_id == "9ff4c380-fe49-486a-8b77-a7e67d4f33d6"


@pytest.mark.req("S1-11")
def test_agent_events_tell_what_happened_in_order_and_no_content():
    events = played().agent_events
    assert Counter(event.event for event in events) == {
        "thinking": 10,
        "message_in": 5,
        "message_out": 6,
        "tool_start": 4,
        "tool_end": 4,
        "subagent_spawned": 1,
        "subagent_ended": 1,
        "error": 1,
        "idle": 9,
    }
    tools = ["exec", "exec", "read", "sessions_spawn"]
    for event in ("tool_start", "tool_end"):
        assert sorted(one.tool for one in events if one.event == event) == tools, "never the tool it was called through"
    reading = next(event for event in events if event.event == "tool_start" and event.tool == "read")
    assert reading.activity == "Reading notes.md"
    texts = [text for event in events for text in (event.activity, event.tool) if text]
    assert not [text for text in texts if "hello" in text.lower() or "/home" in text]


@pytest.mark.req("S0-18")
def test_the_same_again_after_a_restart_is_the_same():
    first = {operation.id: operation for operation in played().operations}
    assert {operation.id: operation for operation in played().operations} == first
    runs = tracker()
    played(into=runs)
    assert not played(into=runs)  # already ended: nothing to write


@pytest.mark.parametrize("cut", [3, 20, 60, 90])
def test_a_restart_in_the_middle_goes_on_with_the_same_operation(cut):
    runs = tracker()
    before = played(EVENTS[:cut], into=runs)
    again = tracker()
    again.restore(before.operations, NOW)
    at_work = {agent: state.state for agent, state in runs.states.items() if state.state in {"thinking", "tool"}}
    assert {agent: state.state for agent, state in again.states.items()} == at_work
    after = played(EVENTS[cut:], into=again)
    ended_before = {operation.id for operation in before.operations if operation.status != "in_progress"}
    assert not ended_before & {operation.id for operation in after.operations}
    names = {operation.id: operation.name for operation in [*before.operations, *after.operations]}
    assert sorted(names.values()) == sorted(operation.name for operation in played().operations)


def test_states_follow_the_busiest_run():
    runs = tracker()
    runs.event(lifecycle("start"), NOW)
    assert runs.states["main"].state == "thinking"
    derived = runs.event(item("start", "c1", "read", meta="from a/b/notes.md"), NOW)
    assert (derived.states[0].state, derived.states[0].activity) == ("tool", "Reading notes.md")
    runs.event(lifecycle("start", run="r2"), NOW)
    assert runs.states["main"].state == "tool"
    runs.event(lifecycle("waiting-approval"), NOW)
    assert runs.states["main"].state == "waiting"
    runs.event(lifecycle("approval-resolved"), NOW)
    runs.event(item("end", "c1", "read", status="completed"), NOW)
    assert runs.states["main"].state == "thinking"
    derived = runs.event(lifecycle("end"), NOW)
    assert "idle" not in [event.event for event in derived.agent_events]  # the other run goes on
    runs.event(lifecycle("error", run="r2", error="x"), NOW)
    assert runs.states["main"].state == "error"


def test_an_aborted_run_is_cancelled_and_its_open_step_skipped():
    runs = tracker()
    runs.event(lifecycle("start"), NOW)
    runs.event(item("start", "c1", "exec"), NOW)
    (operation,) = runs.event(lifecycle("error", aborted=True, error="This operation was aborted"), NOW).operations
    assert (operation.status, operation.disposition["errorCode"]) == ("cancelled", "aborted")
    assert [step.status for step in operation.steps] == ["skipped"]


def through(phase, call, tool=None, **data):
    """An event of a call through `tool_call`; `tool`: on the stream that tells arguments."""
    if tool is None:
        return item(phase, call, "tool_call", **data)
    event = item(phase, call, "tool_call", args={"id": tool, "args": {}}, **data)
    return Pushed(event.event, {**event.payload, "stream": "tool"}, None)


@pytest.mark.parametrize(
    "events",
    [
        [through("start", "c1"), through("start", "c1", "cron"), through("start", "c1", "cron")],
        [through("start", "c1", "cron"), through("start", "c1")],
        [through("start", "c1"), item("start", "tool_search_code:c1:cron:1", "cron")],
        [item("start", "tool_search_code:c1:cron:1", "cron"), through("start", "c1")],
    ],
    ids=["both streams", "the other way round", "without arguments", "the outer start was missed"],
)
def test_a_call_through_another_tool_is_told_once_and_by_its_own_name(events):
    runs = tracker()
    runs.event(lifecycle("start"), NOW)
    derived = merged([runs.event(event, NOW) for event in [*events, through("end", "c1", status="completed")]])
    assert [(event.event, event.tool) for event in derived.agent_events] == [
        ("tool_start", "cron"),
        ("tool_end", "cron"),
    ]
    (operation,) = derived.operations
    assert [(step.id, step.name, step.status) for step in operation.steps] == [("c1", "cron", "completed")]
    assert "tool_call" not in repr(derived)


def test_a_skill_that_starts_a_run_names_it():
    runs = tracker()
    runs.event(lifecycle("start"), NOW)
    (operation,) = runs.event(item("start", "c1", "read", meta="from /x/skills/weather/SKILL.md"), NOW).operations
    assert (operation.type, operation.name, operation.skill_name) == ("skill", "Skill weather", "weather")


def test_a_cron_time_out_is_a_failure_although_the_agent_says_aborted():
    key = "agent:main:cron:j1:run:s-r1"
    runs = tracker()
    started = {"jobId": "j1", "action": "started", "job": {"name": "slow job"}}
    runs.event(Pushed("cron", started, None), NOW)
    runs.event(lifecycle("start", key=key), NOW)
    assert not runs.event(lifecycle("error", key=key, aborted=True, error="aborted"), NOW)
    stamp = int(NOW.timestamp() * 1000)
    finished = {"jobId": "j1", "runAtMs": stamp, "durationMs": 5086, "sessionId": "s-r1", "sessionKey": key}
    error = {"action": "finished", "status": "error", "error": "execution timed out", "errorReason": "timeout"}
    (operation,) = runs.event(Pushed("cron", {**finished, **error}, None), NOW).operations
    assert (operation.type, operation.name, operation.status) == ("scheduled", "slow job", "failed")
    assert operation.disposition["errorCode"] == "timeout"
    assert runs.active == 0


@pytest.mark.req("S4-5")
def test_runs_whose_end_was_missed_are_ended_by_the_next_poll():
    runs = tracker()
    began = NOW - timedelta(minutes=1)
    for run in ("r1", "r2", "r3"):
        runs.event(lifecycle("start", run=run, key=f"agent:main:dashboard:{run}", at=began), began)
    ended = int(NOW.timestamp() * 1000)
    base = {"activeRunIds": [], "hasActiveRun": False, "startedAt": ended - 60_000, "endedAt": ended}
    listed = [
        {**base, "key": "agent:main:dashboard:r1", "sessionId": "s-r1", "status": "done", "lastRunId": "r1"},
        {
            **base,
            "key": "agent:main:dashboard:r2",
            "sessionId": "s-r2",
            "status": "failed",
            "lastRunId": "r2",
            "lastRunError": "x",
        },
        {**base, "key": "agent:main:dashboard:r3", "sessionId": "s-r3", "activeRunIds": ["r3"], "hasActiveRun": True},
    ]
    derived = runs.sessions(listed, NOW, NOW)
    assert {operation.run_id: operation.status for operation in derived.operations} == {
        "r1": "completed",
        "r2": "failed",
    }
    assert runs.active == 1
    assert not runs.sessions([], NOW + timedelta(seconds=30), NOW + timedelta(seconds=30))  # a busy gateway lists late
    later = NOW + timedelta(minutes=6)
    gone = runs.sessions([], later, later)
    assert [operation.disposition["errorCode"] for operation in gone.operations] == ["session_gone"]


def test_a_poll_that_was_asked_before_a_run_began_does_not_end_it():
    runs = tracker()
    runs.event(lifecycle("start"), NOW)
    assert not runs.sessions([], NOW - timedelta(seconds=1), NOW)
    assert runs.active == 1


def test_a_run_that_a_poll_finds_does_not_begin_when_the_one_before_it_began():
    earlier = int((NOW - timedelta(hours=1)).timestamp() * 1000)
    session = {"key": "agent:main:main", "sessionId": "s", "startedAt": earlier, "activeRunIds": ["r9"]}
    (operation,) = tracker().sessions([{**session, "status": "running"}], NOW, NOW).operations
    assert operation.started_at == NOW


def test_a_run_that_a_poll_found_first_begins_when_its_event_says():
    runs, began = tracker(), NOW - timedelta(seconds=3)
    runs.sessions([{"key": "agent:main:main", "sessionId": "s-r1", "activeRunIds": ["r1"]}], NOW, NOW)
    (operation,) = runs.event(lifecycle("start", at=began), NOW).operations
    assert operation.started_at == began


def test_a_run_that_a_poll_found_first_tells_its_message_once():
    runs = tracker()
    found = runs.sessions([{"key": "agent:main:main", "sessionId": "s-r1", "activeRunIds": ["r1"]}], NOW, NOW)
    assert [event.event for event in found.agent_events] == ["thinking"]
    events = [runs.event(lifecycle(phase), NOW) for phase in ("model", "start", "start", "end")]
    assert [event.event for derived in events for event in derived.agent_events][:1] == ["message_in"]
    assert sum(event.event == "message_in" for derived in events for event in derived.agent_events) == 1


def test_runs_that_only_a_poll_saw_are_operations_too():
    runs = tracker()
    derived = runs.sessions(LISTED, ASKED, ASKED)
    told = {operation.run_id: (operation.status, operation.type) for operation in derived.operations}
    assert told["740dd72e-9e08-4faf-8577-ba843f98823e"] == ("completed", "agent_task")
    assert told["f13318aa-f9ae-43fe-a27a-1bda4c964c5f"] == ("failed", "agent_task")
    assert not derived.agent_events  # no news
    assert not runs.sessions(LISTED, ASKED, ASKED)
    late = RunTracker("home").sessions(LISTED, ASKED + timedelta(days=2), ASKED + timedelta(days=2))
    assert not late  # history is the transcripts' business


def test_cron_runs_of_a_poll_are_the_same_operations_as_their_events():
    runs = tracker()
    polled = merged([runs.cron_run(run, ASKED) for run in CRON_RUNS["response"]["payload"]["entries"]])
    assert sorted((operation.name, operation.status) for operation in polled.operations) == [
        ("failing job", "failed"),
        ("nightly report", "completed"),
        ("slow job", "failed"),
    ]
    assert not polled.agent_events  # minutes ago: no news
    assert not polled.states
    assert not runs.states
    ok = next(operation for operation in polled.operations if operation.status == "completed")
    assert ok.id == run_operation_id("home", "session:1a7b9b59-21ba-437c-93ba-aab37593ef22")


@pytest.mark.parametrize(
    ("tool", "hint", "expected"),
    [
        ("read", "from notes.md", "Reading notes.md"),
        ("write", "/a/b/c.txt", "Writing c.txt"),
        ("edit", None, "Editing a file"),
        ("read", "x" * 100, "Reading a file"),
        ("exec", "rm -rf /", "Running a command"),
        ("sessions_spawn", None, "Starting a sub-agent"),
        ("calendar", "tomorrow", "Using calendar"),
    ],
)
def test_an_activity_names_the_tool_and_at_most_a_file(tool, hint, expected):
    assert activity_text(tool, hint) == expected


def test_a_file_name_is_the_last_part_of_a_path():
    assert file_name("from C:\\notes\\plan.md") == "plan.md"
    assert file_name("bad\u202ename") is None


def test_what_is_tracked_is_bounded():
    runs = tracker()
    for number in range(2100):
        runs.event(lifecycle("start", run=f"run-{number}", key=f"agent:a{number}:main"), NOW)
    assert runs.active == 2000
    assert len(runs.states) == 1000


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
strange = st.fixed_dictionaries(
    {},
    optional={
        "runId": st.sampled_from(["r1", "r2"]) | values,
        "sessionKey": st.sampled_from(["agent:main:main", "agent:a:cron:j:run:s", "::", "agent:x"]) | values,
        "sessionId": values,
        "agentId": st.just("main") | values,
        "stream": st.sampled_from(["lifecycle", "item", "tool", "run_status"]) | values,
        "ts": values,
        "jobId": st.just("j") | values,
        "runAtMs": st.just(int(NOW.timestamp() * 1000)) | values,
        "action": st.sampled_from(["finished", "started"]) | values,
        "status": values,
        "data": st.fixed_dictionaries(
            {},
            optional={
                "phase": st.sampled_from(["start", "end", "error", "result", "waiting-approval", "retrying"]) | values,
                "kind": st.just("tool") | values,
                "toolCallId": st.sampled_from(["c1", "tool_search_code:c1:x:1"]) | values,
                "name": st.sampled_from(["read", "tool_call"]) | values,
                "meta": values,
                "args": values,
                "result": values,
                "endedAt": values,
                "startedAt": values,
            },
        )
        | values,
    },
)


@given(st.lists(st.tuples(st.sampled_from(["agent", "session.tool", "cron", "other"]), strange | values), max_size=12))
def test_no_event_however_strange_breaks_it(events):
    runs = tracker()
    for name, payload in events:
        for operation in runs.event(Pushed(name, payload, None), NOW).operations:
            assert operation.status in {"in_progress", "completed", "failed", "cancelled"}
            assert (operation.completed_at is None) == (operation.status == "in_progress")


@given(st.lists(strange | values, max_size=6))
def test_no_session_however_strange_breaks_it(sessions):
    listed = [session for session in sessions if isinstance(session, dict)]
    tracker().sessions(listed, NOW, NOW)


@pytest.mark.req("S3-9")
def test_heat_is_the_messages_of_an_agent_in_the_last_minute():
    runs = tracker()
    told = []
    for run, seconds in (("a", 0), ("b", 10), ("c", 65)):
        for phase, after in (("start", 0), ("end", 5)):
            at = NOW + timedelta(seconds=seconds + after)
            told += runs.event(lifecycle(phase, run, at=at), at).agent_events
    heat = {(one.run_id, one.event): one.heat for one in told}
    assert [heat[run, event] for run in "abc" for event in ("message_in", "message_out")] == [1, 2, 3, 4, 3, 3]
    assert heat["b", "idle"] == 4


@pytest.mark.req("S0-18")
def test_what_ran_before_the_gateway_began_has_died_and_what_began_later_has_not():
    runs = tracker()
    for run, seconds in (("before", 0), ("after", 20)):
        runs.event(lifecycle("start", run, at=NOW + timedelta(seconds=seconds)), NOW)
    (dead,) = runs.gateway_started(NOW + timedelta(seconds=10)).operations
    assert (dead.run_id, dead.status, dead.disposition["errorCode"]) == ("before", "failed", "gateway_restarted")
    assert dead.completed_at == NOW + timedelta(seconds=10)
    assert not runs.gateway_started(NOW + timedelta(seconds=10))
    assert runs.active == 1


@pytest.mark.req("S0-18")
@pytest.mark.parametrize("restarted", [False, True])
def test_a_job_s_run_that_records_tell_without_its_session_is_the_same_run(restarted):
    ran = {"jobId": "j", "runAtMs": int(NOW.timestamp() * 1000) - 5_000, "durationMs": 663, "status": "ok"}
    runs = tracker()
    runs.jobs({"j": "report"})
    first = runs.cron_run({**ran, "sessionId": "s", "sessionKey": "agent:main:cron:j:run:s"}, NOW)
    assert len(first.operations) == 1
    if restarted:
        runs = tracker()
        runs.restore(first.operations, NOW)
    assert not runs.cron_run(ran, NOW)
    late = {
        **ran,
        "runAtMs": ran["runAtMs"] + 3,
        "durationMs": 1_300,
    }  # delivered meanwhile: the scheduler's end is later
    assert not runs.cron_run(late, NOW)
    other = {**ran, "runAtMs": ran["runAtMs"] + 1_000}
    assert runs.cron_run({**other, "sessionId": "t"}, NOW)  # another run of the same job
    assert not runs.cron_run(other, NOW)
    assert runs.cron_run({**ran, "runAtMs": ran["runAtMs"] + 3_000}, NOW)  # one that only records know


@pytest.mark.req("S0-18")
def test_a_record_without_its_session_ends_the_job_s_run_that_goes_on():
    runs = tracker()
    runs.jobs({"j": "report"})
    key = "agent:main:cron:j:run:s"
    (begun,) = runs.event(lifecycle("start", key=key, at=NOW), NOW).operations
    ran = {
        "jobId": "j",
        "runAtMs": int(NOW.timestamp() * 1000) - 20,
        "durationMs": 663,
        "status": "error",
        "error": "no",
    }
    (ended,) = runs.cron_run(ran, NOW + timedelta(seconds=1)).operations
    assert (ended.id, ended.status, ended.session_key) == (begun.id, "failed", key)
    assert runs.active == 0
