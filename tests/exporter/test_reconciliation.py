"""What recorded gateways say that they used, against the rows that we make of their state directories."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from exporter.collectors.usage import Usage, cost_drift, drift, to_usage
from store import usage
from store.ledger.postgres import PostgresLedger

SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples"


@pytest.mark.req("P-3")
async def test_recorded_gateways_agree_with_our_rows_to_the_last_digit(state_dir, life, postgres_dsn, request):
    """2026.9 counts all agents, 2026.4 its default agent only; both count what was reset and deleted, and what was
    called after the answer is in neither."""
    version = request.node.callspec.params["state_dir"]
    recorded = json.loads((SAMPLES / f"rpc-{version}" / "usage.cost.json").read_text(), parse_float=Decimal)
    answer = recorded["response"]["payload"]
    until = datetime.fromtimestamp(float(answer["updatedAt"]) / 1000, UTC)
    agent = None if "cacheStatus" in answer else "main"
    async with (
        life(state_dir, PostgresLedger(postgres_dsn, "g")).running(),
        await psycopg.AsyncConnection.connect(postgres_dsn) as connection,
    ):
        found = await usage.totals(connection, "g", until - timedelta(days=30), until, agent)
        everything = await usage.totals(connection, "g", until - timedelta(days=30), until + timedelta(days=1))
    tokens = {name: getattr(found, f"{name}_tokens") for name in ("input", "output", "cache_read", "cache_write")}
    ours, theirs = Usage(tokens, found.cost_usd), to_usage(answer)
    assert ours.cost_usd > Decimal("0.16")
    assert set(drift(ours, theirs).values()) == {0.0}
    assert cost_drift(ours, theirs) == 0.0
    if agent is not None:
        assert everything.cost_usd > found.cost_usd, "other agents, and calls after the answer"


async def test_money_that_only_our_prices_know_is_not_compared(files_dir, life, transcript, call, postgres_dsn):
    """The gateway has no price for it and counts it as missing: a difference of the tables is no error of counting."""
    line = call("0.25", provider="anthropic", model="claude-sonnet-4-5").replace(b',"cost":{"total":0.25}', b"")
    session = transcript()
    session.append(line + call("0.5"))
    async with life(files_dir, PostgresLedger(postgres_dsn, "g")).running() as running:
        assert running.exact("claw_cost_usd_total") > Decimal("0.5")
        now = datetime.now(UTC)
        async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
            found = await usage.totals(connection, "g", now - timedelta(days=1), now + timedelta(days=1))
    assert found.cost_usd == Decimal("0.5")
    assert found.input_tokens == 20


async def test_what_lies_in_the_stores_is_counted_before_it_is_said_to_be(
    files_dir, make_ledger, life, transcript, call
):
    """After a restart the totals of yesterday are shown at once, but they are compared only when today is counted."""
    session = transcript()
    session.append(call("0.5"))
    async with life(files_dir, make_ledger()).running() as first:
        await first.until(lambda: first.ingest.status.looked)
    session.append(call("0.25"))
    second = life(files_dir, make_ledger())
    assert not second.ingest.status.looked
    async with second.running():
        await second.until(lambda: second.ingest.status.looked)
        assert second.exact("claw_cost_usd_total") == Decimal("0.75")
