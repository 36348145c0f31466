"""Runs that are asked for: the cap of a user and the queue behind it, pipelines, deliveries, what a run says."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from api.context import of_app
from api.models.runs import ReplyEvent
from api.security.scopes import Actor, Scope
from api.services import delivery
from api.services.runs import replies, worker
from api.services.webhooks import signature
from cli.demo.gateway import ReplayGateway
from lobservatory.errors import SettingsError
from lobservatory.settings import Settings, load
from store import operations, requested_runs
from tests.api.conftest import connected, new_token, started
from tests.fakes.slack import fake_slack
from tests.servers import PATIENCE_SECONDS

REPLY = "the plan, with {{previous}} & <@U1> in it"
TASK = "a task that nobody else may read"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(replies, "_STREAM_LOOK_SECONDS", 0.1)


@pytest.fixture
async def gateway() -> AsyncIterator[ReplayGateway]:
    async with ReplayGateway(token="t" * 20) as replay:
        # As a real one: the idempotency key is the run's id, and the same key is the same run.
        replay.answers["agent"] = lambda params: {"runId": params["idempotencyKey"], "sessionKey": params["sessionKey"]}
        replay.answers["chat.abort"] = lambda _: {"ok": True, "aborted": True, "runIds": []}
        replay.answers["sessions.create"] = lambda params: {"ok": True, "key": params["key"]}
        replay.answers["sessions.preview"] = lambda params: {
            "previews": [{"key": params["keys"][0], "items": [{"role": "assistant", "text": REPLY}]}]
        }
        yield replay


async def soon(ask: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool]) -> Any:
    """The first answer that is enough, of a state that can be asked for but not awaited."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not enough(answer := await ask()):  # noqa: ASYNC110 - as said above
            await asyncio.sleep(0.02)
    return answer


@dataclass
class Setup:
    app: FastAPI
    client: httpx.AsyncClient
    gateway: ReplayGateway
    database: Any
    dsn: str

    @property
    def sent(self) -> list[dict[str, Any]]:
        return [dict(params) for method, params in self.gateway.calls if method == "agent"]

    async def spawn(self, label: str = "work", **more: Any) -> dict[str, Any]:
        answer = await self.client.post("/api/agents/spawn", json={"label": label, "task": TASK, **more})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def run(self, identifier: str) -> dict[str, Any]:
        return dict((await self.client.get(f"/api/runs/{identifier}")).json())

    async def until(self, identifier: str, **wanted: Any) -> dict[str, Any]:
        """The run, once it is as wanted."""
        return dict(
            await soon(lambda: self.run(identifier), lambda run: all(run[name] == wanted[name] for name in wanted))
        )

    async def sent_on(self, identifier: str) -> dict[str, Any]:
        """A run that waited, once the gateway has it: it is running from when it is taken up, before it is sent."""
        return dict(await soon(lambda: self.run(identifier), lambda run: run["stages"][run["stage"]]["runId"]))

    async def end(self, operation_id: str, status: str = "completed", **more: Any) -> None:
        """What the exporter does when a run has ended."""
        path = f"/api/operations/{operation_id}"
        assert (await self.client.patch(path, json={"status": "in_progress"})).status_code == 200
        assert (await self.client.patch(path, json={"status": status, **more})).status_code == 200

    async def metrics(self) -> str:
        return (await self.client.get("/metrics")).text

    async def kept(self) -> str:
        """All that the table has, as text."""
        cursor = await self.database.execute("SELECT coalesce(string_agg(r::text, ' '), '') FROM lobs.requested_runs r")
        return str((await cursor.fetchone())[0])


@contextlib.asynccontextmanager
async def running(settings, gateway, database, **more: Any) -> AsyncIterator[Setup]:
    values = {"commands": True, "gateway_url": gateway.url, "gateway_token": "t" * 20, "runs_per_user": 2, **more}
    chosen = Settings.model_validate({**settings.model_dump(exclude_unset=True), **values})
    async with started(chosen) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
        connection = of_app(app).gateway
        assert connection is not None
        await connection.wait_connected(PATIENCE_SECONDS)
        yield Setup(app, client, gateway, database, chosen.database_url.get_secret_value())


