"""What TimescaleDB adds. Its packages are in no registry: these run when LOBS_TEST_DSN names a server that has it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

import store.migrate
from store import maintenance
from store.ledger.postgres import PostgresLedger
from store.migrate import migrate, set_timezone
from store.reprice import ModelPrice, reprice
from store.rows import ModelCall, ToolCall, ToolResult

NOW = datetime.now(UTC).replace(minute=1, second=0, microsecond=0)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
POLICY = (
    "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name IS NOT DISTINCT FROM %s AND proc_name = %s"
)
# Both sides in one statement, thus of one instant: quarter hours that are not what their rows say.
WRONG = """
WITH shown AS (
    SELECT bucket, gateway, agent, provider, model, kind, channel, billing, calls, errors, input_tokens, output_tokens,
           cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd, unpriced_calls, unpriced_tokens
    FROM public.usage_15m
), truth AS (
    SELECT date_bin('15 minutes', ts, '2000-01-01 00:00+00'), gateway, agent, provider, model, kind,
           coalesce(channel, ''), billing, count(*), count(*) FILTER (WHERE outcome <> 'ok'), sum(input_tokens),
           sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(reasoning_tokens),
           coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_basis = 'unpriced'),
           coalesce(sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)
               FILTER (WHERE cost_basis = 'unpriced'), 0)
    FROM lobs.model_calls GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
)
SELECT count(*) FROM ((TABLE shown EXCEPT ALL TABLE truth) UNION ALL (TABLE truth EXCEPT ALL TABLE shown)) AS wrong
"""


@pytest.fixture(autouse=True)
def _timescale(postgres_server):
    with psycopg.connect(postgres_server.admin) as connection:
        loaded = connection.execute("SELECT current_setting('shared_preload_libraries')").fetchone()
    if "timescaledb" not in loaded[0]:
        # No registry has it, so also a build machine skips; who changes the schema runs these by hand.
        pytest.skip("TimescaleDB is missing: set LOBS_TEST_DSN to a server that has it loaded")


def call(number, at, **given):
    values = {"model": "m", "outcome": "ok", "cost_usd": Decimal(1), "cost_basis": "reported", "billing": "billed"}
    values |= given
    return ModelCall(
        gateway="gw", agent="main", session_id="s", entry_id=f"e{number}", fingerprint=bytes(16), ts=at, provider="p",
        kind="main", input_tokens=1, output_tokens=1, cache_read_tokens=0, cache_write_tokens=0, reasoning_tokens=0,
        **values,
    )  # fmt: skip


async def keep(dsn, rows, gateway="gw"):
    ledger = PostgresLedger(dsn, gateway)
    await ledger.open()
    async with ledger.transaction() as transaction:
        new = await transaction.insert_model_calls(rows)
    await ledger.close()
    return new


@pytest.fixture
def owner(postgres_owner_dsn):
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        # They run when a test says so: what they leave behind is what is looked at.
        connection.execute(
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
        )
        yield connection


def run_policy(connection, proc, table=None):
    """Run the job of that procedure now, as TimescaleDB would."""
    (job,) = connection.execute(POLICY, [table, proc]).fetchone()
    connection.execute(f"CALL run_job({job})")


def settle(connection):
    """The refresh policy, to the end: the scheduler's own run may be under way."""
    connection.execute("SELECT pg_advisory_lock(7305804402566886004)")
    try:
        connection.execute("CALL lobs.policy_usage(0, NULL)")
    finally:
        connection.execute("SELECT pg_advisory_unlock_all()")


def value(connection, statement, *parameters):
    return connection.execute(statement, parameters).fetchone()[0]


