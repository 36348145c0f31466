"""Operations: posted by clients or derived from what agents do; every change is published with the change itself.

The message in the outbox (topic `operations`, kinds `operation_created`, `operation_updated`) carries the operation
as it is after the change, whole.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row, tuple_row
from psycopg.types.json import Jsonb

from lobservatory.errors import ConflictError, InvalidValueError, NotFoundError
from store import messages, outbox
from store.rows import OutboxEvent
from store.sorting import SORT_VALUE, Key, Order
from store.work import Operation, Step

Row = dict[str, Any]
Figures = tuple[int, int, int, Decimal | None, str | None]  # prompt, completion, total, cost, model

TOPIC: Final = "operations"
CREATED: Final = "operation_created"
UPDATED: Final = "operation_updated"
MOST_LISTED: Final = 1_000

_NEXT: Final[Mapping[str, frozenset[str]]] = {
    "pending": frozenset({"in_progress", "completed", "failed", "cancelled"}),
    "in_progress": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
_NEXT_STEP: Final[Mapping[str, frozenset[str]]] = {
    "pending": frozenset({"running", "completed", "failed", "skipped"}),
    "running": frozenset({"completed", "failed", "skipped"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "skipped": frozenset(),
}
TERMINAL: Final = frozenset(status for status, following in _NEXT.items() if not following)
_PATCHABLE: Final = frozenset(
    {
        "status",
        "current_step",
        "current_step_index",
        "activity",
        "started_at",
        "completed_at",
        "duration_ms",
        "disposition",
    }
)
_STEP_PATCHABLE: Final = frozenset({"status", "started_at", "completed_at", "duration_ms", "error"})

SORTS: Final[Mapping[str, Key]] = {
    "created_at": Key("o.created_at", "timestamptz"),
    "updated_at": Key("o.updated_at", "timestamptz"),
    "completed_at": Key("coalesce(o.completed_at, 'infinity')", "timestamptz"),  # what runs still: last
    "duration": Key("coalesce(o.duration_ms, 0)::bigint", "bigint"),
    "name": Key("o.name", "text"),
    "status": Key(
        "array_position(ARRAY['pending', 'in_progress', 'completed', 'failed', 'cancelled'], o.status)::bigint",
        "bigint",
    ),
}
_OPERATION: Final = (
    "o.id, o.version, o.type, o.name, o.description, o.status, o.skill_name, o.agent_id, o.user_id, o.channel,"
    " o.gateway, o.source, o.run_id, o.session_key, o.created_at, o.updated_at, o.started_at, o.completed_at,"
    " o.duration_ms, o.current_step, o.current_step_index, o.activity, o.disposition, o.metadata, o.tags,"
    " coalesce(m.prompt_tokens, 0) AS prompt_tokens, coalesce(m.completion_tokens, 0) AS completion_tokens,"
    " coalesce(m.total_tokens, 0) AS total_tokens, m.cost_usd, m.model"
)
_FROM: Final = "FROM lobs.operations AS o LEFT JOIN lobs.operation_metrics AS m ON m.operation_id = o.id"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFilter:
    """Which operations, in which order, and which page of them. None: any.

    `since`: those created *or changed* at that time or later, so that it gives what a client missed. `gateways`: these
    and those of no gateway. `sort`: one of SORTS, with a leading `-` falling. `limit`: at most 1,000.
    """

    status: str | None = None
    type: str | None = None
    agent_id: str | None = None
    tag: str | None = None
    since: datetime | None = None
    gateways: list[str] | None = None
    sort: str = "-created_at"
    cursor: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step of a new operation."""

    id: str
    name: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class DerivedStep:
    """A step that was seen (a tool call of a run). `id` must be the same whenever it is seen again."""

    id: str
    name: str
    status: str = "running"  # running, completed, failed, skipped
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DerivedOperation:
    """What is known of an operation that was derived. `id` must be the same whenever it is seen again, for example
    `run:<gateway>:<run id>`. None means "not known here" and never overwrites what was known."""

    id: str
    gateway: str
    type: str  # agent_task, scheduled, webhook, skill, tool_call
    name: str
    status: str
    source: str  # run, cron, webhook
    description: str | None = None
    agent_id: str | None = None
    channel: str | None = None
    run_id: str | None = None
    session_key: str | None = None
    session_id: str | None = None
    cron_job_id: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    current_step: str | None = None
    current_step_index: int | None = None
    activity: str | None = None
    skill_name: str | None = None
    disposition: Mapping[str, Any] | None = None
    steps: Sequence[DerivedStep] = ()  # those that are new or changed; others stay
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()


