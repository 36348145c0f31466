"""Tasks and the task hub: comments, activities, deliverables, sub-agent sessions, and the history of statuses.

Each write publishes in its own transaction (topic `tasks`, kinds `task_created`, `task_updated`, `task_deleted`,
`activity_logged`, `deliverable_added`, `agent_spawned`, `agent_completed`); rows of the feed are the caller's
(`store.feed.add`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from psycopg import AsyncConnection, errors
from psycopg.rows import class_row, dict_row, scalar_row
from psycopg.types.json import Jsonb

from lobservatory.errors import ConflictError, InvalidValueError, NotFoundError
from store import messages, outbox
from store.rows import OutboxEvent
from store.sorting import SORT_VALUE, Key, Order
from store.work import Activity, Comment, Deliverable, Flow, StatusChange, Task, TaskSession

Row = TypeVar("Row")

TOPIC: Final = "tasks"
DONE: Final = "done"
DEFAULT_BOARD: Final = "default"
MOST_LISTED: Final = 500

# Field of a change → column. Never a name of a client.
_COLUMNS: Final[Mapping[str, str]] = {
    "title": "title",
    "description": "description",
    "status": "status",
    "priority": "priority",
    "board": "board_id",
    "assigned_agent": "assigned_agent",
    "due_date": "due_date",
    "tags": "tags",
    "metadata": "metadata",
}
SORTS: Final[Mapping[str, Key]] = {
    "created_at": Key("t.created_at", "timestamptz"),
    "updated_at": Key("t.updated_at", "timestamptz"),
    "due_date": Key("coalesce(t.due_date, 'infinity')", "timestamptz"),  # without one: last
    "priority": Key("array_position(ARRAY['low', 'medium', 'high', 'urgent'], t.priority)::bigint", "bigint"),
    "status": Key(
        "array_position(ARRAY['inbox', 'todo', 'assigned', 'in_progress', 'review', 'done'], t.status)::bigint",
        "bigint",
    ),
    "title": Key("t.title", "text"),
}
_TASK: Final = (
    "t.id, t.board_id AS board, t.gateway, t.title, t.description, t.status, t.priority, t.assigned_agent, t.due_date,"
    " t.tags, t.metadata, t.created_by, t.created_at, t.updated_at, t.version,"
    " coalesce((SELECT array_agg(d.depends_on ORDER BY d.depends_on) FROM lobs.task_dependencies AS d"
    " WHERE d.task_id = t.id), '{}') AS depends_on"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks, in which order, and which page of them. None: any.

    `search`: in title and description, in any case. `gateways`: these and those of no gateway. `sort`: one of SORTS,
    with a leading `-` falling. `limit`: at most 500.
    """

    status: str | None = None
    priority: str | None = None
    assigned_agent: str | None = None
    tag: str | None = None
    board: str | None = None
    search: str | None = None
    gateways: list[str] | None = None
    sort: str = "-created_at"
    cursor: str | None = None
    limit: int = 100


async def create(
    connection: AsyncConnection[Any],
    *,
    title: str,
    actor: str,
    description: str | None = None,
    status: str = "todo",
    priority: str = "medium",
    board: str = DEFAULT_BOARD,
    assigned_agent: str | None = None,
    due_date: datetime | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    depends_on: Sequence[str] = (),
    gateway: str | None = None,
) -> Task:
    """A new task. Raises InvalidValueError for an unknown board or dependency."""
    identifier = f"task_{secrets.token_hex(10)}"
    await _check_board(connection, board)
    await connection.execute(
        "INSERT INTO lobs.tasks (id, board_id, gateway, title, description, status, priority, assigned_agent, due_date,"
        " tags, metadata, created_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            identifier, board, gateway, title, description, status, priority, assigned_agent, due_date, list(tags),
            Jsonb(dict(metadata or {})), actor,
        ],
    )  # fmt: skip
    await _depend(connection, identifier, depends_on)
    await _note_status(connection, identifier, None, status, actor)
    return await _published(connection, "task_created", identifier)


