"""Tasks, the task hub and the feed over HTTP."""

from __future__ import annotations

import pytest

from api.security.scopes import Scope
from tests.api.conftest import connected, new_token


async def post(client, **changes):
    answer = await client.post("/api/tasks", json={"title": "Write the report", **changes})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def listed(client, **query):
    return [one["id"] for one in (await client.get("/api/tasks", params=query)).json()["tasks"]]


@pytest.mark.req("S2-7")
async def test_fields_and_their_defaults(client):
    made = await post(client)
    assert (made["status"], made["priority"], made["tags"], made["metadata"]) == ("todo", "medium", [], {})
    whole = {
        "title": "T",
        "description": "D",
        "status": "inbox",
        "priority": "urgent",
        "assignedAgent": "main",
        "dueDate": "2026-02-01T12:00:00Z",
        "tags": ["a", "b"],
        "metadata": {"x": [1, {"y": None}]},
    }
    made = await post(client, **whole)
    got = (await client.get(f"/api/tasks/{made['id']}")).json()
    assert {key: got[key] for key in whole} == whole


@pytest.mark.req("S2-7", "S3-8")
@pytest.mark.parametrize("status", ["inbox", "todo", "assigned", "in_progress", "review", "done"])
async def test_every_status(client, status):
    made = await post(client)
    assert (await client.patch(f"/api/tasks/{made['id']}", json={"status": status})).json()["status"] == status


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": "nope"}, "body.status"),
        ({"priority": "nope"}, "body.priority"),
        ({"title": ""}, "body.title"),
        ({"dueDate": "tomorrow"}, "body.dueDate"),
        ({"board": "nope"}, "board"),
        ({"dependsOn": ["nope"]}, "depends_on"),
    ],
)
async def test_wrong_fields_are_named(client, change, field):
    answer = await client.post("/api/tasks", json={"title": "t", **change})
    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.req("S2-6")
async def test_filters_and_pages(client):
    ids = [(await post(client, priority="high" if n % 2 else "low", tags=[f"t{n}"]))["id"] for n in range(5)]
    await client.patch(f"/api/tasks/{ids[0]}", json={"status": "done", "assignedAgent": "main"})
    assert await listed(client) == ids[::-1]
    assert await listed(client, status="done") == [ids[0]]
    assert await listed(client, priority="high") == [ids[3], ids[1]]
    assert await listed(client, assignedAgent="main") == [ids[0]]
    assert await listed(client, tag="t2") == [ids[2]]
    assert await listed(client, board="default", priority="low", tag="t4") == [ids[4]]
    page = (await client.get("/api/tasks", params={"limit": 2})).json()
    seen = [one["id"] for one in page["tasks"]]
    await post(client)  # an insert between two pages moves nothing
    while page["nextCursor"]:
        page = (await client.get("/api/tasks", params={"limit": 2, "cursor": page["nextCursor"]})).json()
        seen += [one["id"] for one in page["tasks"]]
    assert seen == ids[::-1]
    assert (await client.get("/api/tasks", params={"cursor": "!!"})).status_code == 422


@pytest.mark.req("S2-6")
async def test_put_replaces_and_patch_changes(client):
    made = await post(client, description="D", tags=["a"])
    patched = (await client.patch(f"/api/tasks/{made['id']}", json={"title": "New"})).json()
    assert (patched["title"], patched["description"], patched["tags"]) == ("New", "D", ["a"])
    put = (await client.put(f"/api/tasks/{made['id']}", json={"title": "Only"})).json()
    assert (put["title"], put["description"], put["tags"], put["status"]) == ("Only", None, [], "todo")


async def test_two_people_cannot_overwrite_each_other(client):
    made = await client.post("/api/tasks", json={"title": "t"})
    path, etag = f"/api/tasks/{made.json()['id']}", made.headers["etag"]
    first = await client.patch(path, json={"title": "a"}, headers={"If-Match": etag})
    second = await client.patch(path, json={"title": "b"}, headers={"If-Match": etag})
    assert (first.status_code, second.status_code, second.json()["code"]) == (200, 412, "stale_version")
    assert (await client.put(path, json={"title": "c"}, headers={"If-Match": first.headers["etag"]})).status_code == 200
    assert (await client.patch(path, json={"title": "d"}, headers={"If-Match": '"x"'})).status_code == 412