def run_operation_id(gateway: str, run: str) -> str:
    """The id of the operation of a run: the same for the same run, whoever sees it first, on any host and after any
    restart."""
    return "run_" + hashlib.sha256(f"{gateway}\0{run}".encode()).hexdigest()[:24]


async def create(
    connection: AsyncConnection[Any],
    *,
    type: str,  # noqa: A002 - the name that the shape gives it
    name: str,
    description: str | None = None,
    skill_name: str | None = None,
    agent_id: str | None = None,
    user_id: str | None = None,
    channel: str | None = None,
    gateway: str | None = None,
    steps: Sequence[NewStep] = (),
    metadata: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    operation_id: str | None = None,
    source: str = "posted",
    run_id: str | None = None,
    session_key: str | None = None,
) -> Operation:
    """A new operation, `pending`. Raises ConflictError for a taken id, InvalidValueError for two steps with one id."""
    identifier = operation_id or f"op_{secrets.token_hex(12)}"
    if len({step.id for step in steps}) != len(steps):
        raise InvalidValueError("each step needs an id of its own", "steps")
    inserted = await connection.execute(
        "INSERT INTO lobs.operations (id, gateway, type, name, description, skill_name, agent_id, user_id, channel,"
        " metadata, tags, source, run_id, session_key)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
        [
            identifier, gateway, type, name, description, skill_name, agent_id, user_id, channel,
            Jsonb(dict(metadata or {})), list(tags), source, run_id, session_key,
        ],
    )  # fmt: skip
    if inserted.rowcount == 0:
        raise ConflictError(f"there is an operation {identifier} already", "id")
    async with connection.cursor() as cursor:
        if steps:
            await cursor.executemany(
                "INSERT INTO lobs.operation_steps (operation_id, id, position, name, description)"
                " VALUES (%s, %s, %s, %s, %s)",
                [(identifier, step.id, position, step.name, step.description) for position, step in enumerate(steps)],
            )
    operation = await get(connection, identifier)
    await _publish(connection, CREATED, operation)
    return operation


async def get(connection: AsyncConnection[Any], operation_id: str) -> Operation:
    """One operation. Raises NotFoundError."""
    found = await _one(connection, operation_id)
    if found is None:
        raise NotFoundError(f"there is no operation {operation_id}", "id")
    return found


async def exists(connection: AsyncConnection[Any], operation_id: str) -> bool:
    """Whether there is one with that id."""
    cursor = await connection.execute("SELECT 1 FROM lobs.operations WHERE id = %s", [operation_id])
    return await cursor.fetchone() is not None


