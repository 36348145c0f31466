"""Runs that users asked for: a cap per user, the queue behind it, pipelines, and results to deliver.

A row is *held* by one process at a time, for `HOLD`: whoever takes it to act on it. When that process dies, the row is
taken again afterwards. The text of a stage is dropped just before it is sent: what still has it was certainly not sent,
and of what has none nobody knows, unless the exporter has seen the run, whose id `gateway_run` makes of the row.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from lobservatory.errors import ConflictError
from store.pool import Connection

HOLD: Final = timedelta(minutes=2)  # longer than all calls together that one stage takes
KEPT: Final = timedelta(days=30)  # of what has ended
LONGEST: Final = timedelta(days=1)  # of one stage whose end nobody has seen
MOST_WAITING: Final = 100  # of one user

_ENDED: Final = "('completed', 'failed', 'cancelled')"


class Stage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One run of a pipeline, in the names of the table's own JSON. `task` is gone once the gateway has it; the ids come
    when it does."""

    agent_id: str
    session_key: str
    model: str | None = None
    task: str | None = None
    run_id: str | None = None
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks for."""

    label: str
    stages: Sequence[Stage]
    deliver_to: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class RequestedRun:
    """A row. `stage` is the index of the one at hand."""

    id: str
    gateway: str
    token_id: str
    requested_by: str
    label: str
    status: str
    stage: int
    raw_stages: list[Any]
    created_at: datetime
    operation_id: str | None = None
    error: str | None = None
    task_id: str | None = None
    deliver_to: str | None = None
    delivery: str | None = None
    delivery_attempts: int = 0
    delivery_error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    position: int | None = None  # in the queue of its user, from 1
    stages: list[Stage] = field(init=False)

    def __post_init__(self) -> None:
        """Decode the stages."""
        object.__setattr__(self, "stages", msgspec.convert(self.raw_stages, list[Stage]))

    @property
    def at_hand(self) -> Stage:
        """The stage that runs or is next."""
        return self.stages[self.stage]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are of a gateway now. `oldest`: since when the longest waiting one waits."""

    waiting: int
    running: int
    undelivered: int
    oldest: datetime | None


_COLUMNS: Final = (
    "id, gateway, token_id, requested_by, label, status, stage, stages AS raw_stages, created_at, operation_id, error,"
    " task_id, deliver_to, delivery, delivery_attempts, delivery_error, started_at, ended_at"
)


def gateway_run(run: str, stage: int) -> str:
    """The gateway's id of the run of a stage; as an idempotency key it starts one run however often it is sent."""
    return f"{run}-{stage}"


async def place(
    connection: Connection, asked: Asked, *, gateway: str, token_id: str, requested_by: str, most: int
) -> RequestedRun:
    """Keep a request: `running` and held when its user has room, else `waiting`. `most`: of one user, 0 for no cap.

    Of a run that starts at once the first task is not kept. Raises ConflictError when too many wait already.
    """
    await _one_at_a_time(connection, gateway, requested_by)
    cursor = await connection.execute(
        "SELECT count(*) FILTER (WHERE status = 'running') AS running, count(*) FILTER (WHERE status = 'waiting')"
        " AS waiting FROM lobs.requested_runs"
        " WHERE gateway = %s AND requested_by = %s AND status IN ('waiting', 'running')",
        [gateway, requested_by],
    )
    row = await cursor.fetchone() or {"running": 0, "waiting": 0}
    room = not most or (row["running"] < most and not row["waiting"])
    if not room and row["waiting"] >= MOST_WAITING:
        raise ConflictError(f"{MOST_WAITING} runs of this user wait already")
    kept = list(asked.stages)
    if room:
        kept[0] = msgspec.structs.replace(kept[0], task=None)
    return await _one(
        connection,
        "INSERT INTO lobs.requested_runs (id, gateway, token_id, requested_by, label, stages, status, deliver_to,"
        " task_id, started_at, held_until) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s,"
        " CASE WHEN %s THEN now() END, CASE WHEN %s THEN now() + %s END)",
        [
            f"request_{secrets.token_hex(8)}",
            gateway,
            token_id,
            requested_by,
            asked.label,
            _json(kept),
            "running" if room else "waiting",
            asked.deliver_to,
            asked.task_id,
            room,
            room,
            HOLD,
        ],
    )


