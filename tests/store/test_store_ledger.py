"""One contract, two ledgers: what counts once, what is kept together, what comes back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from store.ledger.checkpoint import CheckpointLedger
from store.ledger.contract import LedgerHeldError
from store.ledger.postgres import PostgresLedger
from store.rows import ModelCall, Position, Reject, SessionEvent, ToolCall, ToolResult

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOKENS = ("claw_tokens_total", ("gw", "main", "p", "m", "main", "input"))
COST = ("claw_cost_usd_total", ("gw", "main", "p", "m", "main"))


def call(number: int = 1, **changes) -> ModelCall:
    row = ModelCall(
        gateway="gw", agent="main", session_id="s1", entry_id=f"e{number}", fingerprint=number.to_bytes(16, "big"),
        ts=T0 + timedelta(seconds=number), provider="p", model="m", kind="main", outcome="ok", input_tokens=10,
        output_tokens=5, cache_read_tokens=2, cache_write_tokens=1, reasoning_tokens=3, cost_usd=Decimal("0.0106344"),
        cost_basis="reported", billing="billed", session_key="agent:main:main",
    )  # fmt: skip
    return replace(row, **changes)


def tool(number: int = 1, **changes) -> ToolCall:
    row = ToolCall(
        gateway="gw", agent="main", session_id="s1", entry_id=f"e{number}", fingerprint=number.to_bytes(16, "big"),
        position=0, call_id=f"c{number}", tool="read", ts=T0, kind="main",
    )  # fmt: skip
    return replace(row, **changes)


def result(number: int = 1, **changes) -> ToolResult:
    row = ToolResult(
        gateway="gw", agent="main", session_id="s1", entry_id=f"r{number}", fingerprint=number.to_bytes(16, "big"),
        call_id=f"c{number}", tool="read", ts=T0 + timedelta(milliseconds=1500), outcome="ok", output_bytes=7,
    )  # fmt: skip
    return replace(row, **changes)


@pytest.fixture(params=["postgres", "checkpoint"])
def books(request, tmp_path):
    """Opens a ledger on the same books each time."""
    if request.param == "postgres":
        dsn = request.getfixturevalue("postgres_dsn")
        factory = lambda gateway: PostgresLedger(dsn, gateway)  # noqa: E731
    else:
        factory = lambda gateway: CheckpointLedger(tmp_path / "data", gateway)  # noqa: E731

    @asynccontextmanager
    async def opened(gateway="gw"):
        ledger = factory(gateway)
        await ledger.open()
        try:
            yield ledger
        finally:
            await ledger.close()

    return opened


async def totals_of(ledger):
    return {(total.metric, total.labels): total.value for total in await ledger.totals()}


async def test_what_was_told_is_there_after_a_restart(books):
    position = Position("gw", "jsonl:main/s1", 512, 3, "dev:ino:head", 1024, 99)
    async with books() as ledger, ledger.transaction() as transaction:
        assert await transaction.insert_model_calls([call(1), call(2)]) == [True, True]
        await transaction.add_totals({TOKENS: 20, COST: Decimal("0.0212688")})
        await transaction.save_positions([position])
    async with books() as ledger:
        assert await ledger.positions() == {"jsonl:main/s1": position}
        assert await totals_of(ledger) == {TOKENS: Decimal(20), COST: Decimal("0.0212688")}


async def test_a_second_sight_is_not_new(books):
    async with books() as ledger:
        async with ledger.transaction() as transaction:
            assert await transaction.insert_model_calls([call(1), call(1), call(2)]) == [True, False, True]
            assert await transaction.insert_model_calls([call(2)]) == [False]
        async with ledger.transaction() as transaction:
            assert await transaction.insert_model_calls([call(2), call(3), call(1)]) == [False, True, False]
    async with books() as ledger, ledger.transaction() as transaction:
        assert (
            await transaction.insert_model_calls([call(number) for number in range(1, 200)])
            == [False] * 3 + [True] * 196
        )


async def test_an_equal_entry_id_with_another_fingerprint_is_another_call(books):
    async with books() as ledger, ledger.transaction() as transaction:
        rows = [call(1), call(1, fingerprint=b"\1" * 16), call(1, agent="other"), call(1, session_id="fork")]
        assert await transaction.insert_model_calls(rows) == [True, True, True, False]


async def test_each_kind_of_row_has_identities_of_its_own(books):
    event = SessionEvent("gw", "main", "s1", "e1", b"\0" * 16, T0, "compaction", {"tokensBefore": 9})
    reject = Reject("gw", "main", "jsonl", "bad_json", "s1.jsonl:120")
    for expected in (True, False):
        async with books() as ledger, ledger.transaction() as transaction:
            assert await transaction.insert_model_calls([call(1)]) == [expected]
            assert await transaction.insert_tool_calls([tool(1), tool(1, position=1)]) == [expected] * 2
            assert await transaction.insert_tool_results([result(1)]) == [expected]
            assert await transaction.insert_session_events([event]) == [expected]
            assert await transaction.insert_rejects([reject]) == [expected]


async def test_an_error_in_the_block_undoes_all_of_it(books):
    async with books() as ledger:

        async def fail_half_way():
            async with ledger.transaction() as transaction:
                await transaction.insert_model_calls([call(1)])
                await transaction.add_totals({TOKENS: 10})
                await transaction.save_positions([Position("gw", "k", 1)])
                raise RuntimeError("half-way")

        with pytest.raises(RuntimeError, match="half-way"):
            await fail_half_way()
        assert await ledger.positions() == {}
        assert await ledger.totals() == []
        async with ledger.transaction() as transaction:
            assert await transaction.insert_model_calls([call(1)]) == [True]


async def test_money_adds_up_without_floating_point(books):
    async with books() as ledger:
        for _ in range(3):
            async with ledger.transaction() as transaction:
                await transaction.add_totals({COST: Decimal("0.1")})
                await transaction.add_totals({COST: Decimal("1e-12")})
        assert await totals_of(ledger) == {COST: Decimal("0.300000000003")}


@pytest.mark.parametrize("amount", [-1, Decimal("-0.01"), Decimal("NaN"), Decimal("Infinity")])
async def test_a_counter_never_falls(books, amount):
    async with books() as ledger:
        with pytest.raises(ValueError, match="cannot be raised"):
            async with ledger.transaction() as transaction:
                await transaction.add_totals({COST: amount})
        assert await ledger.totals() == []


async def test_label_values_and_file_names_come_back_as_they_were(books):
    labels = ("gw", 'a"}\n\\', "\u202eright-to-left", "", "日本")
    keys = ["plain", "hex:not", "caf\udce9.jsonl"]
    async with books() as ledger:
        async with ledger.transaction() as transaction:
            await transaction.add_totals({("claw_x_total", labels): 1})
            await transaction.save_positions([Position("gw", key, 1) for key in keys])
        assert [total.labels for total in await ledger.totals()] == [labels]
        assert sorted(await ledger.positions()) == sorted(keys)


async def test_a_second_exporter_is_refused_and_may_follow_the_first(books):
    async with books() as first:
        with pytest.raises(LedgerHeldError, match="another exporter"):
            async with books():
                pass
        async with books("another-gateway") as other:
            assert await other.totals() == []
        assert await first.totals() == []
    async with books() as second:
        assert await second.totals() == []


async def test_gateways_have_totals_and_positions_of_their_own(books):
    for gateway in ("one", "two"):
        async with books(gateway) as ledger, ledger.transaction() as transaction:
            await transaction.add_totals({("claw_x_total", (gateway,)): 1})
            await transaction.save_positions([Position(gateway, "same", 1)])
    async with books("two") as ledger:
        assert await totals_of(ledger) == {("claw_x_total", ("two",)): 1}
        assert set(await ledger.positions()) == {"same"}


async def test_transactions_of_one_ledger_wait_for_each_other(books):
    async with books() as ledger:

        async def one(number):
            async with ledger.transaction() as transaction:
                new = await transaction.insert_model_calls([call(1), call(number + 2)])
                await transaction.add_totals({TOKENS: sum(new)})

        await asyncio.gather(*(one(number) for number in range(10)))
        assert await totals_of(ledger) == {TOKENS: 11}


async def test_nothing_is_a_transaction_too(books):
    async with books() as ledger, ledger.transaction() as transaction:
        assert await transaction.insert_model_calls([]) == []
        assert await transaction.insert_tool_results([]) == []
        await transaction.upsert_sessions([])
        await transaction.add_totals({})
        await transaction.save_positions([])
        await transaction.publish([])
