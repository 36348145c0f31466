"""Operations: shapes, transitions, steps, metrics, derivation, and what live clients are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from lobservatory.errors import ConflictError, InvalidValueError, NotFoundError
from store import commands, messages, operations, outbox
from store.ledger.postgres import PostgresLedger
from store.operations import DerivedOperation, DerivedStep, NewStep, OperationFilter
from store.pool import open_pool
from store.rows import ModelCall
from tests.servers import PATIENCE_SECONDS

T0 = datetime(2026, 1, 29, 10, 0, tzinfo=UTC)
STEPS = [NewStep(f"s{number}", f"Step {number}") for number in range(1, 8)]


@pytest.fixture
async def pool(postgres_dsn):
    async with open_pool(postgres_dsn) as opened:
        yield opened


async def make(pool, **fields):
    async with pool.connection() as connection:
        return await operations.create(connection, **{"type": "skill", "name": "Research", **fields})


async def listed(pool, **wanted):
    async with pool.connection() as connection:
        found, _ = await operations.list_operations(connection, OperationFilter(**wanted))
    return found


async def patch(pool, identifier, **changes):
    async with pool.connection() as connection:
        return await operations.patch(connection, identifier, changes)


async def events(pool, after=0):
    async with pool.connection() as connection:
        return await outbox.read(connection, after)


@pytest.mark.req("S0-1")
@pytest.mark.parametrize("kind", ["skill", "tool_call", "agent_task", "webhook", "scheduled"])
async def test_each_type_is_kept(pool, kind):
    assert (await make(pool, type=kind)).type == kind


@pytest.mark.req("S0-2")
async def test_what_was_created_comes_back_equal(pool):
    given = {
        "description": "Find it", "skill_name": "research", "agent_id": "main", "user_id": "u1", "channel": "telegram",
        "steps": STEPS, "metadata": {"deep": {"list": [1, None, "é"]}}, "tags": ["course"],
    }  # fmt: skip
    made = await make(pool, **given)
    async with pool.connection() as connection:
        assert await operations.get(connection, made.id) == made
    assert made.status == "pending"
    assert made.skill_name == "research"
    assert [step.id for step in made.steps] == [step.id for step in STEPS]
    assert made.metadata == given["metadata"]
    assert made.cost_usd is None


@pytest.mark.req("S0-3")
@pytest.mark.parametrize("ended", ["completed", "failed", "cancelled"])
async def test_what_has_ended_does_not_begin_again(pool, ended):
    identifier = (await make(pool)).id
    await patch(pool, identifier, status="in_progress")
    await patch(pool, identifier, status=ended)
    with pytest.raises(ConflictError, match=f"{ended} cannot become in_progress"):
        await patch(pool, identifier, status="in_progress")
    assert (await patch(pool, identifier, status=ended)).status == ended


@pytest.mark.req("S0-4", "S0-11")
async def test_a_step_knows_how_long_it_took_and_progress_is_rounded_down(pool):
    identifier = (await make(pool, steps=STEPS)).id
    for number, progress in ((1, 14), (2, 28), (3, 42)):
        async with pool.connection() as connection:
            running = await operations.patch_step(
                connection, identifier, f"s{number}", {"status": "running", "started_at": T0}
            )
            assert running.current_step == f"Step {number}"
            done = await operations.patch_step(
                connection,
                identifier,
                f"s{number}",
                {"status": "completed", "completed_at": T0 + timedelta(milliseconds=1200)},
            )
        assert done.steps[number - 1].duration_ms == 1200
        assert done.progress == progress
        assert done.steps_completed == number
    async with pool.connection() as connection:
        with pytest.raises(ConflictError, match="step that is completed"):
            await operations.patch_step(connection, identifier, "s1", {"status": "running"})
    async with pool.connection() as connection:
        with pytest.raises(NotFoundError, match="no step s99"):
            await operations.patch_step(connection, identifier, "s99", {"status": "running"})


@pytest.mark.req("S0-5")
async def test_cost_is_exact(pool):
    identifier = (await make(pool)).id
    async with pool.connection() as connection:
        await operations.patch_metrics(
            connection, identifier, prompt=1200, completion=500, cost=Decimal("0.012345"), model="m"
        )
    async with pool.connection() as connection:
        found = await operations.get(connection, identifier)
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (1200, 500, 1700)
    assert (found.cost_usd, found.model) == (Decimal("0.012345"), "m")


@pytest.mark.req("S0-8")
async def test_a_failure_carries_its_code(pool):
    identifier = (await make(pool)).id
    disposition = {"success": False, "error": "No answer", "errorCode": "TIMEOUT"}
    failed = await patch(pool, identifier, status="failed", disposition=disposition)
    assert failed.disposition == disposition
    assert failed.completed_at is not None
    assert failed.duration_ms >= 0


@pytest.mark.req("S0-9")
async def test_the_list_is_filtered_limited_and_newest_first(pool):
    made = [await make(pool, type="skill" if number % 2 else "webhook", name=str(number)) for number in range(6)]
    await patch(pool, made[0].id, status="in_progress")
    assert [one.name for one in await listed(pool, limit=3)] == ["5", "4", "3"]
    assert len(await listed(pool, type="webhook")) == 3
    assert [one.id for one in await listed(pool, status="in_progress")] == [made[0].id]


@pytest.mark.req("S0-17")
async def test_since_gives_what_changed_not_only_what_is_new(pool):
    old = await make(pool, name="old")
    await make(pool, name="untouched")
    between = datetime.now(UTC)
    await patch(pool, old.id, activity="Reading")
    assert [one.name for one in await listed(pool, since=between)] == ["old"]


@pytest.mark.req("S0-7", "S0-13")
async def test_every_change_is_told_whole_and_in_order(pool):
    identifier = (await make(pool)).id
    await patch(pool, identifier, status="in_progress", current_step="Browse", current_step_index=1, activity="Look")
    last = await patch(pool, identifier, status="completed")
    told = await events(pool)
    assert [event.kind for event in told] == ["operation_created", "operation_updated", "operation_updated"]
    assert [event.payload["status"] for event in told] == ["pending", "in_progress", "completed"]
    assert told[1].payload["activity"] == "Look"
    assert told[2].payload == messages.operation(last)


async def test_a_refused_change_is_not_told(pool):
    identifier = (await make(pool)).id
    with pytest.raises(InvalidValueError):
        await patch(pool, identifier, id="other")
    with pytest.raises(NotFoundError):
        await patch(pool, "op_none", status="in_progress")
    assert len(await events(pool)) == 1


@pytest.mark.req("S0-16")
async def test_steps_and_metrics_go_with_their_operation(pool):
    identifier = (await make(pool, steps=STEPS)).id
    async with pool.connection() as connection:
        await operations.patch_metrics(connection, identifier, prompt=1, completion=1)
        await connection.execute("DELETE FROM lobs.operations WHERE id = %s", [identifier])
        for table in ("operation_steps", "operation_metrics"):
            cursor = await connection.execute(f"SELECT count(*) AS left FROM lobs.{table}")
            assert (await cursor.fetchone())["left"] == 0


def run(status, **fields):
    return DerivedOperation(
        id="run:gw:r1", gateway="gw", type="agent_task", name="Answer", status=status, source="run", agent_id="main",
        run_id="r1", started_at=T0, **fields,
    )  # fmt: skip


async def derive(pool, *found):
    async with pool.connection() as connection:
        return await operations.upsert_derived(connection, found)


@pytest.mark.req("S0-18")
async def test_a_run_becomes_an_operation_with_tools_as_steps_tokens_and_cost(pool, postgres_dsn):
    step = DerivedStep("c1", "read", "running", T0)
    await derive(pool, run("in_progress", steps=[step]))
    ledger = PostgresLedger(postgres_dsn, "gw")
    await ledger.open()
    try:
        async with ledger.transaction() as transaction:
            rows = [
                ModelCall(
                    "gw", "main", "s1", f"e{number}", bytes([number] * 16), T0, "p", "m", "main", "ok", 100, 20, 30, 5,
                    3, cost, basis, billing, run_id="r1",
                )
                for number, cost, basis, billing in (
                    (1, Decimal("0.01"), "reported", "billed"),
                    (2, Decimal("0.0000001"), "priced", "billed"),
                    (3, Decimal(9), "priced", "equivalent"),
                )
            ]  # fmt: skip
            assert await transaction.insert_model_calls(rows) == [True] * 3
    finally:
        await ledger.close()
    ended = DerivedStep("c1", "read", "completed", None, T0 + timedelta(seconds=2))
    (done,) = await derive(pool, run("completed", completed_at=T0 + timedelta(seconds=5), steps=[ended]))
    assert (done.prompt_tokens, done.completion_tokens, done.total_tokens) == (405, 60, 465)
    assert (done.cost_usd, done.model) == (Decimal("0.0100001"), "m")
    assert done.steps[0].duration_ms == 2000
    assert done.duration_ms == 5000
    assert done.progress == 100
    assert done.disposition == {"success": True}
    told = await events(pool)
    assert [event.kind for event in told] == ["operation_created", "operation_updated", "operation_updated"]
    assert told[1].payload["metrics"]["tokens"]["total"] == 465


@pytest.mark.req("S0-18")
async def test_calls_that_name_no_run_count_for_what_was_at_work_in_their_session(pool, postgres_dsn):
    """As with older gateways; and a job's run has a session of its own, whatever run ids its calls name."""

    def at(seconds):
        return T0 + timedelta(seconds=seconds)

    def operation(identifier, session, start, end, **more):
        fields = {"type": "agent_task", "source": "run", **more}
        return DerivedOperation(
            id=identifier, gateway="gw", name="N", status="completed", session_id=session, started_at=at(start),
            completed_at=at(end), **fields,
        )  # fmt: skip

    job = {"type": "scheduled", "source": "cron", "session_key": "agent:main:cron:j:run:own"}
    known = [
        operation("first", "shared", 0, 10, run_id="r1"),
        operation("second", "shared", 20, 30, run_id="r2"),
        operation("job", "own", 0, 10, **job),
    ]

    def call(number, session, seconds, run_id=None, key=None):
        return ModelCall(
            "gw", "main", session, f"e{number}", bytes([number] * 16), at(seconds), "p", "m", "main", "ok", number, 0,
            0, 0, 0, Decimal(number), "reported", "billed", run_id=run_id, session_key=key,
        )  # fmt: skip

    calls = [
        call(1, "shared", 5),
        call(2, "shared", 15),  # between the two: of neither
        call(4, "shared", 25),
        call(8, "shared", 26, "r3"),  # of a run that is none of these
        call(16, "own", 5, "inner", job["session_key"]),
        call(32, "other", 5),
    ]
    await derive(pool, *known[:2])
    ledger = PostgresLedger(postgres_dsn, "gw")
    await ledger.open()
    try:
        async with ledger.transaction() as transaction:
            await transaction.insert_model_calls(calls)
    finally:
        await ledger.close()
    await derive(pool, known[2])  # after its calls
    assert {one.id: (one.prompt_tokens, one.cost_usd) for one in await listed(pool)} == {
        "first": (1, 1),
        "second": (4, 4),
        "job": (16, 16),
    }


