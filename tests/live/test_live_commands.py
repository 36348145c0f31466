"""Commands to a real gateway, with the exporter and the API beside it as an installation runs them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from cli.up import secrets
from tests.fakes.slack import fake_slack
from tests.live.stack import gateway_settings, our_process, token, wait_ready
from tests.servers import PATIENCE_SECONDS, wait_for

CAP = 2  # runs at once
ENDS = ("completed", "failed", "cancelled")
SESSION = "agent:main:dashboard:commanded"


class PatientClient(httpx.Client):
    """Waits as long as it is told when it has asked too much, and asks once more what only reads where the gateway
    was too busy to answer."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        while True:
            answer = super().send(request, **options)
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                time.sleep(float(answer.headers["Retry-After"]))
            elif answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or request.method != "GET":
                return answer


def logged_in(url, password):
    headers = {"Authorization": f"Bearer {token(url, password)}"}
    return PatientClient(base_url=url, headers=headers, timeout=PATIENCE_SECONDS)


def accepted(answer: httpx.Response, status: int = 202) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def confirmation(client, action, target):
    answer = client.post("/api/commands/confirm", json={"action": action, "target": target})
    return {"X-Confirmation": accepted(answer, 200)["nonce"]}


def operation(client, identifier):
    answer = client.get(f"/api/operations/{identifier}")
    return answer.json() if answer.status_code == 200 else {}


def changed_agent(client):
    """An agent is changed as it was read, and not once more."""
    read = accepted(client.get("/api/agents/main"), 200)
    etag = {"If-Match": f'"{read["version"]}"'}
    accepted(client.patch("/api/agents/main", json={"name": "Renamed"}, headers=etag), 200)
    assert client.patch("/api/agents/main", json={"name": "Late"}, headers=etag).status_code == 412
    wait_for(lambda: client.get("/api/agents/main").json()["name"] == "Renamed", "the agent's name")
    again = {"If-Match": client.get("/api/agents/main").headers["ETag"]}
    accepted(client.patch("/api/agents/main", json={"name": "Main"}, headers=again), 200)
    # A run that the gateway accepts before it works with what was changed dies of that.
    wait_for(lambda: client.get("/api/agents/main").json()["name"] == "Main", "the agent's first name")


def requested(client, run, *statuses):
    """The run once it stands as wanted."""

    def probe():
        found = accepted(client.get(f"/api/runs/{run['id']}"), 200)
        return found if found["status"] in statuses else None

    return wait_for(probe, f"{run['id']} {statuses}")


def ended(client, run):
    """The operation of a run once both have ended: until then the run counts towards its user's cap, and one that is
    asked for above the cap waits, without an operation."""
    stands = requested(client, run, *ENDS)

    def probe():
        found = operation(client, stands["stages"][0]["operationId"])
        return found if found.get("status") in ENDS else None

    return wait_for(probe, f"the end of {run['id']}")


def listed(client):
    return accepted(client.get("/api/sessions", params={"limit": 500}), 200)["sessions"]


async def sessions_of(gateway):
    """The keys of the sessions that the gateway itself has."""
    async with gateway.driver() as driver:
        answer = await driver.call("sessions.list")
    assert answer["ok"], answer
    return {one["key"] for one in answer["payload"]["sessions"]}


def spawned_run(client):
    """A run is followed to its end: operation, step, tokens, cost, reply; and its key sends it once."""
    body = {"label": "Count", "task": "Please [[exec echo counted]]", "agentId": "main"}
    headers = {"Idempotency-Key": "count-once"}
    run = accepted(client.post("/api/agents/spawn", json=body, headers=headers))
    assert accepted(client.post("/api/agents/spawn", json=body, headers=headers)) == run
    done = ended(client, run)
    assert (done["status"], done["name"], done["agentId"]) == ("completed", "Count", "main")
    assert [(step["name"], step["status"]) for step in done["steps"]] == [("exec", "completed")]

    def counted():
        tokens = operation(client, run["operationId"])["metrics"]["tokens"]
        return tokens if tokens["total"] > 0 and tokens["cost"] else None

    tokens = wait_for(counted, "tokens and cost of the run")
    assert tokens["model"] == "fake-1"
    result = accepted(client.get("/api/dispatch/results", params={"operationId": run["operationId"]}), 200)[0]
    assert result["reply"] == "Done, after 1 tool result(s)."
    assert (result["tokens"], result["cost"]) == (tokens["total"], tokens["cost"])


