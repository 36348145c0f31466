"""Commands that change a gateway's setup, against a gateway that answers from recordings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api.context import of_app
from api.security.scopes import Scope
from api.services import service_manager
from cli.demo.gateway import ReplayGateway
from lobservatory.settings import Settings
from tests.api.conftest import connected, new_token, started
from tests.servers import PATIENCE_SECONDS

SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples" / "rpc-2026.9.6"


class Setup:
    def __init__(self, client, gateway, settings):
        self.client, self.gateway, self.settings = client, gateway, settings

    @contextlib.asynccontextmanager
    async def another(self):
        """A client of another API on the same database and gateway."""
        async with started(self.settings) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
            await of_app(app).gateway.wait_connected(PATIENCE_SECONDS)
            yield client

    def sent(self, method):
        return [params for name, params in self.gateway.calls if name == method]

    async def confirmed(self, action, target, body=None):
        wanted = {"action": action, "target": target, "body": body}
        answer = await self.client.post("/api/commands/confirm", json=wanted)
        assert answer.status_code == 200, answer.text
        return {"X-Confirmation": answer.json()["nonce"]}


def recorded(method):
    return json.loads((SAMPLES / f"{method}.json").read_text(encoding="utf-8"))["response"]["payload"]


@pytest.fixture
async def setup(settings, database):
    await database.execute("INSERT INTO lobs.agents (gateway, agent, configured) VALUES ('home', 'main', true)")
    async with ReplayGateway(token="t" * 20) as gateway:
        for method in ("agents.create", "cron.add", "exec.approvals.get", "skills.status", "config.get"):
            gateway.answers[method] = lambda _, method=method: recorded(method)
        for method in (
            "agents.update",
            "agents.delete",
            "agents.files.set",
            "cron.update",
            "cron.remove",
            "exec.approvals.set",
            "skills.install",
            "skills.update",
            "config.patch",
            "channels.logout",
            "gateway.restart.request",
            "update.run",
        ):
            gateway.answers[method] = lambda _: {"ok": True}
        chosen = settings.model_copy(
            update={
                "commands": True,
                "gateway_url": gateway.url,
                "gateway_token": settings.gateway_token.__class__("t" * 20),
            }
        )
        async with started(chosen) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
            connection = of_app(app).gateway
            assert connection is not None
            await connection.wait_connected(PATIENCE_SECONDS)
            yield Setup(client, gateway, chosen)


async def audit(database):
    cursor = await database.execute(
        "SELECT action, phase, target, detail FROM lobs.audit_log WHERE action NOT LIKE 'token%' ORDER BY id"
    )
    return await cursor.fetchall()


@pytest.mark.req("S2-4")
async def test_an_agent_that_somebody_else_changed_is_not_changed(setup, database):
    await database.execute("UPDATE lobs.agents SET name = 'Main', model = 'p/old' WHERE agent = 'main'")
    listed = {"id": "main", "name": "Main", "model": {"primary": "p/old"}}
    setup.gateway.answers["agents.list"] = lambda _: {"agents": [{"id": "other"}, listed]}
    read = await setup.client.get("/api/agents/main")
    etag = {"If-Match": read.headers["ETag"]}
    assert read.json()["version"] == read.headers["ETag"].strip('"')
    mine = await setup.client.patch("/api/agents/main", json={"model": "p/mine"}, headers=etag)
    assert mine.status_code == 200, mine.text
    listed["model"] = "p/theirs"  # as older gateways write it
    late = await setup.client.patch("/api/agents/main", json={"model": "p/late"}, headers=etag)
    assert (late.status_code, late.json()["code"]) == (412, "stale_version")
    assert setup.sent("agents.update") == [{"agentId": "main", "model": "p/mine"}]
    listed["model"] = "p/old"
    again = await setup.client.patch("/api/agents/main", json={"emoji": "x"}, headers=etag)
    assert again.status_code == 200, again.text
    setup.gateway.answers["agents.list"] = lambda _: {"agents": []}  # deleted there, and not seen here yet
    gone = await setup.client.patch("/api/agents/main", json={"model": "p/m"}, headers=etag)
    assert gone.status_code == 412


class LaggingAgents:
    """A gateway that writes its configuration at once and works with it only when it is told to."""

    def __init__(self, gateway):
        self.written = self.shown = {"id": "main", "name": "Main", "model": {"primary": "p/old"}}
        self.asked = 0  # for the configuration, while the list lags
        self.shown_after = 3
        self.revision = 0
        gateway.answers["agents.list"] = lambda _: {"agents": [self.shown]}
        gateway.answers["agents.update"] = self.update
        gateway.answers["config.get"] = self.config

    def update(self, params):
        self.written = {**self.written, "name": params.get("name", self.written["name"])}
        self.revision += 1
        self.asked = 0
        return {"ok": True}

    def config(self, _):
        if self.shown is not self.written:
            self.asked += 1
            if self.asked >= self.shown_after:
                self.shown = self.written
        applied = self.revision - (self.shown is not self.written)
        return {"configRevisionHash": f"h{self.revision}", "appliedConfigHash": f"h{applied}", "hash": "h"}


@pytest.fixture
async def lagging(setup, database):
    await database.execute("UPDATE lobs.agents SET name = 'Main', model = 'p/old' WHERE agent = 'main'")
    return LaggingAgents(setup.gateway)


@pytest.mark.req("S2-4")
async def test_a_change_is_compared_with_what_was_written_last_also_while_the_gateways_list_lags(setup, lagging):
    etag = {"If-Match": (await setup.client.get("/api/agents/main")).headers["ETag"]}
    first = await setup.client.patch("/api/agents/main", json={"name": "First"}, headers=etag)
    assert first.status_code == 200, first.text
    assert lagging.shown["name"] == "Main", "it still shows what was before"
    second = await setup.client.patch("/api/agents/main", json={"name": "Second"}, headers=etag)
    assert (second.status_code, second.json()["code"]) == (412, "stale_version")
    assert setup.sent("agents.update") == [{"agentId": "main", "name": "First"}]


@pytest.mark.req("S2-4")
async def test_what_cannot_be_compared_is_not_changed_and_its_key_stays_free(setup, lagging, monkeypatch):
    monkeypatch.setattr("api.services.control.agents.APPLIED_SECONDS", 0.0)
    lagging.shown_after = 10**6
    etag = {"If-Match": (await setup.client.get("/api/agents/main")).headers["ETag"]}
    assert (await setup.client.patch("/api/agents/main", json={"name": "First"}, headers=etag)).status_code == 200
    for _ in range(2):
        second = await setup.client.patch(
            "/api/agents/main", json={"name": "Second"}, headers={**etag, "Idempotency-Key": "k"}
        )
        assert (second.status_code, second.json()["code"]) == (409, "conflict")
        assert "without If-Match" in second.json()["detail"]
    assert (await setup.client.patch("/api/agents/main", json={"name": "Third"})).status_code == 200
    assert [sent["name"] for sent in setup.sent("agents.update")] == ["First", "Third"]


@pytest.mark.req("S2-4")
async def test_of_several_who_change_the_same_at_once_one_succeeds(setup, lagging):
    """Each through an API process of its own."""
    etag = {"If-Match": (await setup.client.get("/api/agents/main")).headers["ETag"]}
    async with setup.another() as other:
        answers = await asyncio.gather(
            setup.client.patch("/api/agents/main", json={"name": "One"}, headers=etag),
            setup.client.patch("/api/agents/main", json={"name": "Two"}, headers=etag),
            other.patch("/api/agents/main", json={"name": "Three"}, headers=etag),
        )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412]
    (sent,) = setup.sent("agents.update")
    assert lagging.written["name"] == sent["name"]


@pytest.mark.req("S2-4")
async def test_an_agent_is_made_changed_and_deleted(setup, database):
    made = await setup.client.post("/api/agents", json={"name": "helper"})
    assert (made.status_code, made.json()) == (201, {"agentId": "helper"})
    assert setup.sent("agents.create") == [{"name": "helper"}]
    assert (await setup.client.patch("/api/agents/main", json={"model": "p/m"})).status_code == 200
    assert setup.sent("agents.update") == [{"agentId": "main", "model": "p/m"}]
    assert (await setup.client.patch("/api/agents/main", json={})).status_code == 422
    assert (await setup.client.patch("/api/agents/nobody", json={"name": "n"})).status_code == 404
    assert (await setup.client.delete("/api/agents/main")).status_code == 428
    nonce = await setup.confirmed("agent.delete", "main")
    assert (await setup.client.delete("/api/agents/main", headers=nonce)).status_code == 200
    assert setup.sent("agents.delete") == [{"agentId": "main", "deleteFiles": False}]
    assert [row[:3] for row in await audit(database)] == [
        (action, phase, target)
        for action, target in (("agent.create", "helper"), ("agent.update", "main"), ("agent.delete", "main"))
        for phase in ("started", "succeeded")
    ]


async def test_a_file_is_replaced_only_when_it_is_the_one_that_was_read(setup, database):
    texts = {"AGENTS.md": "old text"}
    setup.gateway.answers["agents.files.list"] = lambda _: {
        "files": [{"name": "AGENTS.md", "path": "/w/AGENTS.md", "missing": False, "size": 8}]
    }
    setup.gateway.answers["agents.files.get"] = lambda params: {
        "file": {"name": params["name"], "missing": params["name"] not in texts, "content": texts.get(params["name"])}
    }
    setup.gateway.answers["agents.files.set"] = lambda params: texts.update({params["name"]: params["content"]}) or {}
    assert [one["name"] for one in (await setup.client.get("/api/agents/main/files")).json()] == ["AGENTS.md"]
    path = "/api/agents/main/files/AGENTS.md"
    read = await setup.client.get(path)
    assert read.json()["content"] == "old text"
    condition = {"If-Match": read.headers["etag"]}
    assert (await setup.client.put(path, json={"content": "secret new text"}, headers=condition)).status_code == 200
    assert texts["AGENTS.md"] == "secret new text"
    keyed = {**condition, "Idempotency-Key": "k"}
    for _ in range(2):  # what was certainly not carried out leaves its key free
        assert (await setup.client.put(path, json={"content": "third"}, headers=keyed)).status_code == 412
    assert texts["AGENTS.md"] == "secret new text"
    assert [row[1] for row in await audit(database)] == ["started", "succeeded", *["started", "failed"] * 2]
    assert "secret new text" not in str(await audit(database))
    assert (await setup.client.get("/api/agents/main/files/NO.md")).status_code == 404
    assert (await setup.client.get("/api/agents/main/files/..%2Fopenclaw.json")).status_code in {404, 422}


@pytest.mark.req("S1-3")
async def test_jobs_are_added_changed_and_removed(setup):
    wanted = {"name": "nightly", "schedule": {"kind": "cron", "expr": "0 3 * * *", "tz": "UTC"}, "message": "Report"}
    added = await setup.client.post("/api/crons", json=wanted)
    assert (added.status_code, added.json()["jobId"]) == (201, recorded("cron.add")["id"])
    (sent,) = setup.sent("cron.add")
    assert sent["schedule"] == wanted["schedule"]
    assert sent["payload"] == {"kind": "agentTurn", "message": "Report"}
    changed = await setup.client.patch(
        "/api/crons/j1", json={"enabled": False, "schedule": {"kind": "every", "everyMs": 3600000}}
    )
    assert changed.status_code == 200
    assert setup.sent("cron.update") == [
        {"id": "j1", "patch": {"enabled": False, "schedule": {"kind": "every", "everyMs": 3600000}}}
    ]
    assert (await setup.client.delete("/api/crons/j1")).status_code == 200
    assert setup.sent("cron.remove") == [{"id": "j1"}]
    assert (await setup.client.patch("/api/crons/j1", json={})).status_code == 422
    wrong = {**wanted, "schedule": {"kind": "every", "everyMs": 1}}
    assert (await setup.client.post("/api/crons", json=wrong)).status_code == 422


@pytest.mark.req("S4-22")
async def test_rules_are_added_and_removed_and_nothing_else_of_the_file_changes(setup):
    file = recorded("exec.approvals.get")["file"]
    state = {"file": {**file, "agents": {"main": {"ask": "always", "allowlist": [{"pattern": "/bin/ls", "id": "1"}]}}}}
    setup.gateway.answers["exec.approvals.get"] = lambda _: {"file": state["file"], "hash": "h1"}
    setup.gateway.answers["exec.approvals.set"] = lambda params: state.update(file=params["file"]) or {}
    rule = {"agentId": "main", "pattern": "/usr/bin/git"}
    assert (await setup.client.post("/api/approval-rules", json=rule)).status_code == 428
    nonce = await setup.confirmed("exec.rule.add", "main", rule)
    assert (await setup.client.post("/api/approval-rules", json=rule, headers=nonce)).status_code == 201
    assert setup.sent("exec.approvals.set")[0]["baseHash"] == "h1"
    listed = (await setup.client.get("/api/approval-rules")).json()
    assert [one["pattern"] for one in listed] == ["/bin/ls", "/usr/bin/git"]
    assert state["file"]["agents"]["main"]["ask"] == "always"
    assert state["file"]["agents"]["main"]["allowlist"][0]["id"] == "1"
    query = {"agentId": "main", "pattern": "/bin/ls"}
    assert (await setup.client.delete("/api/approval-rules", params=query)).status_code == 200
    assert (await setup.client.delete("/api/approval-rules", params=query)).status_code == 404
    assert [one["pattern"] for one in (await setup.client.get("/api/approval-rules")).json()] == ["/usr/bin/git"]


async def test_what_a_gateway_does_not_tell_of_a_command_is_not_in_its_answer(setup):
    """Only commands that may start a run say which; whoever repeats a key gets the same document."""
    setup.gateway.answers["cron.run"] = lambda _: {"ok": True}
    for key, method, path, body, answer in (
        ("skill", "PATCH", "/api/skills/1password", {"enabled": False}, {"ok": True}),
        ("run", "POST", "/api/crons/j1/run", None, {"ok": True, "runId": None}),
        ("job", "PATCH", "/api/crons/j1", {"enabled": False}, {"ok": True}),
    ):
        for _ in range(2):
            found = await setup.client.request(method, path, json=body, headers={"Idempotency-Key": key})
            assert found.is_success, found.text
            assert found.json() == answer
    for method in ("skills.update", "cron.run", "cron.update"):
        assert len(setup.sent(method)) == 1


@pytest.mark.req("S4-11")
async def test_skills_are_shown_installed_and_turned_off(setup):
    skills = (await setup.client.get("/api/skills")).json()
    (one,) = [skill for skill in skills if skill["key"] == "1password"]
    assert (one["eligible"], one["missing"]) == (False, ["op"])
    assert (await setup.client.patch("/api/skills/1password", json={"enabled": False})).status_code == 200
    assert setup.sent("skills.update") == [{"skillKey": "1password", "enabled": False}]
    body = {"slug": "@owner/skill", "version": "1.0.0"}
    assert (await setup.client.post("/api/skills", json=body)).status_code == 428
    nonce = await setup.confirmed("skill.install", "@owner:skill", body)
    assert (await setup.client.post("/api/skills", json=body, headers=nonce)).status_code == 202
    assert setup.sent("skills.install") == [{"source": "clawhub", "slug": "@owner/skill", "version": "1.0.0"}]
    assert (await setup.client.post("/api/skills", json={"slug": "../../etc"})).status_code == 422


@pytest.mark.req("S4-13", "S4-17")
async def test_the_configuration_is_read_without_secrets_checked_and_patched_as_it_was_read(setup, database):
    answer = recorded("config.get")
    answer["config"]["gateway"]["auth"]["token"] = "a plain secret of an old gateway"
    setup.gateway.answers["config.get"] = lambda _: answer
    read = await setup.client.get("/api/config")
    assert read.json()["hash"] == answer["hash"]
    assert read.json()["config"]["gateway"]["port"] == 18789
    assert "plain secret" not in read.text
    setup.gateway.answers["config.schema.lookup"] = lambda params: {
        "path": params["path"],
        "schema": {"type": "boolean"},
        "children": [],
    }
    checked = await setup.client.post("/api/config/validate", json={"patch": {"cron": {"enabled": "yes"}}})
    assert checked.json()["problems"] == [{"path": "cron.enabled", "message": "Must be of type boolean."}]
    good = {"patch": {"cron": {"enabled": True}}}
    assert (await setup.client.post("/api/config/validate", json=good)).json()["valid"] is True
    body = {**good, "baseHash": answer["hash"]}
    assert (await setup.client.patch("/api/config", json=body)).status_code == 428
    stale = {**good, "baseHash": "another"}
    nonce = await setup.confirmed("config.patch", "home", stale)
    assert (await setup.client.patch("/api/config", json=stale, headers=nonce)).status_code == 412
    assert setup.sent("config.patch") == []
    nonce = await setup.confirmed("config.patch", "home", body)
    assert (await setup.client.patch("/api/config", json=body, headers=nonce)).status_code == 200
    assert setup.sent("config.patch") == [{"raw": '{"cron": {"enabled": true}}', "baseHash": answer["hash"]}]
    assert (await audit(database))[-2][3] == {"paths": ["cron.enabled"]}
    hidden = {"patch": {"gateway": {"auth": {"token": "__OPENCLAW_REDACTED__"}}}, "baseHash": answer["hash"]}
    assert (await setup.client.patch("/api/config", json=hidden)).status_code == 422


@pytest.mark.req("S4-13")
@pytest.mark.parametrize(
    ("hash_after", "status", "code"), [("h2", 412, "stale_version"), ("h1", 502, "gateway_refused")]
)
async def test_a_patch_that_the_gateway_refuses_is_stale_only_when_its_configuration_has_changed(
    setup, hash_after, status, code
):
    """Somebody else may change it after we have looked, and the gateway compares once more."""
    hashes = iter(("h1", hash_after))
    setup.gateway.answers["config.get"] = lambda _: {"hash": next(hashes)}
    error = {"code": "INVALID_REQUEST", "message": "config changed since last load; re-run config.get and retry"}
    del setup.gateway.answers["config.patch"]
    setup.gateway._replies["config.patch"] = {"ok": False, "error": error}
    body = {"patch": {"cron": {"enabled": True}}, "baseHash": "h1"}
    nonce = await setup.confirmed("config.patch", "home", body)
    answer = await setup.client.patch("/api/config", json=body, headers=nonce)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.req("S4-10")
@pytest.mark.parametrize(
    ("action", "target", "path", "method", "params"),
    [
        ("channel.logout", "telegram", "/api/channels/telegram/logout", "channels.logout", {"channel": "telegram"}),
        ("gateway.update", "home", "/api/gateway/update", "update.run", {}),
        (
            "gateway.restart",
            "home",
            "/api/gateway/restart",
            "gateway.restart.request",
            {"reason": "requested through Lobservatory"},
        ),
    ],
)
async def test_what_interrupts_others_needs_a_confirmation(  # noqa: PLR0917 - fixtures and one row of the table
    setup, database, action, target, path, method, params
):
    assert (await setup.client.post(path)).status_code == 428
    assert setup.sent(method) == []
    assert await audit(database) == []
    nonce = await setup.confirmed(action, target)
    headers = {**nonce, "Idempotency-Key": "k"}
    assert (await setup.client.post(path, headers=headers)).status_code in {200, 202}
    assert (await setup.client.post(path, headers=headers)).status_code == 428
    assert setup.sent(method) == [params]
    assert [row[:3] for row in await audit(database)] == [(action, "started", target), (action, "succeeded", target)]


@pytest.mark.req("S4-1")
async def test_no_answer_to_any_question_has_the_gateways_token(settings):
    secret = "gateway-token-that-no-browser-sees"
    async with ReplayGateway(token=secret) as gateway:
        configured = recorded("config.get")
        configured["config"]["gateway"]["auth"] = {"mode": "token", "token": secret}
        gateway.answers["config.get"] = lambda _: configured
        chosen = settings.model_copy(
            update={
                "commands": True,
                "gateway_url": gateway.url,
                "gateway_token": settings.gateway_token.__class__(secret),
            }
        )
        async with started(chosen) as app, connected(app, await new_token(app, Scope.ADMIN)) as client:
            await of_app(app).gateway.wait_connected(PATIENCE_SECONDS)
            paths = [path for path, methods in app.openapi()["paths"].items() if "get" in methods]
            answered = 0
            for path in {*paths, "/"} - {"/api/events/stream"}:
                answer = await client.get(re.sub(r"{[^}]+}", "main", path))
                answered += answer.status_code == 200
                assert secret not in answer.text, path
                assert secret not in str(answer.headers), path
            assert answered > 30


@pytest.fixture
async def service(settings, tmp_path, monkeypatch):
    """A gateway that is a unit of a systemctl which writes down how it was called; `fail` makes it fail."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\ntest ! -e {folder}/fail || {{ echo "no unit" >&2; exit 5; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    async with ReplayGateway(token="t" * 20) as gateway:
        chosen = settings.model_copy(
            update={
                "commands": True,
                "gateway_url": gateway.url,
                "gateway_token": settings.gateway_token.__class__("t" * 20),
                "gateway_service": "systemd-user:openclaw-gateway.service",
            }
        )
        async with started(chosen) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
            yield Setup(client, gateway, chosen), folder


