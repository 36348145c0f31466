"""Killed processes, stopped servers, cut connections, read-only databases: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from cli.up import postgres
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.contract import LedgerHeldError, LedgerUnavailableError
from store.ledger.postgres import PostgresLedger
from store.migrate import migrate
from tests.servers import PATIENCE_SECONDS

WORKER = Path(__file__).with_name("ledger_worker.py")
CALLS = ("claw_model_calls_total", ("gw", "main"))
COST = ("claw_cost_usd_total", ("gw", "main"))
UNIT = Decimal("0.0106344")


@contextlib.asynccontextmanager
async def worker(kind, where):
    """A running worker; killed at the end, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(WORKER), kind, str(where), stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until(process, word, times=1):
    """The rest of the line in which the worker said a word (for the nth time)."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            line = (await process.stdout.readline()).decode()
            assert line, "the worker ended"
            if line.startswith(word):
                times -= 1
                if times == 0:
                    return line.removeprefix(word).strip()


async def check(ledger, *, dsn=None):
    """Totals, positions and rows tell one and the same story; gives how far it has come."""
    for _ in range(200):
        try:
            await ledger.open()
            break
        except LedgerHeldError:  # the server is still noticing that the worker is gone
            await asyncio.sleep(0.05)
    try:
        positions = await ledger.positions()
        totals = {(total.metric, total.labels): total.value for total in await ledger.totals()}
    finally:
        await ledger.close()
    count = positions["source"].offset if positions else 0
    assert totals.get(CALLS, 0) == count
    assert totals.get(COST, Decimal(0)) == UNIT * count
    if dsn is not None:
        with psycopg.connect(dsn) as connection:
            for query, expected in (
                ("SELECT count(*), count(DISTINCT entry_id) FROM model_calls", (count, count)),
                ("SELECT count(*), count(outcome) FROM tool_calls", (count, count)),
                ("SELECT coalesce(sum(calls), 0), coalesce(sum(cost_usd), 0) FROM usage_15m", (count, UNIT * count)),
                ("SELECT coalesce(sum(calls), 0), coalesce(sum(cost_usd), 0) FROM sessions", (count, UNIT * count)),
                ("SELECT coalesce(max((payload ->> 'upto')::int), 0) FROM lobs.events", (count,)),
            ):
                assert connection.execute(query).fetchone() == expected, query
    return count


async def kill_at_random(kind, where, rounds, ledger, dsn=None):
    """Kill the worker again and again; its books are right each time and get on."""
    chance = random.Random()
    reached = 0
    for _ in range(rounds):
        async with worker(kind, where) as process:
            await until(process, "open")
            await until(process, "read", chance.randrange(1, 4))
            await asyncio.sleep(chance.random() * 0.02)
            process.send_signal(signal.SIGKILL)
        now = await check(ledger, dsn=dsn)
        assert now > reached
        reached = now


async def test_kill_9_at_random_moments_with_postgres(postgres_dsn):
    await kill_at_random("postgres", postgres_dsn, 20, PostgresLedger(postgres_dsn, "gw"), postgres_dsn)


async def test_kill_9_at_random_moments_with_a_checkpoint(tmp_path):
    await kill_at_random("checkpoint", tmp_path, 20, CheckpointLedger(tmp_path, "gw"))


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_kill_9_two_hundred_times_with_postgres(postgres_dsn):
    await kill_at_random("postgres", postgres_dsn, 200, PostgresLedger(postgres_dsn, "gw"), postgres_dsn)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_kill_9_two_hundred_times_with_a_checkpoint(tmp_path):
    await kill_at_random("checkpoint", tmp_path, 200, CheckpointLedger(tmp_path, "gw"))


@pytest.fixture
def own_cluster():
    """A server that a test may stop, with a migrated database."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-pg-"))
    folder.chmod(0o755)
    try:
        cluster = postgres.prepare(folder)
        with cluster.run():
            migrate(cluster.dsn(postgres.OWNER))
        yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_server_that_goes_and_comes_back(own_cluster, how):
    dsn = own_cluster.dsn()
    server = own_cluster.start()
    try:
        own_cluster.wait_ready(server)
        async with worker("postgres", dsn) as process:
            await until(process, "read", 5)
            server.send_signal(how)
            server.wait(PATIENCE_SECONDS)
            await until(process, "away", 3)
            server = own_cluster.start()
            await until(process, "read", 5)
        assert await check(PostgresLedger(dsn, "gw"), dsn=dsn) > 0
    finally:
        postgres.stop(server)


async def test_a_connection_cut_in_the_middle(postgres_dsn, postgres_server, postgres_database):
    """Twenty times, wherever the worker is: between statements, inside COPY, at the commit."""
    async with worker("postgres", postgres_dsn) as process:
        for _ in range(20):
            await until(process, "read", 2)
            with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                    " AND application_name = 'lobservatory exporter gw'",
                    [postgres_database],
                )
        await until(process, "read", 2)
    assert await check(PostgresLedger(postgres_dsn, "gw"), dsn=postgres_dsn) > 0


async def test_a_database_that_becomes_read_only(postgres_dsn, postgres_server, postgres_database):
    def set_read_only(value):
        with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {postgres_database} SET default_transaction_read_only = {value}")
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                [postgres_database],
            )

    async with worker("postgres", postgres_dsn) as process:
        await until(process, "read", 2)
        set_read_only("on")
        assert "read-only" in await until(process, "away cannot execute")
        set_read_only("off")
        await until(process, "read", 3)
    assert await check(PostgresLedger(postgres_dsn, "gw"), dsn=postgres_dsn) > 0