def stopped_run(client, gateway):
    """A run that is told to stop ends as cancelled."""
    before = len(gateway.model_requests())
    run = accepted(client.post("/api/agents/spawn", json={"label": "Slow", "task": "Wait [[slow 1500]]"}))
    wait_for(lambda: len(gateway.model_requests()) > before, "the question to the model")
    killed = accepted(client.post("/api/agents/main/kill", json={"sessionKey": run["sessionKey"]}), 200)
    assert killed == {"aborted": True, "runIds": [run["runId"]]}
    assert ended(client, run)["status"] == "cancelled"


def changed_session(client, gateway):
    """A session is spoken to, gets another model, is compacted, emptied and deleted."""
    said = {"message": "Hello [[say heard]]", "sessionKey": SESSION}
    run = accepted(client.post("/api/agents/main/send", json=said))
    assert run["sessionKey"] == SESSION
    assert ended(client, run)["status"] == "completed"
    items = accepted(client.get("/api/agents/main/transcript", params={"sessionKey": SESSION}), 200)["items"]
    assert [one["text"] for one in items if one["role"] == "assistant"] == ["heard"]
    path = f"/api/sessions/{SESSION}"
    accepted(client.patch(path, json={"model": "fake/fake-mini"}), 200)
    run = accepted(client.post("/api/agents/main/send", json=said))
    assert ended(client, run)["status"] == "completed"
    wait_for(
        lambda: operation(client, run["operationId"])["metrics"]["tokens"]["model"] == "fake-mini",
        "the run's model",
    )
    refused = client.patch(path, json={"model": "nobody/none"})
    assert (refused.status_code, refused.json()["code"]) == (502, "gateway_refused")
    compacted = client.post(f"{path}/compact")
    assert compacted.status_code in {200, 502}, compacted.text  # a short session may have nothing to compact
    assert client.post(f"{path}/reset").status_code == 428
    accepted(client.post(f"{path}/reset", headers=confirmation(client, "session.reset", SESSION)), 200)
    items = accepted(client.get("/api/agents/main/transcript", params={"sessionKey": SESSION}), 200)["items"]
    assert items == []
    assert SESSION in asyncio.run(sessions_of(gateway))
    accepted(client.delete(path, headers=confirmation(client, "session.delete", SESSION)), 200)
    assert SESSION not in asyncio.run(sessions_of(gateway))
    spent = [one for one in listed(client) if one["sessionKey"] == SESSION]
    assert sum(one["calls"] for one in spent) >= 2, "what it cost stays counted"


def job_run(client):
    """A job is added, run at once, seen as an operation, and removed."""
    body = {
        "name": "Commanded report",
        "schedule": {"kind": "cron", "expr": "0 3 1 1 *"},
        "message": "Report [[say reported]]",
        "agentId": "main",
    }
    job = accepted(client.post("/api/crons", json=body), 201)["jobId"]
    accepted(client.post(f"/api/crons/{job}/run"))

    def scheduled():
        found = client.get("/api/operations", params={"type": "scheduled", "status": "completed"}).json()
        return [one for one in found if one["name"] == body["name"]]

    assert len(wait_for(scheduled, "the job's operation")) == 1
    read = client.get(f"/api/crons/{job}")
    assert (read.status_code, read.json()["message"]) == (200, body["message"])
    accepted(
        client.patch(f"/api/crons/{job}", json={"name": "theirs"}, headers={"If-Match": read.headers["ETag"]}), 200
    )
    stale = client.patch(f"/api/crons/{job}", json={"name": "mine"}, headers={"If-Match": read.headers["ETag"]})
    assert stale.status_code == 412
    now = client.get(f"/api/crons/{job}")
    assert now.json()["name"] == "theirs"
    accepted(client.delete(f"/api/crons/{job}", headers={"If-Match": now.headers["ETag"]}), 200)
    assert client.get(f"/api/crons/{job}").status_code == 404