@pytest.fixture
async def database(database):
    await database.execute(
        "INSERT INTO lobs.agents (gateway, agent, configured) VALUES ('home', 'main', true), ('home', 'helper', true)"
    )
    return database


@pytest.fixture
async def setup(settings, gateway, database) -> AsyncIterator[Setup]:
    async with running(settings, gateway, database) as made:
        yield made


@pytest.mark.req("S4-24")
async def test_the_third_run_of_a_user_waits_for_the_end_of_another(setup):
    first, second, third, fourth = [await setup.spawn(label) for label in ("one", "two", "three", "four")]
    assert [one["status"] for one in (first, second, third, fourth)] == ["running", "running", "waiting", "waiting"]
    assert (third["runId"], third["operationId"]) == (None, None)
    assert [(await setup.run(one["id"]))["position"] for one in (first, third, fourth)] == [None, 1, 2]
    assert len(setup.sent) == 2
    assert TASK in await setup.kept(), "what waits has to be kept"
    metrics = await soon(setup.metrics, lambda text: 'lobservatory_requested_runs{status="waiting"} 2' in text)
    assert 'lobservatory_requested_runs{status="running"} 2' in metrics
    assert "lobservatory_requested_runs_oldest_timestamp_seconds 1" in metrics

    await setup.end(second["operationId"])
    started_third = await setup.sent_on(third["id"])
    assert started_third["status"] == "running"
    await setup.until(second["id"], status="completed")
    assert started_third["stages"][0]["sessionKey"] == third["sessionKey"]
    assert (await setup.run(fourth["id"]))["position"] == 1
    await setup.end(first["operationId"], "failed", disposition={"success": False, "error": "model away"})
    await setup.sent_on(fourth["id"])
    assert (await setup.until(first["id"], status="failed"))["error"] == "model away"
    assert [one["sessionKey"] for one in setup.sent] == [one["sessionKey"] for one in (first, second, third, fourth)]
    assert TASK not in await setup.kept(), "the gateway has them all: no text is kept any more"

    async with connected(setup.app, await new_token(setup.app, Scope.COMMAND, None)) as same_name:
        answer = await same_name.post("/api/agents/spawn", json={"label": "l", "task": "t"})
        assert answer.json()["status"] == "waiting", "another token of the same user has no room of its own"
    async with connected(setup.app, await new_token(setup.app, Scope.ADMIN)) as other:
        answer = await other.post("/api/agents/spawn", json={"label": "l", "task": "t"})
        assert answer.json()["status"] == "running"
        listed = (await other.get("/api/runs", params={"mine": True})).json()["runs"]
        assert [one["id"] for one in listed] == [answer.json()["id"]]
    waiting = (await setup.client.get("/api/runs", params={"status": "waiting"})).json()["runs"]
    assert [one["label"] for one in waiting] == ["l"]


async def test_a_repeated_request_that_waits_is_not_queued_twice(setup):
    for label in ("one", "two"):
        await setup.spawn(label)
    body, headers = {"label": "three", "task": "t"}, {"Idempotency-Key": "k"}
    first = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
    again = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
    assert first.json() == again.json()
    assert len((await setup.client.get("/api/runs")).json()["runs"]) == 3
    feed = (await setup.client.get("/api/feed")).json()["items"]
    assert [row["action"] for row in feed] == ["queued", "spawned", "spawned"]


async def test_two_processes_share_the_queue_and_start_each_run_once(settings, gateway, database):
    async with (
        running(settings, gateway, database, runs_per_user=3) as one,
        running(settings, gateway, database, runs_per_user=3) as other,
    ):
        places = [one, other] * 6
        asked = await asyncio.gather(*(place.spawn(f"run {n}") for n, place in enumerate(places)))
        most, done = 0, set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(done) < len(asked):
                runs = (await one.client.get("/api/runs", params={"status": "running"})).json()["runs"]
                most = max(most, len(runs))
                for run in runs:
                    operation = run["stages"][0]["operationId"]
                    if operation and operation not in done:
                        done.add(operation)
                        await one.end(operation)
        assert most == 3
        assert len(gateway.calls) - len([m for m, _ in gateway.calls if m != "agent"]) == len(asked)
        assert len({params["idempotencyKey"] for params in one.sent}) == len(asked)