async def take_waiting(connection: Connection, *, gateway: str, most: int) -> RequestedRun | None:
    """The longest waiting run of a user who has room, held and `running` from now on."""
    cursor = await connection.execute(
        "SELECT requested_by FROM lobs.requested_runs WHERE gateway = %s AND status IN ('waiting', 'running')"
        " GROUP BY 1 HAVING bool_or(status = 'waiting') AND (%s = 0 OR count(*) FILTER (WHERE status = 'running') < %s)"
        " ORDER BY min(created_at) FILTER (WHERE status = 'waiting') LIMIT 1",
        [gateway, most, most],
    )
    user = await cursor.fetchone()
    if user is None:
        return None
    await _one_at_a_time(connection, gateway, user["requested_by"])
    # Counted once more: somebody may have been quicker.
    return await _maybe(
        connection,
        "UPDATE lobs.requested_runs SET status = 'running', started_at = now(), held_until = now() + %(hold)s"
        " WHERE id = (SELECT id FROM lobs.requested_runs WHERE gateway = %(gateway)s AND requested_by = %(user)s"
        "  AND status = 'waiting' ORDER BY created_at, id LIMIT 1)"
        " AND (%(most)s = 0 OR %(most)s > (SELECT count(*) FROM lobs.requested_runs"
        "  WHERE gateway = %(gateway)s AND requested_by = %(user)s AND status = 'running'))",
        {"gateway": gateway, "user": user["requested_by"], "most": most, "hold": HOLD},
    )


async def put_back(connection: Connection, run: RequestedRun) -> None:
    """It was not sent: at its first stage it waits again, at its old place; at another one it soon is a lost one."""
    await connection.execute(
        "UPDATE lobs.requested_runs SET stages = %s, status = CASE WHEN stage = 0 THEN 'waiting' ELSE status END,"
        " started_at = CASE WHEN stage > 0 THEN started_at END,"
        " held_until = CASE WHEN stage > 0 THEN now() + interval '5 seconds' END"
        " WHERE id = %s AND status = 'running' AND stage = %s",
        [_json(run.stages), run.id, run.stage],
    )


async def withdraw(connection: Connection, run: RequestedRun) -> None:
    """It was not sent, and whoever asked for it is told so."""
    await connection.execute("DELETE FROM lobs.requested_runs WHERE id = %s AND status = 'running'", [run.id])


async def sending(connection: Connection, run: RequestedRun) -> bool:
    """From now on the stage at hand may have been sent. False: it may not be, it was cancelled meanwhile."""
    stages = list(run.stages)
    stages[run.stage] = msgspec.structs.replace(run.at_hand, task=None)
    cursor = await connection.execute(
        "UPDATE lobs.requested_runs SET stages = %s, held_until = now() + %s"
        " WHERE id = %s AND status = 'running' AND stage = %s",
        [_json(stages), HOLD, run.id, run.stage],
    )
    return cursor.rowcount > 0


async def sent(connection: Connection, run: RequestedRun, *, run_id: str, operation_id: str) -> bool:
    """The gateway has the stage at hand: its text is not kept any longer. False: it was cancelled meanwhile."""
    stages = list(run.stages)
    stages[run.stage] = msgspec.structs.replace(
        run.at_hand, task=None, run_id=run_id, operation_id=operation_id, session_key=run.at_hand.session_key
    )
    now = await locked(connection, run.id)
    if now is not None and now.status != "running":  # whose texts of later stages are gone already
        stages = [msgspec.structs.replace(stage, task=None) for stage in stages]
    cursor = await connection.execute(
        "UPDATE lobs.requested_runs SET stages = %s, operation_id = %s, held_until = NULL WHERE id = %s AND stage = %s"
        " RETURNING status",
        [_json(stages), operation_id, run.id, run.stage],
    )
    row = await cursor.fetchone()
    return row is not None and row["status"] == "running"


