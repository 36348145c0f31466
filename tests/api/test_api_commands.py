"""Commands, against a gateway that answers from recordings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.context import of_app
from api.security.limits import Limits, Rate
from api.security.scopes import Scope
from cli.demo.gateway import ReplayGateway
from openclaw.client import GatewayClient
from openclaw.protocol import TooManyRequestsError
from store import requested_runs
from tests.api.conftest import LOOSE, connected, new_token, started
from tests.servers import PATIENCE_SECONDS

SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples" / "rpc-2026.9.6"
HOSTILE = ['"; rm -rf / #', "--flag", "../../x", "$(reboot)", "`id`", "'; DROP TABLE lobs.tasks; --"]


@dataclass
class Setup:
    app: FastAPI
    client: httpx.AsyncClient
    gateway: ReplayGateway

    def sent(self, method: str) -> list[dict]:
        return [params for name, params in self.gateway.calls if name == method]


def gateway_client(app: FastAPI) -> GatewayClient:
    client = of_app(app).gateway
    assert client is not None
    return client


@pytest.fixture
async def gateway() -> AsyncIterator[ReplayGateway]:
    async with ReplayGateway(token="t" * 20) as replay:
        runs = iter(range(1000))
        replay.answers["agent"] = lambda params: {
            "runId": f"run-{next(runs)}",
            "sessionKey": params["sessionKey"],
            "status": "accepted",
        }
        replay.answers["chat.abort"] = lambda _: {"ok": True, "aborted": True, "runIds": ["run-0"]}
        for method in ("sessions.create", "sessions.patch", "sessions.reset", "sessions.delete"):
            replay.answers[method] = lambda params: {"ok": True, "key": params["key"]}
        replay.answers["sessions.compact"] = lambda _: {"ok": False, "reason": "nothing to compact"}
        replay.answers["cron.run"] = lambda _: {"ok": True, "enqueued": True, "runId": "manual:1"}
        replay.answers["exec.approval.resolve"] = lambda _: {"ok": True}
        yield replay


@pytest.fixture
async def setup(settings, gateway, database) -> AsyncIterator[Setup]:
    await database.execute("INSERT INTO lobs.agents (gateway, agent, configured) VALUES ('home', 'main', true)")
    chosen = settings.model_copy(
        update={
            "commands": True,
            "gateway_url": gateway.url,
            "gateway_token": settings.gateway_token.__class__("t" * 20),
        }
    )
    async with started(chosen) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
        await gateway_client(app).wait_connected(PATIENCE_SECONDS)
        yield Setup(app, client, gateway)


@pytest.fixture
async def away(settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service whose gateway was never there, so that nothing was ever read from it."""
    chosen = settings.model_copy(update={"commands": True, "gateway_url": "ws://127.0.0.1:9"})
    async with started(chosen) as app, connected(app, await new_token(app, Scope.ADMIN)) as client:
        yield client


async def audit(database):
    cursor = await database.execute(
        "SELECT action, phase, target FROM lobs.audit_log WHERE action NOT LIKE 'token%' ORDER BY id"
    )
    return await cursor.fetchall()


async def test_commands_are_off_unless_they_are_turned_on(client, database):
    await database.execute("INSERT INTO lobs.agents (gateway, agent, configured) VALUES ('home', 'main', true)")
    for method, path, body in (
        ("POST", "/api/agents/spawn", {"label": "l", "task": "t"}),
        ("POST", "/api/agents/main/send", {"message": "m"}),
        ("POST", "/api/agents/main/kill", {}),
        ("POST", "/api/crons/j/run", None),
        ("POST", "/api/approvals/a/resolve", {"decision": "deny"}),
        ("PATCH", "/api/sessions/k", {"model": "m"}),
        ("POST", "/api/sessions/k/compact", None),
        ("POST", "/api/sessions/k/reset", None),
        ("DELETE", "/api/sessions/k", None),
        ("POST", "/api/commands/confirm", {"action": "session.reset", "target": "k"}),
    ):
        answer = await client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "commands_disabled"), path
    assert await audit(database) == []


