"""Tasks and the task hub: comments, activities, deliverables, sub-agent sessions, and the history of statuses.

Functions give *documents*: plain JSON, ready to be sent. Tasks and comments have camelCase names; activities,
deliverables and sessions snake_case, as their clients speak. Each write publishes in its own transaction (topic
`tasks`, kinds `task_created`, `task_updated`, `task_deleted`, `activity_logged`, `deliverable_added`,
`agent_spawned`, `agent_completed`); rows of the feed are the caller's (`store.feed.add`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from psycopg import AsyncConnection, errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from store import outbox
from store.errors import ConflictError, InvalidValueError, NotFoundError
from store.rows import OutboxEvent
from store.sorting import Key, Order

Document = dict[str, Any]
Row = dict[str, Any]

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
    "createdAt": Key("t.created_at", "timestamptz"),
    "updatedAt": Key("t.updated_at", "timestamptz"),
    "dueDate": Key("coalesce(t.due_date, 'infinity')", "timestamptz"),  # without one: last
    "priority": Key("array_position(ARRAY['low', 'medium', 'high', 'urgent'], t.priority)::bigint", "bigint"),
    "status": Key(
        "array_position(ARRAY['inbox', 'todo', 'assigned', 'in_progress', 'review', 'done'], t.status)::bigint",
        "bigint",
    ),
    "title": Key("t.title", "text"),
}
_SELECT: Final = """
SELECT t.*, coalesce((SELECT array_agg(d.depends_on ORDER BY d.depends_on) FROM lobs.task_dependencies AS d
                      WHERE d.task_id = t.id), '{}') AS depends_on
