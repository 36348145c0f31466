"""Runs of a real gateway as operations, agent events and traces, over restarts of the exporter and of the gateway."""

import asyncio
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from cli.up import postgres
from tests.conftest import fresh_database
from tests.live.stack import gateway_settings, our_process, wait_ready
from tests.otlp import Receiver, values
from tests.servers import PATIENCE_SECONDS, wait_for

pytestmark = pytest.mark.live

SECRET_WORD = "marmalade"  # in prompts, arguments, results and replies; never in a trace unless allowed
KEY = "agent:main:dashboard:{}"


@dataclass
class Watched:
    """A gateway that worked, what the database says of it, and what a backend of traces took."""

    dsn: str
    receiver: Receiver
    jobs: dict[str, str] = field(default_factory=dict)

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            return connection.execute(query, parameters).fetchall()

    def operation(self, name: str) -> dict[str, Any]:
        """The first run of a session of the story."""
        found = self.rows(
            "SELECT o.*, m.prompt_tokens, m.completion_tokens, m.cost_usd FROM operations AS o"
            " LEFT JOIN operation_metrics AS m ON m.operation_id = o.id"
            " WHERE session_key = %s ORDER BY started_at",
            KEY.format(name),
        )
        return found[0]

    def steps(self, operation: dict[str, Any]) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM operation_steps WHERE operation_id = %s ORDER BY position", operation["id"])

    def ended(self, name: str) -> bool:
        found = self.rows(
            "SELECT status FROM operations WHERE session_key = %s ORDER BY started_at LIMIT 1", KEY.format(name)
        )
        return bool(found) and found[0]["status"] != "in_progress"

    def roots(self) -> dict[str, Any]:
        """The span of each run, by its operation."""
        every = [span for span, _ in self.receiver.spans() if span.name.startswith("invoke_agent ")]
        return {values(span.attributes)["openclaw.operation.id"]: span for span in every}

    def parts(self, operation: dict[str, Any]) -> list[Any]:
        """The spans below a run's, once each: a run that was sent twice has the same ids."""
        root = self.roots()[operation["id"]].span_id
        return list({span.span_id: span for span, _ in self.receiver.spans() if span.parent_span_id == root}.values())

    def traced(self, name: str) -> bool:
        """Whether the trace of a session's runs has arrived."""
        known = self.rows("SELECT id FROM operations WHERE session_key = %s", KEY.format(name))
        return any(row["id"] in self.roots() for row in known)


class Stack:
    """The exporter, to stop and to start."""

    def __init__(self, gateway, folder, dsn, endpoint, **more):
        self.folder = folder
        self.settings = gateway_settings(gateway, folder, LOBS_DATABASE_URL=dsn, **more)
        self.settings |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}

    def run(self):
        return our_process("exporter", self.settings, self.folder)

    def wait(self, process):
        url = f"http://{self.settings['LOBS_METRICS_LISTEN']}/metrics"
        wait_ready(process, url, "the exporter")

        def up():
            lines = httpx.get(url, timeout=PATIENCE_SECONDS).text.splitlines()
            return all(any(line.startswith(name) and line.endswith(" 1.0") for line in lines) for name in NEEDED)

        wait_for(up, "the exporter sees the gateway and has scanned")


NEEDED = ("claw_gateway_up{", "claw_ingest_progress_ratio{")


async def first(gateway, watched):
    """Everything that ends while the exporter looks, one kind each; then a run that goes on."""
    async with gateway.driver() as driver:
        assert (await driver.turn(f"Run [[exec echo {SECRET_WORD}]]", KEY.format("tool")))["ok"]
        assert (await driver.turn("Use [[read skills/tidy-up/SKILL.md]]", KEY.format("skill")))["ok"]
        assert (await driver.turn("Run [[exec sh -c 'exit 3']]", KEY.format("nonzero")))["ok"]
        assert (await driver.turn("Delegate [[spawn say hi]]", KEY.format("spawn")))["ok"]
        assert not (await driver.turn("Fail [[err 404]]", KEY.format("failed")))["ok"]
        await driver.send("Too long [[slow 60]]", KEY.format("aborted"))
        await driver.event(
            "agent", lambda p: p.get("sessionKey") == KEY.format("aborted") and p["stream"] == "assistant"
        )
        assert (await driver.call("chat.abort", {"sessionKey": KEY.format("aborted")}))["ok"]
        watched.jobs["good"] = await driver.cron("good job", "Report [[exec echo cron]]")
        watched.jobs["bad"] = await driver.cron("bad job", "Fail [[err 404]]")
        await asyncio.to_thread(gateway.hook, message="From outside [[exec echo hook]]", name="Live", agentId="main")