@pytest.mark.req("S2-4", "S1-12")
async def test_spawn_starts_a_run_that_is_followed_as_an_operation(setup, database):
    answer = await setup.client.post("/api/agents/spawn", json={"label": "Read it", "task": "Read notes.md"})
    run = answer.json()
    assert answer.status_code == 202
    assert run["sessionKey"].startswith("agent:main:dashboard:read-it-")
    (sent,) = setup.sent("agent")
    assert (sent["message"], sent["sessionKey"]) == ("Read notes.md", run["sessionKey"])
    operation = (await setup.client.get(f"/api/operations/{run['operationId']}")).json()
    assert (operation["runId"], operation["name"], operation["type"]) == (run["runId"], "Read it", "agent_task")
    assert await audit(database) == [("agent.spawn", "started", "main"), ("agent.spawn", "succeeded", "main")]
    assert (await setup.client.get("/api/feed")).json()["items"][0]["action"] == "spawned"


@pytest.mark.req("S2-4")
@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_is_inert(setup, text):
    answer = await setup.client.post("/api/agents/spawn", json={"label": text, "task": text})
    assert answer.status_code == 202
    assert setup.sent("agent")[0]["message"] == text
    assert (
        await setup.client.post("/api/agents/spawn", json={"label": "l", "task": "t", "agentId": text})
    ).status_code == 422