@pytest.mark.req("S2-6")
async def test_comments_go_with_their_task(client, database):
    made = await post(client)
    path = f"/api/tasks/{made['id']}"
    comment = await client.post(f"{path}/comment", json={"author": "ana", "content": "Looks good"})
    assert comment.status_code == 201
    assert (await client.get(path)).json()["comments"] == [comment.json()]
    await client.post(f"{path}/activities", json={"activity_type": "updated", "message": "m"})
    await client.post(f"{path}/deliverables", json={"deliverable_type": "artifact", "title": "t"})
    await client.post(f"{path}/subagent", json={"openclaw_session_id": "s"})
    assert (await client.delete(path)).status_code == 204
    for table in ("comments", "task_activities", "task_deliverables", "task_sessions", "tasks"):
        cursor = await database.execute(f"SELECT count(*) FROM lobs.{table}")
        assert await cursor.fetchone() == (0,), table
    for method, suffix in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("GET", "/activities")):
        assert (await client.request(method, path + suffix, json={})).status_code == 404


@pytest.mark.req("S2-6")
async def test_a_task_that_is_not_there(client):
    for path, body in (
        ("/comment", {"author": "a", "content": "c"}),
        ("/activities", {"activity_type": "updated", "message": "m"}),
        ("/deliverables", {"deliverable_type": "artifact", "title": "t"}),
        ("/subagent", {"openclaw_session_id": "s"}),
    ):
        assert (await client.post(f"/api/tasks/nope{path}", json=body)).status_code == 404


@pytest.mark.req("S1-17")
async def test_dependencies_without_circles(client):
    first = await post(client)
    second = await post(client, dependsOn=[first["id"]])
    third = await post(client, dependsOn=[second["id"]])
    assert third["dependsOn"] == [second["id"]]
    answer = await client.patch(f"/api/tasks/{first['id']}", json={"dependsOn": [third["id"]]})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await client.get(f"/api/tasks/{first['id']}")).json()["dependsOn"] == []


@pytest.mark.req("S3-12")
async def test_the_status_history_is_append_only_and_outlives_the_task(client):
    made = await post(client)
    for status in ("in_progress", "review", "done"):
        await client.patch(f"/api/tasks/{made['id']}", json={"status": status})
    before = (await client.get("/api/tasks/flow")).json()
    assert before["throughput"] == 1
    assert before["cycleTimeMs"] >= 0
    await client.delete(f"/api/tasks/{made['id']}")
    history = (await client.get(f"/api/tasks/{made['id']}/history")).json()
    assert [(one["fromStatus"], one["toStatus"]) for one in history] == [
        (None, "todo"),
        ("todo", "in_progress"),
        ("in_progress", "review"),
        ("review", "done"),
        ("done", None),
    ]
    assert (await client.get("/api/tasks/flow")).json() == before


@pytest.mark.req("S3-4")
async def test_activities_newest_first(client):
    path = f"/api/tasks/{(await post(client))['id']}/activities"
    for kind in ("spawned", "updated", "completed", "file_created", "status_changed"):
        made = await client.post(
            path, json={"activity_type": kind, "message": kind, "agent_id": "main", "metadata": {"n": 1}}
        )
        assert made.status_code == 201
    rows = (await client.get(path)).json()
    assert [row["activity_type"] for row in rows] == [
        "status_changed",
        "file_created",
        "completed",
        "updated",
        "spawned",
    ]
    assert (rows[0]["agent_id"], rows[0]["metadata"]) == ("main", {"n": 1})
    older = (await client.get(path, params={"before": rows[1]["id"], "limit": 2})).json()
    assert older == rows[2:4]
    assert (await client.post(path, json={"activity_type": "nope", "message": "m"})).status_code == 422


