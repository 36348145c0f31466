"""Tasks and the task hub."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lobservatory.errors import ConflictError, InvalidValueError, NotFoundError
from store import feed, outbox, tasks
from store.pool import open_pool
from store.tasks import TaskFilter


@pytest.fixture
async def pool(postgres_dsn):
    async with open_pool(postgres_dsn) as opened:
        yield opened


@pytest.fixture
async def connection(pool):
    async with pool.connection() as opened:
        yield opened


async def make(connection, title="Write", **fields):
    return await tasks.create(connection, title=title, actor="ana", **fields)


async def kinds(connection):
    return [event.kind for event in await outbox.read(connection, 0)]


@pytest.mark.req("S2-6", "S2-7")
async def test_create_read_update_delete(connection):
    made = await make(connection)
    assert (made.status, made.priority, made.board, made.version) == ("todo", "medium", "default", 1)
    due = datetime(2026, 5, 1, tzinfo=UTC)
    changed = await tasks.update(
        connection, made.id, {"title": "Rewrite", "due_date": due, "tags": ["a"], "metadata": {"k": 1}}, actor="bo"
    )
    assert (changed.title, changed.due_date, changed.tags) == ("Rewrite", due, ["a"])
    assert changed.version == 2
    assert await tasks.get(connection, made.id) == changed
    assert await tasks.comments(connection, made.id) == []
    await tasks.delete(connection, made.id, actor="bo")
    with pytest.raises(NotFoundError):
        await tasks.get(connection, made.id)
    assert await kinds(connection) == ["task_created", "task_updated", "task_deleted"]


@pytest.mark.req("S2-6")
async def test_what_hangs_on_a_task_goes_with_it(connection):
    task = (await make(connection)).id
    await tasks.add_comment(connection, task, author="ana", content="Looks good")
    await tasks.add_activity(connection, task, activity_type="updated", message="half")
    await tasks.add_deliverable(connection, task, deliverable_type="file", title="Notes", path="notes.md")
    await tasks.add_session(connection, task, openclaw_session_id="agent:main:subagent:1")
    assert [one.content for one in await tasks.comments(connection, task)] == ["Looks good"]
    await tasks.delete(connection, task, actor="ana")
    for table in ("comments", "task_activities", "task_deliverables", "task_sessions"):
        cursor = await connection.execute(f"SELECT count(*) AS left FROM lobs.{table}")
        assert (await cursor.fetchone())["left"] == 0


async def test_pages_stay_right_while_tasks_are_added(pool):
    for number in range(7):
        async with pool.connection() as connection:
            await make(connection, str(number))
    async with pool.connection() as connection:
        first, cursor = await tasks.list_tasks(connection, TaskFilter(limit=3))
        assert [one.title for one in first] == ["6", "5", "4"]
    async with pool.connection() as connection:
        await make(connection, "late")
    async with pool.connection() as connection:
        second, cursor = await tasks.list_tasks(connection, TaskFilter(limit=3, cursor=cursor))
        third, end = await tasks.list_tasks(connection, TaskFilter(limit=3, cursor=cursor))
    assert [one.title for one in second + third] == ["3", "2", "1", "0"]
    assert end is None


@pytest.mark.parametrize("cursor", ["x", "////", "MjAyNi0wMS0wMSB4", "\N{SNOWMAN}"])
async def test_a_cursor_that_is_not_ours_is_refused(connection, cursor):
    with pytest.raises(InvalidValueError, match="cursor"):
        await tasks.list_tasks(connection, TaskFilter(cursor=cursor))


async def test_filters(connection):
    await make(connection, "a", status="review", priority="high", assigned_agent="main", tags=["x", "y"])
    await make(connection, "b", tags=["y"])
    for given, expected in (
        ({"status": "review"}, ["a"]),
        ({"priority": "medium"}, ["b"]),
        ({"assigned_agent": "main"}, ["a"]),
        ({"tag": "x"}, ["a"]),
        ({"board": "other"}, []),
    ):
        found, _ = await tasks.list_tasks(connection, TaskFilter(**given))
        assert [one.title for one in found] == expected, given


async def test_a_change_of_an_older_version_is_refused(connection):
    task = await make(connection)
    await tasks.update(connection, task.id, {"title": "x"}, actor="ana", expected_version=1)
    with pytest.raises(ConflictError, match="changed since"):
        await tasks.update(connection, task.id, {"title": "y"}, actor="bo", expected_version=1)


@pytest.mark.req("S1-17")
async def test_dependencies_form_no_circle(connection):
    a, b, c = [(await make(connection, name)).id for name in "abc"]
    await tasks.update(connection, a, {"depends_on": [b]}, actor="ana")
    await tasks.update(connection, b, {"depends_on": [c]}, actor="ana")
    for task, wanted in ((c, a), (c, c), (b, a)):
        with pytest.raises(ConflictError):
            async with connection.transaction():
                await tasks.update(connection, task, {"depends_on": [wanted]}, actor="ana")
    with pytest.raises(InvalidValueError, match="no task nothing"):
        async with connection.transaction():
            await tasks.update(connection, c, {"depends_on": ["nothing"]}, actor="ana")
    assert (await tasks.get(connection, b)).depends_on == [c]


@pytest.mark.req("S3-12")
async def test_the_history_of_statuses_survives_the_task(pool):
    async with pool.connection() as connection:
        task = (await make(connection)).id
    for status in ("in_progress", "done"):
        async with pool.connection() as connection:
            await tasks.update(connection, task, {"status": status}, actor="main")
    span = {"since": datetime.now(UTC) - timedelta(hours=1), "until": datetime.now(UTC) + timedelta(hours=1)}
    async with pool.connection() as connection:
        before = await tasks.flow(connection, **span)
        await tasks.delete(connection, task, actor="ana")
    async with pool.connection() as connection:
        history = await tasks.status_history(connection, task)
        assert [(one.from_status, one.to_status) for one in history] == [
            (None, "todo"), ("todo", "in_progress"), ("in_progress", "done"), ("done", None),
        ]  # fmt: skip
        assert await tasks.flow(connection, **span) == before
    assert before.throughput == 1
    assert before.cycle_time_ms >= 0


@pytest.mark.req("S3-4", "S3-5", "S3-6")
async def test_the_hub_keeps_activities_deliverables_and_sessions(connection):
    task = (await make(connection)).id
    for message in ("one", "two"):
        await tasks.add_activity(connection, task, activity_type="updated", message=message, metadata={"n": 1})
    assert [one.message for one in await tasks.activities(connection, task)] == ["two", "one"]
    made = await tasks.add_deliverable(connection, task, deliverable_type="url", title="Page", path="https://e.org")
    assert await tasks.deliverables(connection, task) == [made]
    await tasks.add_session(connection, task, openclaw_session_id="k", agent_name="main")
    ended = await tasks.set_session_status(connection, "k", "completed")
    assert (ended.status, ended.duration_ms >= 0) == ("completed", True)
    with pytest.raises(ConflictError):
        await tasks.set_session_status(connection, "k", "active")
    assert await tasks.sessions(connection, session_type="subagent", status="active") == []
    assert (await kinds(connection))[1:] == [
        "activity_logged", "activity_logged", "deliverable_added", "agent_spawned", "agent_completed",
    ]  # fmt: skip


async def test_nothing_hangs_on_a_task_that_is_not_there(connection):
    for call in (
        lambda: tasks.add_comment(connection, "none", author="a", content="b"),
        lambda: tasks.add_activity(connection, "none", activity_type="updated", message="x"),
        lambda: tasks.activities(connection, "none"),
        lambda: tasks.update(connection, "none", {}, actor="a"),
        lambda: tasks.delete(connection, "none", actor="a"),
    ):
        with pytest.raises(NotFoundError, match="no task none"):
            await call()


@pytest.mark.req("S2-8", "S2-9")
async def test_the_feed_pages_by_ids_that_inserts_do_not_move(connection):
    for number in range(5):
        await feed.add(connection, type="task", actor="ana", action=f"a{number}", target_type="task", target_id="t")
    first = await feed.page(connection, before=None, limit=2)
    await feed.add(connection, type="task", actor="ana", action="late", target_type="task", target_id="t")
    second = await feed.page(connection, before=first[-1].id, limit=10)
    assert [row.action for row in first + second] == ["a4", "a3", "a2", "a1", "a0"]
    assert (await feed.statistics(connection)).total == 6


async def test_the_figures_of_the_feed_are_those_of_its_rows(connection):
    for kind, action, actor in (("task", "created", "ana"), ("task", "updated", "ana"), ("agent", "updated", "ben")):
        for _ in range(2):
            await feed.add(connection, type=kind, actor=actor, action=action, target_type=kind, target_id="t")
    found = await feed.statistics(connection)
    assert (found.total, found.last24h) == (6, 6)
    assert found.by_type == {"task": 4, "agent": 2}
    assert found.by_action == {"created": 2, "updated": 4}
    assert found.by_actor == {"ana": 4, "ben": 2}
    await connection.execute("UPDATE lobs.feed_counts SET day = day - 31 WHERE actor = 'ben'")
    found = await feed.statistics(connection)
    assert (found.total, found.by_actor) == (6, {"ana": 4})