@contextlib.contextmanager
def no_file_longer_than(size):
    """For processes that are started in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_is_full_for_a_while(own_cluster):
    """No new page can be had: as on a full disk, the server refuses what needs one. Then there is room again."""
    dsn, limit = own_cluster.dsn(), 16 * 2**20  # as long as a file of its log, which must still be written
    with own_cluster.run(), psycopg.connect(own_cluster.dsn(postgres.OWNER), autocommit=True) as owner:
        # A table that is longer than that, and has no room in it.
        owner.execute("ALTER TABLE lobs.model_calls SET (autovacuum_enabled = false)")
        owner.execute(
            "INSERT INTO lobs.model_calls (ts, gateway, agent, session_id, kind, entry_id, identity, provider, model,"
            " outcome, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,"
            " cost_basis, billing)"
            " SELECT now(), repeat(md5(n::text), 30), 'a', 's', 'main', n::text, gen_random_uuid(), 'p', 'm', 'ok',"
            " 0, 0, 0, 0, 0, 'unpriced', 'billed' FROM generate_series(1, 20000) AS n"
        )
        owner.execute("DELETE FROM lobs.model_calls")
        (length,) = owner.execute("SELECT pg_relation_size('lobs.model_calls')").fetchone()
        assert length > limit
    with no_file_longer_than(limit):
        server = own_cluster.start()
    try:
        own_cluster.wait_ready(server)
        async with worker("postgres", dsn) as process:
            assert "extend file" in await until(process, "away", 3)
            postgres.stop(server)
            server = own_cluster.start()
            await until(process, "read", 5)
        assert await check(PostgresLedger(dsn, "gw"), dsn=dsn) > 0
    finally:
        postgres.stop(server)


async def test_a_statement_that_waits_too_long_is_given_up(postgres_dsn, postgres_owner_dsn):
    ledger = PostgresLedger(postgres_dsn, "gw", statement_milliseconds=200)
    await ledger.open()
    try:
        with psycopg.connect(postgres_owner_dsn) as other:
            other.execute("LOCK TABLE lobs.totals")
            with pytest.raises(LedgerUnavailableError, match="statement timeout"):
                async with ledger.transaction() as transaction:
                    await transaction.add_totals({CALLS: 1})
        async with ledger.transaction() as transaction:
            await transaction.add_totals({CALLS: 1})
        assert [total.value for total in await ledger.totals()] == [1]
    finally:
        await ledger.close()


async def test_a_server_that_stops_to_answer_is_given_up(postgres_server, postgres_dsn):
    if postgres_server.cluster is None:
        # Nobody misses it: without LOBS_TEST_DSN, as in CI, the server is ours.
        pytest.skip("the processes of a server that is not ours are not ours to stop")
    ledger = PostgresLedger(postgres_dsn, "gw", statement_milliseconds=500)
    await ledger.open()
    backend = ledger._connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        with pytest.raises(LedgerUnavailableError, match="does not answer"):
            async with ledger.transaction() as transaction:
                await transaction.add_totals({CALLS: 1})
    finally:
        os.kill(backend, signal.SIGCONT)
    for _ in range(200):
        try:
            assert await ledger.totals() == []
            break
        except LedgerUnavailableError:  # the server is still noticing that the connection is gone
            await asyncio.sleep(0.05)
    async with ledger.transaction() as transaction:
        await transaction.add_totals({CALLS: 1})
    await ledger.close()


async def test_a_cancelled_transaction_leaves_the_ledger_usable(postgres_dsn, tmp_path):
    for ledger in (PostgresLedger(postgres_dsn, "gw"), CheckpointLedger(tmp_path, "gw")):
        await ledger.open()
        entered = asyncio.Event()

        async def stuck(ledger=ledger, entered=entered):
            async with ledger.transaction() as transaction:
                await transaction.add_totals({CALLS: 1})
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(stuck())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with ledger.transaction() as transaction:
            await transaction.add_totals({CALLS: 2})
        assert [total.value for total in await ledger.totals()] == [2]
        await ledger.close()


async def test_no_database_is_unavailable_not_a_crash():
    ledger = PostgresLedger("postgresql://nobody@127.0.0.1:1/nothing", "gw")
    with pytest.raises(LedgerUnavailableError):
        await ledger.open()
    with pytest.raises(LedgerUnavailableError):
        await ledger.totals()
    await ledger.close()


async def test_a_checkpoint_that_cannot_be_read_is_unavailable_and_kept(tmp_path):
    ledger = CheckpointLedger(tmp_path, "gw")
    ledger.path.write_bytes(b"this is not a database, it is a note" * 100)
    with pytest.raises(LedgerUnavailableError, match="not a database"):
        await ledger.open()
    assert ledger.path.read_bytes().startswith(b"this is not")
    ledger.path.unlink()
    await ledger.open()
    await ledger.close()


async def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    ledger = CheckpointLedger(tmp_path, "gw")
    await ledger.open()
    await ledger.close()
    with contextlib.closing(sqlite3.connect(ledger.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerUnavailableError, match="newer version"):
        await ledger.open()
    assert ledger.path.stat().st_mode & 0o777 == 0o600
