"""The model calls of one run."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg

from store.calls import MOST, RunCall, of_session
from store.pool import open_pool

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
    async with open_pool(postgres_dsn) as pool, pool.connection() as connection:
        found = await of_session(connection, "g", "s", T0, T0 + timedelta(seconds=10))
    assert found == [
        RunCall(T0, "p", "m", "ok", 1, 2, 3, 4, None),
        RunCall(T0 + timedelta(seconds=5), "p", "m", "ok", 1, 2, 3, 4, 700),
    ]
    assert MOST == 500