@pytest.mark.req("S1-13")
async def test_the_service_is_started_and_stopped_by_a_fixed_command_line(service, database):
    setup, folder = service
    for verb in ("stop", "start"):
        assert (await setup.client.post(f"/api/gateway/{verb}")).status_code == 428
        headers = await setup.confirmed(f"gateway.{verb}", "home")
        answer = await setup.client.post(f"/api/gateway/{verb}", headers=headers)
        assert (answer.status_code, answer.json()["ok"]) == (202, True), answer.text
    assert (folder / "calls").read_text().splitlines() == [
        "--user --no-ask-password stop -- openclaw-gateway.service",
        "--user --no-ask-password start -- openclaw-gateway.service",
    ]
    assert [row[:2] for row in await audit(database)] == [
        ("gateway.stop", "started"), ("gateway.stop", "succeeded"),
        ("gateway.start", "started"), ("gateway.start", "succeeded"),
    ]  # fmt: skip
    (folder / "fail").touch()
    refused = await setup.client.post("/api/gateway/stop", headers=await setup.confirmed("gateway.stop", "home"))
    assert (refused.status_code, refused.json()["code"]) == (502, "service_failed")
    assert refused.json()["detail"] == "systemctl stop failed: no unit"
    assert (await setup.client.post("/api/gateway/reload")).status_code == 422