async def get(connection: AsyncConnection[Any], task_id: str) -> Task:
    """One task. Raises NotFoundError."""
    rows = await _rows(connection, Task, f"SELECT {_TASK} FROM lobs.tasks AS t WHERE t.id = %s", [task_id])  # noqa: S608 - ours
    if not rows:
        raise NotFoundError(f"there is no task {task_id}", "id")
    return rows[0]


async def list_tasks(connection: AsyncConnection[Any], wanted: TaskFilter) -> tuple[list[Task], str | None]:
    """A page of tasks, and the cursor of the next one (None: there is none). A cursor stays right while tasks are added
    and removed. Raises InvalidValueError for an unknown order and for a cursor that is not of this order."""
    most = max(1, min(wanted.limit, MOST_LISTED))
    order = Order.of(wanted.sort, SORTS, ["t.id"])
    beyond, place = order.beyond(wanted.cursor)
    async with connection.cursor(row_factory=dict_row) as found:
        await found.execute(
            (
                f"SELECT {_TASK}, {order.value} FROM lobs.tasks AS t WHERE {beyond}"  # noqa: S608 - expressions of ours
                " AND (%(status)s::text IS NULL OR t.status = %(status)s)"
                " AND (%(priority)s::text IS NULL OR t.priority = %(priority)s)"
                " AND (%(assigned_agent)s::text IS NULL OR t.assigned_agent = %(assigned_agent)s)"
                " AND (%(tag)s::text IS NULL OR t.tags @> ARRAY[%(tag)s::text])"
                " AND (%(board)s::text IS NULL OR t.board_id = %(board)s)"
                " AND (%(search)s::text IS NULL OR strpos(lower(t.title || ' ' || coalesce(t.description, '')),"
                " lower(%(search)s)) > 0)"
                " AND (%(gateways)s::text[] IS NULL OR t.gateway IS NULL OR t.gateway = ANY(%(gateways)s))"
                f" ORDER BY {order.by} LIMIT %(most)s"
            ).encode(),
            {**asdict(wanted), **place, "most": most + 1},
        )
        rows = await found.fetchall()
    following = order.cursor(rows[most - 1]) if len(rows) > most else None
    return [Task(**{name: row[name] for name in row if name != SORT_VALUE}) for row in rows[:most]], following


async def update(
    connection: AsyncConnection[Any],
    task_id: str,
    changes: Mapping[str, Any],
    *,
    actor: str,
    expected_version: int | None = None,
) -> Task:
    """Change what is in `changes`: title, description, status, priority, board, assigned_agent, due_date, tags,
    metadata, depends_on. Raises NotFoundError; ConflictError when somebody changed it since `expected_version`, or when
    a dependency would close a circle; InvalidValueError."""
    if unknown := set(changes) - {*_COLUMNS, "depends_on"}:
        raise InvalidValueError(f"cannot be changed: {', '.join(sorted(unknown))}", min(unknown))
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT status, version FROM lobs.tasks WHERE id = %s FOR UPDATE", [task_id])
        before = await cursor.fetchone()
    if before is None:
        raise NotFoundError(f"there is no task {task_id}", "id")
    _check_version(before["version"], expected_version)
    if "board" in changes:
        await _check_board(connection, changes["board"])
    if "depends_on" in changes:
        await connection.execute("DELETE FROM lobs.task_dependencies WHERE task_id = %s", [task_id])
        await _depend(connection, task_id, changes["depends_on"])
    values = {
        name: Jsonb(dict(value)) if name == "metadata" else value for name, value in changes.items() if name in _COLUMNS
    }
    assignments = "".join(f"{_COLUMNS[name]} = %({name})s, " for name in values)
    statement = (
        f"UPDATE lobs.tasks SET {assignments}updated_at = now(), version = version + 1"  # noqa: S608 - names of _COLUMNS
        " WHERE id = %(task_id)s"
    )
    await connection.execute(statement.encode(), {**values, "task_id": task_id})
    status = changes.get("status", before["status"])
    if status != before["status"]:
        await _note_status(connection, task_id, before["status"], status, actor)
    return await _published(connection, "task_updated", task_id)


