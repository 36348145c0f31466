"""Retention: rows go, what was counted stays counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from store import gateway, maintenance
from store.postgres_ledger import PostgresLedger
from store.rows import HostSample, ModelCall

NOW = datetime(2026, 6, 1, tzinfo=UTC)
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


async def count(connection, table):
    return (await (await connection.execute(f"SELECT count(*) FROM {table}")).fetchone())[0]


@pytest.mark.req("P-19")
async def test_samples_go_after_thirty_days(connection):
    ages = [NOW - timedelta(days=days) for days in (0, 29, 31, 400)]
    await gateway.insert_host_samples(connection, [sample(at) for at in ages])
    assert "host_samples" in await maintenance.prune(connection, NOW)
    cursor = await connection.execute("SELECT min(ts), count(*) FROM host_samples")
    assert await cursor.fetchone() == (NOW - timedelta(days=29), 2)


@pytest.mark.req("P-2")
async def test_calls_that_are_gone_stay_counted_and_never_count_again(connection, postgres_dsn):
    old, young = call(1, NOW - timedelta(days=400)), call(2, NOW - timedelta(days=1))
    ledger = PostgresLedger(postgres_dsn, "gw")
    await ledger.open()
    async with ledger.transaction() as transaction:
        assert await transaction.insert_model_calls([old, young]) == [True, True]
        await transaction.add_totals({TOTAL: 2})
    assert "model_calls" not in await maintenance.prune(connection, NOW)  # for ever, unless somebody says otherwise
    await maintenance.set_retention(connection, "model_calls", timedelta(days=365))
    assert "model_calls" in await maintenance.prune(connection, NOW)
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