async def list_operations(
    connection: AsyncConnection[Any], wanted: OperationFilter
) -> tuple[list[Operation], str | None]:
    """A page of operations, and the cursor of the next one (None: there is none). Raises InvalidValueError for an
    unknown order and for a cursor that is not of it."""
    most = max(1, min(wanted.limit, MOST_LISTED))
    order = Order.of(wanted.sort, SORTS, ["o.id"])
    beyond, place = order.beyond(wanted.cursor)
    async with connection.cursor(row_factory=dict_row) as found:
        await found.execute(
            (
                f"SELECT {_OPERATION}, {order.value} {_FROM} WHERE {beyond}"
                " AND (%(status)s::text IS NULL OR o.status = %(status)s)"
                " AND (%(type)s::text IS NULL OR o.type = %(type)s)"
                " AND (%(agent_id)s::text IS NULL OR o.agent_id = %(agent_id)s)"
                " AND (%(tag)s::text IS NULL OR o.tags @> ARRAY[%(tag)s::text])"
                " AND (%(since)s::timestamptz IS NULL OR o.updated_at >= %(since)s)"
                " AND (%(gateways)s::text[] IS NULL OR o.gateway IS NULL OR o.gateway = ANY(%(gateways)s))"
                f" ORDER BY {order.by} LIMIT %(most)s"
            ).encode(),
            {**asdict(wanted), **place, "most": most + 1},
        )
        rows = await found.fetchall()
    following = order.cursor(rows[most - 1]) if len(rows) > most else None
    page = [Operation(**{name: row[name] for name in row if name != SORT_VALUE}) for row in rows[:most]]
    return await _with_steps(connection, page), following