@pytest.mark.req("S1-13")
async def test_without_a_named_service_nothing_is_run_and_updates_are_told(setup):
    refused = await setup.client.post("/api/gateway/stop", headers=await setup.confirmed("gateway.stop", "home"))
    assert (refused.status_code, refused.json()["code"]) == (409, "service_not_configured")
    for told, expected in (
        (recorded("update.status"), {"available": False, "version": None, "channel": "stable"}),
        (
            {"updateAvailable": {"latestVersion": "2026.10.1"}},
            {"available": True, "version": "2026.10.1", "channel": None},
        ),
        ({}, {"available": None, "version": None, "channel": None}),
    ):
        setup.gateway.answers["update.status"] = lambda _, told=told: told
        assert (await setup.client.get("/api/gateway/update")).json() == expected


@pytest.mark.parametrize(
    ("service", "argv"),
    [
        ("systemd:openclaw.service", ["systemctl", "--no-ask-password", "stop", "--", "openclaw.service"]),
        ("launchd:ai.openclaw.gateway", ["launchctl", "bootout", f"gui/{os.getuid()}/ai.openclaw.gateway"]),
    ],
)
def test_command_lines_of_service_managers(service, argv):
    assert service_manager.command(service, "stop") == argv


@pytest.mark.parametrize("name", ["openclaw", "systemd:", "systemd:a b", "systemd:-x", "systemd:a;b", "docker:x"])
def test_a_name_that_is_no_service_is_refused(name):
    with pytest.raises(ValidationError):
        Settings.model_validate({"gateway_service": name})