def queued_pipeline(client, slack):
    """What is above the cap waits; a pipeline hands its reply on and delivers the last one."""
    wait_for(lambda: accepted(client.get("/api/runs", params={"status": "running"}), 200)["runs"] == [], "no run")
    slow = [
        accepted(client.post("/api/agents/spawn", json={"label": "Slow", "task": "Wait [[slow 1500]]"}))
        for _ in range(CAP)
    ]
    assert [one["status"] for one in slow] == ["running"] * CAP
    stages = [{"task": "Begin [[say first part]]"}, {"task": "Go on [[say then {{previous}}]]"}]
    body = {"label": "Two parts", "stages": stages, "deliverTo": "slack"}
    pipeline = accepted(client.post("/api/runs", json=body))
    assert (pipeline["status"], pipeline["runId"]) == ("waiting", None)
    assert accepted(client.post(f"/api/runs/{slow[0]['id']}/cancel"), 200) == {"ok": True, "aborted": True}
    done = requested(client, pipeline, *ENDS)
    assert (done["status"], done["error"]) == ("completed", None)
    names = [operation(client, stage["operationId"])["name"] for stage in done["stages"]]
    assert names == ["Two parts (1 of 2)", "Two parts (2 of 2)"]
    (message,) = slack.wait(lambda messages: len(messages) == 1)
    assert message.payload["blocks"][1]["text"]["text"] == "then first part"
    assert accepted(client.post(f"/api/runs/{slow[1]['id']}/cancel"), 200)["aborted"] is True
    assert ended(client, slow[1])["status"] == "cancelled"


def streamed_reply(client):
    """A reply is heard while it is written."""
    words = " ".join(f"word{n}" for n in range(40))
    run = accepted(client.post("/api/agents/spawn", json={"label": "Tell", "task": f"Go [[slow 8]] [[say {words}]]"}))
    with client.stream("GET", f"/api/runs/{run['id']}/reply") as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    heard = [json.loads(line) for line in lines]
    assert [one["type"] for one in heard[:-1]] == ["delta"] * (len(heard) - 1)
    assert (heard[-1]["type"], heard[-1]["payload"]["text"]) == ("final", words)
    pieces = "".join(one["payload"]["text"] for one in heard[:-1])
    assert pieces
    assert words.startswith(pieces)


@pytest.fixture
def slack():
    with fake_slack() as server:
        yield server


@pytest.mark.live
@pytest.mark.req("S1-3", "S2-4", "S1-12", "S4-7", "S4-17", "S4-19", "S4-20", "S4-21", "S4-23", "S4-24", "S0-18")
def test_a_real_gateway_does_what_it_is_told(start_gateway, slack, tmp_path, postgres_dsn, postgres_reader_dsn):
    claw = start_gateway()  # of its own: what is commanded here changes it
    folder = secrets.create(tmp_path / "data")
    settings = gateway_settings(
        claw,
        tmp_path,
        LOBS_DATABASE_URL=postgres_dsn,
        LOBS_READER_URL=postgres_reader_dsn,
        LOBS_COMMANDS="1",
        LOBS_RUNS_PER_USER=str(CAP),
        LOBS_SLACK_WEBHOOK_URL=slack.url,
    )
    url = f"http://{settings['LOBS_API_LISTEN']}"
    with our_process("exporter", settings, tmp_path) as exporter, our_process("api", settings, tmp_path) as api:
        wait_ready(exporter, f"http://{settings['LOBS_METRICS_LISTEN']}/healthz", "the exporter")
        wait_ready(api, f"{url}/healthz", "the API")
        password = (folder / "api_password").read_text().strip()
        with logged_in(url, password) as client:
            wait_for(lambda: any(one["id"] == "main" for one in client.get("/api/agents").json()), "the agent")
            wait_for(lambda: client.get("/api/agents/main/transcript").status_code == 200, "the API's connection")
            spawned_run(client)
            stopped_run(client, claw)
            changed_session(client, claw)
            job_run(client)
            changed_agent(client)
            queued_pipeline(client, slack)
            with logged_in(url, password) as fresh:  # which does not have to wait for its next command
                streamed_reply(fresh)
            told = accepted(client.get("/api/audit", params={"limit": 500}), 200)
        phases = {(row["action"], row["phase"]) for row in told}
        for action in ("agent.spawn", "agent.send", "agent.kill", "session.patch", "session.delete", "cron.run"):
            assert {(action, "started"), (action, "succeeded")} <= phases
        assert ("session.patch", "failed") in phases
        for process in (exporter, api):
            assert "Traceback" not in process.output()
            assert claw.token not in process.output()