FROM lobs.tasks AS t
"""


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
) -> Document:
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


async def get(connection: AsyncConnection[Any], task_id: str) -> Document:
    """One task with its comments. Raises NotFoundError."""
    document = _task(await _row(connection, task_id))
    document["comments"] = await comments(connection, task_id)
    return document


async def list_tasks(
    connection: AsyncConnection[Any],
    *,
    status: str | None = None,
    priority: str | None = None,
    assigned_agent: str | None = None,
    tag: str | None = None,
    board: str | None = None,
    search: str | None = None,
    sort: str = "-createdAt",
    cursor: str | None = None,
    limit: int = 100,
    gateways: Sequence[str] | None = None,
) -> tuple[list[Document], str | None]:
    """Tasks in an order of SORTS, at most 500, and the cursor of the next page (None: there is none). A cursor stays
    right while tasks are added and removed. `search`: in title and description. `gateways` None: all; else these and
    those of no gateway. Raises InvalidValueError for an unknown order and for a cursor that is not of this order."""
    most = max(1, min(limit, MOST_LISTED))
    order = Order.of(sort, SORTS, ["t.id"])
    beyond, place = order.beyond(cursor)
    async with connection.cursor(row_factory=dict_row) as found:
        await found.execute(
            (
                f"{_SELECT.replace('t.*', f't.*, {order.value}', 1)} WHERE {beyond}"
                " AND (%(status)s::text IS NULL OR t.status = %(status)s)"
                " AND (%(priority)s::text IS NULL OR t.priority = %(priority)s)"
                " AND (%(agent)s::text IS NULL OR t.assigned_agent = %(agent)s)"
                " AND (%(tag)s::text IS NULL OR t.tags @> ARRAY[%(tag)s::text])"
                " AND (%(board)s::text IS NULL OR t.board_id = %(board)s)"
                " AND (%(search)s::text IS NULL OR strpos(lower(t.title || ' ' || coalesce(t.description, '')),"
                " lower(%(search)s)) > 0)"
                " AND (%(gateways)s::text[] IS NULL OR t.gateway IS NULL OR t.gateway = ANY(%(gateways)s))"
                f" ORDER BY {order.by} LIMIT %(limit)s"
            ).encode(),
            {
                **place, "status": status, "priority": priority, "agent": assigned_agent, "tag": tag, "board": board,
                "search": search, "limit": most + 1, "gateways": None if gateways is None else list(gateways),
            },
        )  # fmt: skip
        rows = await found.fetchall()
    page = rows[:most]
    return [_task(row) for row in page], order.cursor(page[-1]) if len(rows) > most else None


async def update(
    connection: AsyncConnection[Any],
    task_id: str,
    changes: Mapping[str, Any],
    *,
    actor: str,
    expected_version: int | None = None,
) -> Document:
    """Change what is in `changes`: title, description, status, priority, board, assigned_agent, due_date, tags,
    metadata, depends_on. `expected_version`: of an If-Match header. Raises NotFoundError; ConflictError when somebody
    else changed it since, or when a dependency would close a circle; InvalidValueError."""
    if unknown := set(changes) - {*_COLUMNS, "depends_on"}:
        raise InvalidValueError(f"cannot be changed: {', '.join(sorted(unknown))}", min(unknown))
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT status, version FROM lobs.tasks WHERE id = %s FOR UPDATE", [task_id])
        before = await cursor.fetchone()
    if before is None:
        raise NotFoundError(f"there is no task {task_id}", "id")
    if expected_version is not None and before["version"] != expected_version:
        raise ConflictError("the task has been changed since you read it", "If-Match")
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
) -> Document:
    """Delete a task with all that hangs on it; its status history stays. Gives the task as it was. Raises
    NotFoundError; ConflictError when somebody changed it since `expected_version`."""
    await connection.execute("SELECT 1 FROM lobs.tasks WHERE id = %s FOR UPDATE", [task_id])
    document = _task(await _row(connection, task_id))
    if expected_version is not None and document["version"] != expected_version:
        raise ConflictError("the task has been changed since you read it", "If-Match")
    await connection.execute("DELETE FROM lobs.tasks WHERE id = %s", [task_id])
    await _note_status(connection, task_id, document["status"], None, actor)
    await outbox.publish(connection, [OutboxEvent(TOPIC, "task_deleted", document, document["gateway"])])
    return document


async def add_comment(connection: AsyncConnection[Any], task_id: str, *, author: str, content: str) -> Document:
    """Comment on a task. Raises NotFoundError."""
    row = await _insert(
        connection,
        task_id,
        "INSERT INTO lobs.comments (task_id, author, content) VALUES (%s, %s, %s) RETURNING *",
        [task_id, author, content],
    )
    await connection.execute("UPDATE lobs.tasks SET updated_at = now() WHERE id = %s", [task_id])
    await _published(connection, "task_updated", task_id)
    return _comment(row)


async def comments(connection: AsyncConnection[Any], task_id: str) -> list[Document]:
    """The comments of a task, oldest first."""
    rows = await _rows(connection, "SELECT * FROM lobs.comments WHERE task_id = %s ORDER BY id", [task_id])
    return [_comment(row) for row in rows]


async def add_activity(
    connection: AsyncConnection[Any],
    task_id: str,
    *,
    activity_type: str,
    message: str,
    agent_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Document:
    """Log what an agent did for a task. Raises NotFoundError."""
    row = await _insert(
        connection,
        task_id,
        "INSERT INTO lobs.task_activities (task_id, activity_type, message, agent_id, metadata)"
        " VALUES (%s, %s, %s, %s, %s) RETURNING *",
        [task_id, activity_type, message, agent_id, Jsonb(dict(metadata or {}))],
    )
    document = _hub(row)
    await outbox.publish(connection, [OutboxEvent(TOPIC, "activity_logged", document)])
    return document


async def activities(
    connection: AsyncConnection[Any], task_id: str, *, before: int | None = None, limit: int = 100
) -> list[Document]:
    """The activities of a task, newest first. Raises NotFoundError."""
    return await _page(connection, "task_activities", task_id, before, limit)


async def add_deliverable(
    connection: AsyncConnection[Any],
    task_id: str,
    *,
    deliverable_type: str,
    title: str,
    path: str | None = None,
    description: str | None = None,
) -> Document:
    """Note what a task produced. Path and URL are checked by the caller. Raises NotFoundError."""
    row = await _insert(
        connection,
        task_id,
        "INSERT INTO lobs.task_deliverables (task_id, deliverable_type, title, path, description)"
        " VALUES (%s, %s, %s, %s, %s) RETURNING *",
        [task_id, deliverable_type, title, path, description],
    )
    document = _hub(row)
    await outbox.publish(connection, [OutboxEvent(TOPIC, "deliverable_added", document)])
    return document


async def deliverables(
    connection: AsyncConnection[Any], task_id: str, *, before: int | None = None, limit: int = 100
) -> list[Document]:
    """The deliverables of a task, newest first. Raises NotFoundError."""
    return await _page(connection, "task_deliverables", task_id, before, limit)


async def add_session(
    connection: AsyncConnection[Any],
    task_id: str,
    *,
    openclaw_session_id: str,
    agent_name: str | None = None,
    session_type: str = "subagent",
) -> Document:
    """Put a session under a task. Raises NotFoundError; ConflictError when that session is under a task already."""
    try:
        row = await _insert(
            connection,
            task_id,
            "INSERT INTO lobs.task_sessions (task_id, openclaw_session_id, agent_name, session_type)"
            " VALUES (%s, %s, %s, %s) RETURNING *",
            [task_id, openclaw_session_id, agent_name, session_type],
        )
    except errors.UniqueViolation as error:
        raise ConflictError("this session is under a task already", "openclaw_session_id") from error
    document = _hub(row)
    await outbox.publish(connection, [OutboxEvent(TOPIC, "agent_spawned", document)])
    return document


async def set_session_status(connection: AsyncConnection[Any], openclaw_session_id: str, status: str) -> Document:
    """Say how a session stands: active, completed or failed. Raises NotFoundError; ConflictError when it had ended
    otherwise."""
    rows = await _rows(
        connection,
        "SELECT * FROM lobs.task_sessions WHERE openclaw_session_id = %s FOR UPDATE",
        [openclaw_session_id],
    )
    if not rows:
        raise NotFoundError(f"no task has a session {openclaw_session_id}", "openclaw_session_id")
    if rows[0]["status"] == status:
        return _hub(rows[0])
    if rows[0]["status"] != "active":
        raise ConflictError(f"a session that is {rows[0]['status']} cannot become {status}", "status")
    updated = await _rows(
        connection,
        "UPDATE lobs.task_sessions SET status = %s, ended_at = now() WHERE openclaw_session_id = %s RETURNING *",
        [status, openclaw_session_id],
    )
    document = _hub(updated[0])
    await outbox.publish(connection, [OutboxEvent(TOPIC, "agent_completed", document)])
    return document


async def sessions(
    connection: AsyncConnection[Any],
    *,
    task_id: str | None = None,
    session_type: str | None = None,
    status: str | None = None,
    limit: int = 100,
) -> list[Document]:
    """Sessions under tasks, newest first."""
    rows = await _rows(
        connection,
        "SELECT * FROM lobs.task_sessions WHERE (%(task)s::text IS NULL OR task_id = %(task)s)"
        " AND (%(type)s::text IS NULL OR session_type = %(type)s) AND (%(status)s::text IS NULL OR status = %(status)s)"
        " ORDER BY id DESC LIMIT %(limit)s",
        {"task": task_id, "type": session_type, "status": status, "limit": max(1, min(limit, MOST_LISTED))},
    )
    return [_hub(row) for row in rows]


async def status_history(connection: AsyncConnection[Any], task_id: str) -> list[Document]:
    """Every change of a task's status, oldest first, also of a deleted task."""
    rows = await _rows(
        connection,
        "SELECT task_id, from_status, to_status, actor, at FROM lobs.task_status_history WHERE task_id = %s"
        " ORDER BY id",
        [task_id],
    )
    return [
        {
            "taskId": row["task_id"],
            "fromStatus": row["from_status"],
            "toStatus": row["to_status"],
            "actor": row["actor"],
            "at": _iso(row["at"]),
        }
        for row in rows
    ]


