"""Sessions that move between files and the database after they were counted: nothing is billed a second time."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from decimal import Decimal

import pytest

from store.ledger import identities
from store.ledger.checkpoint import CheckpointLedger
from tests.openclaw.state_builder import (
    BuiltSession,
    call,
    connect,
    header,
    tool_call,
    tool_result,
    write_archive,
    write_database,
    write_files,
)

CALLS, COST = "claw_model_calls_total", "claw_cost_usd_total"
STARTED = "claw_tool_calls_started_total"


def session(name, *entries, **more):
    return BuiltSession(name, [header(name, **more), *entries], key=f"agent:main:dashboard:{name}")


def both(running):
    return running.exact(CALLS), running.exact(COST)


@pytest.mark.req("P-1", "P-2")
@pytest.mark.parametrize("file", ["stays", "goes", "becomes an archive"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_session_migrated_with_another_usage_is_not_billed_again(file, restarted, files_dir, make_ledger, life):
    """The migration wrote other numbers; what was billed stays, and only what is new in the database is added."""
    tools = [tool_call("c1", "exec")]
    write_files(files_dir, [session("s", call("1", content=tools), tool_result("r", "c1", "exec"), call("2", cost=2))])
    path = files_dir / "agents" / "main" / "sessions" / "s.jsonl"
    alive = life(files_dir, make_ledger())

    async def migrate(running):
        write_database(
            files_dir,
            [
                session(
                    "s",
                    call("1", cost=7, content=tools),
                    tool_result("r", "c1", "exec"),
                    call("2", usage={"input": 1, "output": 1, "cost": {"total": 9}}),
                    call("3", cost=4),
                )
            ],
            compressed=True,
        )
        if file == "goes":
            path.unlink()
        elif file == "becomes an archive":
            path.rename(path.with_name("s.jsonl.deleted.2026-11-21T01-26-03.604Z"))
        await running.ingest.look()
        assert both(running) == (3, 1 + 2 + 4)
        assert running.exact(STARTED) == 1
        assert running.exact("claw_duplicate_entries_total") >= 2

    async with alive.running() as first:
        assert both(first) == (2, 3)
        if not restarted:
            await migrate(first)
    if restarted:
        async with life(files_dir, make_ledger()).running() as second:
            await migrate(second)
    async with life(files_dir, make_ledger()).running() as last:
        assert both(last) == (3, 7)


async def test_a_fork_migrated_with_another_usage_bills_only_what_is_its_own(files_dir, make_ledger, life):
    copied = [call("1"), call("2", cost=2, timestamp="2026-11-20T12:00:05.000Z")]
    write_files(files_dir, [session("a", *copied), session("b", *copied, call("3", cost=4), parentSession="a")])
    async with life(files_dir, make_ledger()).running() as running:
        assert both(running) == (3, 7)
        changed = [call("1", cost=10), call("2", cost=20, timestamp="2026-11-20T12:00:05.000Z")]
        write_database(
            files_dir, [session("a", *changed), session("b", *changed, call("3", cost=40), parentSession="a")]
        )
        await running.ingest.look()
        assert both(running) == (3, 7)


async def test_entries_without_a_time_are_known_by_their_session_after_a_migration(files_dir, make_ledger, life):
    """Each store has another substitute for the time."""
    bare = {"timestamp": None}
    one, other = call("1", **bare), call("2", cost=2, timestamp="nonsense")
    for entry in (one, other):
        del entry["message"]["timestamp"]
    write_files(files_dir, [session("s", one, other)])
    async with life(files_dir, make_ledger()).running() as running:
        assert both(running) == (2, 3)
        for entry in (one, other):
            entry["message"]["usage"]["cost"] = {"total": 50}
        write_database(files_dir, [session("s", one, other, call("3", cost=4))])
        await running.ingest.look()
        assert both(running) == (3, 7)


async def test_the_archive_of_a_deleted_database_session_bills_only_what_was_not_seen(files_dir, make_ledger, life):
    """The archive holds other numbers than the rows had, and a last call that nobody had read."""
    write_database(files_dir, [session("s", call("1"), call("2", cost=2)), session("t", call("9", cost=100))])
    async with life(files_dir, make_ledger()).running() as running:
        assert both(running) == (3, 103)
        writer = connect(files_dir)
        for table in ("transcript_events", "session_windows", "transcript_rewrite_watermarks"):
            writer.execute(f"DELETE FROM {table} WHERE session_id = 's'")
        writer.close()
        write_archive(files_dir, session("s", call("1", cost=5), call("2", cost=2), call("3", cost=4)), compressed=True)
        await running.ingest.look()
        assert both(running) == (4, 107)


async def test_the_archive_of_a_session_that_was_migrated_and_deleted_unseen_bills_only_what_is_new(
    files_dir, make_ledger, life
):
    """Nobody looked while the session lay in the database with other numbers; its archive has those."""
    write_files(files_dir, [session("s", call("1"), call("2", cost=2))])
    async with life(files_dir, make_ledger()).running() as running:
        assert both(running) == (2, 3)
        changed = session("s", call("1", cost=10), call("2", cost=20), call("3", cost=4))
        write_archive(files_dir, changed, compressed=True)
        (files_dir / "agents" / "main" / "sessions" / "s.jsonl").unlink()
        await running.ingest.look()
        assert both(running) == (3, 7)


async def test_a_short_id_that_an_unrelated_session_has_too_is_still_another_call(files_dir, make_ledger, life):
    """Moving one session hides nothing of others: equal ids at other times are other calls."""
    write_files(files_dir, [session("a", call("deadbeef"))])
    async with life(files_dir, make_ledger()).running() as running:
        write_database(
            files_dir,
            [
                session("a", call("deadbeef")),
                session("b", call("deadbeef", cost=2, timestamp="2026-11-20T12:00:00.001Z")),
            ],
        )
        await running.ingest.look()
        assert both(running) == (2, Decimal(3))


async def test_money_refused_in_the_database_does_not_hide_the_rejects_of_others(files_dir, make_ledger, life):
    write_files(files_dir, [session("s", call("1"))])
    async with life(files_dir, make_ledger()).running() as running:
        write_database(files_dir, [session("s", call("1", cost=-5), call("2", cost=-1), call("3", cost=4))])
        await running.ingest.look()
        assert both(running) == (3, 5)
        assert running.total("claw_rejected_entries_total") == 1


def freeze(state_dir, one):
    """To a cold archive, whose name is only a hash."""
    path = write_archive(state_dir, one, compressed=True)
    cold = path.parent / "cold"
    cold.mkdir()
    path.rename(cold / f"{hashlib.sha256(path.read_bytes()).hexdigest()}.jsonl.zst")


@pytest.mark.req("P-1", "P-2")
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("thawed", ["to the database", "to a file"])
async def test_a_session_known_only_from_a_cold_archive_is_not_billed_again_when_it_is_thawed(
    restarted, thawed, files_dir, make_ledger, life
):
    freeze(files_dir, session("s", call("1"), call("2", cost=2)))
    write_files(files_dir, [session("t", call("9", cost=100))])
    changed = session("s", call("1", cost=7), call("2", cost=9), call("3", cost=4))

    async def thaw(running):
        if thawed == "to the database":
            write_database(files_dir, [changed], compressed=True)
        else:
            write_files(files_dir, [changed])
        await running.ingest.look()
        assert both(running) == (4, 100 + 1 + 2 + 4)

    async with life(files_dir, make_ledger()).running() as first:
        assert both(first) == (3, 103)
        if not restarted:
            await thaw(first)
    async with life(files_dir, make_ledger()).running() as second:
        await thaw(second)


@pytest.mark.req("P-2")
async def test_a_checkpoint_of_the_first_version_learns_the_places_of_its_calls(files_dir, tmp_path, life, monkeypatch):
    """It kept hashes of calls with their usage only. What it counted is read again, which bills nothing."""
    write_files(files_dir, [session("s", call("1"), call("2", cost=2))])
    with monkeypatch.context() as patch:
        patch.setattr("store.ledger.checkpoint.identities.of_place", identities.of_model_call)  # which is noted anyway
        async with life(files_dir, CheckpointLedger(tmp_path / "data", "g")).running() as running:
            assert both(running) == (2, 3)
    ledger = CheckpointLedger(tmp_path / "data", "g")
    with contextlib.closing(sqlite3.connect(ledger.path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    async with life(files_dir, ledger).running() as running:
        assert both(running) == (2, 3)
    async with life(files_dir, CheckpointLedger(tmp_path / "data", "g")).running() as running:
        write_database(files_dir, [session("s", call("1", cost=7), call("2", cost=9), call("3", cost=4))])
        await running.ingest.look()
        assert both(running) == (3, 7)


JOB = "agent:main:cron:nightly"


@pytest.mark.req("P-2", "S4-15")
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("layout", ["jsonl", "sqlite"])
async def test_the_last_calls_of_a_deleted_session_keep_its_kind(layout, restarted, files_dir, make_ledger, life):
    """Between two looks a job called a model once more and its session was deleted: the archive holds no key."""
    entries = [header("s"), call("1")]
    write = write_files if layout == "jsonl" else write_database
    write(files_dir, [BuiltSession("s", entries, key=JOB)])

    async def delete(running):
        if layout == "jsonl":
            (files_dir / "agents" / "main" / "sessions" / "s.jsonl").unlink()
            write_files(files_dir, [])
            (files_dir / "agents" / "main" / "sessions" / "sessions.json").write_text("{}")
        else:
            writer = connect(files_dir)
            for table in ("transcript_events", "session_windows", "session_nodes", "transcript_rewrite_watermarks"):
                writer.execute(f"DELETE FROM {table}")
            writer.close()
        write_archive(files_dir, BuiltSession("s", [*entries, call("2", cost=2)]), compressed=layout == "sqlite")
        write_archive(files_dir, session("stranger", call("3", cost=4)))
        await running.ingest.look()
        by_kind = {labels[3]: value for labels, value in running.values(COST).items()}
        assert by_kind == {"cron": 3, "unknown": 4}

    async with life(files_dir, make_ledger()).running() as first:
        if not restarted:
            await delete(first)
    if restarted:
        async with life(files_dir, make_ledger()).running() as second:
            await delete(second)