@pytest.mark.req("S1-3")
@pytest.mark.parametrize("newer", [True, False])
async def test_a_job_that_somebody_changed_is_not_changed_unseen(setup, newer):
    """A newer gateway has `cron.get` and revisions of its own, an older one a list and the time of the change."""
    job = {"id": "j", "name": "n", "enabled": True, "schedule": {"kind": "every", "everyMs": 60000}, "updatedAtMs": 1}
    job |= {"payload": {"kind": "agentTurn", "message": "Report"}} | ({"configRevision": "sha256:a"} if newer else {})

    def change(params):
        if params.get("expectedConfigRevision", job.get("configRevision")) != job.get("configRevision"):
            return {"ok": False, "reason": "conflict"}
        job.update(params.get("patch", {}), updatedAtMs=job["updatedAtMs"] + 1)
        if newer:
            job["configRevision"] += "b"
        return {"ok": True}

    if newer:
        setup.gateway.answers["cron.get"] = lambda _: dict(job)
    else:
        setup.gateway.faults.missing_methods.add("cron.get")
    setup.gateway.answers["cron.list"] = lambda _: {"jobs": [{"id": "other"}, dict(job)]}
    setup.gateway.answers["cron.update"] = change
    setup.gateway.answers["cron.remove"] = change
    path = "/api/crons/j"
    read = await setup.client.get(path)
    assert (read.json()["message"], read.json()["schedule"]["everyMs"]) == ("Report", 60000)
    guard = {"If-Match": read.headers["ETag"]}
    assert (await setup.client.patch(path, json={"name": "theirs"})).status_code == 200
    mine = await setup.client.patch(path, json={"name": "mine"}, headers=guard)
    assert (mine.status_code, mine.json()["code"]) == (412, "stale_version")
    assert (await setup.client.delete(path, headers=guard)).status_code == 412
    assert job["name"] == "theirs"
    guard = {"If-Match": (await setup.client.get(path)).headers["ETag"]}
    assert (await setup.client.patch(path, json={"name": "mine"}, headers=guard)).status_code == 200
    assert job["name"] == "mine"
    guard = {"If-Match": (await setup.client.get(path)).headers["ETag"]}
    assert (await setup.client.delete(path, headers=guard)).status_code == 200
    assert len(setup.sent("cron.remove")) == 1
    gone = await setup.client.get("/api/crons/nobody") if not newer else None
    assert gone is None or (gone.status_code, gone.json()["field"]) == (404, "job_id")