async def begin(gateway, name, text):
    """Start a run and wait for its first tool result."""
    async with gateway.driver() as driver:
        await driver.call(
            "agent", {"message": text, "sessionKey": KEY.format(name), "idempotencyKey": str(uuid.uuid4())}
        )
        await driver.event(
            "agent",
            lambda p: (
                p.get("sessionKey") == KEY.format(name) and p["stream"] == "tool" and p["data"]["phase"] == "result"
            ),
        )


async def turn(gateway, name, text):
    async with gateway.driver() as driver:
        assert (await driver.turn(text, KEY.format(name)))["ok"]


@pytest.fixture(scope="module")
def watched(start_gateway, postgres_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    gateway = start_gateway()
    receiver = Receiver()
    try:
        with fresh_database(postgres_server) as database:
            writer = postgres_server.dsn(database, postgres.WRITER)
            found = Watched(postgres_server.dsn(database, postgres.READER), receiver)
            stack = Stack(gateway, folder, writer, receiver.url)
            with stack.run() as process:
                stack.wait(process)
                asyncio.run(first(gateway, found))
                others = "SELECT 1 FROM operations WHERE type IN ('scheduled', 'webhook') AND status <> 'in_progress'"
                seen = lambda: len(found.rows(others)) >= 3  # noqa: E731
                wait_for(seen, "the jobs and the webhook as operations")
                told = ("tool", "skill", "nonzero", "spawn", "failed")
                wait_for(lambda: all(found.traced(name) for name in told), "the traces of what has ended")
                asyncio.run(begin(gateway, "restarted", "Go on [[exec echo before]] [[slow 15]]"))
                stepped = (
                    "SELECT 1 FROM operations AS o JOIN operation_steps AS s ON operation_id = o.id"
                    " WHERE session_key = %s AND s.status = 'completed'"
                )
                known = lambda: found.rows(stepped, KEY.format("restarted"))  # noqa: E731
                wait_for(known, "the first step of the run that goes on")
            asyncio.run(turn(gateway, "unseen", "While nobody looks [[exec echo unseen]]"))
            with stack.run() as process:
                stack.wait(process)
                wait_for(lambda: found.traced("unseen"), "the trace of what ended while nobody looked")
                wait_for(lambda: found.traced("restarted"), "the trace of the run that went on")
                asyncio.run(begin(gateway, "cut", "Go on [[exec echo cut]] [[slow 60]]"))
                wait_for(lambda: found.rows(stepped, KEY.format("cut")), "the step of the run that is cut")
                gateway.kill()
                gateway.start()
                wait_for(lambda: found.ended("cut"), "the end of the run that died with its gateway")
                wait_for(lambda: found.traced("cut"), "its trace")
            yield found
    finally:
        receiver.close()


@pytest.mark.req("S0-18", "S1-11")
def test_each_kind_of_run_is_an_operation_with_its_steps_and_its_end(watched):
    told = {}
    for name in ("tool", "skill", "nonzero", "spawn", "failed", "aborted", "restarted", "unseen", "cut"):
        found = watched.operation(name)
        code = found["disposition"].get("errorCode")
        steps = [(step["name"], step["status"], step["error"]) for step in watched.steps(found)]
        told[name] = (found["type"], found["status"], code, steps)
    done = ("exec", "completed", None)
    assert told == {
        "tool": ("agent_task", "completed", None, [done]),
        "skill": ("skill", "completed", None, [("read", "failed", "the tool reported an error")]),
        "nonzero": ("agent_task", "completed", None, [("exec", "failed", "exit status 3")]),
        "spawn": ("agent_task", "completed", None, [("sessions_spawn", "completed", None)]),
        "failed": ("agent_task", "failed", "model_not_found", []),
        "aborted": ("agent_task", "cancelled", "aborted", []),
        "restarted": ("agent_task", "completed", None, [done]),
        "unseen": ("agent_task", "completed", None, []),  # it began and ended while nobody looked
        "cut": ("agent_task", "failed", "gateway_restarted", [done]),
    }
    assert watched.operation("skill")["skill_name"] == "tidy-up"
    assert watched.operation("tool")["activity"] == "Done"
    assert watched.operation("tool")["current_step"] == "exec"
    for step in watched.steps(watched.operation("tool")):
        assert step["duration_ms"] == round((step["completed_at"] - step["started_at"]).total_seconds() * 1000)


@pytest.mark.req("S0-18", "S1-3")
def test_jobs_and_webhooks_are_operations_of_their_own_type(watched):
    jobs = {
        row["name"]: row
        for row in watched.rows("SELECT * FROM operations WHERE type = 'scheduled' AND cron_job_id IS NOT NULL")
    }
    assert jobs["good job"]["cron_job_id"] == watched.jobs["good"]
    assert [(step["name"], step["status"]) for step in watched.steps(jobs["good job"])] == [("exec", "completed")]
    assert (jobs["good job"]["status"], jobs["bad job"]["status"]) == ("completed", "failed")
    assert jobs["bad job"]["disposition"]["errorCode"]
    (hook,) = watched.rows("SELECT * FROM operations WHERE type = 'webhook'")
    assert hook["status"] == "completed"
    assert [(step["name"], step["status"]) for step in watched.steps(hook)] == [("exec", "completed")]


@pytest.mark.req("S0-18", "P-16")
def test_tokens_and_cost_of_runs_and_of_their_spans_are_those_of_the_counted_calls(watched):
    ended = watched.rows(
        "SELECT o.*, m.prompt_tokens, m.completion_tokens, m.cost_usd FROM operations AS o"
        " LEFT JOIN operation_metrics AS m ON m.operation_id = o.id WHERE status <> 'in_progress'"
    )
    with_calls = 0
    for operation in ended:
        own = operation["type"] in {"scheduled", "webhook"}
        assert operation["session_key"], operation
        calls = watched.rows(
            f"SELECT * FROM model_calls WHERE {'session_id' if own else 'run_id'} = %s ORDER BY ts",
            operation["session_key"].rpartition(":run:")[2] if own else operation["run_id"],
        )
        prompt = sum(row["input_tokens"] + row["cache_read_tokens"] + row["cache_write_tokens"] for row in calls)
        assert (operation["prompt_tokens"] or 0) == prompt, operation
        assert (operation["completion_tokens"] or 0) == sum(row["output_tokens"] for row in calls)
        assert (operation["cost_usd"] or 0) == sum(row["cost_usd"] for row in calls if row["billing"] == "billed")
        if not calls or operation["id"] not in watched.roots():
            continue
        chats = [values(span.attributes) for span in watched.parts(operation) if span.name.startswith("chat ")]
        with_calls += 1
        assert [Decimal(repr(chat["openclaw.cost.usd"])) for chat in chats] == [
            row["cost_usd"].normalize() for row in calls
        ]
        assert [
            (chat["gen_ai.usage.output_tokens"], chat["gen_ai.usage.cache_read.input_tokens"]) for chat in chats
        ] == [(row["output_tokens"], row["cache_read_tokens"]) for row in calls]
        assert sum(chat["gen_ai.usage.input_tokens"] for chat in chats) == prompt
    assert with_calls >= 9


@pytest.mark.req("P-16")
def test_a_restart_changes_no_trace_and_a_sub_agent_is_a_linked_child(watched):
    by_id = defaultdict(set)
    for span, _ in watched.receiver.spans():
        by_id[span.span_id].add(span.SerializeToString(deterministic=True))
    assert {len(kinds) for kinds in by_id.values()} == {1}  # whatever was sent twice was the same
    went_on = watched.parts(watched.operation("restarted"))
    assert [span.name for span in sorted(went_on, key=lambda span: span.start_time_unix_nano)] == [
        "chat fake-1", "execute_tool exec", "chat fake-1",
    ]  # fmt: skip
    parent = watched.roots()[watched.operation("spawn")["id"]]
    (child,) = watched.rows("SELECT id FROM operations WHERE metadata->>'parentSessionKey' = %s", KEY.format("spawn"))
    span = watched.roots()[child["id"]]
    assert (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)
    assert [(link.trace_id, link.span_id) for link in span.links] == [(parent.trace_id, parent.span_id)]


@pytest.mark.req("S3-9")
def test_agent_events_tell_what_happened_without_content(watched):
    def told(name):
        return [row["event"] for row in watched.rows(
            "SELECT event FROM agent_events WHERE session_key = %s ORDER BY ts, event", KEY.format(name)
        )]  # fmt: skip

    assert set(told("tool")) - {"idle"} == {"message_in", "thinking", "tool_start", "tool_end", "message_out"}
    assert watched.rows("SELECT 1 FROM agent_events WHERE event = 'idle'")
    assert "error" in told("failed")
    assert "error" in told("cut")
    children = watched.rows("SELECT event FROM agent_events WHERE session_key LIKE %s", "agent:main:subagent:%")
    assert {"subagent_spawned", "subagent_ended"} <= {row["event"] for row in children}
    for table in ("operations", "operation_steps", "agent_events"):
        assert not watched.rows(f"SELECT 1 FROM {table} AS t WHERE t::text LIKE %s", f"%{SECRET_WORD}%")
    assert not any(SECRET_WORD.encode() in body for body in watched.receiver.requests)
