"""What traces need of the database."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg

from store.pool import open_pool
from store.traces import MOST, RunCall, calls_of_run, save_sent_to, sent_to

T0 = datetime(2026, 3, 1, tzinfo=UTC)


async def test_the_calls_of_a_run_in_order_and_no_others(postgres_dsn):
    with psycopg.connect(postgres_dsn) as connection:
        columns = [
            (row[0], row[1])
            for row in connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'lobs'"
                " AND table_name = 'model_calls' AND is_nullable = 'NO' AND column_default IS NULL"
                " AND is_identity = 'NO' AND is_generated = 'NEVER'"
            )
        ]

        def insert(number, **given):
            ready = {
                "text": f"x{number}",
                "bytea": b"%d" % number,
                "uuid": UUID(int=number),
                "timestamp with time zone": T0,
            }
            values = {name: ready.get(kind, 0) for name, kind in columns} | given
            names = ", ".join(values)
            marks = ", ".join(["%s"] * len(values))
            connection.execute(f"INSERT INTO lobs.model_calls ({names}) VALUES ({marks})", list(values.values()))

        known = {
            "gateway": "g", "provider": "p", "model": "m", "outcome": "ok", "cost_basis": "unpriced",
            "billing": "billed", "kind": "main", "input_tokens": 1, "output_tokens": 2, "cache_read_tokens": 3,
            "cache_write_tokens": 4,
        }  # fmt: skip
        insert(1, **known | {"session_id": "s", "ts": T0 + timedelta(seconds=5), "duration_ms": 700})
        insert(2, **known | {"session_id": "s", "ts": T0})
        insert(3, **known | {"session_id": "s", "ts": T0 + timedelta(seconds=11)})
        insert(4, **known | {"session_id": "other", "ts": T0})
        insert(5, **known | {"session_id": "s", "ts": T0, "gateway": "h"})
        late = {
            "ts": T0 + timedelta(seconds=30),
            "cost_usd": Decimal("0.000000007"),
            "reasoning_tokens": 1,
            "cost_basis": "priced",
        }
        insert(6, **known | {"session_id": "s", "run_id": "r", "reasoning_tokens": 1} | late)

    def call(seconds, *more):
        return RunCall(T0 + timedelta(seconds=seconds), "p", "m", "ok", 1, 2, 3, 4, *more)

    async with open_pool(postgres_dsn) as pool, pool.connection() as connection:
        of_session = await calls_of_run(connection, "g", "s", T0, T0 + timedelta(seconds=10))
        of_run = await calls_of_run(connection, "g", "s", T0, T0 + timedelta(seconds=10), run_id="r")
        of_another = await calls_of_run(connection, "g", "s", T0, T0 + timedelta(seconds=40), run_id="q")
    assert of_session == [call(0, None), call(5, 700)]
    assert of_run == [*of_session, call(30, None, 1, Decimal("0.000000007"))]
    assert of_another == [*of_session, call(11, None)]  # those that name another run are not of this one
    assert MOST == 500


async def test_how_far_runs_were_sent_is_kept_by_gateway(postgres_dsn):
    async with open_pool(postgres_dsn) as pool, pool.connection() as connection:
        assert await sent_to(connection, "g") is None
        await save_sent_to(connection, "g", T0 + timedelta(seconds=1))
        await save_sent_to(connection, "g", T0)
        await save_sent_to(connection, "h", T0 + timedelta(days=1))
        assert await sent_to(connection, "g") == T0