async def flow(connection: AsyncConnection[Any], *, since: datetime, until: datetime) -> Document:
    """Throughput (tasks that reached `done`, each once) and mean cycle time (from creation to the first `done`, in
    milliseconds) of a span. From the history alone, so what it says of the past never changes."""
    rows = await _rows(
        connection,
        "WITH finished AS (SELECT task_id, min(at) AS at FROM lobs.task_status_history WHERE to_status = %s"
        " GROUP BY task_id)"
        " SELECT count(*) AS throughput, (avg(extract(epoch FROM f.at - c.at)) * 1000)::bigint AS cycle_ms"
        " FROM finished AS f JOIN LATERAL (SELECT min(at) AS at FROM lobs.task_status_history AS h"
        " WHERE h.task_id = f.task_id) AS c ON true WHERE f.at >= %s AND f.at < %s",
        [DONE, since, until],
    )
    return {"throughput": rows[0]["throughput"], "cycleTimeMs": rows[0]["cycle_ms"]}


async def _row(connection: AsyncConnection[Any], task_id: str) -> Row:
    rows = await _rows(connection, _SELECT + "WHERE t.id = %s", [task_id])
    if not rows:
        raise NotFoundError(f"there is no task {task_id}", "id")
    return rows[0]


async def _rows(
    connection: AsyncConnection[Any], query: str, parameters: Mapping[str, Any] | Sequence[Any]
) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), parameters)
        return await cursor.fetchall()


