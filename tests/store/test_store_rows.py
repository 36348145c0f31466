"""What the ledger writes into the database: rows, completed tool calls, sums, refused rows."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from psycopg.rows import dict_row

from store.ledger.postgres import PostgresLedger
from store.rows import ModelCall, Reject, Session, SessionEvent, ToolCall, ToolResult

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def call(number: int, **changes) -> ModelCall:
    row = ModelCall(
        gateway="gw", agent="main", session_id="s1", entry_id=f"e{number}", fingerprint=number.to_bytes(16, "big"),
        ts=T0 + timedelta(seconds=number), provider="p", model="m", kind="main", outcome="ok", input_tokens=10,
        output_tokens=5, cache_read_tokens=2, cache_write_tokens=1, reasoning_tokens=3, cost_usd=Decimal("0.0106344"),
        cost_basis="reported", billing="billed", session_key="agent:main:main",
    )  # fmt: skip
    return replace(row, **changes)


def tool(number: int, **changes) -> ToolCall:
    row = ToolCall("gw", "main", "s1", f"e{number}", number.to_bytes(16, "big"), 0, f"c{number}", "read", T0, "main")
    return replace(row, **changes)


def result(number: int, **changes) -> ToolResult:
    row = ToolResult(
        "gw", "main", "s1", f"r{number}", number.to_bytes(16, "big"), f"c{number}", "read",
        T0 + timedelta(milliseconds=1500), "ok", None, None, 7,
    )  # fmt: skip
    return replace(row, **changes)


@pytest.fixture
async def ledger(postgres_dsn):
    opened = PostgresLedger(postgres_dsn, "gw")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def ask(postgres_reader_dsn):
    """Rows of a view, as Grafana would see them."""

    def rows(query, *parameters):
        with psycopg.connect(postgres_reader_dsn, row_factory=dict_row) as connection:
            return connection.execute(query, parameters).fetchall()

    return rows


@pytest.mark.parametrize("size", [3, 60])  # below and above the bound of COPY
async def test_a_call_is_in_the_view_as_it_was_told(ledger, ask, size):
    rows = [call(number) for number in range(size - 1)]
    full = call(
        size, channel="telegram", parent_session_key="agent:main:x", run_id="r", duration_ms=99, error_code="429",
        price_version="2026-01", ts_flag="future", cost_usd=None, cost_basis="unpriced", outcome="error",
    )  # fmt: skip
    async with ledger.transaction() as transaction:
        assert await transaction.insert_model_calls([*rows, full]) == [True] * size
    (row,) = ask("SELECT * FROM model_calls WHERE entry_id = %s", f"e{size}")
    for name, value in row.items():
        assert value == getattr(full, name), name
    assert ledger.rows_written == {"model_calls": size}


@pytest.mark.parametrize("size", [2, 40])
async def test_a_result_completes_its_call_in_one_batch_and_in_the_next(ledger, ask, size):
    half = size // 2
    async with ledger.transaction() as transaction:
        await transaction.insert_tool_calls([tool(number) for number in range(size)])
        assert await transaction.insert_tool_results([result(number) for number in range(half)]) == [True] * half
    assert len(ask("SELECT 1 FROM tool_calls WHERE outcome IS NULL")) == size - half
    async with ledger.transaction() as transaction:
        late = [result(number, outcome="nonzero_exit", exit_code=3) for number in range(half, size)]
        assert await transaction.insert_tool_results(late) == [True] * (size - half)
    found = ask("SELECT outcome, exit_code, duration_ms, output_bytes FROM tool_calls ORDER BY call_id, outcome")
    assert len(found) == size
    assert {tuple(row.values()) for row in found} == {("ok", None, 1500, 7), ("nonzero_exit", 3, 1500, 7)}


async def test_a_repeated_call_id_completes_the_latest_open_call(ledger, ask):
    first, second = tool(1, call_id="call_1"), tool(2, call_id="call_1", ts=T0 + timedelta(seconds=9))
    for row, outcome in ((first, "ok"), (second, "error")):
        async with ledger.transaction() as transaction:
            await transaction.insert_tool_calls([row])
        async with ledger.transaction() as transaction:
            done = result(row.fingerprint[-1], call_id="call_1", outcome=outcome, ts=row.ts + timedelta(seconds=1))
            await transaction.insert_tool_results([done])
    assert [row["outcome"] for row in ask("SELECT outcome FROM tool_calls ORDER BY ts")] == ["ok", "error"]


async def test_a_result_without_its_call_stands_for_itself(ledger, ask):
    async with ledger.transaction() as transaction:
        assert await transaction.insert_tool_results([result(1)]) == [True]
    (row,) = ask("SELECT tool, kind, outcome, duration_ms FROM tool_calls")
    assert tuple(row.values()) == ("read", "unknown", "ok", None)


async def test_sums_of_sessions_and_quarter_hours_equal_the_rows(ledger, ask):
    chance = random.Random(7)
    rows = [
        call(
            number,
            ts=T0 + timedelta(seconds=chance.randrange(86_400)),
            session_id=f"s{chance.randrange(4)}",
            agent=chance.choice(["main", "ops"]),
            model=chance.choice(["m", "n"]),
            billing=chance.choice(["billed", "equivalent"]),
            outcome=chance.choice(["ok", "error"]),
            channel=chance.choice([None, "telegram"]),
            cost_usd=Decimal(chance.randrange(10**9)) / 10**9,
        )
        for number in range(500)
    ]
    for index in range(0, 500, 77):
        async with ledger.transaction() as transaction:
            await transaction.insert_model_calls(rows[max(0, index - 5) : index + 77])  # each batch repeats some
    calls = ask("SELECT sum(cost_usd) AS cost, sum(input_tokens) AS tokens, count(*) AS calls FROM model_calls")
    for view in ("cost_hourly", "cost_daily", "usage_15m"):
        query = f"SELECT sum(cost_usd) AS cost, sum(input_tokens) AS tokens, sum(calls) AS calls FROM {view}"
        assert ask(query) == calls, view
    by_session = "SELECT agent, session_id, {} FROM {} GROUP BY 1, 2 ORDER BY 1, 2"
    billed = "sum(cost_usd) FILTER (WHERE billing = 'billed') AS cost, count(*) AS calls, max(ts) AS last"
    assert ask(by_session.format(billed, "model_calls")) == ask(
        by_session.format("sum(cost_usd) AS cost, sum(calls) AS calls, max(last_call_at) AS last", "sessions")
    )


async def test_the_buckets_can_be_rebuilt_from_the_rows(ledger, ask, postgres_dsn):
    async with ledger.transaction() as transaction:
        await transaction.insert_model_calls([call(number, ts=T0 + timedelta(minutes=number)) for number in range(99)])
    before = ask("SELECT * FROM usage_15m ORDER BY bucket")
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("UPDATE lobs.usage_15m SET cost_usd = 77")
        connection.execute("SELECT lobs.rebuild_usage(%s, %s)", [T0, T0 + timedelta(minutes=99)])
    assert ask("SELECT * FROM usage_15m ORDER BY bucket") == before


async def test_what_is_known_of_a_session_is_merged(ledger, ask):
    known = Session("gw", "main", "s1", kind="direct", channel="telegram", started_at=T0, context_tokens=50)
    more = Session("gw", "main", "s1", label="Trip", context_limit=200, archived=True)
    async with ledger.transaction() as transaction:
        await transaction.upsert_sessions([known])
        await transaction.upsert_sessions([more])
        await transaction.insert_model_calls([call(1, kind="main")])
    (row,) = ask("SELECT * FROM sessions")
    assert (row["kind"], row["channel"], row["label"], row["context_ratio"]) == ("direct", "telegram", "Trip", 0.25)
    assert (row["started_at"], row["archived"], row["calls"], row["model"]) == (T0, True, 1, "m")


@pytest.mark.req("S4-15")
async def test_a_subagents_cost_is_its_own_and_its_roots(ledger, ask):
    keys = ["agent:main:main", "agent:main:subagent:1", "agent:main:subagent:2"]
    async with ledger.transaction() as transaction:
        await transaction.insert_model_calls(
            [
                call(
                    number, session_id=f"s{number}", session_key=key, cost_usd=Decimal(number + 1),
                    parent_session_key=keys[number - 1] if number else None,
                )
                for number, key in enumerate(keys)
            ]
        )  # fmt: skip
    (root,) = ask("SELECT * FROM cost_by_root")
    assert (root["root_session_key"], root["cost_usd"], root["subagent_cost_usd"], root["depth"]) == (keys[0], 6, 5, 2)
    assert [row["cost_usd"] for row in ask("SELECT cost_usd FROM sessions ORDER BY session_id")] == [1, 2, 3]


async def test_a_circle_of_parents_ends(ledger, ask):
    async with ledger.transaction() as transaction:
        await transaction.upsert_sessions(
            [
                Session("gw", "main", "a", session_key="a", parent_session_key="b"),
                Session("gw", "main", "b", session_key="b", parent_session_key="a"),
            ]
        )
    assert len(ask("SELECT * FROM session_roots")) == 2


POISON: list[dict[str, object]] = [
    {"error_code": "a\0b"},
    {"model": "\ud800"},
    {"input_tokens": 2**63},
    {"cost_usd": None},
    {"duration_ms": -(2**70)},
]


@pytest.mark.parametrize("poison", POISON, ids=[next(iter(one)) for one in POISON])
@pytest.mark.parametrize("size", [5, 100])
async def test_one_refused_row_is_kept_aside_and_the_others_go_on(ledger, ask, poison, size):
    rows = [call(number) for number in range(size)]
    rows[size // 2] = replace(rows[size // 2], **poison)
    expected = [number != size // 2 for number in range(size)]
    async with ledger.transaction() as transaction:
        assert await transaction.insert_model_calls(rows) == expected
    assert ledger.poison_rows == 1
    assert ask("SELECT count(*) AS n, sum(input_tokens) AS t FROM model_calls") == [
        {"n": size - 1, "t": 10 * size - 10}
    ]
    (aside,) = ask("SELECT source, reason FROM rejects")
    assert aside["source"] == "model_calls"
    assert aside["reason"].startswith("refused by the database: ")
    async with ledger.transaction() as transaction:
        assert await transaction.insert_model_calls(rows) == [False] * size
    assert ledger.poison_rows == 1


async def test_refused_rows_of_other_kinds_are_kept_aside_too(ledger, ask):
    async with ledger.transaction() as transaction:
        assert await transaction.insert_tool_calls([tool(1, tool="a\0"), tool(2)]) == [False, True]
        assert await transaction.insert_tool_results([result(2, exit_code=2**63), result(3)]) == [False, True]
        event = SessionEvent("gw", "main", "s", "e", b"\0" * 16, T0, "x", {"bad": "\0"})
        assert await transaction.insert_session_events([event]) == [False]
        await transaction.upsert_sessions([Session("gw", "main", "s1", label="\0"), Session("gw", "main", "s2")])
        assert await transaction.insert_rejects([Reject("gw", "main", "jsonl", "bad_json", "fil\udce9:1")]) == [True]
    assert ledger.poison_rows == 4
    assert [row["tool"] for row in ask("SELECT tool FROM tool_calls")] == ["read", "read"]
    assert [row["session_id"] for row in ask("SELECT session_id FROM sessions")] == ["s2"]
