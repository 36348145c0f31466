"""Retention: rows go, what was counted stays counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from store import gateway, maintenance
from store.ledger.postgres import PostgresLedger
from store.rows import HostSample, ModelCall

NOW = datetime.now(UTC).replace(microsecond=0)
TOTAL = ("claw_model_calls_total", ("gw",))


def call(number, at):
    return ModelCall(
        "gw", "main", "s", f"e{number}", bytes(16), at, "p", "m", "main", "ok", 1, 1, 0, 0, 0, Decimal(1), "reported",
        "billed",
    )  # fmt: skip


def sample(at):
    return HostSample("gw", at, 0.5, 1.0, 1, 2, 3, 4, 5, 6, 7, 8, 0.1)


@pytest.fixture
async def connection(postgres_dsn):
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as opened:
        yield opened


async def prune(connection, owner_dsn):
    """What the exporter does every hour, and TimescaleDB by a job of its own (whole chunks: up to 30 days later)."""
    deleted = await maintenance.prune(connection, NOW)
    async with await psycopg.AsyncConnection.connect(owner_dsn, autocommit=True) as owner:
        cursor = await owner.execute("SELECT to_regproc('lobs.policy_retention') IS NOT NULL")
        if (await cursor.fetchone())[0]:
            await owner.execute("CALL lobs.policy_retention(0, NULL)")
    return deleted


async def count(connection, table):
    return (await (await connection.execute(f"SELECT count(*) FROM {table}")).fetchone())[0]


@pytest.mark.req("P-19")
async def test_samples_go_after_thirty_days(connection, postgres_owner_dsn):
    ages = [NOW - timedelta(days=days) for days in (0, 29, 45, 400)]
    await gateway.insert_host_samples(connection, [sample(at) for at in ages])
    await prune(connection, postgres_owner_dsn)
    cursor = await connection.execute("SELECT min(ts), count(*) FROM host_samples")
    assert await cursor.fetchone() == (NOW - timedelta(days=29), 2)


@pytest.mark.req("P-2")
async def test_calls_that_are_gone_stay_counted_and_never_count_again(connection, postgres_dsn, postgres_owner_dsn):
    old, young = call(1, NOW - timedelta(days=400)), call(2, NOW - timedelta(days=1))
    ledger = PostgresLedger(postgres_dsn, "gw")
    await ledger.open()
    async with ledger.transaction() as transaction:
        assert await transaction.insert_model_calls([old, young]) == [True, True]
        await transaction.add_totals({TOTAL: 2})
    assert "model_calls" not in await prune(connection, postgres_owner_dsn)  # for ever, unless somebody says otherwise
    await maintenance.set_retention(connection, "model_calls", timedelta(days=365))
    await prune(connection, postgres_owner_dsn)
    async with ledger.transaction() as transaction:
        assert await transaction.insert_model_calls([old, young]) == [False, False]
    assert [total.value for total in await ledger.totals()] == [2]
    await ledger.close()
    assert await count(connection, "model_calls") == 1
    cursor = await connection.execute("SELECT sum(cost_usd) FROM cost_daily")
    assert await cursor.fetchone() == (2,)


async def test_only_what_may_be_pruned_gets_a_retention(connection):
    for table in ("totals", "identities", "audit_log", "x; DROP TABLE lobs.totals"):
        with pytest.raises(ValueError, match="is not pruned"):
            await maintenance.set_retention(connection, table, timedelta(days=1))


async def test_the_size_is_known(connection):
    assert (await maintenance.sizes(connection))["database"] > 1_000_000


async def test_quarter_hours_are_never_built_from_what_is_left_of_their_rows(
    connection, postgres_dsn, postgres_owner_dsn
):
    """Half of a quarter hour's rows have gone, later they are kept for ever, then all is rebuilt: nothing is lost."""
    edge = NOW - timedelta(days=365)
    around = edge - timedelta(days=60), edge - timedelta(seconds=1), edge + timedelta(seconds=1)
    ledger = PostgresLedger(postgres_dsn, "gw")
    async with ledger.transaction() as transaction:
        await transaction.insert_model_calls([call(number, at) for number, at in enumerate(around)])
    await ledger.close()
    await maintenance.set_retention(connection, "model_calls", timedelta(days=365))
    await prune(connection, postgres_owner_dsn)
    assert await count(connection, "model_calls") < 3
    await maintenance.set_retention(connection, "model_calls", None)
    await connection.execute("SELECT lobs.rebuild_usage(%s, %s)", [edge - timedelta(days=90), NOW])
    cursor = await connection.execute("SELECT sum(calls), sum(cost_usd) FROM cost_daily")
    assert await cursor.fetchone() == (3, 3)
