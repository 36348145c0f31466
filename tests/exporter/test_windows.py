"""Windows of money: what is computed without a database is what the database says."""

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import dict_row

from exporter.windows import Windows, WindowsCollector, compute
from store import cost
from store.checkpoint import CheckpointLedger, Spending, SpendingReader
from store.postgres_ledger import PostgresLedger
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