async def derived_since(connection: AsyncConnection[Any], gateway: str, since: datetime) -> list[DerivedOperation]:
    """What was derived of a gateway and changed at `since` or later, with its steps, oldest first: what is in progress
    before all else, and at most 1,000."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT * FROM lobs.operations WHERE gateway = %s AND source <> 'posted' AND updated_at >= %s"
            " ORDER BY (status IN ('pending', 'in_progress')) DESC, updated_at DESC, id LIMIT %s",
            [gateway, since, MOST_LISTED],
        )
        known = await cursor.fetchall()
        await cursor.execute(
            "SELECT operation_id, id, name, status, started_at, completed_at, duration_ms, error"
            " FROM lobs.operation_steps WHERE operation_id = ANY(%s) ORDER BY operation_id, position, id",
            [[row["id"] for row in known]],
        )
        steps: dict[str, list[DerivedStep]] = {}
        for step in await cursor.fetchall():
            steps.setdefault(step.pop("operation_id"), []).append(DerivedStep(**step))
    names = [one.name for one in fields(DerivedOperation) if one.name not in {"steps", "tags"}]
    found = [
        DerivedOperation(
            **{name: row[name] for name in names}, steps=tuple(steps.get(row["id"], ())), tags=tuple(row["tags"])
        )
        for row in known
    ]
    return sorted(found, key=lambda one: (one.started_at or since, one.id))


async def patch(
    connection: AsyncConnection[Any],
    operation_id: str,
    changes: Mapping[str, Any],
    *,
    expected_version: int | None = None,
) -> Operation:
    """Change what is in `changes`: status, current_step, current_step_index, activity, started_at, completed_at,
    duration_ms, disposition. What a new status implies (instants, duration, disposition) is filled in where it is not
    given. Raises NotFoundError; ConflictError for an illegal transition, and when somebody changed it since
    `expected_version`."""
    if unknown := set(changes) - _PATCHABLE:
        raise InvalidValueError(f"cannot be changed: {', '.join(sorted(unknown))}", min(unknown))
    row = await _locked(connection, operation_id, expected_version)
    values = dict(changes)
    status = values.get("status", row["status"])
    if status != row["status"] and status not in _NEXT.get(row["status"], frozenset()):
        raise ConflictError(f"an operation that is {row['status']} cannot become {status}", "status")
    now = datetime.now(UTC)
    started = values.get("started_at", row["started_at"])
    if status != "pending" and started is None:
        started = values["started_at"] = min(now, values.get("completed_at") or now)
    if status in TERMINAL:
        completed = values.get("completed_at") or row["completed_at"] or now
        values["completed_at"] = completed
        if values.get("duration_ms") is None and ("duration_ms" not in row or row["duration_ms"] is None):
            values["duration_ms"] = _milliseconds(started, completed)
        if values.get("disposition", row["disposition"]) is None:
            values["disposition"] = {"success": status == "completed"}
    await _update(connection, operation_id, values)
    operation = await get(connection, operation_id)
    await _publish(connection, UPDATED, operation)
    return operation


async def claim(connection: AsyncConnection[Any], operation_id: str, *, name: str, user_id: str) -> None:
    """Give an operation that was derived from a run the name and the user of the command that started the run; one
    that has a user already keeps both. Raises NotFoundError."""
    row = await _locked(connection, operation_id)
    if row["user_id"] is None:
        await _update(connection, operation_id, {"name": name, "user_id": user_id})
        await _publish(connection, UPDATED, await get(connection, operation_id))


async def patch_step(
    connection: AsyncConnection[Any],
    operation_id: str,
    step_id: str,
    changes: Mapping[str, Any],
    *,
    expected_version: int | None = None,
) -> Operation:
    """Change a step: status, started_at, completed_at, duration_ms, error. Instants that a status implies are filled
    in; the duration is their difference. Raises NotFoundError; ConflictError for an illegal transition, and when
    somebody changed the operation since `expected_version`."""
    if unknown := set(changes) - _STEP_PATCHABLE:
        raise InvalidValueError(f"cannot be changed: {', '.join(sorted(unknown))}", min(unknown))
    await _locked(connection, operation_id, expected_version)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT * FROM lobs.operation_steps WHERE operation_id = %s AND id = %s", [operation_id, step_id]
        )
        row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"the operation {operation_id} has no step {step_id}", "step_id")
    values = {name: value for name, value in changes.items() if value is not None}
    status = values.get("status", row["status"])
    if status != row["status"] and status not in _NEXT_STEP.get(row["status"], frozenset()):
        raise ConflictError(f"a step that is {row['status']} cannot become {status}", "status")
    now = datetime.now(UTC)
    started = values.get("started_at", row["started_at"])
    if status not in {"pending", "skipped"} and started is None:
        started = values["started_at"] = min(now, values.get("completed_at") or now)
    if not _NEXT_STEP.get(status, frozenset()):
        completed = values.get("completed_at") or row["completed_at"] or now
        values["completed_at"] = completed
        if "duration_ms" not in values and started is not None:
            values["duration_ms"] = _milliseconds(started, completed)
    await connection.execute(
        "UPDATE lobs.operation_steps SET status = %s, started_at = %s, completed_at = %s, duration_ms = %s, error = %s"
        " WHERE operation_id = %s AND id = %s",
        [
            status, started, values.get("completed_at", row["completed_at"]),
            values.get("duration_ms", row["duration_ms"]), values.get("error", row["error"]), operation_id, step_id,
        ],
    )  # fmt: skip
    here = {"current_step": row["name"], "current_step_index": row["position"]} if status == "running" else {}
    await _update(connection, operation_id, here)
    operation = await get(connection, operation_id)
    await _publish(connection, UPDATED, operation)
    return operation


async def patch_metrics(
    connection: AsyncConnection[Any],
    operation_id: str,
    *,
    prompt: int,
    completion: int,
    total: int | None = None,
    cost: Decimal | None = None,
    model: str | None = None,
    expected_version: int | None = None,
) -> Operation:
    """Replace the token figures. `total` None: the sum; `cost` None: not known. Raises NotFoundError; ConflictError
    when somebody changed the operation since `expected_version`."""
    await _locked(connection, operation_id, expected_version)
    figures = (prompt, completion, prompt + completion if total is None else total, cost, model)
    await _save_metrics(connection, operation_id, figures)
    await _update(connection, operation_id, {})
    operation = await get(connection, operation_id)
    await _publish(connection, UPDATED, operation)
    return operation


async def upsert_derived(connection: AsyncConnection[Any], found: Iterable[DerivedOperation]) -> list[Operation]:
    """Merge what was seen of operations; gives (and publishes) those that were new or changed. Seeing the same again
    changes nothing, and what has ended never begins again. Tokens and cost come from its model calls."""
    events: list[OutboxEvent] = []
    changed: list[Operation] = []
    # In the order of their ids: two writers that see the same ones then never deadlock.
    wanted = sorted(found, key=lambda operation: operation.id)
    for gateway in sorted({one.gateway for one in wanted}):
        await _in_turn(connection, gateway)
    for one in wanted:
        before = await _one(connection, one.id, "FOR UPDATE OF o")
        await _merge(connection, one, before)
        if before is None or one.status in TERMINAL:  # else its calls were summed up when they came
            await _measure(connection, one.id)
        after = await get(connection, one.id)
        if before == after:
            continue
        version, updated_at = await _update(connection, one.id, {})
        after = replace(after, version=version, updated_at=updated_at)
        changed.append(after)
        events.append(_event(UPDATED if before else CREATED, after))
    await outbox.publish(connection, events)
    return changed


async def refresh_runs(
    connection: AsyncConnection[Any],
    gateway: str,
    run_ids: Collection[str],
    sessions: Mapping[str, tuple[datetime, datetime]] = MappingProxyType({}),
) -> list[OutboxEvent]:
    """Bring tokens and cost of operations up to their model calls; gives the messages to publish. Of these runs, and
    of those that were at work in a session between two instants (for calls that do not tell their run). For the
    ledger, in the transaction that inserts the calls."""
    await _in_turn(connection, gateway)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id FROM lobs.operations WHERE id IN (SELECT id FROM lobs.operations WHERE gateway = %s AND"
            " run_id = ANY(%s) UNION SELECT o.id FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[])"
            " AS s (session_id, since, until) JOIN lobs.operations AS o USING (session_id) WHERE o.gateway = %s"
            " AND o.started_at <= s.until AND coalesce(o.completed_at, 'infinity') >= s.since) ORDER BY id FOR UPDATE",
            [
                gateway, list(run_ids), list(sessions), [since for since, _ in sessions.values()],
                [until for _, until in sessions.values()], gateway,
            ],
        )  # fmt: skip
        known = await cursor.fetchall()
    events = []
    for row in known:
        if await _measure(connection, row["id"]):
            await _update(connection, row["id"], {})
            events.append(_event(UPDATED, await get(connection, row["id"])))
    return events


async def _merge(connection: AsyncConnection[Any], one: DerivedOperation, before: Operation | None) -> None:
    status = one.status
    if before is not None and status not in _NEXT[before.status]:
        status = before.status
    completed = one.completed_at if status in TERMINAL else None
    disposition = one.disposition
    if disposition is None and status in TERMINAL:
        disposition = {"success": status == "completed"}
    duration = _milliseconds(one.started_at, completed) if one.started_at and completed else None
    await connection.execute(
        """
        INSERT INTO lobs.operations AS o (id, gateway, type, name, description, status, agent_id, channel, created_at,
            started_at, completed_at, duration_ms, current_step, activity, disposition, metadata, tags, source, run_id,
            session_key, session_id, cron_job_id, skill_name, current_step_index)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, coalesce(%s, now()), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
            %s, %s)
        ON CONFLICT (id) DO UPDATE SET
            type = excluded.type,
            name = CASE WHEN o.user_id IS NULL THEN excluded.name ELSE o.name END,  -- as whoever asked for it named it
            description = coalesce(excluded.description, o.description),
            status = excluded.status,
            agent_id = coalesce(excluded.agent_id, o.agent_id),
            channel = coalesce(excluded.channel, o.channel),
            started_at = least(o.started_at, excluded.started_at),
            completed_at = coalesce(o.completed_at, excluded.completed_at),
            duration_ms = coalesce(o.duration_ms, excluded.duration_ms,
                (extract(epoch FROM excluded.completed_at - o.started_at) * 1000)::bigint),
            current_step = coalesce(excluded.current_step, o.current_step),
            activity = coalesce(excluded.activity, o.activity),
            disposition = coalesce(o.disposition, excluded.disposition),
            metadata = o.metadata || excluded.metadata,
            tags = CASE WHEN excluded.tags = '{}' THEN o.tags ELSE excluded.tags END,
            run_id = coalesce(excluded.run_id, o.run_id),
            session_key = coalesce(excluded.session_key, o.session_key),
            session_id = coalesce(excluded.session_id, o.session_id),
            cron_job_id = coalesce(excluded.cron_job_id, o.cron_job_id),
            skill_name = coalesce(excluded.skill_name, o.skill_name),
            current_step_index = coalesce(excluded.current_step_index, o.current_step_index)
        """,
        [
            one.id, one.gateway, one.type, one.name, one.description, status, one.agent_id, one.channel,
            one.started_at, one.started_at, completed, duration, one.current_step, one.activity,
            None if disposition is None else Jsonb(dict(disposition)), Jsonb(dict(one.metadata)), list(one.tags),
            one.source, one.run_id, one.session_key, one.session_id, one.cron_job_id, one.skill_name,
            one.current_step_index,
        ],
    )  # fmt: skip
    if not one.steps:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO lobs.operation_steps AS s (operation_id, id, position, name, status, started_at, completed_at,
                duration_ms, error)
            VALUES (%s, %s, (SELECT count(*) FROM lobs.operation_steps WHERE operation_id = %s), %s, %s, %s, %s, %s, %s)
            ON CONFLICT (operation_id, id) DO UPDATE SET
                name = excluded.name,
                status = CASE WHEN s.status IN ('completed', 'failed', 'skipped') THEN s.status
                    ELSE excluded.status END,
                started_at = coalesce(s.started_at, excluded.started_at),
                completed_at = coalesce(s.completed_at, excluded.completed_at),
                duration_ms = coalesce(s.duration_ms, excluded.duration_ms,
                    (extract(epoch FROM excluded.completed_at - s.started_at) * 1000)::bigint),
                error = coalesce(s.error, excluded.error)
            """,
            [
                (
                    one.id, step.id, one.id, step.name, step.status, step.started_at, step.completed_at,
                    step.duration_ms
                    if step.duration_ms is not None or step.started_at is None or step.completed_at is None
                    else _milliseconds(step.started_at, step.completed_at),
                    step.error,
                )
                for step in one.steps
            ],
        )  # fmt: skip


