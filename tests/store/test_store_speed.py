"""On a large database every question reads what it shows, and little more: indexes, not walks through tables."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from benchmarks import database
from cli.up import postgres
from store.pool import open_pool
from tests.conftest import fresh_database

ACTIVITIES = 20_000
CALLS = 60_000
# Rows read by a statement from tables of ours, by sequential scans and through indexes (chunks of hypertables, too).
READ = """
SELECT relname, (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint AS number FROM pg_stat_xact_user_tables
WHERE seq_tup_read + coalesce(idx_tup_fetch, 0) > 0
"""


@pytest.fixture(scope="module")
def filled(postgres_server):
    with fresh_database(postgres_server) as name:
        with psycopg.connect(
            postgres_server.dsn(name, postgres.OWNER if postgres_server.cluster else None), autocommit=True
        ) as connection:
            database.fill(connection, ACTIVITIES, CALLS)
            if connection.execute("SELECT to_regproc('lobs.policy_usage')").fetchone() != (None,):
                connection.execute("SELECT pg_advisory_lock(7305804402566886004)")  # its own run may be under way
                connection.execute("CALL lobs.policy_usage(0, NULL)")
        yield postgres_server.dsn(name, postgres.WRITER)


async def read_by(pool, act):
    async with pool.connection() as connection:
        await act(connection)
        # Only of this transaction: nothing that others do at the same time is in it.
        return {row["relname"]: row["number"] for row in await (await connection.execute(READ)).fetchall()}


NAMES = sorted(name for name in database.queries(datetime.now(UTC), CALLS) if "30 d" not in name and "7 d" not in name)


@pytest.mark.req("S3-11")
@pytest.mark.parametrize("name", NAMES)
async def test_a_question_reads_what_it_shows(filled, name):
    async with open_pool(filled, max_size=1) as pool:
        read = await read_by(pool, database.queries(datetime.now(UTC), CALLS)[name])
    assert sum(read.values()) < 5_000, f"{name} read {read}"


@pytest.mark.req("S3-11")
@pytest.mark.parametrize("name", sorted(database.INSERTS))
async def test_an_insert_reads_next_to_nothing(filled, name):
    async with open_pool(filled, max_size=1) as pool:
        read = await read_by(pool, database.INSERTS[name])
    assert sum(read.values()) < 200, f"{name} read {read}"


@pytest.mark.req("S3-11")
async def test_money_over_days_is_read_from_quarter_hours(filled):
    async with open_pool(filled, max_size=1) as pool:
        for name, act in database.queries(datetime.now(UTC), CALLS).items():
            if "30 d" in name or "7 d" in name:
                read = await read_by(pool, act)
                assert sum(read.values()) > 0, f"{name}: nothing was counted"
                calls = read.get("model_calls", 0)
                assert calls < CALLS / 100, f"{name} read {calls} calls"
