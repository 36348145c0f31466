"""One prompt for several agents."""

from __future__ import annotations

import pytest

from api.context import of_app
from api.security.scopes import Scope
from cli.demo.gateway import ReplayGateway
from tests.api.conftest import connected, new_token, started
from tests.servers import PATIENCE_SECONDS


@pytest.fixture
async def gateway():
    async with ReplayGateway(token="t" * 20) as replay:
        replay.answers["agent"] = lambda params: {
            "runId": f"run {params['sessionKey'].split(':')[1]}",
            "sessionKey": params["sessionKey"],
        }
        replay.answers["sessions.preview"] = lambda params: {
            "previews": [
                {
                    "key": params["keys"][0],
                    "items": [
                        {"role": "user", "text": "Name three"},
                        {"role": "assistant", "text": f"Reply of {params['keys'][0].split(':')[1]}"},
                    ],
                }
            ]
        }
        yield replay


@pytest.fixture
async def client(settings, gateway, database):
    await database.execute(
        "INSERT INTO lobs.agents (gateway, agent, configured) VALUES ('home', 'main', true), ('home', 'helper', true)"
    )
    secret = settings.gateway_token.__class__("t" * 20)
    chosen = settings.model_copy(update={"commands": True, "gateway_url": gateway.url, "gateway_token": secret})
    async with started(chosen) as app, connected(app, await new_token(app, Scope.COMMAND)) as made:
        connection = of_app(app).gateway
        assert connection is not None
        await connection.wait_connected(PATIENCE_SECONDS)
        yield made


@pytest.mark.req("S4-19")
async def test_every_agent_gets_the_prompt_and_the_results_stand_side_by_side(client, gateway):
    body = {"label": "Compare", "task": "Name three", "agentIds": ["main", "nobody", "helper"]}
    headers = {"Idempotency-Key": "k"}
    answer = await client.post("/api/dispatch", json=body, headers=headers)
    assert answer.status_code == 202
    main, nobody, helper = answer.json()
    assert [one["agentId"] for one in (main, nobody, helper)] == ["main", "nobody", "helper"]
    assert nobody["error"] == "The gateway home has no agent nobody."
    sent = [params for method, params in gateway.calls if method == "agent"]
    assert {one["message"] for one in sent} == {"Name three"}
    assert len({one["sessionKey"] for one in sent}) == 2
    assert (await client.post("/api/dispatch", json=body, headers=headers)).json() == answer.json()
    assert len([method for method, _ in gateway.calls if method == "agent"]) == 2
    operations = [main["operationId"], helper["operationId"]]
    for status in ("in_progress", "completed"):
        await client.patch(f"/api/operations/{operations[0]}", json={"status": status})
    tokens = {"prompt": 10, "completion": 5, "total": 15, "cost": 0.25, "model": "m"}
    await client.patch(f"/api/operations/{operations[0]}/metrics", json={"tokens": tokens})
    first, second = (await client.get("/api/dispatch/results", params={"operationId": operations})).json()
    assert (first["agentId"], first["status"], first["reply"]) == ("main", "completed", "Reply of main")
    assert (first["tokens"], first["cost"], first["model"]) == (15, 0.25, "m")
    assert (second["agentId"], second["status"], second["reply"]) == ("helper", "pending", None)
    assert (await client.get("/api/dispatch/results", params={"operationId": "nope"})).status_code == 404


async def test_an_agent_is_named_once_and_nine_are_too_many(client):
    for agents in (["main", "main"], [], [f"a{n}" for n in range(9)]):
        body = {"label": "l", "task": "t", "agentIds": agents}
        assert (await client.post("/api/dispatch", json=body)).status_code == 422