async def _in_turn(connection: AsyncConnection[Any], gateway: str) -> None:
    """Wait until nobody else sums up calls of this gateway's operations, until the end of the transaction.

    Who writes an operation and who writes its calls do not see each other before both have committed: both would find
    nothing to sum up, and an operation that has ended is never looked at again.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('operations of ' || %s, 0))", [gateway])


async def _measure(connection: AsyncConnection[Any], operation_id: str) -> bool:
    """Sum its model calls into an operation; whether anything changed. They are those that name its run, and those of
    its session while it ran that name none (older gateways); a job's or webhook's run has a session of its own, and
    maybe several run ids. Equivalent money is not billed money: a run that only a subscription pays for has no cost
    here."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            WITH o AS MATERIALIZED (SELECT * FROM lobs.operations WHERE id = %s)
            SELECT count(*) AS calls,
                coalesce(sum(c.input_tokens + c.cache_read_tokens + c.cache_write_tokens), 0)::bigint AS prompt,
                coalesce(sum(c.output_tokens), 0)::bigint AS completion,
                sum(c.cost_usd) FILTER (WHERE c.billing = 'billed') AS cost,
                (array_agg(c.model ORDER BY c.ts DESC))[1] AS model
            FROM (
                SELECT c.* FROM o JOIN lobs.model_calls AS c ON c.gateway = o.gateway AND c.run_id = o.run_id
                UNION ALL
                SELECT c.* FROM o JOIN lobs.model_calls AS c ON c.gateway = o.gateway AND c.session_id = o.session_id
                    AND c.ts BETWEEN o.started_at AND coalesce(o.completed_at, 'infinity')
                WHERE c.run_id IS NULL
                    OR (c.run_id IS DISTINCT FROM o.run_id AND o.type IN ('scheduled', 'webhook')
                        AND o.session_key LIKE '%%:run:%%')
            ) AS c
            """,
            [operation_id],
        )
        row = await cursor.fetchone()
    if row is None or row["calls"] == 0:
        return False
    prompt, completion = row["prompt"], row["completion"]
    figures = (prompt, completion, prompt + completion, row["cost"], row["model"])
    return await _save_metrics(connection, operation_id, figures)


async def _save_metrics(connection: AsyncConnection[Any], operation_id: str, figures: Figures) -> bool:
    saved = await connection.execute(
        """
        INSERT INTO lobs.operation_metrics AS m
            (operation_id, prompt_tokens, completion_tokens, total_tokens, cost_usd, model)
        VALUES (%s, %s, %s, %s, %s, %s)
        ON CONFLICT (operation_id) DO UPDATE SET
            prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
            total_tokens = excluded.total_tokens, cost_usd = excluded.cost_usd, model = excluded.model,
            updated_at = now()
        WHERE (m.prompt_tokens, m.completion_tokens, m.total_tokens, m.cost_usd, m.model) IS DISTINCT FROM
            (excluded.prompt_tokens, excluded.completion_tokens, excluded.total_tokens, excluded.cost_usd,
             excluded.model)
        """,
        [operation_id, *figures],
    )
    return saved.rowcount > 0


async def _locked(connection: AsyncConnection[Any], operation_id: str, expected_version: int | None = None) -> Row:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT * FROM lobs.operations WHERE id = %s FOR UPDATE", [operation_id])
        row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"there is no operation {operation_id}", "id")
    if expected_version is not None and row["version"] != expected_version:
        raise ConflictError("somebody else has changed this operation since you read it", "version")
    return row


async def _update(
    connection: AsyncConnection[Any], operation_id: str, values: Mapping[str, Any]
) -> tuple[int, datetime]:
    """Change columns of an operation; gives what every change changes: its version, and when it was changed."""
    columns = {
        name: Jsonb(value) if name == "disposition" and value is not None else value for name, value in values.items()
    }
    # The names are those of _PATCHABLE, never of a client.
    assignments = "".join(f"{name} = %({name})s, " for name in columns)
    statement = (
        f"UPDATE lobs.operations SET {assignments}updated_at = clock_timestamp(), version = version + 1"  # noqa: S608
        " WHERE id = %(operation_id)s RETURNING version, updated_at"
    )
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(statement.encode(), {**columns, "operation_id": operation_id})
        row = await cursor.fetchone()
    if row is None:
        raise AssertionError("an operation that was locked is gone")
    version, updated_at = row
    return version, updated_at


def _event(kind: str, operation: Operation) -> OutboxEvent:
    return OutboxEvent(TOPIC, kind, messages.operation(operation), operation.gateway)


async def _publish(connection: AsyncConnection[Any], kind: str, operation: Operation) -> None:
    await outbox.publish(connection, [_event(kind, operation)])


async def _one(connection: AsyncConnection[Any], operation_id: str, lock: str = "") -> Operation | None:
    async with connection.cursor(row_factory=class_row(Operation)) as cursor:
        await cursor.execute(f"SELECT {_OPERATION} {_FROM} WHERE o.id = %s {lock}".encode(), [operation_id])
        found = await cursor.fetchone()
    return None if found is None else (await _with_steps(connection, [found]))[0]


async def _with_steps(connection: AsyncConnection[Any], operations: Sequence[Operation]) -> list[Operation]:
    steps: dict[str, list[Step]] = {}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT operation_id, id, name, description, status, started_at, completed_at, duration_ms, error"
            " FROM lobs.operation_steps WHERE operation_id = ANY(%s) ORDER BY operation_id, position, id",
            [[operation.id for operation in operations]],
        )
        for row in await cursor.fetchall():
            steps.setdefault(row.pop("operation_id"), []).append(Step(**row))
    return [replace(operation, steps=steps.get(operation.id, ())) for operation in operations]


def _milliseconds(started: datetime | None, completed: datetime) -> int:
    if started is None:
        return 0
    return max(0, round((completed - started).total_seconds() * 1000))
