"""Boards over HTTP."""

from __future__ import annotations

import pytest

from api.security.scopes import Scope
from tests.api.conftest import connected, new_token


@pytest.mark.req("S2-7")
async def test_a_board_is_made_filled_changed_and_deleted(client):
    made = await client.post("/api/boards", json={"name": "Release", "description": "1.0"})
    board = made.json()
    assert (made.status_code, board["name"], board["tasks"]) == (201, "Release", {})
    task = (await client.post("/api/tasks", json={"title": "t", "board": board["id"]})).json()
    assert (await client.get(f"/api/boards/{board['id']}")).json()["tasks"] == {"todo": 1}
    full = await client.delete(f"/api/boards/{board['id']}")
    assert (full.status_code, full.json()["code"]) == (409, "conflict")
    assert (await client.delete(f"/api/tasks/{task['id']}")).status_code == 204
    changed = await client.put(f"/api/boards/{board['id']}", json={"name": "Release 1"})
    assert (changed.json()["name"], changed.json()["description"]) == ("Release 1", None)
    assert [one["id"] for one in (await client.get("/api/boards")).json()] == ["default", board["id"]]
    assert (await client.delete(f"/api/boards/{board['id']}")).status_code == 204
    assert (await client.get(f"/api/boards/{board['id']}")).status_code == 404
    assert (await client.put(f"/api/boards/{board['id']}", json={"name": "n"})).status_code == 404
    actions = [one["action"] for one in (await client.get("/api/feed")).json()["items"] if one["type"] == "board"]
    assert actions == ["deleted", "updated", "created"]


async def test_who_comes_second_is_told(client):
    board = await client.post("/api/boards", json={"name": "b"})
    path, etag = f"/api/boards/{board.json()['id']}", board.headers["etag"]
    assert (await client.put(path, json={"name": "mine"}, headers={"If-Match": etag})).status_code == 200
    assert (await client.put(path, json={"name": "theirs"}, headers={"If-Match": etag})).status_code == 412
    assert (await client.delete(path, headers={"If-Match": etag})).status_code == 412
    assert (await client.get(path)).json()["name"] == "mine"


async def test_a_repeated_creation_makes_one_board(client):
    headers = {"Idempotency-Key": "k"}
    first, again = [await client.post("/api/boards", json={"name": "b"}, headers=headers) for _ in range(2)]
    assert first.json() == again.json()
    assert len((await client.get("/api/boards")).json()) == 2
    assert (await client.post("/api/boards", json={"name": "c"}, headers=headers)).status_code == 409


async def test_the_default_board_stays(client):
    assert (await client.delete("/api/boards/default")).status_code == 409


@pytest.mark.req("S4-25")
async def test_a_limited_token_counts_only_tasks_that_it_sees(client, app):
    for gateway in ("home", "work", None):
        await client.post("/api/tasks", json={"title": "t", "gateway": gateway})
    assert (await client.get("/api/boards/default")).json()["tasks"] == {"todo": 3}
    async with connected(app, await new_token(app, Scope.READ, ["home"])) as limited:
        assert (await limited.get("/api/boards/default")).json()["tasks"] == {"todo": 2}