@pytest.mark.req("S2-4")
async def test_an_unknown_agent_is_404_and_a_huge_prompt_413(setup, database):
    body = {"label": "l", "task": "t", "agentId": "nobody"}
    assert (await setup.client.post("/api/agents/spawn", json=body)).status_code == 404
    huge = {"label": "l", "task": "x" * 1_000_000}
    assert (await setup.client.post("/api/agents/spawn", json=huge)).status_code == 413
    assert setup.sent("agent") == []
    assert await audit(database) == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/agents/spawn", {"label": "l", "task": "t"}),
        ("POST", "/api/runs", {"label": "l", "stages": [{"agentId": "main", "task": "t"}]}),
        ("POST", "/api/agents/main/send", {"message": "m"}),
        ("POST", "/api/agents/main/kill", {}),
        ("GET", "/api/agents/main/transcript", None),
        ("PATCH", "/api/agents/main", {"name": "n"}),
        ("GET", "/api/agents/main/files", None),
        ("GET", "/api/agents/main/files/SOUL.md", None),
        ("PUT", "/api/agents/main/files/SOUL.md", {"content": "c"}),
        ("POST", "/api/crons", {"name": "n", "schedule": {"kind": "every", "everyMs": 60_000}, "message": "m"}),
        (
            "POST",
            "/api/crons",
            {"name": "n", "schedule": {"kind": "every", "everyMs": 60_000}, "message": "m", "agentId": "main"},
        ),
        ("GET", "/api/crons/j", None),
        ("PATCH", "/api/crons/j", {"enabled": False}),
        ("DELETE", "/api/crons/j", None),
        ("POST", "/api/crons/j/run", None),
        ("POST", "/api/agents", {"name": "n"}),
        ("PATCH", "/api/sessions/agent:main:main", {"model": None}),
        ("POST", "/api/sessions/agent:main:main/compact", None),
        ("POST", "/api/approvals/a/resolve", {"decision": "deny"}),
        ("GET", "/api/approval-rules", None),
        ("DELETE", "/api/approval-rules?agentId=main&pattern=x", None),
        ("GET", "/api/skills", None),
        ("PATCH", "/api/skills/s", {"enabled": True}),
        ("GET", "/api/config", None),
        ("POST", "/api/config/validate", {"patch": {"a": 1}}),
        ("GET", "/api/gateway/update", None),
    ],
)
async def test_what_only_the_gateway_could_tell_is_not_denied_without_it(away, method, path, body):
    answer = await away.request(method, path, json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (503, "gateway_unavailable", None)
    assert problem["detail"] == "The gateway is not connected; nothing was sent."


async def test_agents_to_be_dispatched_to_are_not_denied_without_the_gateway(away):
    body = {"label": "l", "task": "t", "agentIds": ["main", "helper"]}
    answer = await away.post("/api/dispatch", json=body)
    said = {one["error"] for one in answer.json()}
    assert said == {"The gateway is not connected; nothing was sent."}


@pytest.mark.req("S2-5")
async def test_send_and_kill(setup, database):
    sent = await setup.client.post("/api/agents/main/send", json={"message": "How far?"})
    assert (sent.status_code, sent.json()["sessionKey"]) == (202, "agent:main:main")
    killed = await setup.client.post("/api/agents/main/kill", json={})
    assert killed.json() == {"aborted": True, "runIds": ["run-0"]}
    assert setup.sent("chat.abort") == [{"sessionKey": "agent:main:main"}]
    theirs = await setup.client.post("/api/agents/main/send", json={"message": "m", "sessionKey": "agent:other:main"})
    assert theirs.status_code == 422
    actions = [one["action"] for one in (await setup.client.get("/api/feed")).json()["items"]]
    assert actions == ["killed", "message_sent"]


async def test_a_replayed_key_sends_nothing_again(setup, database):
    headers = {"Idempotency-Key": "k"}
    body = {"label": "l", "task": "t"}
    first = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
    again = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
    assert first.json() == again.json()
    assert len(setup.sent("agent")) == 1
    other = await setup.client.post("/api/agents/spawn", json={**body, "task": "u"}, headers=headers)
    assert other.status_code == 409
    assert len(await audit(database)) == 2
    assert [row["action"] for row in (await setup.client.get("/api/feed")).json()["items"]] == ["spawned"]


async def test_what_the_gateway_refuses_is_told_and_audited(setup, database):
    answer = await setup.client.post("/api/sessions/agent:main:main/compact")
    assert (answer.status_code, answer.json()["code"]) == (502, "gateway_refused")
    assert "nothing to compact" in answer.json()["detail"]
    assert [phase for _, phase, _ in await audit(database)] == ["started", "failed"]


async def test_a_gateway_that_went_away_is_503_and_the_key_stays_free(setup, gateway):
    await gateway.stop()
    client = gateway_client(setup.app)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while client.hello is not None:  # noqa: ASYNC110 - the client tells only of a connection's beginning
            await asyncio.sleep(0.01)
    headers = {"Idempotency-Key": "k"}
    for _ in range(2):
        answer = await setup.client.post("/api/crons/j/run", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "gateway_unavailable")


async def test_a_connection_lost_after_sending_keeps_the_key_so_that_nothing_is_sent_twice(setup, gateway):
    gateway.faults.drop_on |= {"agent"}
    headers, body = {"Idempotency-Key": "k"}, {"label": "l", "task": "t"}
    lost = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
    assert lost.status_code == 503
    gateway.faults.drop_on.clear()
    await gateway_client(setup.app).wait_connected(PATIENCE_SECONDS)
    again = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
    assert again.status_code == 409, "whether it was carried out is not known"
    assert len(setup.sent("agent")) == 1


async def test_what_was_not_sent_for_lack_of_room_may_be_tried_again(setup, database, monkeypatch):
    async def full(*_: Any, **__: Any) -> Any:
        raise TooManyRequestsError("cron.run: 1000 requests wait for an answer already")

    headers = {"Idempotency-Key": "k"}
    with monkeypatch.context() as patch:
        patch.setattr(gateway_client(setup.app), "call", full)
        refused = await setup.client.post("/api/crons/j/run", headers=headers)
    assert refused.status_code == 503
    assert refused.json()["detail"].endswith("nothing was sent.")
    assert (await setup.client.post("/api/crons/j/run", headers=headers)).status_code == 202
    assert [phase for _, phase, _ in await audit(database)] == ["started", "failed", "started", "succeeded"]


async def test_a_queue_that_is_full_refuses_and_the_key_stays_free(setup, database, monkeypatch):
    monkeypatch.setattr(requested_runs, "MOST_WAITING", 0)
    body, headers = {"label": "l", "task": "t"}, {"Idempotency-Key": "k"}
    most = of_app(setup.app).settings.runs_per_user
    for _ in range(most):
        assert (await setup.client.post("/api/agents/spawn", json=body)).json()["status"] == "running"
    for _ in range(2):
        refused = await setup.client.post("/api/agents/spawn", json=body, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    phases = [phase for _, phase, _ in await audit(database)]
    assert phases == ["started", "succeeded"] * most + ["started", "failed"] * 2


@pytest.mark.req("S4-7")
async def test_dangerous_commands_need_a_confirmation_for_just_that(setup):
    path = "/api/sessions/agent:main:dashboard:old"
    assert (await setup.client.delete(path)).status_code == 428

    async def nonce(action, target):
        answer = await setup.client.post("/api/commands/confirm", json={"action": action, "target": target})
        return {"X-Confirmation": answer.json()["nonce"]}

    target = "agent:main:dashboard:old"
    assert (await setup.client.delete(path, headers=await nonce("session.reset", target))).status_code == 428
    assert (await setup.client.delete(path, headers=await nonce("session.delete", "agent:main:x"))).status_code == 428
    good = await nonce("session.delete", target)
    async with connected(setup.app, await new_token(setup.app, Scope.COMMAND)) as someone:
        assert (await someone.delete(path, headers=good)).status_code == 428
    good = await nonce("session.delete", target)
    assert (await setup.client.delete(path, headers=good)).status_code == 200
    assert (await setup.client.delete(path, headers=good)).status_code == 428
    assert setup.sent("sessions.delete") == [{"key": target, "deleteTranscript": True}]


@pytest.mark.req("S4-7", "S4-9", "S1-3")
async def test_sessions_jobs_and_approvals(setup):
    patched = await setup.client.patch("/api/sessions/agent:main:main", json={"model": "p/m"})
    ran = await setup.client.post("/api/crons/j1/run")
    resolved = await setup.client.post("/api/approvals/a1/resolve", json={"decision": "allow-once"})
    assert [patched.status_code, ran.status_code, resolved.status_code] == [200, 202, 200]
    assert ran.json()["runId"] == "manual:1"
    assert setup.sent("sessions.patch") == [{"key": "agent:main:main", "model": "p/m"}]
    assert setup.sent("cron.run") == [{"id": "j1", "mode": "force"}]
    assert setup.sent("exec.approval.resolve") == [{"id": "a1", "decision": "allow-once"}]
    assert (await setup.client.post("/api/approvals/a1/resolve", json={"decision": "maybe"})).status_code == 422


async def test_a_hundred_at_once_are_slowed_down_and_a_limited_token_refused(settings, gateway, database):
    await database.execute("INSERT INTO lobs.agents (gateway, agent, configured) VALUES ('home', 'main', true)")
    chosen = settings.model_copy(
        update={
            "commands": True,
            "gateway_url": gateway.url,
            "gateway_token": settings.gateway_token.__class__("t" * 20),
        }
    )
    limits = Limits(read=LOOSE.read, write=LOOSE.write, command=Rate(0.5, 10), anonymous=LOOSE.anonymous)
    async with started(chosen, limits) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
        await gateway_client(app).wait_connected(PATIENCE_SECONDS)
        statuses = [(await client.post("/api/crons/j/run")).status_code for _ in range(30)]
        assert statuses.count(202) in {10, 11}
        assert set(statuses) == {202, 429}
        async with connected(app, await new_token(app, Scope.COMMAND, ["work"])) as limited:
            assert (await limited.post("/api/crons/j/run")).json()["code"] == "wrong_gateway"


@pytest.mark.req("S2-5", "S1-4")
async def test_a_transcript_is_read_from_the_gateway_and_leaves_a_row(setup):
    recorded = json.loads((SAMPLES / "sessions.preview.json").read_text(encoding="utf-8"))
    setup.gateway.answers["sessions.preview"] = lambda _: recorded["response"]["payload"]
    answer = await setup.client.get("/api/agents/main/transcript", params={"limit": 4})
    assert answer.status_code == 200
    assert answer.json()["items"][1] == {"role": "assistant", "text": "Reply 57 of the fake model."}
    assert (await setup.client.get("/api/feed")).json()["items"][0]["action"] == "transcript_read"
    assert (await setup.client.get("/api/agents/nobody/transcript")).status_code == 404
    async with connected(setup.app, await new_token(setup.app, Scope.WRITE)) as lesser:
        assert (await lesser.get("/api/agents/main/transcript")).status_code == 403


@pytest.mark.req("S4-7")
async def test_a_session_goes_back_to_its_agents_own_model_with_null(setup):
    answer = await setup.client.patch("/api/sessions/agent:main:main", json={"model": None})
    assert answer.status_code == 200
    assert setup.sent("sessions.patch") == [{"key": "agent:main:main", "model": None}]
    assert (await setup.client.patch("/api/sessions/agent:main:main", json={"model": "a\x00b"})).status_code == 422