@pytest.mark.req("S3-5")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"deliverable_type": "file", "title": "t", "path": "out/notes.md"}, 201),
        ({"deliverable_type": "file", "title": "t", "path": "../../etc/passwd"}, 422),
        ({"deliverable_type": "file", "title": "t", "path": "a/../../x"}, 422),
        ({"deliverable_type": "file", "title": "t", "path": "a\nb"}, 422),
        ({"deliverable_type": "file", "title": "t"}, 422),
        ({"deliverable_type": "url", "title": "t", "path": "https://example.org/x"}, 201),
        ({"deliverable_type": "url", "title": "t", "path": "javascript:alert(1)"}, 422),
        ({"deliverable_type": "url", "title": "t", "path": "https://user:secret@example.org/"}, 422),
        ({"deliverable_type": "url", "title": "t", "path": "http://[::1"}, 422),
        ({"deliverable_type": "artifact", "title": "t"}, 201),
        ({"deliverable_type": "other", "title": "t"}, 422),
    ],
)
async def test_deliverables_are_checked(client, body, status):
    path = f"/api/tasks/{(await post(client))['id']}/deliverables"
    answer = await client.post(path, json=body)
    assert answer.status_code == status
    assert len((await client.get(path)).json()) == (status == 201)


@pytest.mark.req("S3-6")
async def test_a_sub_agent_session_ends_once(client):
    path = f"/api/tasks/{(await post(client))['id']}/subagent"
    made = (await client.post(path, json={"openclaw_session_id": "agent:main:subagent:1", "agent_name": "w"})).json()
    assert (made["session_type"], made["status"], made["ended_at"], made["duration_ms"]) == (
        "subagent",
        "active",
        None,
        None,
    )
    assert (await client.post(path, json={"openclaw_session_id": "agent:main:subagent:1"})).status_code == 409
    ended = (await client.patch(f"{path}/agent:main:subagent:1", json={"status": "completed"})).json()
    assert ended["status"] == "completed"
    assert ended["duration_ms"] >= 0
    assert ended["ended_at"]
    assert (await client.patch(f"{path}/agent:main:subagent:1", json={"status": "failed"})).status_code == 409
    assert (await client.patch(f"{path}/nope", json={"status": "failed"})).status_code == 404
    assert (await client.get(path)).json() == [ended]


@pytest.mark.req("S2-8", "S2-9")
async def test_everything_leaves_a_row_in_the_feed(client):
    made = await post(client)
    await client.patch(f"/api/tasks/{made['id']}", json={"status": "done"})
    await client.post(f"/api/tasks/{made['id']}/comment", json={"author": "ana", "content": "c"})
    await client.post(f"/api/tasks/{made['id']}/subagent", json={"openclaw_session_id": "s"})
    await client.delete(f"/api/tasks/{made['id']}")
    items = (await client.get("/api/feed")).json()["items"]
    assert [one["action"] for one in items] == ["deleted", "spawned", "commented", "updated", "created"]
    assert {(one["type"], one["targetType"], one["targetId"]) for one in items} == {("task", "task", made["id"])}
    assert {one["actor"] for one in items} == {"test admin"}
    assert items[3]["metadata"]["to"] == "done"
    stats = (await client.get("/api/feed/stats")).json()
    assert (stats["total"], stats["last24h"], stats["byType"]) == (5, 5, {"task": 5})
    assert stats["byAction"] == {"created": 1, "updated": 1, "commented": 1, "spawned": 1, "deleted": 1}
    assert stats["byActor"] == {"test admin": 5}


@pytest.mark.req("S2-8")
async def test_the_cursor_of_the_feed_is_stable_under_inserts(client):
    for _ in range(5):
        await post(client)
    page = (await client.get("/api/feed", params={"limit": 2})).json()
    seen = [one["id"] for one in page["items"]]
    await post(client)
    while page["nextCursor"]:
        page = (await client.get("/api/feed", params={"limit": 2, "cursor": page["nextCursor"]})).json()
        seen += [one["id"] for one in page["items"]]
    assert len(seen) == len(set(seen)) == 5
    assert (await client.get("/api/feed", params={"cursor": "x"})).status_code == 422


