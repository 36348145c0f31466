"""Operations over HTTP, in the shapes that outside clients speak."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from api.security.scopes import Scope
from tests.api.conftest import connected, new_token

WHOLE = {
    "type": "skill",
    "name": "Research the course",
    "description": "Find dates and prices",
    "skillName": "research",
    "agentId": "main",
    "userId": "u1",
    "channel": "telegram",
    "steps": [{"id": f"s{number}", "name": f"Step {number}", "description": "x"} for number in range(1, 8)],
    "metadata": {"nested": {"list": [1, 2.5, None, "ä"]}},
    "tags": ["course", "web"],
}


async def post(client, **changes):
    answer = await client.post("/api/operations", json={"type": "skill", "name": "n", **changes})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def patch(client, operation, path="", **changes):
    return await client.patch(f"/api/operations/{operation['id']}{path}", json=changes)


@pytest.mark.req("S0-1")
@pytest.mark.parametrize("kind", ["skill", "tool_call", "agent_task", "webhook", "scheduled"])
async def test_every_type_is_accepted(client, kind):
    assert (await post(client, type=kind))["type"] == kind


@pytest.mark.req("S0-1")
async def test_another_type_is_refused(client):
    answer = await client.post("/api/operations", json={"type": "other", "name": "n"})
    assert (answer.status_code, answer.json()["field"]) == (422, "body.type")


@pytest.mark.req("S0-2", "S0-10")
async def test_what_is_posted_comes_back_equal(client):
    made = await post(client, **WHOLE)
    got = (await client.get(f"/api/operations/{made['id']}")).json()
    assert got == made
    assert {key: got[key] for key in WHOLE if key != "steps"} == {key: WHOLE[key] for key in WHOLE if key != "steps"}
    assert [{key: step[key] for key in ("id", "name", "description")} for step in got["steps"]] == WHOLE["steps"]
    assert got["status"] == "pending"
    assert got["metrics"] == {
        "tokens": {"prompt": 0, "completion": 0, "total": 0, "cost": None, "model": None},
        "duration": None,
        "stepsCompleted": 0,
        "stepsTotal": 7,
        "progress": 0,
    }


async def test_two_steps_of_one_id_are_refused(client):
    steps = [{"id": "s", "name": "a"}, {"id": "s", "name": "b"}]
    answer = await client.post("/api/operations", json={"type": "skill", "name": "n", "steps": steps})
    assert (answer.status_code, answer.json()["field"]) == (422, "body.steps")


@pytest.mark.req("S0-3")
@pytest.mark.parametrize(
    ("path", "last"),
    [
        (["in_progress", "completed"], ["pending", "in_progress", "failed", "cancelled"]),
        (["in_progress", "failed"], ["pending", "in_progress", "completed", "cancelled"]),
        (["cancelled"], ["pending", "in_progress", "completed", "failed"]),
        (["in_progress"], ["pending"]),
    ],
)
async def test_only_legal_transitions(client, path, last):
    operation = await post(client)
    for status in path:
        assert (await patch(client, operation, status=status)).json()["status"] == status
    for status in last:
        answer = await patch(client, operation, status=status)
        assert (answer.status_code, answer.json()["field"]) == (409, "status")
    assert (await client.get(f"/api/operations/{operation['id']}")).json()["status"] == path[-1]


@pytest.mark.req("S0-4")
async def test_a_steps_duration_is_the_difference_of_its_instants(client):
    operation = await post(client, steps=[{"id": "s1", "name": "a"}])
    answer = await patch(
        client,
        operation,
        "/steps/s1",
        status="completed",
        startedAt="2026-01-29T10:00:00Z",
        completedAt="2026-01-29T11:00:01.250+01:00",
    )
    (step,) = answer.json()["steps"]
    assert step["duration"] == 1250
    assert (step["startedAt"], step["status"]) == ("2026-01-29T10:00:00Z", "completed")


@pytest.mark.req("S0-4")
async def test_a_failed_step_keeps_its_error_and_its_own_instants(client):
    operation = await post(client, steps=[{"id": "s1", "name": "a"}])
    await patch(client, operation, "/steps/s1", status="running")
    (step,) = (await patch(client, operation, "/steps/s1", status="failed", error="404")).json()["steps"]
    assert (step["status"], step["error"]) == ("failed", "404")
    elapsed = datetime.fromisoformat(step["completedAt"]) - datetime.fromisoformat(step["startedAt"])
    assert step["duration"] == round(elapsed / timedelta(milliseconds=1))
    assert (await patch(client, operation, "/steps/s1", status="running")).status_code == 409
    assert (await patch(client, operation, "/steps/nope", status="running")).status_code == 404


@pytest.mark.req("S0-5")
async def test_token_figures_are_exact(client):
    operation = await post(client)
    tokens = {"prompt": 1200, "completion": 500, "total": 1700, "cost": 0.012345, "model": "m"}
    answer = await patch(client, operation, "/metrics", tokens=tokens)
    assert answer.json()["metrics"]["tokens"] == tokens
    got = (await client.get(f"/api/operations/{operation['id']}")).json()
    assert round(got["metrics"]["tokens"]["cost"], 6) == 0.012345


@pytest.mark.req("S0-5")
@pytest.mark.parametrize("cost", ["0.000000000001", "0.123456789012", "123456.123456789", "999999999.123456"])
async def test_money_of_the_api_has_fifteen_digits(client, cost):
    operation = await post(client)
    tokens = {"prompt": 1, "completion": 1, "total": 2, "cost": float(cost), "model": "m"}
    await patch(client, operation, "/metrics", tokens=tokens)
    text = (await client.get(f"/api/operations/{operation['id']}")).text
    assert json.loads(text, parse_float=Decimal)["metrics"]["tokens"]["cost"] == Decimal(cost)


@pytest.mark.req("S0-7")
async def test_the_present_step_and_activity_are_shown(client):
    operation = await post(client, **WHOLE)
    now = {"currentStep": "Browse the website", "currentStepIndex": 2, "activity": "Extracting course information"}
    await patch(client, operation, status="in_progress", **now)
    got = (await client.get(f"/api/operations/{operation['id']}")).json()
    assert {key: got[key] for key in now} == now


@pytest.mark.req("S0-8")
async def test_a_failure_carries_its_code(client):
    operation = await post(client)
    await patch(client, operation, status="in_progress")
    disposition = {"success": False, "error": "The site did not answer", "errorCode": "TIMEOUT"}
    ended = (await patch(client, operation, status="failed", disposition=disposition)).json()
    assert ended["disposition"] == disposition
    elapsed = datetime.fromisoformat(ended["completedAt"]) - datetime.fromisoformat(ended["startedAt"])
    assert ended["duration"] == round(elapsed / timedelta(milliseconds=1))


@pytest.mark.req("S0-8")
async def test_a_success_carries_its_result(client):
    operation = await post(client)
    disposition = {"success": True, "result": {"found": 3}}
    ended = (await patch(client, operation, status="completed", disposition=disposition)).json()
    assert ended["disposition"] == disposition
    assert ended["metrics"]["progress"] == 100


@pytest.mark.req("S0-9")
async def test_each_filter(client):
    skill = await post(client, type="skill")
    webhook = await post(client, type="webhook")
    await patch(client, skill, status="in_progress")

    async def ids(**query):
        return [one["id"] for one in (await client.get("/api/operations", params=query)).json()]

    assert await ids() == [webhook["id"], skill["id"]]
    assert await ids(status="in_progress") == [skill["id"]]
    assert await ids(type="webhook") == [webhook["id"]]
    assert await ids(status="in_progress", type="webhook") == []
    assert await ids(limit=1) == [webhook["id"]]


@pytest.mark.req("S0-9")
async def test_the_limit_is_100_unless_given_and_is_capped(client, database):
    await database.execute(
        "INSERT INTO lobs.operations (id, type, name) SELECT 'op_' || n, 'skill', 'n' FROM generate_series(1, 120) AS n"
    )
    assert len((await client.get("/api/operations")).json()) == 100
    assert len((await client.get("/api/operations", params={"limit": 110})).json()) == 110
    assert (await client.get("/api/operations", params={"limit": 1001})).status_code == 422


@pytest.mark.req("S0-9")
@pytest.mark.parametrize("since", ["yesterday", "2026-13-01T00:00:00Z", "2026-01-29T10:00:00", "1e9", "", "9" * 400])
async def test_a_time_that_is_not_iso_is_refused(client, since):
    answer = await client.get("/api/operations", params={"since": since})
    assert (answer.status_code, answer.json()["field"]) == (422, "query.since")


@pytest.mark.req("S0-9")
async def test_since_accepts_any_offset_even_with_a_plus_that_became_a_space(client):
    operation = await post(client)
    for query in ("2026-01-29T10:00:00Z", "2026-01-29T10:00:00%2B01:00", "2026-01-29T10:00:00+01:00"):
        answer = await client.get(f"/api/operations?since={query}")
        assert [one["id"] for one in answer.json()] == [operation["id"]], query


@pytest.mark.req("S0-17")
async def test_since_gives_what_changed_and_not_only_what_is_new(client):
    old = await post(client)
    await post(client)
    seen = (await patch(client, old, activity="a")).json()["updatedAt"]
    changed = (await patch(client, old, activity="b")).json()
    after = datetime.fromisoformat(seen) + timedelta(microseconds=1)
    missed = (await client.get("/api/operations", params={"since": after.isoformat()})).json()
    assert missed == [changed]


@pytest.mark.req("S0-10")
@pytest.mark.parametrize("path", ["", "/steps/s1", "/metrics"])
async def test_an_unknown_operation_is_404(client, path):
    assert (await client.get("/api/operations/nope")).status_code == 404
    body = {"": {}, "/steps/s1": {"status": "running"}, "/metrics": {"tokens": {}}}[path]
    answer = await client.patch(f"/api/operations/nope{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.req("S0-11")
async def test_progress_is_the_floor(client):
    operation = await post(client, **WHOLE)
    seen = []
    for number in range(1, 8):
        answer = await patch(client, operation, f"/steps/s{number}", status="completed")
        seen.append(answer.json()["metrics"])
    assert [metrics["progress"] for metrics in seen] == [14, 28, 42, 57, 71, 85, 100]
    assert [metrics["stepsCompleted"] for metrics in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert {metrics["stepsTotal"] for metrics in seen} == {7}


@pytest.mark.req("S0-16")
async def test_deleting_an_operation_takes_its_steps_and_metrics_along(client, database):
    operation = await post(client, **WHOLE)
    await patch(client, operation, "/metrics", tokens={"prompt": 1})
    await database.execute("DELETE FROM lobs.operations")
    for table in ("operation_steps", "operation_metrics"):
        cursor = await database.execute(f"SELECT count(*) FROM lobs.{table}")
        assert await cursor.fetchone() == (0,)


async def test_the_same_key_creates_once(client, database):
    headers = {"Idempotency-Key": "k-1"}
    body = {"type": "skill", "name": "once"}
    first = await client.post("/api/operations", json=body, headers=headers)
    again = await client.post("/api/operations", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    cursor = await database.execute("SELECT count(*) FROM lobs.operations")
    assert await cursor.fetchone() == (1,)
    other = await client.post("/api/operations", json={**body, "name": "other"}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (409, "header.Idempotency-Key")


async def test_a_field_that_outside_clients_add_is_ignored(client):
    assert (await client.post("/api/operations", json={"type": "skill", "name": "n", "extra": 1})).status_code == 201


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b", "\ud800"])
async def test_names_that_cannot_be_kept_are_refused(client, name):
    body = b'{"type": "skill", "name": "%s"}' % name.encode("ascii", "backslashreplace").replace(b"\x00", b"\\u0000")
    assert (await client.post("/api/operations", content=body)).status_code == 422


async def test_sql_and_markup_are_inert_text(client):
    name = "'; DROP TABLE lobs.operations; -- <script>alert(1)</script> \"; rm -rf /"
    assert (await post(client, name=name))["name"] == name


@pytest.mark.req("S4-25")
async def test_a_token_of_one_gateway_sees_no_operations_of_others(client, app):
    theirs = await post(client, gateway="work")
    ours = await post(client, gateway="home")
    async with connected(app, await new_token(app, Scope.WRITE, ["home"])) as limited:
        assert [one["id"] for one in (await limited.get("/api/operations")).json()] == [ours["id"]]
        assert (await limited.get(f"/api/operations/{theirs['id']}")).status_code == 404
        assert (await patch(limited, theirs, activity="x")).status_code == 404
        answer = await limited.post("/api/operations", json={"type": "skill", "name": "n", "gateway": "work"})
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_gateway")


async def test_an_operation_that_somebody_changed_is_not_changed_unseen(client):
    made = await client.post(
        "/api/operations", json={"type": "skill", "name": "n", "steps": [{"id": "s", "name": "s"}]}
    )
    path, first = f"/api/operations/{made.json()['id']}", made.headers["ETag"]
    assert (await client.get(path)).headers["ETag"] == first
    other = await client.patch(path, json={"activity": "by somebody else"}, headers={"If-Match": first})
    assert other.status_code == 200
    assert other.headers["ETag"] != first
    for where, body in (
        (path, {"activity": "mine"}),
        (f"{path}/steps/s", {"status": "running"}),
        (f"{path}/metrics", {"tokens": {"prompt": 1, "completion": 1}}),
    ):
        for stale in (first, f"W/{first}", '"x"', '""', '"9999999999999999999"'):
            refused = await client.patch(where, json=body, headers={"If-Match": stale})
            assert (refused.status_code, refused.json()["code"]) == (412, "stale_version"), where
        now = (await client.get(path)).headers["ETag"]
        done = await client.patch(where, json=body, headers={"If-Match": now})
        assert done.status_code == 200, where
        assert done.headers["ETag"] == f'"{done.json()["version"]}"' != now
    assert (await client.patch(path, json={"activity": "any"}, headers={"If-Match": "*"})).status_code == 200