async def _insert(connection: AsyncConnection[Any], task_id: str, query: str, parameters: Sequence[Any]) -> Row:
    """Insert something that hangs on a task; a savepoint keeps the caller's transaction usable when there is none."""
    try:
        async with connection.transaction():
            return (await _rows(connection, query, parameters))[0]
    except errors.ForeignKeyViolation as error:
        raise NotFoundError(f"there is no task {task_id}", "id") from error


async def _page(
    connection: AsyncConnection[Any], table: str, task_id: str, before: int | None, limit: int
) -> list[Document]:
    await _row(connection, task_id)
    rows = await _rows(
        connection,
        f"SELECT * FROM lobs.{table} WHERE task_id = %s AND (%s::bigint IS NULL OR id < %s)"  # noqa: S608 - ours
        " ORDER BY id DESC LIMIT %s",
        [task_id, before, before, max(1, min(limit, MOST_LISTED))],
    )
    return [_hub(row) for row in rows]


async def _check_board(connection: AsyncConnection[Any], board: str) -> None:
    if not await _rows(connection, "SELECT 1 FROM lobs.boards WHERE id = %s", [board]):
        raise InvalidValueError(f"there is no board {board}", "board")


async def _depend(connection: AsyncConnection[Any], task_id: str, depends_on: Sequence[str]) -> None:
    wanted = sorted(set(depends_on))
    if not wanted:
        return
    if task_id in wanted:
        raise ConflictError("a task cannot depend on itself", "depends_on")
    # Two changes that each close half of a circle must not pass each other.
    await connection.execute("LOCK TABLE lobs.task_dependencies IN SHARE ROW EXCLUSIVE MODE")
    known = {row["id"] for row in await _rows(connection, "SELECT id FROM lobs.tasks WHERE id = ANY(%s)", [wanted])}
    if missing := [one for one in wanted if one not in known]:
        raise InvalidValueError(f"there is no task {missing[0]}", "depends_on")
    circle = await _rows(
        connection,
        "WITH RECURSIVE reached (id) AS (SELECT unnest(%s::text[]) UNION"
        " SELECT d.depends_on FROM lobs.task_dependencies AS d JOIN reached AS r ON d.task_id = r.id)"
        " SELECT 1 FROM reached WHERE id = %s",
        [wanted, task_id],
    )
    if circle:
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


async def _published(connection: AsyncConnection[Any], kind: str, task_id: str) -> Document:
    document = _task(await _row(connection, task_id))
    await outbox.publish(connection, [OutboxEvent(TOPIC, kind, document, document["gateway"])])
    return document


def _task(row: Row) -> Document:
    return {
        "id": row["id"],
        "board": row["board_id"],
        "gateway": row["gateway"],
        "title": row["title"],
        "description": row["description"],
        "status": row["status"],
        "priority": row["priority"],
        "assignedAgent": row["assigned_agent"],
        "dueDate": _iso(row["due_date"]),
        "tags": row["tags"],
        "metadata": row["metadata"],
        "dependsOn": row["depends_on"],
        "createdBy": row["created_by"],
        "createdAt": _iso(row["created_at"]),
        "updatedAt": _iso(row["updated_at"]),
        "version": row["version"],
    }


def _comment(row: Row) -> Document:
    return {
        "id": str(row["id"]),
        "taskId": row["task_id"],
        "author": row["author"],
        "content": row["content"],
        "createdAt": _iso(row["created_at"]),
    }


def _hub(row: Row) -> Document:
    """A row of the task hub as it is, with its id as text; of a session its duration too."""
    document = {
        name: _iso(value) if isinstance(value, datetime) else value for name, value in row.items() if name != "id"
    }
    if "openclaw_session_id" in row:
        ended = row["ended_at"]
        document["duration_ms"] = ended and round((ended - row["started_at"]).total_seconds() * 1000)
    return {"id": str(row["id"]), **document}


def _iso(instant: datetime | None) -> str | None:
    if instant is None:
        return None
    precision = "microseconds" if instant.microsecond else "seconds"
    return instant.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