@contextmanager
def database(server, name):
    name = f"lobs_{name}_{os.getpid()}"
    with psycopg.connect(server.admin, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield server.dsn(name)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.req("P-19")
async def test_a_late_row_is_seen_at_once_and_refreshes_its_range(postgres_dsn, owner):
    await keep(postgres_dsn, [call(number, NOW - number * HOUR) for number in range(100)])
    settle(owner)
    assert value(owner, "SELECT sum(calls) FROM lobs.usage_quarters") >= 97  # the last hour is read from rows
    assert value(owner, WRONG) == 0
    late = NOW - 50 * HOUR
    await keep(postgres_dsn, [call(1000, late)])
    of_bucket = "FROM {} WHERE bucket = date_bin('15 minutes', %s, '2000-01-01 00:00+00')"
    assert value(owner, "SELECT calls " + of_bucket.format("public.usage_15m"), late) == 2
    # The mark is as durable as the row: whatever breaks before the refresh, the next one knows what to do.
    assert value(owner, "SELECT count(*) " + of_bucket.format("lobs.usage_marks"), late) == 1
    assert value(owner, "SELECT calls " + of_bucket.format("lobs.usage_quarters"), late) == 1
    settle(owner)
    assert value(owner, "SELECT count(*) FROM lobs.usage_marks") == 0
    assert value(owner, "SELECT calls " + of_bucket.format("lobs.usage_quarters"), late) == 2
    assert value(owner, WRONG) == 0


async def test_a_row_that_rolls_back_leaves_no_mark(postgres_dsn, owner):
    await keep(postgres_dsn, [call(1, NOW - DAY)])
    settle(owner)
    ledger = PostgresLedger(postgres_dsn, "gw")
    with pytest.raises(RuntimeError, match="power cut"):  # noqa: PT012 - the block is what fails
        async with ledger.transaction() as transaction:
            await transaction.insert_model_calls([call(2, NOW - DAY)])
            raise RuntimeError("power cut")
    await ledger.close()
    assert value(owner, "SELECT count(*) FROM lobs.usage_marks") == 0
    assert value(owner, WRONG) == 0


async def write(dsn, gateway, transactions):
    """Rows of now, of the last hours and of long ago, some in transactions that take their time."""
    chance = random.Random(gateway)
    ledger = PostgresLedger(dsn, gateway)
    await ledger.open()
    for number in range(transactions):
        present = datetime.now(UTC)
        rows = []
        for part in range(chance.choice([1, 1, 30])):
            age = timedelta(seconds=chance.choice([0, 3000, 4500, 90_000, 17_000_000]) * chance.random())
            unpriced = chance.random() < 0.2
            rows.append(
                call(
                    f"{gateway}-{number}-{part}", present - age, outcome=chance.choice(["ok", "error"]),
                    cost_usd=None if unpriced else Decimal(chance.randrange(10**9)) / 10**9,
                    cost_basis="unpriced" if unpriced else "reported", channel=chance.choice([None, "slack"]),
                )
            )  # fmt: skip
        async with ledger.transaction() as transaction:
            await transaction.insert_model_calls(rows)
            await asyncio.sleep(chance.choice([0, 0, 0.05]))
    await ledger.close()


@pytest.mark.req("P-19")
async def test_quarter_hours_are_their_rows_at_any_instant(postgres_dsn, postgres_owner_dsn, owner):
    """While two ledgers write, the policy runs, and somebody else refreshes the aggregate as he likes."""
    done = asyncio.Event()
    looks = []

    async def look():
        async with await psycopg.AsyncConnection.connect(postgres_owner_dsn, autocommit=True) as connection:
            while not done.is_set():
                looks.append((await (await connection.execute(WRONG)).fetchone())[0])

    async def refresh(statement):
        async with await psycopg.AsyncConnection.connect(postgres_owner_dsn, autocommit=True) as connection:
            while not done.is_set():
                try:
                    await connection.execute(statement)
                except psycopg.Error as error:
                    assert "concurrent" in str(error) or "deadlock" in str(error)  # noqa: PT017 - not the point here
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        group.create_task(refresh("CALL lobs.policy_usage(0, NULL)"))
        group.create_task(refresh("CALL refresh_continuous_aggregate('lobs.usage_quarters', NULL, NULL)"))
        await asyncio.gather(write(postgres_dsn, "one", 120), write(postgres_dsn, "two", 120))
        done.set()
    assert looks
    assert set(looks) == {0}
    settle(owner)
    assert value(owner, "SELECT count(*) FROM lobs.usage_marks") == 0
    assert value(owner, "SELECT settled_to > now() - interval '2 hours' FROM lobs.usage_state")
    assert value(owner, WRONG) == 0


@pytest.mark.parametrize("zone", ["UTC", "America/St_Johns", "Asia/Kathmandu"])
@pytest.mark.req("P-19")
async def test_the_numbers_are_those_of_plain_postgresql(
    postgres_server, postgres_dsn, postgres_owner_dsn, owner, zone
):
    """The same rows into both: settled, marked, recent; then every view and both functions of money."""
    chance = random.Random(7)
    rows = [
        call(
            number, NOW - timedelta(minutes=chance.randrange(60 * 24 * 40)), model=chance.choice(["m", "n"]),
            outcome=chance.choice(["ok", "aborted"]), cost_usd=Decimal(chance.randrange(10**9)) / 10**9,
            billing=chance.choice(["billed", "equivalent"]), channel=chance.choice([None, "slack", "telegram"]),
        )
        for number in range(600)
    ]  # fmt: skip
    rows.append(call(600, NOW - DAY, cost_usd=None, cost_basis="unpriced"))
    with database(postgres_server, "plain") as plain:
        assert migrate(plain).timescale is None
        for dsn in (plain, postgres_owner_dsn):
            with psycopg.connect(dsn) as connection:
                set_timezone(connection, zone)
            await keep(dsn, rows[:500])
            if dsn != plain:
                settle(owner)
            await keep(dsn, rows[500:])
        assert value(owner, "SELECT count(*) FROM lobs.usage_marks") > 50
        with psycopg.connect(plain) as other:
            for query in (
                "SELECT * FROM public.usage_15m ORDER BY 1, 2, 3, 4, 5, 6, 7, 8",
                "SELECT * FROM public.cost_hourly ORDER BY 1, 2, 3, 4, 5, 6, 7, 8",
                "SELECT * FROM public.cost_daily ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9",
                f"SELECT * FROM public.cost_windows('{zone}', '{NOW}') ORDER BY 1, 2, 3",
                f"SELECT * FROM public.cost_hour_baseline('{zone}', '{NOW}') ORDER BY 1, 2",
            ):
                expected = other.execute(query).fetchall()
                assert expected
                assert owner.execute(query).fetchall() == expected


@pytest.mark.req("P-2", "P-19")
async def test_retention_drops_chunks_and_no_number(postgres_dsn, owner):
    await keep(postgres_dsn, [call(number, NOW - number * DAY) for number in range(400)])
    settle(owner)
    await keep(postgres_dsn, [call(1000, NOW - 390 * DAY), call(1001, NOW - 20 * DAY)])  # marked, not yet refreshed
    before = owner.execute("SELECT * FROM usage_15m ORDER BY bucket").fetchall()
    owner.execute("UPDATE lobs.retention SET keep = '365 days' WHERE target = 'model_calls'")
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        assert "model_calls" not in await maintenance.prune(connection)
    run_policy(owner, "policy_retention")
    # Whole chunks of 30 days: between 365 and 395 days of rows are left.
    left = value(owner, "SELECT min(ts) FROM model_calls")
    assert NOW - 395 * DAY < left <= NOW - 364 * DAY
    edge = value(owner, "SELECT rows_from FROM lobs.usage_state")
    assert edge <= left
    assert owner.execute("SELECT * FROM usage_15m ORDER BY bucket").fetchall() == before
    # What is later than late: its rows have left already, and it counts all the same, once.
    gone = NOW - 396 * DAY
    rows = [call(396, gone), call(2000, gone)]
    assert await keep(postgres_dsn, rows) == [False, True]
    run_policy(owner, "policy_retention")
    settle(owner)
    owner.execute("CALL refresh_continuous_aggregate('lobs.usage_quarters', NULL, NULL)")  # nor does this lose any
    assert value(owner, "SELECT sum(calls) FROM cost_daily") == 403
    assert value(owner, "SELECT sum(calls) FROM usage_15m WHERE bucket < %s", edge) == len(
        [row for row in before if row[0] < edge]
    ) + (2 if edge > NOW - 390 * DAY else 1)


async def test_samples_leave_by_the_same_policy(postgres_dsn, owner):
    for age in (0, 29, 45, 400):
        owner.execute(
            "INSERT INTO lobs.host_samples (ts, gateway) VALUES (%(ts)s, 'gw')", {"ts": NOW - timedelta(days=age)}
        )
    run_policy(owner, "policy_retention")
    assert value(owner, "SELECT count(*) FROM host_samples") == 2
    owner.execute("UPDATE lobs.retention SET keep = NULL WHERE target = 'host_samples'")
    owner.execute("INSERT INTO lobs.host_samples (ts, gateway) VALUES (%s, 'gw')", [NOW - 400 * DAY])
    run_policy(owner, "policy_retention")
    assert value(owner, "SELECT count(*) FROM host_samples") == 3


@pytest.mark.parametrize("table", ["model_calls", "tool_calls", "session_events", "host_samples", "agent_events"])
def test_old_chunks_are_compressed_by_a_policy(owner, table):
    needed = {
        "model_calls": "('gw', 'a', 's', 'main', 'e', gen_random_uuid(), 'p', 'm', 'ok', 1, 1, 0, 0, 0, 1, 'reported',"
        " 'billed', {ts})",
        "tool_calls": "('gw', 'a', 's', 'e', 0, gen_random_uuid(), 'c', 'read', 'main', {ts})",
        "session_events": "('gw', 'a', 's', 'e', gen_random_uuid(), 'reset', {ts})",
        "host_samples": "('gw', {ts})",
        "agent_events": "('gw', 'a', 'thinking', {ts})",
    }
    columns = {
        "model_calls": "gateway, agent, session_id, kind, entry_id, identity, provider, model, outcome, input_tokens,"
        " output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd, cost_basis, billing, ts",
        "tool_calls": "gateway, agent, session_id, entry_id, position, identity, call_id, tool, kind, ts",
        "session_events": "gateway, agent, session_id, entry_id, identity, event, ts",
        "host_samples": "gateway, ts",
        "agent_events": "gateway, agent, event, ts",
    }
    for age in ("1 hour", "200 days"):
        values = needed[table].format(ts=f"now() - interval '{age}'")
        owner.execute(f"INSERT INTO lobs.{table} ({columns[table]}) VALUES {values}")
    run_policy(owner, "policy_compression", table)
    found = owner.execute(
        "SELECT is_compressed FROM timescaledb_information.chunks WHERE hypertable_name = %s ORDER BY range_start",
        [table],
    ).fetchall()
    assert found == [(True,), (False,)]
    assert value(owner, f"SELECT count(*) FROM public.{table}") == 2


async def test_rows_reach_compressed_chunks(postgres_dsn, owner):
    await keep(postgres_dsn, [call(number, NOW - number * DAY) for number in range(400)])
    settle(owner)
    run_policy(owner, "policy_compression", "model_calls")
    compressed = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"
    assert value(owner, compressed) > 5
    late = call(1000, NOW - 200 * DAY - HOUR)
    assert await keep(postgres_dsn, [late, call(200, NOW - 200 * DAY)]) == [True, False]
    assert value(owner, WRONG) == 0
    settle(owner)
    assert value(owner, WRONG) == 0


async def test_a_late_result_completes_its_call_in_a_compressed_chunk(postgres_dsn, owner):
    ledger = PostgresLedger(postgres_dsn, "gw")
    at = NOW - 200 * DAY
    async with ledger.transaction() as transaction:
        await transaction.insert_tool_calls([ToolCall("gw", "a", "s", "e", bytes(16), 0, "c1", "exec", at, "main")])
    run_policy(owner, "policy_compression", "tool_calls")
    async with ledger.transaction() as transaction:
        await transaction.insert_tool_results(
            [ToolResult("gw", "a", "s", "r", bytes(16), "c1", "exec", at + timedelta(seconds=2), "nonzero_exit", 3)]
        )
    await ledger.close()
    assert owner.execute("SELECT outcome, exit_code, duration_ms FROM tool_calls").fetchall() == [
        ("nonzero_exit", 3, 2000)
    ]


async def test_repricing_reaches_settled_and_compressed_quarter_hours(postgres_dsn, postgres_owner_dsn, owner):
    unpriced = {"cost_usd": None, "cost_basis": "unpriced"}
    await keep(postgres_dsn, [call(number, NOW - number * DAY, **unpriced) for number in range(200)])
    settle(owner)
    run_policy(owner, "policy_compression", "model_calls")
    name = psycopg.conninfo.conninfo_to_dict(postgres_owner_dsn)["dbname"]
    owner.execute(f"ALTER DATABASE {name} SET timescaledb.max_tuples_decompressed_per_dml_transaction = 1")
    price = ModelPrice("p", "m", "v1", Decimal(1), Decimal(1), None, None, None, None)
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        changes = await reprice(connection, "gw", NOW - 300 * DAY, [price], apply=True, unpriced=True)
    assert [change.calls for change in changes] == [200]
    assert value(owner, "SELECT sum(cost_usd) FROM cost_daily") == Decimal("0.0004")  # 200 calls of 2 tokens
    assert value(owner, WRONG) == 0
    settle(owner)
    assert value(owner, "SELECT count(*) FROM lobs.usage_marks") == 0
    assert value(owner, WRONG) == 0


async def test_a_plain_database_with_rows_becomes_hypertables(postgres_server):
    """The extension comes later; by then rows of before a retention have gone."""
    with database(postgres_server, "later") as dsn:
        assert migrate(dsn).timescale is None
        await keep(dsn, [call(number, NOW - number * DAY) for number in range(100)])
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await maintenance.set_retention(connection, "model_calls", 50 * DAY)
            assert (await maintenance.prune(connection, NOW))["model_calls"] == 49
        with psycopg.connect(dsn, autocommit=True) as connection:
            before = connection.execute("SELECT * FROM usage_15m ORDER BY bucket").fetchall()
            assert len(before) == 100
            connection.execute("CREATE EXTENSION timescaledb")
        state = migrate(dsn)
        assert state.timescale is not None
        assert state.pending == ()
        with psycopg.connect(dsn, autocommit=True) as connection:
            tables = connection.execute("SELECT hypertable_name FROM timescaledb_information.hypertables").fetchall()
            assert {table for (table,) in tables} >= {"model_calls", "tool_calls", "host_samples", "agent_events"}
            assert value(connection, "SELECT count(*) FROM model_calls") == 51
            for _ in range(2):
                assert connection.execute("SELECT * FROM usage_15m ORDER BY bucket").fetchall() == before
                settle(connection)
            assert value(connection, "SELECT sum(calls) FROM lobs.usage_quarters") >= 48
        assert await keep(dsn, [call(1, NOW - DAY), call(500, NOW), call(501, NOW - 80 * DAY)]) == [False, True, True]
        with psycopg.connect(dsn) as connection:
            assert value(connection, "SELECT sum(calls) FROM cost_daily") == 102


def test_hypertables_of_the_former_version_keep_every_number(postgres_server, tmp_path, monkeypatch):
    """A database of the version before, with rows, a table of quarter hours and a part of its rows gone."""
    with database(postgres_server, "former") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION timescaledb")
        shutil.copytree(store.migrate._FOLDER, tmp_path / "migrations")
        for path in (tmp_path / "migrations").rglob("*.sql"):
            if (path.parent.name, path.name) >= ("timescale", "0003") or (
                path.parent.name == "core" and path.name >= "0014"
            ):
                path.unlink()
        with monkeypatch.context() as former:
            former.setattr(store.migrate, "_FOLDER", tmp_path / "migrations")
            migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO lobs.model_calls (ts, gateway, agent, session_id, kind, entry_id, identity, provider,"
                " model, outcome, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,"
                " cost_usd, cost_basis, billing) SELECT now() - i * interval '47 minutes', 'gw', 'a', 's', 'main',"
                " 'e' || i, gen_random_uuid(), 'p', 'm', 'ok', i, 1, 0, 0, 0, i * 0.001, 'reported', 'billed'"
                " FROM generate_series(1, 3000) AS i"
            )
            connection.execute("SELECT lobs.rebuild_usage(min(ts), max(ts)) FROM lobs.model_calls")
            connection.execute("DELETE FROM lobs.model_calls WHERE ts < now() - interval '60 days'")
            before = connection.execute("SELECT * FROM usage_15m ORDER BY bucket").fetchall()
            daily = connection.execute("SELECT * FROM cost_daily ORDER BY day").fetchall()
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for _ in range(2):
                assert connection.execute("SELECT * FROM usage_15m ORDER BY bucket").fetchall() == before
                assert connection.execute("SELECT * FROM cost_daily ORDER BY day").fetchall() == daily
                settle(connection)
            assert value(
                connection, "SELECT abs(extract(epoch FROM now() - rows_from) / 86400 - 60) < 1 FROM lobs.usage_state"
            )