async def take_ended(connection: Connection, *, gateway: str) -> tuple[RequestedRun, str, str | None] | None:
    """A run whose stage at hand has ended, held, with how it ended (a status of operations) and with what error."""
    cursor = await connection.execute(
        "SELECT r.id, o.status, o.disposition ->> 'error' AS error FROM lobs.requested_runs AS r"  # noqa: S608 - constants
        " JOIN lobs.operations AS o ON o.id = r.operation_id"
        " WHERE r.gateway = %s AND r.status = 'running' AND (r.held_until IS NULL OR r.held_until < now())"
        f" AND o.status IN {_ENDED} ORDER BY o.completed_at LIMIT 1 FOR UPDATE OF r SKIP LOCKED",
        [gateway],
    )
    found = await cursor.fetchone()
    if found is None:
        return None
    run = await _one(
        connection,
        "UPDATE lobs.requested_runs SET held_until = now() + %s WHERE id = %s",
        [HOLD, found["id"]],
    )
    return run, found["status"], found["error"]


async def take_lost(connection: Connection, *, gateway: str) -> RequestedRun | None:
    """A run whose holder died before the gateway had the stage at hand, or whose end nobody will see; held."""
    return await _maybe(
        connection,
        "UPDATE lobs.requested_runs SET held_until = now() + %(hold)s WHERE id = (SELECT r.id"
        " FROM lobs.requested_runs AS r WHERE r.gateway = %(gateway)s AND r.status = 'running'"
        " AND CASE WHEN r.operation_id IS NULL THEN r.held_until < now()"
        "  ELSE (r.held_until IS NULL OR r.held_until < now())"
        "   AND (r.started_at < now() - %(longest)s * jsonb_array_length(r.stages)"
        "    OR NOT EXISTS (SELECT 1 FROM lobs.operations AS o WHERE o.id = r.operation_id)) END"
        " ORDER BY r.created_at LIMIT 1 FOR UPDATE SKIP LOCKED)",
        {"gateway": gateway, "hold": HOLD, "longest": LONGEST},
    )


async def next_stage(connection: Connection, run: RequestedRun) -> RequestedRun | None:
    """On to the next one, still held; None: it was cancelled meanwhile."""
    return await _maybe(
        connection,
        "UPDATE lobs.requested_runs SET stage = stage + 1, operation_id = NULL, held_until = now() + %s"
        " WHERE id = %s AND status = 'running' AND stage = %s",
        [HOLD, run.id, run.stage],
    )


async def finish(connection: Connection, run: RequestedRun, status: str, error: str | None = None) -> bool:
    """Its end; texts of stages that were not sent are not kept. False when it had ended already."""
    stages = [msgspec.structs.replace(stage, task=None) for stage in run.stages]
    cursor = await connection.execute(
        "UPDATE lobs.requested_runs SET status = %s, error = %s, stages = %s, ended_at = now(), held_until = NULL,"
        " delivery = CASE WHEN deliver_to IS NOT NULL THEN 'pending' END, deliver_after = now()"
        " WHERE id = %s AND status IN ('waiting', 'running')",
        [status, None if error is None else error.replace("\0", ""), _json(stages), run.id],
    )
    return cursor.rowcount > 0


async def take_delivery(connection: Connection, *, gateway: str) -> RequestedRun | None:
    """A result that is due, with one attempt more; after `HOLD` it is due again."""
    return await _maybe(
        connection,
        "UPDATE lobs.requested_runs SET delivery_attempts = delivery_attempts + 1, deliver_after = now() + %(hold)s"
        " WHERE id = (SELECT id FROM lobs.requested_runs WHERE gateway = %(gateway)s AND delivery = 'pending'"
        "  AND deliver_after <= now() ORDER BY deliver_after LIMIT 1 FOR UPDATE SKIP LOCKED)",
        {"gateway": gateway, "hold": HOLD},
    )


async def delivered(connection: Connection, run: str) -> None:
    """It has arrived."""
    await connection.execute(
        "UPDATE lobs.requested_runs SET delivery = 'delivered', delivery_error = NULL WHERE id = %s", [run]
    )


