"""Traces: the spans of a run as a backend gets them, decoded from the protobuf that was sent."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from exporter.gateway.traces import SendError, Span, Traces, otlp_sender, span_id, trace_id, tree
from exporter.gateway.watch import GatewayWatch
from lobservatory.otlp import wanted
from openclaw.protocol import Pushed
from store.operations import DerivedOperation, DerivedStep
from store.traces import RunCall
from tests.otlp import values

T0 = datetime(2026, 11, 21, 1, tzinfo=UTC)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def ns(seconds):
    return int(at(seconds).timestamp()) * 10**9


def run(
    identifier="run_a", *, status="completed", session="agent:main:main", parent=None, start=0.0, end=10.0, steps=()
):
    return DerivedOperation(
        id=identifier,
        gateway="home",
        type="agent_task",
        name="Run of main",
        status=status,
        source="run",
        agent_id="main",
        session_key=session,
        session_id="s1",
        run_id="r1",
        started_at=at(start),
        completed_at=at(end) if status != "in_progress" else None,
        disposition={"success": False, "error": "dear diary", "errorCode": "timeout"} if status == "failed" else None,
        activity="Reading diary.txt",
        metadata={"provider": "fake", "model": "fake-1", **({"parentSessionKey": parent} if parent else {})},
        steps=steps,
    )


STEPS = (
    DerivedStep("t1", "read", "completed", at(2), at(4)),
    DerivedStep("t2", "exec", "failed", at(5), at(8), error="No such file: /home/me/diary.txt"),
)


@pytest.mark.req("P-16")
async def test_a_run_and_its_sub_agent_as_a_backend_gets_them(receiver):
    clock = [T0.timestamp()]
    traces = Traces(otlp_sender("home", "1"), clock=lambda: clock[0])
    traces.add([run(status="in_progress"), run(status="in_progress", steps=STEPS[:1])])
    traces.add(
        [run("run_b", session="agent:main:subagent:x", parent="agent:main:main", start=5, status="failed", end=7)]
    )
    traces.add([run(steps=STEPS[1:])])
    await traces.step()
    assert {path for path, _ in receiver.headers} == {"/v1/traces"}
    assert receiver.headers[0][1]["authorization"] == "a-secret"
    found = {span.name + f"@{(span.start_time_unix_nano - ns(0)) // 10**9}": span for span, _ in receiver.spans()}
    assert set(found) == {
        "invoke_agent main@0",
        "chat fake-1@0",
        "execute_tool read@2",
        "chat fake-1@4",
        "execute_tool exec@5",
        "chat fake-1@8",
        "invoke_agent main@5",
        "chat fake-1@5",
    }
    parent, child = found["invoke_agent main@0"], found["invoke_agent main@5"]
    assert {span.trace_id for span in found.values()} == {parent.trace_id}
    assert parent.parent_span_id == b""
    assert child.parent_span_id == parent.span_id
    assert [(link.trace_id, link.span_id) for link in child.links] == [(parent.trace_id, parent.span_id)]
    assert child.status.code == 2
    assert values(child.attributes)["error.type"] == "timeout"
    read, failed = found["execute_tool read@2"], found["execute_tool exec@5"]
    assert read.parent_span_id == parent.span_id
    assert (read.start_time_unix_nano, read.end_time_unix_nano) == (ns(2), ns(4))
    assert values(read.attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "read",
        "gen_ai.tool.call.id": "t1",
    }
    assert values(failed.attributes)["error.type"] == "tool_error"
    told = values(parent.attributes)
    assert told["gen_ai.operation.name"] == "invoke_agent"
    assert told["gen_ai.agent.name"] == "main"
    assert told["gen_ai.conversation.id"] == "s1"
    assert told["gen_ai.request.model"] == "fake-1"
    assert told["openclaw.gateway"] == "home"
    resource = next(attributes for _, attributes in receiver.spans())
    assert (resource["service.name"], resource["service.instance.id"]) == ("openclaw", "home")
    assert not any(b"diary" in body for body in receiver.requests)  # neither an error's text nor an activity
    assert next(iter(traces.render())).value == len(list(receiver.spans()))


@pytest.mark.req("P-16")
def test_chats_are_the_counted_calls_with_their_tokens():
    calls = [
        RunCall(at(2), "fake", "fake-1", "ok", 100, 20, 300, 5, None),
        RunCall(at(5), "fake", "fake-1", "ok", 1, 2, 3, 4, 500),
        RunCall(at(9), "fake", "fake-mini", "error", 0, 0, 0, 0, None),
    ]
    spans = tree(run(steps=STEPS), calls, trace=1)
    chats = [span for span in spans if span.client]
    assert [(span.name, span.start, span.end, span.error) for span in chats] == [
        ("chat fake-1", ns(0), ns(2), None),
        ("chat fake-1", ns(5) - 500_000_000, ns(5), None),
        ("chat fake-mini", ns(8), ns(9), "error"),
    ]
    assert chats[0].attributes["gen_ai.usage.input_tokens"] == 405
    assert chats[0].attributes["gen_ai.usage.output_tokens"] == 20
    assert chats[0].attributes["gen_ai.usage.cache_read.input_tokens"] == 300
    assert {span.parent for span in spans[1:]} == {spans[0].span}
    assert spans[0].attributes["gen_ai.request.model"] == "fake-mini"


def test_ids_are_the_same_after_a_restart_and_differ_between_runs():
    first, second = (
        tree(run(steps=STEPS), (), trace=trace_id("run_a")),
        tree(run(steps=STEPS), (), trace=trace_id("run_a")),
    )
    assert first == second
    assert len({span.span for span in first}) == len(first)
    assert trace_id("run_a") != trace_id("run_b")
    assert span_id("run_a", "tool:t1") != span_id("run_a", "tool:t2")
    assert trace_id("run_a") == 0x9F3B4FB23D50F2BC97BB0E2A30FC1B54  # also in the next version


async def test_what_ended_before_this_process_is_not_sent_again():
    sent = []
    traces = Traces(sent.extend, clock=lambda: T0.timestamp() + 3600)
    traces.add([run()])
    traces.add([replace(run("run_c"), completed_at=at(3599))])
    traces.add([replace(run("run_c"), completed_at=at(3599))])  # a poll tells of it once more
    await traces.step()
    assert [span.name for span in sent if span.parent is None] == ["invoke_agent main"]


class Remembered:
    """A place for how far runs were sent, and the runs themselves, as a database gives them after a restart."""

    def __init__(self):
        self.sent_to = None
        self.known = []

    async def save(self, at):
        self.sent_to = at

    def traces(self, send, now, **more):
        made = Traces(send, save=self.save, clock=lambda: now, **more)
        made.restore(self.known, self.sent_to)
        return made


def runs_of(spans):
    return [span.attributes["openclaw.operation.id"] for span in spans if span.name.startswith("invoke_agent")]


@pytest.mark.req("P-16")
async def test_a_restart_in_the_middle_of_a_run_and_of_its_sub_agent_changes_no_id_and_loses_no_step():
    child = {"session": "agent:main:subagent:x", "parent": "agent:main:main", "start": 5, "end": 9}
    begun = [
        run(status="in_progress", steps=STEPS[:1]),
        run("run_b", status="in_progress", **child),
    ]
    ended = [run("run_b", **child), run(steps=STEPS[1:])]
    whole, before, after = [], [], []
    one = Remembered().traces(whole.extend, T0.timestamp())
    one.add([*begun, *ended])
    await one.step()
    kept = Remembered()
    first = kept.traces(before.extend, T0.timestamp())
    first.add(begun)
    await first.step()
    kept.known = begun
    second = kept.traces(after.extend, T0.timestamp() + 60)  # later than the runs' ends, told by a poll
    second.add(ended)
    await second.step()
    assert before == []
    assert after == whole
    assert len({span.trace for span in after}) == 1
    assert {span.link for span in after if span.name.startswith("invoke")} == {
        None,
        (trace_id("run_a"), span_id("run_a")),
    }


@pytest.mark.req("P-16")
async def test_runs_that_ended_just_before_or_during_a_restart_are_sent_once_and_older_ones_are_not():
    kept, sent = Remembered(), []
    first = kept.traces(sent.extend, T0.timestamp())
    first.add([run("old", end=1), run("waits", end=2)])
    await first.step()
    assert runs_of(sent) == ["old", "waits"]
    assert kept.sent_to == at(2)
    kept.known = [run("old", end=1), run("waits", end=2), run("between", end=30), run("goes_on", status="in_progress")]
    sent.clear()
    second = kept.traces(sent.extend, T0.timestamp() + 3600)
    second.add([run("found_by_a_poll", end=40), run("between", end=30)])
    await second.step()
    assert runs_of(sent) == ["between", "found_by_a_poll"]
    assert kept.sent_to == at(40)


async def test_what_waits_for_its_rows_at_a_stop_is_sent_by_the_next_process():
    kept, sent, rows = Remembered(), [], []

    async def calls(_operation):
        return rows

    first = kept.traces(sent.extend, T0.timestamp() + 20, calls=calls, settle=0.0)
    first._since = 0.0
    first.add([run("first", end=5, steps=STEPS), run("late", end=9, steps=STEPS)])
    rows += [RunCall(at(2), "fake", "fake-1", "ok", 1, 2, 3, 4, None)]  # the call after the tools is not there yet
    await first.step()
    assert sent == []
    kept.known = [run("first", end=5, steps=STEPS), run("late", end=9, steps=STEPS)]
    rows += [RunCall(at(9), "fake", "fake-1", "ok", 10, 20, 30, 40, None, 5, Decimal("0.000000007"))]
    assert kept.sent_to < at(5)
    second = kept.traces(sent.extend, T0.timestamp() + 3600, calls=calls, settle=0.0)
    await second.step()
    assert runs_of(sent) == ["first", "late"]
    chats = [span for span in sent if span.client]
    assert [span.attributes["gen_ai.usage.output_tokens"] for span in chats] == [2, 20] * 2
    assert [span.attributes.get("openclaw.cost.usd") for span in chats] == [None, 7e-09] * 2
    assert chats[1].attributes["gen_ai.usage.reasoning.output_tokens"] == 5


async def test_rows_that_never_come_are_not_waited_for_for_ever():
    now, sent = [T0.timestamp()], []

    async def calls(_operation):
        return []

    traces = Traces(sent.extend, calls, settle=3.0, clock=lambda: now[0])
    traces.add([run()])
    for _ in range(10):
        now[0] += 3.0
        await traces.step()
        assert bool(sent) == (now[0] >= T0.timestamp() + 33)
    now[0] += 3.0
    await traces.step()
    assert runs_of(sent) == ["run_a"]


async def test_without_a_database_a_stop_sends_what_waits():
    sent = []
    traces = Traces(sent.extend, clock=T0.timestamp)
    task = asyncio.create_task(traces.run())
    await asyncio.sleep(0)
    traces._ended.append((T0.timestamp() + 100, "run_a"))
    traces._follow(run())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert runs_of(sent) == ["run_a"]


CONTENT = (
    ("session.message", None, {"message": {"role": "user", "content": "dear diary sk-ant-api03-abcdefghijklmnop"}}),
    ("agent", "lifecycle", {"phase": "start", "startedAt": 0}),
    ("agent", "tool", {"phase": "start", "name": "exec", "toolCallId": "c1", "args": {"command": "cat diary"}}),
    ("agent", "tool", {"phase": "result", "name": "exec", "toolCallId": "c1", "result": {"content": "dear " * 9_000}}),
    ("agent", "assistant", {"text": "it says dear"}),
    ("agent", "lifecycle", {"phase": "end", "endedAt": 300, "terminalReply": {"text": "it says dear diary \ud800"}}),
)


@pytest.mark.req("P-16")
@pytest.mark.parametrize("allowed", [False, True])
async def test_texts_are_sent_only_where_they_may_be_stored(receiver, allowed):
    watch = GatewayWatch("home", "ws://127.0.0.1:9", str, send_spans=otlp_sender("home", "1"), contents=allowed)
    now = int(datetime.now(UTC).timestamp() * 1000)
    common = {"runId": "r", "sessionKey": "agent:main:main", "sessionId": "s", "agentId": "main", "ts": now}
    for event, stream, data in CONTENT:
        moved = {name: value + now if name in {"startedAt", "endedAt"} else value for name, value in data.items()}
        inside = data if event == "session.message" else {"stream": stream, "data": moved}
        for listener in watch.listeners:
            listener(Pushed(event, common | inside, None))
    await watch.feed.step()
    await watch.traces.step()
    found = {span.name: values(span.attributes) for span, _ in receiver.spans()}
    body = b"".join(receiver.requests)
    assert found.keys() == {"invoke_agent main", "execute_tool exec"} | (found.keys() & {"chat"})
    if not allowed:
        assert b"diary" not in body
        assert b"dear" not in body
        return
    root, tool = found["invoke_agent main"], found["execute_tool exec"]
    assert json.loads(root["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "dear diary [hidden]"}]}
    ]
    assert json.loads(root["gen_ai.output.messages"])[0]["parts"][0]["content"] == "it says dear diary ?"
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"command": "cat diary"}
    assert len(tool["gen_ai.tool.call.result"]) == 4_000


async def test_a_backend_that_refuses_costs_its_spans_only_and_is_counted():
    tries = []

    def refuse(spans):
        tries.append(len(spans))
        raise SendError("no")

    traces = Traces(refuse, pause=0.0, clock=T0.timestamp)
    traces.add([run()])
    await traces.step()
    assert len(tries) == 3
    assert [(s.metric, s.labels, s.value) for s in traces.render()] == [
        ("lobservatory_spans_sent_total", (), 0),
        ("lobservatory_spans_dropped_total", ("queue_full",), 0),
        ("lobservatory_spans_dropped_total", ("not_sent",), tries[0]),
    ]


async def test_the_sender_says_that_the_endpoint_refused(receiver):
    receiver.status = 400
    send = otlp_sender("home", "1")
    with pytest.raises(SendError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        await asyncio.to_thread(send, tree(run(), (), trace=1))


async def test_waiting_runs_are_bounded(monkeypatch):
    monkeypatch.setattr("exporter.gateway.traces.MOST_WAITING", 5)
    monkeypatch.setattr("exporter.gateway.traces.MOST_RUNS", 5)
    sent = []
    traces = Traces(sent.extend, clock=T0.timestamp)
    traces.add([run(f"run_{number}") for number in range(50)])
    assert len(traces._runs) <= 10
    await traces.step()
    assert len([span for span in sent if span.name.startswith("invoke")]) == 5
    assert ("queue_full",) in [sample.labels for sample in traces.render() if sample.value == 45]


async def test_events_of_the_gateway_become_a_trace():
    sent: list[Span] = []
    watch = GatewayWatch("home", "ws://127.0.0.1:9", str, send_spans=sent.extend)
    now = int(datetime.now(UTC).timestamp() * 1000)
    common = {"runId": "r", "sessionKey": "agent:main:main", "sessionId": "s", "agentId": "main"}
    for stream, data, ts in (
        ("lifecycle", {"phase": "start", "startedAt": now}, now),
        ("tool", {"phase": "start", "name": "read", "toolCallId": "c1", "args": {"path": "x"}}, now + 100),
        ("tool", {"phase": "result", "name": "read", "toolCallId": "c1"}, now + 200),
        ("lifecycle", {"phase": "end", "endedAt": now + 300}, now + 300),
    ):
        watch.feed.pushed(Pushed("agent", {**common, "stream": stream, "data": data, "ts": ts}, None))
    await watch.feed.step()
    await watch.traces.step()
    names = [span.name for span in sent]
    assert names[0] == "invoke_agent main"
    assert "execute_tool read" in names
    assert names.count("chat") == 2


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_on_when_an_endpoint_is_set(environment, expected):
    assert wanted(environment) is expected


def test_off_not_even_the_sdk_is_imported():
    code = "import sys, exporter.app; print({m.split('.')[0] for m in sys.modules} & {'opentelemetry', 'requests'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
