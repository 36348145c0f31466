"""Sorted lists: every order, page by page, while others add rows; and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any, get_args

import httpx
import pytest
from pydantic.alias_generators import to_camel

from api.models.agents import AgentSort, ApprovalSort, ChannelSort, JobSort, RunSort, SessionSort
from api.models.operations import OperationSort
from api.models.tasks import TaskSort
from store.agents import SORTS as AGENT_SORTS
from store.monitoring import APPROVAL_SORTS, CHANNEL_SORTS, JOB_SORTS, RUN_SORTS, SESSION_SORTS
from store.operations import SORTS as OPERATION_SORTS
from store.tasks import SORTS as TASK_SORTS

PRIORITIES = ["low", "medium", "high", "urgent"]
STATUSES = ["inbox", "todo", "assigned", "in_progress", "review", "done"]


async def task_pages(client: httpx.AsyncClient, sort: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"sort": sort, "limit": 4}
    while True:
        page = (await client.get("/api/tasks", params=parameters)).raise_for_status().json()
        found += page["tasks"]
        if page["nextCursor"] is None:
            return found
        parameters["cursor"] = page["nextCursor"]


@pytest.mark.req("S2-6")
async def test_every_order_of_tasks_is_whole_and_sorted_over_pages(client):
    for number in range(13):
        await client.post(
            "/api/tasks",
            json={
                "title": f"\u2603 {number % 5}\tx",
                "priority": PRIORITIES[number % 4],
                "status": STATUSES[number % 6],
                "dueDate": f"2026-03-{1 + number % 3:02}T00:00:00Z" if number % 2 else None,
            },
        )
    measures = {
        "createdAt": lambda task: task["createdAt"],
        "updatedAt": lambda task: task["updatedAt"],
        "dueDate": lambda task: task["dueDate"] or "9",
        "priority": lambda task: PRIORITIES.index(task["priority"]),
        "status": lambda task: STATUSES.index(task["status"]),
        "title": lambda task: task["title"],
    }
    assert set(measures) == set(map(to_camel, TASK_SORTS))
    for name, measure in measures.items():
        rising = await task_pages(client, name)
        falling = await task_pages(client, f"-{name}")
        assert len({task["id"] for task in rising}) == 13, name
        assert [task["id"] for task in falling] == [task["id"] for task in reversed(rising)]
        values = [measure(task) for task in rising]
        assert values == sorted(values), name


async def test_a_cursor_stays_right_in_its_order_and_fits_no_other(client):
    for priority in ("urgent", "low", "high", "medium"):
        await client.post("/api/tasks", json={"title": priority, "priority": priority})
    first = (await client.get("/api/tasks", params={"sort": "-priority", "limit": 2})).json()
    await client.post("/api/tasks", json={"title": "late", "priority": "urgent"})
    rest = (await client.get("/api/tasks", params={"sort": "-priority", "cursor": first["nextCursor"]})).json()
    assert [task["title"] for task in first["tasks"] + rest["tasks"]] == ["urgent", "high", "medium", "low"]
    other = await client.get("/api/tasks", params={"sort": "title", "cursor": first["nextCursor"]})
    assert (other.status_code, other.json()["field"]) == (422, "cursor")


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/api/tasks", "-updatedAt"),
        ("/api/operations", "-updatedAt"),
        ("/api/sessions", "-updatedAt"),
        ("/api/agents", "-lastActivityAt"),
        ("/api/crons", "-nextRunAt"),
        ("/api/crons/runs", "-duration"),
        ("/api/channels", "-lastInboundAt"),
        ("/api/approvals", "-expiresAt"),
    ],
)
async def test_an_unknown_order_is_refused_and_the_known_ones_are_named(client, path, known):
    answer = await client.get(path, params={"sort": "colour"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["field"] == "query.sort"
    assert known in problem["detail"]


@pytest.mark.req("S0-9")
async def test_operations_are_sorted_paged_and_filtered(client):
    for number in range(7):
        body = {
            "type": "skill",
            "name": f"n{(number * 3) % 7}",
            "agentId": f"a{number % 2}",
            "tags": [f"t{number % 3}"],
        }
        await client.post("/api/operations", json=body)
    names: list[str] = []
    parameters: dict[str, Any] = {"sort": "name", "limit": 3}
    while True:
        page = await client.get("/api/operations", params=parameters)
        names += [one["name"] for one in page.json()]
        if "x-next-cursor" not in page.headers:
            break
        parameters["cursor"] = page.headers["x-next-cursor"]
    assert names == [f"n{number}" for number in range(7)]
    for order in map(to_camel, OPERATION_SORTS):
        assert len((await client.get("/api/operations", params={"sort": f"-{order}"})).json()) == 7
    assert len((await client.get("/api/operations", params={"agentId": "a1"})).json()) == 3
    assert len((await client.get("/api/operations", params={"tag": "t0", "agentId": "a0"})).json()) == 2


async def test_a_cursor_of_an_earlier_version_goes_on(client):
    for number in range(3):
        await client.post("/api/tasks", json={"title": f"t{number}"})
    page = (await client.get("/api/tasks", params={"sort": "-createdAt", "limit": 2})).json()
    text = page["nextCursor"]
    place = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert place[0] == "-created_at"
    older = base64.urlsafe_b64encode(json.dumps(["-createdAt", *place[1:]]).encode()).decode().rstrip("=")
    for cursor in (text, older):
        rest = (await client.get("/api/tasks", params={"sort": "-createdAt", "cursor": cursor})).json()
        assert [task["title"] for task in rest["tasks"]] == ["t0"]
    other = await client.get("/api/tasks", params={"sort": "createdAt", "cursor": older})
    assert (other.status_code, other.json()["field"]) == (422, "cursor")


async def test_sessions_are_sorted_in_every_order(client, database):
    for number in range(5):
        await database.execute(
            "INSERT INTO lobs.sessions (gateway, agent, session_id, kind, channel, updated_at, cost_usd, calls)"
            " VALUES ('home', 'main', %s, 'direct', %s, now() - %s * interval '1 minute', %s, %s)",
            [f"s{number}", f"c{number % 2}", number, number * 0.5, 10 - number],
        )
    for order in map(to_camel, SESSION_SORTS):
        found: list[str] = []
        parameters: dict[str, Any] = {"sort": order, "limit": 2}
        while True:
            page = (await client.get("/api/sessions", params=parameters)).raise_for_status().json()
            found += [one["sessionId"] for one in page["sessions"]]
            if page["nextCursor"] is None:
                break
            parameters["cursor"] = page["nextCursor"]
        assert sorted(found) == [f"s{number}" for number in range(5)], order
        if order == "cost":
            assert found == sorted(found)
        if order in {"calls", "updatedAt"}:
            assert found == sorted(found, reverse=True)
    answer = (await client.get("/api/sessions", params={"channel": "c1"})).json()
    assert {one["sessionId"] for one in answer["sessions"]} == {"s1", "s3"}


def test_the_documented_orders_are_those_that_there_are():
    for documented, keys in (
        (TaskSort, TASK_SORTS),
        (OperationSort, OPERATION_SORTS),
        (SessionSort, SESSION_SORTS),
        (AgentSort, AGENT_SORTS),
        (JobSort, JOB_SORTS),
        (RunSort, RUN_SORTS),
        (ChannelSort, CHANNEL_SORTS),
        (ApprovalSort, APPROVAL_SORTS),
    ):
        assert set(get_args(documented)) == {sign + to_camel(key) for key in keys for sign in ("", "-")}


async def test_a_task_that_somebody_changed_is_not_deleted_unseen(client):
    made = await client.post("/api/tasks", json={"title": "t"})
    path = f"/api/tasks/{made.json()['id']}"
    await client.patch(path, json={"title": "u"})
    assert (await client.delete(path, headers={"If-Match": made.headers["ETag"]})).status_code == 412
    assert (
        await client.delete(path, headers={"If-Match": (await client.get(path)).headers["ETag"]})
    ).status_code == 204


async def pages(client: httpx.AsyncClient, path: str, sort: str, limit: int) -> list[dict[str, Any]]:
    """Every row of a list whose pages are named by a header."""
    found: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"sort": sort, "limit": limit}
    while True:
        page = (await client.get(path, params=parameters)).raise_for_status()
        assert len(page.json()) <= limit
        found += page.json()
        if "x-next-cursor" not in page.headers:
            return found
        parameters["cursor"] = page.headers["x-next-cursor"]


@pytest.mark.req("S1-3")
async def test_jobs_and_their_runs_are_sorted_and_paged(client, database):
    for number in range(7):
        await database.execute(
            "INSERT INTO lobs.cron_jobs (gateway, job_id, name, schedule, enabled, next_run_at, consecutive_errors)"
            " VALUES ('home', %s, %s, 'x', true, %s, %s)",
            [f"j{number}", f"n{(number * 3) % 7}", None if number == 2 else f"2026-01-0{7 - number}T00:00:00Z", number],
        )
        await database.execute(
            "INSERT INTO lobs.cron_runs (gateway, job_id, started_at, finished_at, status) SELECT 'home', 'j1',"
            " '2026-01-01'::timestamptz + %s * interval '1 hour', '2026-01-01'::timestamptz + %s * interval '1 hour'"
            " + %s * interval '1 second', %s",
            [number, number, (number * 3) % 7, "ok" if number % 2 else "error"],
        )
    jobs = (await client.get("/api/crons")).json()
    assert [job["name"] for job in jobs] == [f"n{number}" for number in range(7)]
    by_next = (await client.get("/api/crons", params={"sort": "nextRunAt"})).json()
    assert [job["jobId"] for job in by_next] == ["j6", "j5", "j4", "j3", "j1", "j0", "j2"], "what will not run is last"
    worst = (await client.get("/api/crons", params={"sort": "-consecutiveErrors"})).json()
    assert worst[0]["consecutiveErrors"] == 6
    for name in map(to_camel, RUN_SORTS):
        rising = await pages(client, "/api/crons/runs", name, 3)
        falling = await pages(client, "/api/crons/runs", f"-{name}", 2)
        assert len({run["startedAt"] for run in rising}) == 7, name
        assert falling == rising[::-1], name
        assert [run[name] for run in rising] == sorted(run[name] for run in rising), name
    first = await client.get("/api/crons/runs", params={"limit": 2})
    assert [run["startedAt"][11:13] for run in first.json()] == ["06", "05"], "newest first unless sorted"
    cursor = {"cursor": first.headers["x-next-cursor"], "sort": "duration"}
    other = await client.get("/api/crons/runs", params=cursor)
    assert (other.status_code, other.json()["field"]) == (422, "cursor")


async def test_approvals_channels_and_agents_are_sorted(client, database):
    for number in range(5):
        await database.execute(
            "INSERT INTO lobs.exec_approvals (gateway, approval_id, status, requested_at, expires_at) VALUES"
            " ('home', %s, %s, '2026-01-01'::timestamptz + %s * interval '1 hour', %s)",
            [
                f"a{number}",
                "pending" if number % 2 else "denied",
                number,
                None if number == 3 else f"2026-02-0{5 - number}",
            ],
        )
        await database.execute(
            "INSERT INTO lobs.channels (gateway, channel, account, last_inbound_at) VALUES ('home', %s, '', %s)",
            [f"c{number}", None if number == 1 else f"2026-02-0{5 - number}"],
        )
        await database.execute(
            "INSERT INTO lobs.agents (gateway, agent, name) VALUES ('home', %s, %s)",
            [f"g{number}", f"N{(number * 2) % 5}"],
        )
        await database.execute(
            "INSERT INTO lobs.sessions (gateway, agent, session_id, cost_usd, calls) VALUES ('home', %s, 's', %s, %s)",
            [f"g{number}", 0.5 * ((number * 3) % 5), number],
        )
    for name in map(to_camel, APPROVAL_SORTS):
        rising = await pages(client, "/api/approvals", name, 2)
        assert len({one["approvalId"] for one in rising}) == 5, name
        assert await pages(client, "/api/approvals", f"-{name}", 3) == rising[::-1]
        values = [one[name] or "" for one in rising]
        assert values == sorted(values), name
    heard = (await client.get("/api/channels", params={"sort": "-lastInboundAt"})).json()
    assert [one["channel"] for one in heard] == ["c0", "c2", "c3", "c4", "c1"], "one that never was is last"
    measures = {
        "id": lambda one: one["id"],
        "name": lambda one: one["name"],
        "status": lambda one: one["status"],
        "lastActivityAt": lambda one: one["lastActivityAt"] or "",
        "cost": lambda one: float(one["metrics"]["cost"]),
        "calls": lambda one: one["metrics"]["calls"],
    }
    assert set(measures) == set(map(to_camel, AGENT_SORTS))
    for name, measure in measures.items():
        rising = (await client.get("/api/agents", params={"sort": name})).json()
        assert len(rising) == 5
        assert [measure(one) for one in rising] == sorted(measure(one) for one in rising), name
        assert (await client.get("/api/agents", params={"sort": f"-{name}"})).json() == rising[::-1]