async def test_a_change_between_reading_and_changing_a_job_is_noticed_by_the_gateway(setup):
    revisions = iter(["r1", "r1", "r2"])
    setup.gateway.answers["cron.get"] = lambda _: {"id": "j", "configRevision": next(revisions)}
    setup.gateway.answers["cron.update"] = lambda params: {"ok": False, "reason": "conflict"}
    guard = {"If-Match": (await setup.client.get("/api/crons/j")).headers["ETag"]}
    assert (await setup.client.patch("/api/crons/j", json={"name": "mine"}, headers=guard)).status_code == 412
    assert setup.sent("cron.update") == [{"id": "j", "patch": {"name": "mine"}, "expectedConfigRevision": "r1"}]


async def test_a_skill_is_updated_to_its_newest_version(setup, database):
    setup.gateway.answers["skills.update"] = lambda _: {"ok": True, "skillKey": "@owner/skill"}
    body = {"slug": "@owner/skill"}
    assert (await setup.client.post("/api/skills/update", json=body)).status_code == 428
    nonce = await setup.confirmed("skill.update", "@owner:skill", body)
    assert (await setup.client.post("/api/skills/update", json=body, headers=nonce)).status_code == 202
    assert setup.sent("skills.update") == [{"source": "clawhub", "slug": "@owner/skill"}]
    assert [row[:2] for row in await audit(database)] == [("skill.upgrade", "started"), ("skill.upgrade", "succeeded")]
    for wrong in ({"slug": "../../etc"}, {"slug": "x", "all": True}, {}):
        assert (await setup.client.post("/api/skills/update", json=wrong)).status_code == 422