async def delete(
    connection: AsyncConnection[Any], task_id: str, *, actor: str, expected_version: int | None = None
) -> Task:
    """Delete a task with all that hangs on it; its status history stays. Gives the task as it was. Raises
    NotFoundError; ConflictError when somebody changed it since `expected_version`."""
    await connection.execute("SELECT 1 FROM lobs.tasks WHERE id = %s FOR UPDATE", [task_id])
    gone = await get(connection, task_id)
    _check_version(gone.version, expected_version)
    await connection.execute("DELETE FROM lobs.tasks WHERE id = %s", [task_id])
    await _note_status(connection, task_id, gone.status, None, actor)
    await _publish(connection, "task_deleted", gone)
    return gone


async def add_comment(connection: AsyncConnection[Any], task_id: str, *, author: str, content: str) -> Comment:
    """Comment on a task. Raises NotFoundError."""
    comment = await _insert(
        connection,
        Comment,
        task_id,
        "INSERT INTO lobs.comments (task_id, author, content) VALUES (%s, %s, %s) RETURNING *",
        [task_id, author, content],
    )
    await connection.execute("UPDATE lobs.tasks SET updated_at = now() WHERE id = %s", [task_id])
    await _published(connection, "task_updated", task_id)
    return comment


async def comments(connection: AsyncConnection[Any], task_id: str) -> list[Comment]:
    """The comments of a task, oldest first."""
    return await _rows(connection, Comment, "SELECT * FROM lobs.comments WHERE task_id = %s ORDER BY id", [task_id])


