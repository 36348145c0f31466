"""Windows of money: what is computed without a database is what the database says."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import dict_row

from exporter.collectors.windows import Windows, WindowsCollector, compute
from lobservatory.settings import Settings
from store import cost
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.postgres import PostgresLedger
from store.ledger.spending import Spending, SpendingReader
from store.rows import ModelCall

ZONES = (
    "UTC",
    "Europe/Berlin",
    "Asia/Kolkata",  # off by half an hour
    "Asia/Kathmandu",  # by three quarters
    "Pacific/Chatham",  # by three quarters, with summer time
    "America/New_York",
    "Australia/Lord_Howe",  # whose summer time is half an hour
)
NOW = datetime.now(UTC)


def calls():
    """Calls of two agents over the last 38 days, at odd times, some of a subscription."""
    rows = []
    for number in range(400):
        at = NOW - timedelta(
            minutes=(number * number * 7919) % (38 * 24 * 60), seconds=number % 60, milliseconds=number
        )
        billing = "equivalent" if number % 9 == 0 else "billed"
        price = None if number % 31 == 0 else Decimal(number) / 1000 + Decimal("0.000000001")
        rows.append(
            ModelCall(
                "g",
                ("main", "ops")[number % 2],
                "s",
                f"e{number}",
                number.to_bytes(16),
                at,
                "p",
                "m",
                "main",
                "ok",
                1,
                1,
                0,
                0,
                0,
                price,
                "unpriced" if price is None else "reported",
                billing,
            )
        )
    recent = NOW - timedelta(minutes=20)
    rows.append(
        ModelCall(
            "g",
            "main",
            "s",
            "recent",
            bytes(16),
            recent,
            "p",
            "m",
            "main",
            "ok",
            1,
            1,
            0,
            0,
            0,
            Decimal("0.7"),
            "reported",
            "billed",
        )
    )
    return rows


@pytest.mark.req("S1-1")
async def test_checkpoint_and_database_agree_in_every_zone(postgres_dsn, tmp_path):
    rows = calls()
    checkpoint = CheckpointLedger(tmp_path, "g")
    for ledger in (PostgresLedger(postgres_dsn, "g"), checkpoint):
        await ledger.open()
        for start in range(0, len(rows), 150):  # in parts, as they come
            async with ledger.transaction() as transaction:
                assert all(await transaction.insert_model_calls(rows[start : start + 150]))
                assert not any(await transaction.insert_model_calls(rows[start : start + 5]))
        await ledger.close()
    spending = SpendingReader(checkpoint.path).read()
    async with await psycopg.AsyncConnection.connect(postgres_dsn, row_factory=dict_row) as connection:
        for zone in ZONES:
            for ahead in (timedelta(0), timedelta(minutes=7)):
                at = NOW + ahead
                ours = compute(spending, ZoneInfo(zone), at)
                theirs = await cost.windows(connection, "g", zone, at)
                assert {key: round(value, 9) for key, value in ours.costs.items()} == {
                    key: round(value, 9) for key, value in theirs.items()
                }, zone
                assert ours.costs["main", "1h"] >= Decimal("0.7")
                assert ours.baseline == await cost.hour_baseline(connection, "g", zone, at), zone


# Near where clocks change: at midnight, by half an hour, by two hours.
CHANGES = (
    ("America/Havana", "2026-11-01T12:00"),  # 01:00 becomes 00:00: the day begins at the first midnight
    ("America/Havana", "2026-03-08T12:00"),  # there is no midnight
    ("Atlantic/Azores", "2026-10-25T12:00"),
    ("Africa/Cairo", "2026-04-24T12:00"),
    ("Asia/Beirut", "2026-03-29T12:00"),
    ("America/Santiago", "2026-09-06T12:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Antarctica/Troll", "2026-10-25T12:00"),
    ("Pacific/Chatham", "2026-04-04T20:00"),
    ("Europe/Berlin", "2026-10-26T01:30"),  # the same hour of yesterday came twice
    ("Europe/Berlin", "2026-03-30T00:30"),  # and here it did not come
    ("Asia/Kathmandu", "2026-10-31T18:20"),  # the first of a month since five minutes
    ("America/St_Johns", "2026-11-01T12:00"),
    ("Europe/Brussels", "2026-10-25T12:00"),
)


@pytest.mark.req("S1-1")
async def test_windows_are_days_of_the_zone_where_clocks_change(postgres_dsn, tmp_path):
    """Database, checkpoint and a count of quarter hours by the date on the wall agree on either side of a change."""
    checkpoint, database = CheckpointLedger(tmp_path, "g"), PostgresLedger(postgres_dsn, "g")
    pattern = calls()[1]
    rows, starts = [], {}
    for number, text in enumerate(sorted({text for _, text in CHANGES})):
        middle = datetime.fromisoformat(text).replace(tzinfo=UTC)
        starts[text] = agent = f"a{number}"
        rows += [  # no two runs of quarter hours up to the same one have one sum
            replace(
                pattern,
                agent=agent,
                entry_id=f"{agent}.{step}",
                ts=middle + timedelta(minutes=15 * step + 1),
                cost_usd=Decimal(step + 241),
            )
            for step in range(-240, 160)
        ]
    for ledger in (database, checkpoint):
        await ledger.open()
        async with ledger.transaction() as transaction:
            assert all(await transaction.insert_model_calls(rows))
        await ledger.close()
    buckets = [(row.ts - timedelta(minutes=1), row.agent, row.cost_usd) for row in rows]
    first = {agent: min(at for at, name, _ in buckets if name == agent) for agent in starts.values()}
    spending = Spending(first, buckets, [])
    async with await psycopg.AsyncConnection.connect(postgres_dsn, row_factory=dict_row) as connection:
        for name, text in CHANGES:
            zone, agent = ZoneInfo(name), starts[text]
            for hours in range(-30, 31, 5):
                at = datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(hours=hours, minutes=4)
                today = at.astimezone(zone).date()
                on_the_wall = {
                    window: sum(
                        cost
                        for bucket, who, cost in buckets
                        if who == agent and bucket <= at and start <= bucket.astimezone(zone).date() <= today
                    )
                    for window, start in (
                        ("today", today),
                        ("7d", today - timedelta(days=6)),
                        ("month", today.replace(day=1)),
                    )
                }
                ours = compute(spending, zone, at)
                theirs = await cost.windows(connection, "g", name, at)
                for window, expected in on_the_wall.items():
                    assert ours.costs[agent, window] == expected, (name, at, window)
                    assert theirs[agent, window] == expected, (name, at, window)
                baseline = await cost.hour_baseline(connection, "g", name, at)
                assert ours.baseline.get(agent) == baseline.get(agent), (name, at)


async def test_a_checkpoint_at_rest_is_read_once_and_each_commit_is_seen(tmp_path):
    checkpoint = CheckpointLedger(tmp_path, "g")
    await checkpoint.open()
    reader = SpendingReader(checkpoint.path)
    rows = calls()
    seen = []
    for start in range(0, 40, 8):
        async with checkpoint.transaction() as transaction:
            await transaction.insert_model_calls(rows[start : start + 8])
        seen.append(sum(cost for _, _, cost in reader.read().buckets))
    priced = [row.cost_usd if row.billing == "billed" and row.cost_usd else Decimal(0) for row in rows]
    assert seen == [sum(priced[: start + 8]) for start in range(0, 40, 8)]
    for path in tmp_path.rglob("*"):
        written = path.stat().st_mtime - 60
        os.utime(path, (written, written))
    assert reader.read() is reader.read()
    await checkpoint.close()


def test_a_projection_adds_the_mean_of_full_days_for_the_days_that_are_left():
    zone = ZoneInfo("Europe/Berlin")
    at = datetime(2026, 3, 10, 12, tzinfo=zone)
    days = [datetime(2026, 3, day, 9, tzinfo=zone).astimezone(UTC) for day in range(1, 11)]
    spending = Spending({"main": days[0]}, [(day, "main", Decimal(7)) for day in days], [])
    costs = compute(spending, zone, at.astimezone(UTC)).costs
    assert costs["main", "today"] == 7
    assert costs["main", "7d"] == 49
    assert costs["main", "month"] == 70
    assert costs["main", "month_projected"] == 70 + 7 * 21


def test_without_a_day_to_compare_with_there_is_no_baseline():
    at = datetime(2026, 3, 10, 12, tzinfo=UTC)
    spending = Spending({"main": at - timedelta(hours=1)}, [(at - timedelta(hours=1), "main", Decimal(1))], [])
    assert compute(spending, ZoneInfo("UTC"), at).baseline == {}


async def test_the_collector_shows_windows_and_nothing_stale():
    answers = [Windows({("main", "today"): Decimal("1.5")}, {"main": Decimal("0.25")}), OSError("away"), None]

    async def ask(_at):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    collector = WindowsCollector("g", ask)
    assert list(collector.render()) == []
    await collector.refresh()
    assert list(collector.render()) == [
        ("claw_cost_window_usd", ("g", "main", "today"), 1.5, ()),
        ("claw_cost_hour_baseline_usd", ("g", "main"), 0.25, ()),
    ]
    with pytest.raises(OSError, match="away"):
        await collector.refresh()
    assert list(collector.render()) == []
    await collector.refresh()
    assert list(collector.render()) == []


@pytest.mark.parametrize("name", ["CET", "MET", "EET", "WET"])
async def test_a_zone_that_postgres_takes_for_an_abbreviation_is_named_by_its_city(name, postgres_dsn):
    """`AT TIME ZONE 'CET'` has no summer time, the zone CET has."""
    zone = Settings(timezone=name).timezone
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        cursor = await connection.execute("SELECT %s::timestamptz AT TIME ZONE %s", [noon, zone])
        assert await cursor.fetchone() == (noon.astimezone(ZoneInfo(name)).replace(tzinfo=None),)
