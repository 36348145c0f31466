"""Live clients and those that ask get the same: the store's messages have the names of the API's models."""

from __future__ import annotations

import pytest


@pytest.fixture
def newest(database):
    """The newest message of a kind."""

    async def found(kind):
        cursor = await database.execute("SELECT payload FROM lobs.events WHERE kind = %s ORDER BY id DESC", [kind])
        return (await cursor.fetchone())[0]

    return found


@pytest.mark.req("S0-13", "S3-3")
async def test_a_message_is_what_the_api_answers(client, newest):
    task = await client.post(
        "/api/tasks", json={"title": "t", "dueDate": "2026-05-01T10:00:00.5+02:00", "metadata": {"a_b": 1.5}}
    )
    assert await newest("task_created") == task.json()
    path = f"/api/tasks/{task.json()['id']}"
    for method, place, body, kind in (
        (
            "POST",
            "/activities",
            {"activity_type": "updated", "message": "m", "metadata": {"a_b": 1}},
            "activity_logged",
        ),
        ("POST", "/deliverables", {"deliverable_type": "file", "title": "N", "path": "n.md"}, "deliverable_added"),
        ("POST", "/subagent", {"openclaw_session_id": "s"}, "agent_spawned"),
        ("PATCH", "/subagent/s", {"status": "failed"}, "agent_completed"),
        ("PATCH", "", {"status": "done"}, "task_updated"),
    ):
        answer = await client.request(method, f"{path}{place}", json=body)
        assert await newest(kind) == answer.raise_for_status().json()
    assert await newest("activity") == (await client.get("/api/feed")).json()["items"][0]


@pytest.mark.req("S0-7", "S0-13")
async def test_a_message_of_an_operation_is_the_operation(client, newest):
    body = {"type": "skill", "name": "n", "steps": [{"id": "s1", "name": "a"}, {"id": "s2", "name": "b"}]}
    made = (await client.post("/api/operations", json=body)).json()
    assert await newest("operation_created") == made
    path = f"/api/operations/{made['id']}"
    for where, change in (
        ("/steps/s1", {"status": "completed", "startedAt": "2026-05-01T10:00:00Z"}),
        ("/metrics", {"tokens": {"prompt": 5, "cost": 0.000000000001, "model": "m"}}),
        ("", {"status": "failed", "disposition": {"success": False, "error": "e"}}),
    ):
        changed = await client.patch(f"{path}{where}", json=change)
        assert await newest("operation_updated") == changed.json()
    assert changed.json()["disposition"] == {"success": False, "error": "e"}
    assert (await client.get(path)).json() == changed.json()