@pytest.mark.req("S4-23")
async def test_a_pipeline_hands_each_reply_to_the_next_stage(setup, database):
    task = (await setup.client.post("/api/tasks", json={"title": "Release"})).json()["id"]
    stages = [
        {"agentId": "main", "task": "Plan"},
        {"agentId": "helper", "task": "Write after:\n{{previous}}\n{{previous}}", "model": "p:m"},
        {"agentId": "main", "task": "Review"},
    ]
    body = {"label": "Notes", "stages": stages, "taskId": task}
    run = (await setup.client.post("/api/runs", json=body)).json()
    assert [one["message"] for one in setup.sent] == ["Plan"]
    assert "Review" in await setup.kept()
    for index in range(3):
        found = await soon(
            lambda: setup.run(run["id"]), lambda one, n=index: one["stage"] == n and one["stages"][n]["operationId"]
        )
        operation = found["stages"][index]["operationId"]
        name = (await setup.client.get(f"/api/operations/{operation}")).json()["name"]
        assert name == f"Notes ({index + 1} of 3)"
        expected = ["completed"] * index + ["running"] + ["waiting"] * (2 - index)
        assert [one["status"] for one in found["stages"]] == expected
        await setup.end(operation)
    await setup.until(run["id"], status="completed")
    assert [one["message"] for one in setup.sent] == ["Plan", f"Write after:\n{REPLY}\n{REPLY}", "Review"]
    assert [one["sessionKey"].split(":")[1] for one in setup.sent] == ["main", "helper", "main"]
    assert ("sessions.create", "p/m") in [(method, params.get("model")) for method, params in setup.gateway.calls]
    assert REPLY not in await setup.kept(), "a reply is stored nowhere"
    logged = (await setup.client.get(f"/api/tasks/{task}/activities")).json()
    assert sum("Notes: Stage" in one["message"] for one in logged) == 6


@pytest.mark.parametrize(("status", "ends"), [("failed", "failed"), ("cancelled", "cancelled")])
async def test_a_stage_that_fails_ends_the_pipeline(setup, status, ends):
    stages = [{"task": "a"}, {"task": TASK}]
    run = (await setup.client.post("/api/runs", json={"label": "l", "stages": stages})).json()
    await setup.end(run["operationId"], status, disposition={"success": False, "error": "why"})
    found = await setup.until(run["id"], status=ends)
    assert [one["status"] for one in found["stages"]] == [ends, "cancelled"]
    assert found["error"] == ("Stage 1 failed: why" if status == "failed" else "why")
    assert len(setup.sent) == 1
    assert TASK not in await setup.kept()


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"stages": []}, 422, "body.stages"),
        ({"stages": [{"task": "t"}] * 11}, 422, "body.stages"),
        ({"stages": [{"task": "after {{previous}}"}]}, 422, "body.stages.0.task"),
        ({"stages": [{"task": "t", "agentId": "nobody"}]}, 404, "agentId"),
        ({"taskId": "task_none"}, 404, "body.taskId"),
        ({"deliverTo": "slack"}, 422, "body.deliverTo"),
        ({"deliverTo": "https://evil.example/x"}, 422, "body.deliverTo"),
    ],
)
async def test_a_pipeline_that_cannot_be_is_refused_in_plain_words(setup, change, status, field):
    body = {"label": "l", "stages": [{"task": "t"}], **change}
    answer = await setup.client.post("/api/runs", json=body)
    assert answer.status_code == status, answer.text
    fields = [answer.json()["field"], *(one["field"] for one in answer.json()["errors"])]
    assert field in fields
    assert setup.sent == []


async def test_what_waits_or_runs_is_cancelled_and_what_has_ended_is_not(setup):
    first, second, third = [await setup.spawn(label) for label in ("one", "two", "three")]
    answer = await setup.client.post(f"/api/runs/{third['id']}/cancel")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "aborted": False})
    assert (await setup.run(third["id"]))["status"] == "cancelled"
    assert TASK not in await setup.kept()
    answer = await setup.client.post(f"/api/runs/{first['id']}/cancel")
    assert answer.json() == {"ok": True, "aborted": True}
    aborted = [params for method, params in setup.gateway.calls if method == "chat.abort"]
    assert aborted == [{"sessionKey": first["sessionKey"], "runId": first["runId"]}]
    assert (await setup.client.post(f"/api/runs/{first['id']}/cancel")).status_code == 409
    assert (await setup.client.post("/api/runs/request_none/cancel")).status_code == 404
    await setup.end(second["operationId"])
    await setup.until(second["id"], status="completed")
    assert len(setup.sent) == 2