async def not_delivered(connection: Connection, run: str, error: str, again_in: timedelta | None) -> None:
    """It has not; None: it will not be tried again."""
    await connection.execute(
        "UPDATE lobs.requested_runs SET delivery_error = %s, delivery = CASE WHEN %s THEN 'failed' ELSE 'pending' END,"
        " deliver_after = now() + coalesce(%s, interval '0') WHERE id = %s",
        [error, again_in is None, again_in, run],
    )


async def locked(connection: Connection, run: str) -> RequestedRun | None:
    """One, which nobody else changes before the end of the transaction."""
    async with connection.cursor(row_factory=class_row(RequestedRun)) as cursor:
        await cursor.execute(f"SELECT {_COLUMNS} FROM lobs.requested_runs WHERE id = %s FOR UPDATE", [run])  # noqa: S608 - constants
        return await cursor.fetchone()


async def get(connection: Connection, run: str) -> RequestedRun | None:
    """One, with its place in the queue."""
    found = await _list(connection, "r.id = %s", [run], 1)
    return found[0] if found else None


async def newest(
    connection: Connection, *, gateways: Sequence[str] | None, requested_by: str | None, status: str | None, limit: int
) -> list[RequestedRun]:
    """The newest first. None: of all gateways, of all users, of every status."""
    return await _list(
        connection,
        "(%s::text[] IS NULL OR r.gateway = ANY(%s)) AND (%s::text IS NULL OR r.requested_by = %s)"
        " AND (%s::text IS NULL OR r.status = %s)",
        [gateways, gateways, requested_by, requested_by, status, status],
        limit,
    )


async def counts(connection: Connection, *, gateway: str) -> Counts:
    """Those that wait, run, or have a result to deliver."""
    cursor = connection.cursor(row_factory=class_row(Counts))
    await cursor.execute(
        "SELECT count(*) FILTER (WHERE status = 'waiting') AS waiting,"
        " count(*) FILTER (WHERE status = 'running') AS running,"
        " count(*) FILTER (WHERE delivery = 'pending') AS undelivered,"
        " min(created_at) FILTER (WHERE status = 'waiting') AS oldest FROM lobs.requested_runs"
        " WHERE gateway = %s AND (status IN ('waiting', 'running') OR delivery = 'pending')",
        [gateway],
    )
    row = await cursor.fetchone()
    if row is None:
        raise AssertionError("an aggregate gave no row")
    return row


async def forget(connection: Connection) -> None:
    """Delete what ended long ago."""
    await connection.execute("DELETE FROM lobs.requested_runs WHERE ended_at < now() - %s", [KEPT])


async def _one_at_a_time(connection: Connection, gateway: str, user: str) -> None:
    """Until the end of the transaction nobody else counts or starts runs of this user."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('requested runs ' || %s || chr(31) || %s, 0))", [gateway, user]
    )


def _json(stages: Sequence[Stage]) -> Jsonb:
    return Jsonb(msgspec.to_builtins(list(stages)))


async def _list(connection: Connection, where: str, values: Sequence[Any], limit: int) -> list[RequestedRun]:
    async with connection.cursor(row_factory=class_row(RequestedRun)) as cursor:
        await cursor.execute(
            f"SELECT {_COLUMNS}, CASE WHEN status = 'waiting' THEN (SELECT count(*) FROM lobs.requested_runs AS o"  # noqa: S608 - constants
            " WHERE o.gateway = r.gateway AND o.requested_by = r.requested_by AND o.status = 'waiting'"
            " AND (o.created_at, o.id) <= (r.created_at, r.id)) END AS position"
            f" FROM lobs.requested_runs AS r WHERE {where} ORDER BY r.created_at DESC, r.id DESC LIMIT %s",
            [*values, limit],
        )
        return await cursor.fetchall()


async def _maybe(connection: Connection, statement: str, values: Any) -> RequestedRun | None:
    async with connection.cursor(row_factory=class_row(RequestedRun)) as cursor:
        await cursor.execute(f"{statement} RETURNING {_COLUMNS}", values)
        return await cursor.fetchone()


async def _one(connection: Connection, statement: str, values: Any) -> RequestedRun:
    run = await _maybe(connection, statement, values)
    if run is None:
        raise ConflictError("the run has gone on meanwhile")
    return run
