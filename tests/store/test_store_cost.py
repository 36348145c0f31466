"""Windows of money: one definition, in the zone, over clock changes and month ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg
import pytest

from store.ledger.postgres import PostgresLedger
from store.migrate import MigrateError, set_timezone
from store.rows import ModelCall

BERLIN = "Europe/Berlin"


async def spend(dsn, *spent, agent="main"):
    """Model calls at instants: (instant, US$[, billing])."""
    rows = [
        ModelCall(
            "gw", agent, "s", f"e{at.isoformat()}", bytes(16), at, "p", "m", "main", "ok", 1, 1, 0, 0, 0,
            Decimal(str(cost)), "reported", billing[0] if billing else "billed",
        )
        for at, cost, *billing in spent
    ]  # fmt: skip
    ledger = PostgresLedger(dsn, "gw")
    await ledger.open()
    async with ledger.transaction() as transaction:
        assert all(await transaction.insert_model_calls(rows))
    await ledger.close()


def windows(dsn, zone, at, agent="main", column="cost_usd"):
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            f"SELECT window_name, {column} FROM cost_windows(%s, %s) WHERE agent = %s", [zone, at, agent]
        ).fetchall()
    return dict(found)


def local(text):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)


@pytest.mark.req("S1-1")
async def test_each_window_has_its_edges_in_the_zone(postgres_dsn, postgres_reader_dsn):
    now = local("2026-03-15 10:30")
    await spend(
        postgres_dsn,
        (local("2026-03-15 10:00"), 1),  # 1h
        (local("2026-03-15 09:29"), 2),  # today, not 1h
        (local("2026-03-15 00:00"), 4),  # today: the first instant
        (local("2026-03-14 23:59"), 8),  # yesterday
        (local("2026-03-09 00:00"), 16),  # first day of 7d
        (local("2026-03-08 23:59"), 32),  # not 7d
        (local("2026-03-01 00:00"), 64),  # first instant of the month
        (local("2026-02-28 23:59"), 128),  # last month
        (local("2026-02-14 00:00"), 256),  # first day of 30d
        (local("2026-02-13 23:59"), 512),  # not 30d
        (now + timedelta(minutes=40), 1024),  # not yet spent
    )
    found = windows(postgres_reader_dsn, BERLIN, now)
    assert found["1h"] == 1
    assert found["today"] == 7
    assert found["7d"] == 31
    assert found["month"] == 127
    assert found["30d"] == 511
    # Full days 8 to 14 March: 8 + 16 + 32; 16 days of March are left after the 15th.
    assert found["month_projected"] == pytest.approx(127 + Decimal(56) / 7 * 16)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
async def test_a_day_is_as_long_as_the_clocks_make_it(
    postgres_dsn, postgres_reader_dsn, postgres_owner_dsn, day, hours
):
    start = local(f"{day} 00:00")
    await spend(postgres_dsn, *((start + timedelta(hours=hour), 1) for hour in range(-2, hours + 2)))
    with psycopg.connect(postgres_dsn) as connection:
        set_timezone(connection, BERLIN)
    assert windows(postgres_reader_dsn, BERLIN, start + timedelta(hours=hours, minutes=-1))["today"] == hours
    with psycopg.connect(postgres_reader_dsn) as connection:
        daily = connection.execute("SELECT cost_usd, day FROM cost_daily WHERE date = %s", [day]).fetchone()
        assert daily == (hours, start)
        assert connection.execute("SELECT count(*) FROM cost_hourly").fetchone() == (hours + 4,)


async def test_hours_of_a_zone_that_is_off_by_a_half(postgres_dsn, postgres_reader_dsn):
    await spend(
        postgres_dsn, (datetime(2026, 1, 1, 18, 15, tzinfo=UTC), 1), (datetime(2026, 1, 1, 18, 45, tzinfo=UTC), 2)
    )
    with psycopg.connect(postgres_dsn) as connection:
        set_timezone(connection, "Asia/Kolkata")
    with psycopg.connect(postgres_reader_dsn) as connection:
        assert connection.execute("SELECT cost_usd FROM cost_hourly ORDER BY hour").fetchall() == [(1,), (2,)]
        assert connection.execute("SELECT date::text, cost_usd FROM cost_daily ORDER BY day").fetchall() == [
            ("2026-01-01", 1),
            ("2026-01-02", 2),
        ]


async def test_an_unknown_zone_is_refused(postgres_dsn):
    with psycopg.connect(postgres_dsn) as connection, pytest.raises(MigrateError, match="LOBS_TIMEZONE"):
        set_timezone(connection, "Mars/Olympus")


@pytest.mark.req("P-20")
async def test_what_a_subscription_pays_is_apart(postgres_dsn, postgres_reader_dsn):
    now = datetime(2026, 3, 15, 10, 30, tzinfo=UTC)
    await spend(postgres_dsn, (now - timedelta(minutes=5), 1), (now - timedelta(minutes=6), 5, "equivalent"))
    assert windows(postgres_reader_dsn, "UTC", now)["today"] == 1
    assert windows(postgres_reader_dsn, "UTC", now, column="equivalent_cost_usd")["today"] == 5


async def test_an_agent_that_spends_nothing_is_zero_not_absent(postgres_dsn, postgres_reader_dsn):
    now = datetime(2026, 3, 15, 10, 30, tzinfo=UTC)
    await spend(postgres_dsn, (now - timedelta(days=90), 3))
    assert set(windows(postgres_reader_dsn, "UTC", now).items()) == {
        (name, Decimal(0)) for name in ("1h", "today", "7d", "30d", "month", "month_projected")
    }


@pytest.mark.req("P-7")
async def test_the_baseline_is_the_median_of_the_same_hour(postgres_dsn, postgres_reader_dsn):
    now = local("2026-03-31 10:30")  # the clocks changed two days before
    same_hour = [(local(f"2026-03-{31 - days} 10:15"), days) for days in range(1, 8)]
    await spend(postgres_dsn, *same_hour, (local("2026-03-30 11:15"), 99), (now, 50))
    await spend(postgres_dsn, (now - timedelta(minutes=1), 1), agent="new")
    with psycopg.connect(postgres_reader_dsn) as connection:
        found = connection.execute("SELECT agent, cost_usd, days FROM cost_hour_baseline(%s, %s)", [BERLIN, now])
        assert found.fetchall() == [("main", 4, 7)]