@pytest.mark.req("S3-3", "S3-8")
async def test_every_change_is_broadcast(client, database):
    made = await post(client)
    path = f"/api/tasks/{made['id']}"
    await client.patch(path, json={"status": "review"})
    await client.post(f"{path}/activities", json={"activity_type": "updated", "message": "m"})
    await client.post(f"{path}/deliverables", json={"deliverable_type": "artifact", "title": "t"})
    await client.post(f"{path}/subagent", json={"openclaw_session_id": "s"})
    await client.patch(f"{path}/subagent/s", json={"status": "completed"})
    await client.delete(path)
    cursor = await database.execute("SELECT kind FROM lobs.events WHERE topic = 'tasks' ORDER BY id")
    assert [kind for (kind,) in await cursor.fetchall()] == [
        "task_created",
        "task_updated",
        "activity_logged",
        "deliverable_added",
        "agent_spawned",
        "agent_completed",
        "task_deleted",
    ]


async def test_the_same_key_creates_one_task(client):
    headers = {"Idempotency-Key": "k"}
    first = (await client.post("/api/tasks", json={"title": "t"}, headers=headers)).json()
    again = (await client.post("/api/tasks", json={"title": "t"}, headers=headers)).json()
    assert first["id"] == again["id"]
    assert await listed(client) == [first["id"]]


@pytest.mark.req("S4-25")
async def test_a_token_of_one_gateway_sees_no_tasks_of_others(client, app):
    theirs, ours, shared = await post(client, gateway="work"), await post(client, gateway="home"), await post(client)
    async with connected(app, await new_token(app, Scope.WRITE, ["home"])) as limited:
        assert await listed(limited) == [shared["id"], ours["id"]]
        for method in ("GET", "PATCH", "DELETE"):
            assert (await limited.request(method, f"/api/tasks/{theirs['id']}", json={})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "other", "listed"),
    [
        ("comment", {"author": "a", "content": "c"}, {"author": "a", "content": "d"}, None),
        ("activities", {"activity_type": "updated", "message": "m"}, {"activity_type": "updated", "message": "n"}, 1),
        (
            "deliverables",
            {"deliverable_type": "url", "title": "t", "path": "https://example.org"},
            {"deliverable_type": "artifact", "title": "u"},
            1,
        ),
        ("subagent", {"openclaw_session_id": "s"}, {"openclaw_session_id": "s2"}, 1),
    ],
)
async def test_what_is_added_to_a_task_is_added_once_for_each_key(client, path, body, other, listed):
    task = (await client.post("/api/tasks", json={"title": "t"})).json()["id"]
    url, key = f"/api/tasks/{task}/{path}", {"Idempotency-Key": "k"}
    first = await client.post(url, json=body, headers=key)
    again = await client.post(url, json=body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201), first.text
    assert again.json() == first.json()
    assert (await client.post(url, json=other, headers=key)).status_code == 409
    if listed is None:
        assert len((await client.get(f"/api/tasks/{task}")).json()["comments"]) == 1
    else:
        assert len((await client.get(url)).json()) == listed
    elsewhere = (await client.post("/api/tasks", json={"title": "u"})).json()["id"]
    assert (await client.post(f"/api/tasks/{elsewhere}/{path}", json=body, headers=key)).status_code == 409


async def test_figures_of_an_agent_are_reported_once_for_each_key(client, database):
    body = {"tokens": 5, "cost": 0.1, "runtime": 10, "tasksCompleted": 1}
    for _ in range(2):
        answer = await client.post("/api/agents/main/metrics", json=body, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 204, answer.text
    cursor = await database.execute("SELECT count(*) FROM lobs.agent_metrics")
    assert (await cursor.fetchone())[0] == 1
