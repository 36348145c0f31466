"""What TimescaleDB adds. Its packages are in no registry: these run when LOBS_TEST_DSN names a server that has it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from store import maintenance
from store.migrate import migrate
from store.postgres_ledger import PostgresLedger
from store.rows import ModelCall

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _timescale(postgres_server):
    with psycopg.connect(postgres_server.admin) as connection:
        loaded = connection.execute("SELECT current_setting('shared_preload_libraries')").fetchone()
    if "timescaledb" not in loaded[0]:
        pytest.skip("TimescaleDB is missing: set LOBS_TEST_DSN to a server that has it loaded")


def call(number, at):
    return ModelCall(
        "gw", "main", "s", f"e{number}", bytes(16), at, "p", "m", "main", "ok", 1, 1, 0, 0, 0, Decimal(1), "reported",
        "billed",
    )  # fmt: skip


async def keep(dsn, rows):
    ledger = PostgresLedger(dsn, "gw")
    await ledger.open()
    async with ledger.transaction() as transaction:
        new = await transaction.insert_model_calls(rows)
    await ledger.close()
    return new


async def test_rows_reach_compressed_chunks_and_leave_them(postgres_dsn, postgres_owner_dsn):
    await keep(postgres_dsn, [call(number, NOW - timedelta(days=number)) for number in range(400)])
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT compress_chunk(c) FROM show_chunks('lobs.model_calls', older_than => %s::timestamptz) AS c",
            [NOW - timedelta(days=60)],
        )
        compressed = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"
        assert connection.execute(compressed).fetchone()[0] > 5
    late = call(1000, NOW - timedelta(days=200, hours=1))
    assert await keep(postgres_dsn, [late, call(200, NOW - timedelta(days=200))]) == [True, False]
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        await maintenance.set_retention(connection, "model_calls", timedelta(days=365))
        await maintenance.prune(connection, NOW)
        cursor = await connection.execute("SELECT count(*), min(ts) FROM model_calls")
        assert await cursor.fetchone() == (367, NOW - timedelta(days=365))
        cursor = await connection.execute("SELECT sum(calls), sum(cost_usd) FROM cost_daily")
        assert await cursor.fetchone() == (401, 401)


async def test_a_plain_database_with_rows_becomes_hypertables(postgres_server):
    name = f"lobs_plain_{os.getpid()}"
    with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        dsn = postgres_server.dsn(name)
        assert migrate(dsn).timescale is None
        await keep(dsn, [call(number, NOW - timedelta(days=number)) for number in range(100)])
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION timescaledb")
        state = migrate(dsn)
        assert state.timescale is not None
        assert state.pending == ()
        with psycopg.connect(dsn, autocommit=True) as connection:
            tables = connection.execute("SELECT hypertable_name FROM timescaledb_information.hypertables").fetchall()
            assert {table for (table,) in tables} >= {"model_calls", "tool_calls", "host_samples", "agent_events"}
            assert connection.execute("SELECT count(*) FROM model_calls").fetchone() == (100,)
        assert await keep(dsn, [call(1, NOW - timedelta(days=1)), call(500, NOW)]) == [False, True]
    finally:
        with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