@pytest.mark.req("S0-18")
async def test_a_run_that_is_written_while_its_calls_are_has_their_tokens(pool, postgres_dsn, monkeypatch):
    """Neither transaction sees the other's rows; the one that comes later must."""
    summed, go_on = asyncio.Event(), asyncio.Event()
    refresh = operations.refresh_runs

    async def held(*arguments):
        events = await refresh(*arguments)
        summed.set()
        await go_on.wait()
        return events

    monkeypatch.setattr(operations, "refresh_runs", held)
    call = ModelCall(
        "gw", "main", "s", "e1", bytes(16), T0, "p", "m", "main", "ok", 7, 0, 0, 0, 0, Decimal(1), "reported", "billed",
        run_id="r1",
    )  # fmt: skip

    async def write():
        ledger = PostgresLedger(postgres_dsn, "gw")
        await ledger.open()
        try:
            async with ledger.transaction() as transaction:
                await transaction.insert_model_calls([call])
        finally:
            await ledger.close()

    async def waits():
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT 1 FROM pg_locks JOIN pg_database AS d ON d.oid = database"
                " WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
            )
            return await cursor.fetchone() is not None

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(write())
        await summed.wait()
        ended = group.create_task(derive(pool, run("completed", completed_at=T0 + timedelta(seconds=1))))
        while not (ended.done() or await waits()):  # noqa: ASYNC110 - what another connection waits for is no event
            await asyncio.sleep(0.01)
        go_on.set()
    (found,) = await listed(pool)
    assert (found.prompt_tokens, found.cost_usd) == (7, 1)