# Action, target, method, path, what is confirmed, what is sent instead.
CONFIRMED: tuple[tuple[str, str, str, str, Any, Any], ...] = (
    (
        "exec.rule.add", "main", "POST", "/api/approval-rules",
        {"agentId": "main", "pattern": "/usr/bin/git"}, {"agentId": "main", "pattern": "/bin/rm"},
    ),
    (
        "skill.install", "one", "POST", "/api/skills",
        {"slug": "one", "version": "1.0.0"}, {"slug": "one", "version": "6.6.6"},
    ),
    ("skill.install", "one", "POST", "/api/skills", {"slug": "one"}, {"slug": "one", "agentId": "main"}),
    ("skill.install", "one", "POST", "/api/skills/update", {"slug": "one"}, {"slug": "one"}),
    (
        "config.patch", "home", "PATCH", "/api/config",
        {"patch": {"cron": {"enabled": True}}, "baseHash": "h"},
        {"patch": {"cron": {"enabled": False}}, "baseHash": "h"},
    ),
    (
        "config.patch", "home", "PATCH", "/api/config",
        {"patch": {"a": {"b": 1}}, "baseHash": "h"}, {"patch": {"a": {"b": 1}}, "baseHash": "i"},
    ),
    ("channel.logout", "irc", "POST", "/api/channels/irc/logout?account=mine", {"account": "another"}, None),
    ("channel.logout", "irc", "POST", "/api/channels/irc/logout?account=mine", None, None),
)  # fmt: skip