# --- what a process that died left behind -----------------------------------------------------------------------


async def leave(setup: Setup, *, task: str | None) -> requested_runs.RequestedRun:
    """A run as a process leaves it that is killed before the gateway's answer."""
    stage = requested_runs.Stage(agent_id="main", session_key="agent:main:dashboard:left", task=task)
    pool = of_app(setup.app).pool
    cursor = await setup.database.execute("SELECT id, name FROM lobs.tokens WHERE name LIKE 'test%' LIMIT 1")
    token, name = await cursor.fetchone()
    async with pool.connection() as connection:
        run = await requested_runs.place(
            connection,
            requested_runs.Asked("left", [stage]),
            gateway="home",
            token_id=token,
            requested_by=name,
            most=0,
        )
        if task is not None:  # as one that had waited
            await connection.execute(
                "UPDATE lobs.requested_runs SET stages = jsonb_set(stages, '{0,task}', to_jsonb(%s::text))"
                " WHERE id = %s",
                [task, run.id],
            )
    return run


async def let_go(setup: Setup, run: requested_runs.RequestedRun) -> None:
    await setup.database.execute(
        "UPDATE lobs.requested_runs SET held_until = now() - interval '1 second' WHERE id = %s", [run.id]
    )


async def test_a_queued_run_whose_process_died_is_sent_under_the_same_key(setup):
    run = await leave(setup, task="go on")
    await let_go(setup, run)
    found = await soon(lambda: setup.run(run.id), lambda one: one["stages"][0]["runId"])
    (sent,) = setup.sent
    assert sent["idempotencyKey"] == requested_runs.gateway_run(run.id, 0) == found["stages"][0]["runId"]


async def test_a_run_that_the_exporter_saw_is_not_sent_again(setup):
    run = await leave(setup, task=None)
    run_id = requested_runs.gateway_run(run.id, 0)
    identifier = operations.run_operation_id("home", run_id)
    await setup.database.execute(
        "INSERT INTO lobs.operations (id, type, name, status, gateway)"
        " VALUES (%s, 'agent_task', 'n', 'completed', 'home')",
        [identifier],
    )
    await let_go(setup, run)
    await setup.until(run.id, status="completed")
    assert setup.sent == []


async def test_a_run_of_which_nobody_knows_is_not_sent_again(setup):
    run = await leave(setup, task=None)
    await let_go(setup, run)
    found = await setup.until(run.id, status="failed")
    assert "is not known" in found["error"]
    assert setup.sent == []


async def test_a_run_without_an_end_gives_its_place_back_after_a_day(setup):
    run = await setup.spawn()
    await setup.database.execute("UPDATE lobs.requested_runs SET started_at = now() - interval '25 hours'")
    assert "No end of the run was seen" in (await setup.until(run["id"], status="failed"))["error"]


async def test_runs_of_which_nobody_saw_the_end_are_told_from_those_that_ended(setup):
    """Several at once, each as a process leaves it that died while it handled their ends."""
    runs = [await setup.spawn("one"), await setup.spawn("two")]
    for run in runs:
        await setup.database.execute(
            "UPDATE lobs.requested_runs SET held_until = now() + interval '1 hour' WHERE id = %s", [run["id"]]
        )
        await setup.end(run["operationId"])
    await setup.database.execute("UPDATE lobs.requested_runs SET held_until = now() - interval '1 second'")
    for run in runs:
        await setup.until(run["id"], status="completed")


async def test_a_run_whose_operation_was_deleted_ends_and_is_still_delivered(settings, gateway, database):
    with fake_slack() as slack:
        async with running(settings, gateway, database, slack_webhook_url=slack.url) as setup:
            run = await setup.spawn(deliverTo="slack")
            await database.execute("DELETE FROM lobs.operations WHERE id = %s", [run["operationId"]])
            found = await setup.until(run["id"], delivery="delivered")
            assert (found["status"], found["error"]) == ("failed", "Its operation was deleted.")