async def add_activity(
    connection: AsyncConnection[Any],
    task_id: str,
    *,
    activity_type: str,
    message: str,
    agent_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Activity:
    """Log what an agent did for a task. Raises NotFoundError."""
    activity = await _insert(
        connection,
        Activity,
        task_id,
        "INSERT INTO lobs.task_activities (task_id, activity_type, message, agent_id, metadata)"
        " VALUES (%s, %s, %s, %s, %s) RETURNING *",
        [task_id, activity_type, message, agent_id, Jsonb(dict(metadata or {}))],
    )
    await outbox.publish(connection, [OutboxEvent(TOPIC, "activity_logged", messages.activity(activity))])
    return activity


async def activities(
    connection: AsyncConnection[Any], task_id: str, *, before: int | None = None, limit: int = 100
) -> list[Activity]:
    """The activities of a task, newest first. Raises NotFoundError."""
    return await _page(connection, Activity, "task_activities", task_id, before, limit)


async def add_deliverable(
    connection: AsyncConnection[Any],
    task_id: str,
    *,
    deliverable_type: str,
    title: str,
    path: str | None = None,
    description: str | None = None,
) -> Deliverable:
    """Note what a task produced. Path and URL are checked by the caller. Raises NotFoundError."""
    deliverable = await _insert(
        connection,
        Deliverable,
        task_id,
        "INSERT INTO lobs.task_deliverables (task_id, deliverable_type, title, path, description)"
        " VALUES (%s, %s, %s, %s, %s) RETURNING *",
        [task_id, deliverable_type, title, path, description],
    )
    await outbox.publish(connection, [OutboxEvent(TOPIC, "deliverable_added", messages.deliverable(deliverable))])
    return deliverable


async def deliverables(
    connection: AsyncConnection[Any], task_id: str, *, before: int | None = None, limit: int = 100
) -> list[Deliverable]:
    """The deliverables of a task, newest first. Raises NotFoundError."""
    return await _page(connection, Deliverable, "task_deliverables", task_id, before, limit)


async def add_session(
    connection: AsyncConnection[Any],
    task_id: str,
    *,
    openclaw_session_id: str,
    agent_name: str | None = None,
    session_type: str = "subagent",
) -> TaskSession:
    """Put a session under a task. Raises NotFoundError; ConflictError when that session is under a task already."""
    try:
        session = await _insert(
            connection,
            TaskSession,
            task_id,
            "INSERT INTO lobs.task_sessions (task_id, openclaw_session_id, agent_name, session_type)"
            " VALUES (%s, %s, %s, %s) RETURNING *",
            [task_id, openclaw_session_id, agent_name, session_type],
        )
    except errors.UniqueViolation as error:
        raise ConflictError("this session is under a task already", "openclaw_session_id") from error
    await outbox.publish(connection, [OutboxEvent(TOPIC, "agent_spawned", messages.session(session))])
    return session


async def set_session_status(connection: AsyncConnection[Any], openclaw_session_id: str, status: str) -> TaskSession:
    """Say how a session stands: active, completed or failed. Raises NotFoundError; ConflictError when it had ended
    otherwise."""
    rows = await _rows(
        connection,
        TaskSession,
        "SELECT * FROM lobs.task_sessions WHERE openclaw_session_id = %s FOR UPDATE",
        [openclaw_session_id],
    )
    if not rows:
        raise NotFoundError(f"no task has a session {openclaw_session_id}", "openclaw_session_id")
    if rows[0].status == status:
        return rows[0]
    if rows[0].status != "active":
        raise ConflictError(f"a session that is {rows[0].status} cannot become {status}", "status")
    (session,) = await _rows(
        connection,
        TaskSession,
        "UPDATE lobs.task_sessions SET status = %s, ended_at = now() WHERE openclaw_session_id = %s RETURNING *",
        [status, openclaw_session_id],
    )
    await outbox.publish(connection, [OutboxEvent(TOPIC, "agent_completed", messages.session(session))])
    return session


async def sessions(
    connection: AsyncConnection[Any],
    *,
    task_id: str | None = None,
    session_type: str | None = None,
    status: str | None = None,
    limit: int = 100,
) -> list[TaskSession]:
    """Sessions under tasks, newest first."""
    return await _rows(
        connection,
        TaskSession,
        "SELECT * FROM lobs.task_sessions WHERE (%(task)s::text IS NULL OR task_id = %(task)s)"
        " AND (%(type)s::text IS NULL OR session_type = %(type)s) AND (%(status)s::text IS NULL OR status = %(status)s)"
        " ORDER BY id DESC LIMIT %(limit)s",
        {"task": task_id, "type": session_type, "status": status, "limit": max(1, min(limit, MOST_LISTED))},
    )


async def status_history(connection: AsyncConnection[Any], task_id: str) -> list[StatusChange]:
    """Every change of a task's status, oldest first, also of a deleted task."""
    return await _rows(
        connection,
        StatusChange,
        "SELECT task_id, from_status, to_status, actor, at FROM lobs.task_status_history WHERE task_id = %s"
        " ORDER BY id",
        [task_id],
    )


async def flow(connection: AsyncConnection[Any], *, since: datetime, until: datetime) -> Flow:
    """Throughput (tasks that reached `done`, each once) and mean cycle time (from creation to the first `done`) of a
    span. From the history alone, so what it says of the past never changes."""
    (found,) = await _rows(
        connection,
        Flow,
        "WITH finished AS (SELECT task_id, min(at) AS at FROM lobs.task_status_history WHERE to_status = %s"
        " GROUP BY task_id)"
        " SELECT count(*) AS throughput, (avg(extract(epoch FROM f.at - c.at)) * 1000)::bigint AS cycle_time_ms"
        " FROM finished AS f JOIN LATERAL (SELECT min(at) AS at FROM lobs.task_status_history AS h"
        " WHERE h.task_id = f.task_id) AS c ON true WHERE f.at >= %s AND f.at < %s",
        [DONE, since, until],
    )
    return found


async def _rows(
    connection: AsyncConnection[Any], kind: type[Row], query: str, parameters: Mapping[str, Any] | Sequence[Any]
) -> list[Row]:
    async with connection.cursor(row_factory=class_row(kind)) as cursor:
        await cursor.execute(query.encode(), parameters)
        return await cursor.fetchall()


async def _insert(
    connection: AsyncConnection[Any], kind: type[Row], task_id: str, query: str, parameters: Sequence[Any]
) -> Row:
    """Insert something that hangs on a task; a savepoint keeps the caller's transaction usable when there is none."""
    try:
        async with connection.transaction():
            return (await _rows(connection, kind, query, parameters))[0]
    except errors.ForeignKeyViolation as error:
        raise NotFoundError(f"there is no task {task_id}", "id") from error


async def _page(  # noqa: PLR0917 - what, of which task, which page
    connection: AsyncConnection[Any], kind: type[Row], table: str, task_id: str, before: int | None, limit: int
) -> list[Row]:
    await get(connection, task_id)
    return await _rows(
        connection,
        kind,
        f"SELECT * FROM lobs.{table} WHERE task_id = %s AND (%s::bigint IS NULL OR id < %s)"  # noqa: S608 - ours
        " ORDER BY id DESC LIMIT %s",
        [task_id, before, before, max(1, min(limit, MOST_LISTED))],
    )


def _check_version(version: int, expected: int | None) -> None:
    if expected is not None and version != expected:
        raise ConflictError("the task has been changed since you read it", "version")


async def _check_board(connection: AsyncConnection[Any], board: str) -> None:
    cursor = await connection.execute("SELECT 1 FROM lobs.boards WHERE id = %s", [board])
    if await cursor.fetchone() is None:
        raise InvalidValueError(f"there is no board {board}", "board")


async def _depend(connection: AsyncConnection[Any], task_id: str, depends_on: Sequence[str]) -> None:
    wanted = sorted(set(depends_on))
    if not wanted:
        return
    if task_id in wanted:
        raise ConflictError("a task cannot depend on itself", "depends_on")
    # Two changes that each close half of a circle must not pass each other.
    await connection.execute("LOCK TABLE lobs.task_dependencies IN SHARE ROW EXCLUSIVE MODE")
    async with connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute("SELECT id FROM lobs.tasks WHERE id = ANY(%s)", [wanted])
        known = set(await cursor.fetchall())
    if missing := [one for one in wanted if one not in known]:
        raise InvalidValueError(f"there is no task {missing[0]}", "depends_on")
    circle = await connection.execute(
        "WITH RECURSIVE reached (id) AS (SELECT unnest(%s::text[]) UNION"
        " SELECT d.depends_on FROM lobs.task_dependencies AS d JOIN reached AS r ON d.task_id = r.id)"
        " SELECT 1 FROM reached WHERE id = %s",
        [wanted, task_id],
    )
    if await circle.fetchone() is not None:
        raise ConflictError("the dependencies would form a circle", "depends_on")
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO lobs.task_dependencies (task_id, depends_on) VALUES (%s, %s)",
            [(task_id, one) for one in wanted],
        )


async def _note_status(
    connection: AsyncConnection[Any], task_id: str, before: str | None, after: str | None, actor: str
) -> None:
    await connection.execute(
        "INSERT INTO lobs.task_status_history (task_id, from_status, to_status, actor) VALUES (%s, %s, %s, %s)",
        [task_id, before, after, actor],
    )


async def _published(connection: AsyncConnection[Any], kind: str, task_id: str) -> Task:
    task = await get(connection, task_id)
    await _publish(connection, kind, task)
    return task


async def _publish(connection: AsyncConnection[Any], kind: str, task: Task) -> None:
    await outbox.publish(connection, [OutboxEvent(TOPIC, kind, messages.task(task), task.gateway)])