@pytest.mark.req("S4-7")
@pytest.mark.parametrize(("action", "target", "method", "path", "confirmed", "sent"), CONFIRMED)
async def test_a_confirmation_is_for_the_whole_command(  # noqa: PLR0917 - fixtures and one row of the table
    setup, database, action, target, method, path, confirmed, sent
):
    nonce = await setup.confirmed(action, target, confirmed)
    refused = await setup.client.request(method, path, json=sent, headers=nonce)
    assert (refused.status_code, refused.json()["code"]) == (428, "confirmation_needed")
    assert await audit(database) == []
    assert [method for method, _ in setup.gateway.calls if "." in method and not method.startswith("sessions.")] == []


async def test_a_confirmation_does_not_depend_on_how_its_body_is_written(setup):
    setup.gateway.answers["channels.logout"] = lambda _: {"channel": "irc", "cleared": True}
    nonce = await setup.confirmed("channel.logout", "irc", {"account": None})
    assert (await setup.client.post("/api/channels/irc/logout", headers=nonce)).status_code == 200
    nonce = await setup.confirmed("channel.logout", "irc", {"account": "mine"})
    path = "/api/channels/irc/logout?account=mine"
    assert (await setup.client.post(path, headers=nonce)).status_code == 200
    setup.gateway.answers["skills.install"] = lambda _: {"ok": True}
    nonce = await setup.confirmed("skill.install", "one", {"agentId": None, "version": "1", "slug": "one"})
    body = {"slug": "one", "version": "1"}
    assert (await setup.client.post("/api/skills", json=body, headers=nonce)).status_code == 202


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"action": "exec.rule.add", "target": "main"}, "body.body.agentId"),
        ({"action": "exec.rule.add", "target": "main", "body": {"agentId": "main"}}, "body.body.pattern"),
        ({"action": "config.patch", "target": "home", "body": {"patch": {}, "baseHash": "h"}}, "body.body.patch"),
        ({"action": "gateway.stop", "target": "home", "body": {"now": True}}, "body.body"),
        ({"action": "gateway.stop", "target": "home", "body": [1]}, "body.body"),
    ],
)
async def test_a_confirmation_of_a_body_that_cannot_be_is_refused(setup, wanted, field):
    answer = await setup.client.post("/api/commands/confirm", json=wanted)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