async def test_a_run_that_is_cancelled_while_it_is_sent_is_stopped(setup):
    identifier: list[str] = []

    def answer(params: Any) -> Any:
        identifier.append(params["idempotencyKey"].rpartition("-")[0])
        with psycopg.connect(setup.dsn, autocommit=True) as connection:  # somebody else is quicker
            connection.execute("UPDATE lobs.requested_runs SET status = 'cancelled' WHERE id = %s", identifier)
        return {"runId": params["idempotencyKey"], "sessionKey": params["sessionKey"]}

    setup.gateway.answers["agent"] = answer
    run = await setup.spawn()
    aborted = [params for method, params in setup.gateway.calls if method == "chat.abort"]
    assert aborted == [{"sessionKey": run["sessionKey"], "runId": run["runId"]}]
    assert (await setup.run(run["id"]))["status"] == "cancelled"


async def test_a_run_that_cannot_be_handled_fails_alone(setup, monkeypatch):
    async def broken(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(of_app(setup.app).runs.worker, "_ended", broken)
    run = await setup.spawn()
    await setup.end(run["operationId"])
    assert "could not handle it" in (await setup.until(run["id"], status="failed"))["error"]
    assert (await setup.spawn())["status"] == "running"


async def unanswered(setup: Setup) -> dict[str, Any]:
    """A run of which the gateway's answer was lost."""
    setup.gateway.faults.drop_on |= {"agent"}
    answer = await setup.client.post("/api/agents/spawn", json={"label": "lost", "task": TASK})
    assert (answer.status_code, answer.json()["detail"][-13:]) == (503, "is not known.")
    setup.gateway.faults.drop_on.clear()
    (run,) = (await setup.client.get("/api/runs")).json()["runs"]
    assert (run["status"], run["stages"][0]["runId"]) == ("running", None)
    assert TASK not in await setup.kept()
    return dict(run)


async def test_a_run_whose_answer_was_lost_is_adopted_when_the_exporter_has_seen_it(setup):
    run = await unanswered(setup)
    identifier = operations.run_operation_id("home", requested_runs.gateway_run(run["id"], 0))
    await setup.database.execute(
        "INSERT INTO lobs.operations (id, type, name, status, gateway)"
        " VALUES (%s, 'agent_task', 'n', 'in_progress', 'home')",
        [identifier],
    )
    await setup.database.execute("UPDATE lobs.requested_runs SET held_until = now() - interval '1 second'")
    found = await soon(lambda: setup.run(run["id"]), lambda one: one["stages"][0]["operationId"])
    assert (found["status"], found["stages"][0]["operationId"]) == ("running", identifier)
    assert len(setup.sent) == 1


async def test_a_run_whose_answer_was_lost_and_that_nobody_saw_is_not_sent_again(setup):
    run = await unanswered(setup)
    await setup.database.execute("UPDATE lobs.requested_runs SET held_until = now() - interval '1 second'")
    assert (await setup.until(run["id"], status="failed"))["error"].endswith("is not known.")
    assert len(setup.sent) == 1


async def test_a_text_that_waited_is_gone_when_the_gateway_gets_it(setup):
    kept: list[bool] = []

    def answer(params: Any) -> Any:
        with psycopg.connect(setup.dsn, autocommit=True) as connection:
            row = connection.execute("SELECT string_agg(r::text, ' ') FROM lobs.requested_runs r").fetchone()
        kept.append(TASK in str(row))
        return {"runId": params["idempotencyKey"], "sessionKey": params["sessionKey"]}

    setup.gateway.answers["agent"] = answer
    first, _, third = [await setup.spawn(label) for label in ("one", "two", "three")]
    await setup.end(first["operationId"])
    await setup.sent_on(third["id"])
    assert kept == [False] * 3


async def away(setup: Setup) -> int:
    """Stop the gateway; gives its port."""
    client = of_app(setup.app).gateway
    assert client is not None
    await setup.gateway.stop()

    async def state() -> str:
        return client.state

    await soon(state, lambda now: now != "connected")
    return int(setup.gateway.url.rpartition(":")[2])


async def test_what_was_not_sent_leaves_nothing_and_its_key_may_be_used_again(setup):
    port = await away(setup)
    body, headers = {"label": "l", "task": TASK}, {"Idempotency-Key": "k"}
    refused = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
    assert (refused.status_code, refused.json()["detail"]) == (503, "The gateway is not connected; nothing was sent.")
    assert (await setup.client.get("/api/runs")).json() == {"runs": []}
    await setup.gateway.start(port=port)
    client = of_app(setup.app).gateway
    assert client is not None
    await client.wait_connected(PATIENCE_SECONDS)
    assert (await setup.client.post("/api/agents/spawn", json=body, headers=headers)).status_code == 202
    assert len(setup.sent) == 1


async def test_what_runs_is_not_said_to_be_cancelled_while_the_gateway_is_away(setup):
    first, _, third = [await setup.spawn(label) for label in ("one", "two", "three")]
    port = await away(setup)
    refused = await setup.client.post(f"/api/runs/{first['id']}/cancel", headers={"Idempotency-Key": "k"})
    assert (refused.status_code, (await setup.run(first["id"]))["status"]) == (503, "running")
    answer = await setup.client.post(f"/api/runs/{third['id']}/cancel")
    assert answer.json() == {"ok": True, "aborted": False}, "what waits needs no gateway"
    await setup.gateway.start(port=port)
    client = of_app(setup.app).gateway
    assert client is not None
    await client.wait_connected(PATIENCE_SECONDS)
    answer = await setup.client.post(f"/api/runs/{first['id']}/cancel", headers={"Idempotency-Key": "k"})
    assert answer.json() == {"ok": True, "aborted": True}


async def test_a_cancelled_pipeline_goes_no_further_and_an_error_is_text_that_can_be_kept(setup):
    run = await leave(setup, task="go on")
    async with of_app(setup.app).pool.connection() as connection:
        assert await requested_runs.finish(connection, run, "cancelled", "half\0way")
        assert await requested_runs.next_stage(connection, run) is None
        assert not await requested_runs.sending(connection, run)
    assert (await setup.run(run.id))["error"] == "halfway"


async def test_a_task_that_grows_beyond_all_bounds_fails(setup, monkeypatch):
    monkeypatch.setattr(worker, "_LONGEST_TASK", 100)
    stages = [{"task": "a"}, {"task": "{{previous}}" * 5}]
    run = (await setup.client.post("/api/runs", json={"label": "l", "stages": stages})).json()
    await setup.end(run["operationId"])
    found = await setup.until(run["id"], status="failed")
    assert found["error"] == "With the reply of the stage before, the task has more than 100 characters."
    assert len(setup.sent) == 1


async def test_what_a_revoked_token_asked_for_is_not_started(setup):
    first = await setup.spawn("one")
    await setup.spawn("two")
    third = await setup.spawn("three")
    await setup.end(first["operationId"])
    await setup.sent_on(third["id"])
    fourth = await setup.spawn("four")
    async with connected(setup.app, await new_token(setup.app, Scope.ADMIN)) as admin:
        await setup.database.execute("UPDATE lobs.tokens SET revoked_at = now() WHERE name = 'test command'")
        found = (await admin.get(f"/api/runs/{third['id']}")).json()
        path = f"/api/operations/{found['stages'][0]['operationId']}"
        await admin.patch(path, json={"status": "completed"})
        answer = await soon(
            lambda: admin.get(f"/api/runs/{fourth['id']}"), lambda answer: answer.json()["status"] == "failed"
        )
    assert answer.json()["error"] == "The token that asked for it is not valid any more."
    assert len(setup.sent) == 3
    assert TASK not in await setup.kept()


async def test_while_the_gateway_is_away_the_queue_waits(setup):
    first, _, third = [await setup.spawn(label) for label in ("one", "two", "three")]
    port = await away(setup)
    await setup.end(first["operationId"])
    await setup.until(first["id"], status="completed")
    assert (await setup.run(third["id"]))["status"] == "waiting"
    await setup.gateway.start(port=port)
    await setup.sent_on(third["id"])


async def test_a_gateway_that_refuses_fails_the_run_and_frees_its_place(setup):
    def refuse(_: Any) -> Any:
        return {"runId": 5}

    setup.gateway.answers["agent"] = refuse
    answer = await setup.client.post("/api/agents/spawn", json={"label": "l", "task": "t"})
    assert (answer.status_code, answer.json()["code"]) == (502, "gateway_refused")
    (run,) = (await setup.client.get("/api/runs")).json()["runs"]
    assert (run["status"], run["error"]) == ("failed", answer.json()["detail"])


# --- deliveries ---------------------------------------------------------------------------------------------------


@pytest.mark.req("S4-20")
async def test_a_result_reaches_slack_once_it_is_back_and_is_text_there(settings, gateway, database):
    with fake_slack() as slack:
        async with running(settings, gateway, database, slack_webhook_url=slack.url) as setup:
            slack.down = True
            run = await setup.spawn("<!channel> *now*", deliverTo="slack")
            tokens = {"prompt": 10, "completion": 5, "total": 15, "cost": 0.25, "model": "m"}
            await setup.client.patch(f"/api/operations/{run['operationId']}/metrics", json={"tokens": tokens})
            await setup.end(run["operationId"])
            found = await setup.until(run["id"], deliveryError="the receiver answered 503")
            assert (found["status"], found["delivery"], found["deliveryAttempts"]) == ("completed", "pending", 1)
            slack.down = False
            await database.execute("UPDATE lobs.requested_runs SET deliver_after = now()")
            await setup.until(run["id"], delivery="delivered", deliveryError=None)
            metrics = await setup.metrics()
            for outcome in ("failed", "delivered"):
                assert f'lobservatory_run_deliveries_total{{outcome="{outcome}",receiver="slack"}} 1' in metrics
            (message,) = slack.messages
            assert message.payload["text"] == "✅ &lt;!channel&gt; *now*: completed"
            blocks = message.payload["blocks"]
            assert [block["text"]["type"] for block in blocks[:2]] == ["plain_text", "plain_text"]
            assert blocks[1]["text"]["text"] == REPLY
            assert blocks[2]["elements"][0]["text"].endswith("0.25 US$")
            assert REPLY not in await setup.kept()
            everything = json.dumps(await setup.run(run["id"])) + json.dumps(found) + await setup.kept()
            assert "secret" not in everything, "the address of a webhook is shown to nobody"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    got: list[tuple[dict[str, str], bytes]]
    answer = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((dict(self.headers), body))
        self.send_response(self.answer)
        if self.answer in {302, 307}:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def receiver():
    class Mine(Receiver):
        got = []  # noqa: RUF012 - of this test alone

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?key=hidden", Mine
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_webhook_gets_a_signed_document_also_of_a_failure(settings, gateway, database, receiver):
    url, handler = receiver
    more = {"result_webhook_url": url, "result_webhook_secret": "k" * 32}
    async with running(settings, gateway, database, **more) as setup:
        run = await setup.spawn("nightly", deliverTo="webhook")
        await setup.end(run["operationId"], "failed", disposition={"success": False, "error": "no model"})
        await setup.until(run["id"], delivery="delivered")
        ((headers, body),) = handler.got
        assert headers["X-Lobservatory-Signature"] == signature("k" * 32, headers["X-Lobservatory-Timestamp"], body)
        assert headers["X-Lobservatory-Delivery"] == run["id"]
        told = json.loads(body)
        assert (told["label"], told["status"], told["error"], told["reply"]) == ("nightly", "failed", "no model", None)
        assert told["operationIds"] == [run["operationId"]]


@pytest.mark.parametrize("status", [307, 500])
async def test_a_redirect_is_not_followed_and_a_failure_is_given_up_in_the_end(
    settings, gateway, database, receiver, status
):
    url, handler = receiver
    handler.answer = status
    more = {"result_webhook_url": url, "result_webhook_secret": "k" * 32}
    async with running(settings, gateway, database, **more) as setup:
        run = await setup.spawn(deliverTo="webhook")
        await database.execute("UPDATE lobs.requested_runs SET delivery_attempts = %s", [delivery.MOST_ATTEMPTS - 1])
        await setup.end(run["operationId"])
        found = await setup.until(run["id"], delivery="failed")
        assert (found["deliveryError"], len(handler.got)) == (f"the receiver answered {status}", 1)
        assert "hidden" not in json.dumps(found)


def test_pauses_between_attempts_grow_and_end():
    pauses = [delivery.pause(attempt) for attempt in range(1, delivery.MOST_ATTEMPTS + 1)]
    assert pauses[0] == timedelta(seconds=10)
    assert pauses[-1] is None
    assert pauses[:-1] == sorted(pauses[:-1])
    assert pauses[-2] == timedelta(minutes=15)


def test_a_receiver_that_cannot_be_right_is_refused_at_the_start():
    for variable, value in (("LOBS_RESULT_WEBHOOK_URL", "ftp://x"), ("LOBS_RESULT_WEBHOOK_SECRET", "hush")):
        with pytest.raises(SettingsError) as caught:
            load({variable: value})
        assert variable.lower().removeprefix("lobs_") in str(caught.value).lower()
        assert value not in str(caught.value)


# --- what a run says ----------------------------------------------------------------------------------------------


def said(run_id: str, state: str, text: str = "") -> dict[str, Any]:
    return {"runId": run_id, "state": state, "message": {"content": [{"type": "text", "text": text}]}}


async def events(setup: Setup, identifier: str, told: asyncio.Queue[ReplyEvent | None]) -> None:
    answer = await of_app(setup.app).runs.replies.follow(ACTOR, identifier)
    async for event in answer:
        await told.put(event)


ACTOR = Actor("test command", Scope.COMMAND, "none")


@pytest.mark.req("S4-21")
async def test_what_a_run_says_is_streamed_to_its_end(setup):
    run = await setup.spawn()
    client = of_app(setup.app).gateway
    assert client is not None
    before = len(client._news.events)
    told: asyncio.Queue[Any] = asyncio.Queue()
    reading = asyncio.create_task(events(setup, run["id"], told))

    async def listeners() -> int:
        return len(client._news.events)

    await soon(listeners, lambda now: now > before)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await setup.gateway.emit("chat", said("another", "delta", "not ours"))
        await setup.gateway.emit("chat", said(run["runId"], "delta", "So "))
        assert (await told.get()).text == "So "
        await setup.gateway.emit("chat", said(run["runId"], "delta", "So far"))
        assert (await told.get()).text == "far"
        await setup.gateway.emit("chat", said(run["runId"], "final", "Other words"))
        last = await told.get()
        assert (last.type, last.payload()) == ("final", {"runId": run["runId"], "text": "Other words"})
        await reading
    assert len(client._news.events) == before


async def test_who_comes_late_gets_the_end(setup):
    run = await setup.spawn()
    await setup.end(run["operationId"])
    answer = await setup.client.get(f"/api/runs/{run['id']}/reply")
    assert answer.status_code == 200
    assert "event: final" in answer.text
    assert REPLY in answer.text
    for status, kind in (("failed", "error"), ("cancelled", "aborted")):
        run = await setup.spawn()
        await setup.end(run["operationId"], status)
        assert f"event: {kind}" in (await setup.client.get(f"/api/runs/{run['id']}/reply")).text


async def test_a_run_that_says_nothing_for_long_is_kept_alive_and_listeners_are_limited(setup, monkeypatch):
    monkeypatch.setattr(replies, "_KEEP_ALIVE_LOOKS", 1)
    monkeypatch.setattr(replies, "_MOST_STREAMS", 1)
    run = await setup.spawn()
    told: asyncio.Queue[Any] = asyncio.Queue()
    reading = asyncio.create_task(events(setup, run["id"], told))
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await told.get() is None
        refused = await setup.client.get(f"/api/runs/{run['id']}/reply")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        await setup.gateway.emit("chat", said(run["runId"], "final", "done"))
        await reading
    await setup.end(run["operationId"])
    answer = await setup.client.get(f"/api/runs/{run['id']}/reply")
    assert answer.status_code == 200
    assert "event: final" in answer.text


async def test_a_run_that_waits_says_nothing_yet(setup):
    for label in ("one", "two"):
        await setup.spawn(label)
    waiting = await setup.spawn("three")
    assert (await setup.client.get(f"/api/runs/{waiting['id']}/reply")).status_code == 409


def test_ids_of_runs_are_those_of_their_row_and_stage():
    assert requested_runs.gateway_run("request_a", 1) == "request_a-1"