async def test_what_was_derived_comes_back_whole_and_in_order(pool):
    step = DerivedStep("c1", "read", "failed", T0, T0 + timedelta(seconds=2), 2000, "the tool reported an error")
    ended = DerivedOperation(
        id="a", gateway="gw", type="skill", name="Skill x", status="failed", source="run", agent_id="main", channel="c",
        run_id="ra", session_key="k", session_id="s", started_at=T0 + timedelta(seconds=1),
        completed_at=T0 + timedelta(seconds=3), current_step="read", current_step_index=0, activity="Failed",
        skill_name="x", disposition={"success": False, "error": "e", "errorCode": "c"}, steps=(step,),
        metadata={"kind": "direct"}, tags=("t",),
    )  # fmt: skip
    await derive(pool, ended, run("in_progress"), replace(run("in_progress"), id="other", gateway="elsewhere"))
    await make(pool)
    async with pool.connection() as connection:
        known = await operations.derived_since(connection, "gw", datetime.now(UTC) - timedelta(hours=1))
        none = await operations.derived_since(connection, "gw", datetime.now(UTC) + timedelta(hours=1))
    assert [one.id for one in known] == ["run:gw:r1", "a"]
    assert known[1] == ended
    assert none == []


async def test_seeing_a_run_again_changes_and_tells_nothing(pool):
    assert len(await derive(pool, run("completed", completed_at=T0))) == 1
    assert await derive(pool, run("completed", completed_at=T0)) == []
    assert await derive(pool, run("in_progress")) == []
    assert len(await events(pool)) == 1


def test_the_operation_of_a_run_keeps_its_id():
    """Rows are found by it again, also those that an earlier version wrote."""
    assert operations.run_operation_id("home", "r1") == "run_bb729d01eef4b92915d08e2c"


@pytest.mark.req("S2-4")
@pytest.mark.parametrize("seen_first", [True, False])
async def test_a_run_keeps_the_name_that_its_command_gave_whoever_saw_it_first(pool, seen_first):
    identifier = operations.run_operation_id("gw", "r1")
    derived = replace(run("in_progress"), id=identifier)

    async def follow(name):
        async with pool.connection() as connection:
            await commands.follow_run(
                connection, gateway="gw", run_id="r1", session_key="k", name=name, agent="main", user="ann"
            )

    if seen_first:
        await derive(pool, derived)
    await follow("Count")
    await derive(pool, replace(derived, status="completed", completed_at=T0))
    await follow("Another name")
    async with pool.connection() as connection:
        found = await operations.get(connection, identifier)
    assert (found.name, found.user_id, found.status) == ("Count", "ann", "completed")