MALFORMED = (
    "agent", "agents.create", "agents.update", "agents.delete", "agents.files.list", "agents.files.get",
    "agents.files.set", "channels.logout", "chat.abort", "config.get", "config.patch", "config.schema.lookup",
    "cron.add", "cron.get", "cron.list", "cron.remove", "cron.run", "cron.update", "exec.approval.resolve",
    "exec.approvals.get", "exec.approvals.set", "gateway.restart.request", "sessions.compact", "sessions.delete",
    "sessions.patch", "sessions.preview", "sessions.reset", "skills.install", "skills.status", "skills.update",
    "update.run", "update.status",
)  # fmt: skip
NONSENSE: tuple[Any, ...] = (
    None,
    [],
    "text",
    7,
    {"unexpected": [1]},
    {"file": "no object", "hash": 1, "agents": [], "previews": {}},
)
ASKED: tuple[tuple[str, str, Any, Any], ...] = (
    ("POST", "/api/agents/spawn", {"label": "l", "task": "t"}, None),
    ("POST", "/api/agents/main/send", {"message": "m"}, None),
    ("POST", "/api/agents/main/kill", {}, None),
    ("GET", "/api/agents/main/transcript", None, None),
    ("POST", "/api/agents", {"name": "helper"}, None),
    ("PATCH", "/api/agents/main", {"model": "p/m"}, None),
    ("DELETE", "/api/agents/main", None, ("agent.delete", "main")),
    ("GET", "/api/agents/main/files", None, None),
    ("GET", "/api/agents/main/files/A.md", None, None),
    ("PUT", "/api/agents/main/files/A.md", {"content": "c"}, None),
    ("POST", "/api/crons", {"name": "n", "schedule": {"kind": "every", "everyMs": 60000}, "message": "m"}, None),
    ("PATCH", "/api/crons/j", {"enabled": False}, None),
    ("DELETE", "/api/crons/j", None, None),
    ("GET", "/api/crons/j", None, None),
    ("POST", "/api/crons/j/run", None, None),
    ("POST", "/api/approvals/a/resolve", {"decision": "deny"}, None),
    ("GET", "/api/approval-rules", None, None),
    ("POST", "/api/approval-rules", {"agentId": "main", "pattern": "ls"}, ("exec.rule.add", "main")),
    ("PATCH", "/api/sessions/agent:main:main", {"model": None}, None),
    ("POST", "/api/sessions/agent:main:main/compact", None, None),
    ("POST", "/api/sessions/agent:main:main/reset", None, ("session.reset", "agent:main:main")),
    ("DELETE", "/api/sessions/agent:main:main", None, ("session.delete", "agent:main:main")),
    ("GET", "/api/skills", None, None),
    ("POST", "/api/skills", {"slug": "one"}, ("skill.install", "one")),
    ("POST", "/api/skills/update", {"slug": "one"}, ("skill.update", "one")),
    ("PATCH", "/api/skills/one", {"enabled": False}, None),
    ("GET", "/api/config", None, None),
    ("POST", "/api/config/validate", {"patch": {"a": 1}}, None),
    ("PATCH", "/api/config", {"patch": {"a": 1}, "baseHash": "h"}, ("config.patch", "home")),
    ("POST", "/api/channels/irc/logout", {}, ("channel.logout", "irc")),
    ("GET", "/api/gateway/update", None, None),
    ("POST", "/api/gateway/update", None, ("gateway.update", "home")),
    ("POST", "/api/gateway/restart", None, ("gateway.restart", "home")),
)


@pytest.mark.parametrize("asked", ASKED, ids=[f"{one[0]} {one[1]}" for one in ASKED])
async def test_an_answer_that_makes_no_sense_is_said_and_audited(setup, database, asked):
    method, path, body, confirm = asked
    for number, nonsense in enumerate(NONSENSE):
        for known in MALFORMED:
            setup.gateway.answers[known] = lambda _, nonsense=nonsense: nonsense
        headers = {} if method == "GET" else {"Idempotency-Key": f"{number}"}
        headers |= await setup.confirmed(*confirm, body) if confirm else {}
        answer = await setup.client.request(method, path, json=body, headers=headers)
        assert answer.status_code in {200, 201, 202, 404, 412, 502}, (nonsense, answer.text)
        if answer.status_code == 502:
            assert answer.json()["code"] == "gateway_refused"
    phases = Counter(phase for _, phase, *_ in await audit(database))
    assert phases["started"] == phases["succeeded"] + phases["failed"]
