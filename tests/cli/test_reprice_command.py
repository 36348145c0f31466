"""`lobservatory reprice`: new prices change equivalent rows and their sums, nothing that was billed."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from cli.commands.reprice import reprice
from exporter.accounting import Accountant, BillingPolicy, price_book
from lobservatory.errors import UserError
from lobservatory.settings import Billing
from store.ledger.postgres import PostgresLedger
from store.reprice import ModelPrice
from store.reprice import reprice as reprice_rows
from tests.servers import PATIENCE_SECONDS

NOW = datetime.now(UTC).replace(microsecond=0)
LONG_AGO = NOW - timedelta(days=40)
SINCE = (NOW - timedelta(days=10)).isoformat()
TOTALS = "SELECT metric, labels, value FROM lobs.totals ORDER BY 1, 2"
TOKENS = (1_000_000, 100_000, 10_000, 0)  # input, output, cache read, cache write


def prices(path, *, factor=1, more=()):
    """A file of prices: 1, 2 and 0.1 US$ per million tokens, times a factor."""
    rows = [
        f'[[price]]\nproviders = ["sub", "pay"]\nmodels = {list(models)!r}\n'
        f'source = "a test"\ndate = "2026-11-2{factor}"\n'
        f"input = {1 * factor}\noutput = {2 * factor}\ncache_read = {Decimal('0.1') * factor}\n"
        f"cache_write = {Decimal('1.1') * factor}\n"
        for models in (("m1",), tuple(more))
        if models
    ]
    path.write_text("".join(rows))
    return path


@pytest.fixture
def call_of(call):
    def make(provider, model, cost=None, *, at=NOW, tokens=TOKENS, entry_id=None, hour=0):
        line = call(
            "@" if cost is None else cost, provider=provider, model=model, at=at, tokens=tokens, entry_id=entry_id
        )
        line = line.replace(b',"cost":{"total":@}', b"")
        return line.replace(b'"totalTokens"', b'"cacheWrite1h":%d,"totalTokens"' % hour) if hour else line

    return make


@pytest.fixture
def own(tmp_path):
    return prices(tmp_path / "prices.toml")


@pytest.fixture
def configured(own, files_dir, postgres_dsn, tmp_path, monkeypatch):
    """The settings of a person who has rows and prices."""
    for name, value in (
        ("LOBS_DATABASE_URL", postgres_dsn),
        ("LOBS_STATE_DIR", str(files_dir)),
        ("LOBS_GATEWAY_NAME", "g"),
        ("LOBS_PRICES_FILE", str(own)),
        ("COLUMNS", "100"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return Books(postgres_dsn, own)


@pytest.fixture
async def books(configured, files_dir, transcript, call_of, life):
    """Rows of every kind at the first prices, and the command as a person would call it."""
    lines = {
        "equivalent": call_of("sub", "m1", entry_id="equivalent"),
        "an hour of cache": call_of("sub", "m1", entry_id="hour", tokens=(0, 0, 0, 1_000_000), hour=600_000),
        "equivalent, reported": call_of("sub", "m1", "0.5", entry_id="reported"),
        "billed": call_of("pay", "m1", entry_id="billed"),
        "billed, reported": call_of("pay", "m1", "0.25", entry_id="billed-reported"),
        "without a price": call_of("pay", "new", entry_id="unpriced"),
        "equivalent, without a price": call_of("sub", "new", entry_id="equivalent-unpriced"),
        "a cost that was refused": call_of("pay", "new", "-1", entry_id="refused"),
        "long ago": call_of("sub", "m1", at=LONG_AGO, entry_id="old"),
    }
    for line in lines.values():
        transcript().append(line)
    billing = BillingPolicy(Billing(equivalent=("sub",), billed=()))
    accountant = Accountant("g", price_book((), configured.own), billing)
    alive = life(files_dir, PostgresLedger(configured.dsn, "g"), accountant=accountant)
    async with alive.running():
        pass
    return configured


class Books:
    def __init__(self, dsn, own):
        self.dsn, self.own = dsn, own

    async def run(self, *arguments):
        app = typer.Typer()
        app.command()(reprice)
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))

    def ask(self, query):
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query).fetchall()

    def rows(self):
        return {
            entry: (cost, basis, version)
            for entry, cost, basis, version in self.ask(
                "SELECT entry_id, cost_usd, cost_basis, price_version FROM model_calls"
            )
        }

    def check_sums(self):
        """Rollups, sessions and rows tell the same."""
        per_billing = (
            "SELECT billing, sum({calls}), coalesce(sum(cost_usd), 0), sum({unpriced}) FROM {table}"
            " GROUP BY 1 ORDER BY 1"
        )
        rows = self.ask(per_billing.format(calls="1", unpriced="(cost_usd IS NULL)::int", table="model_calls"))
        assert rows == self.ask(per_billing.format(calls="calls", unpriced="unpriced_calls", table="usage_15m"))
        ((billed, equivalent, unpriced),) = self.ask(
            "SELECT sum(cost_usd), sum(equivalent_cost_usd), sum(unpriced_calls) FROM sessions"
        )
        money = {mode: (cost, without) for mode, _, cost, without in rows}
        assert (billed, equivalent) == (money["billed"][0], money["equivalent"][0])
        assert unpriced == sum(without for _, without in money.values())


@pytest.mark.req("P-20")
async def test_new_prices_change_equivalents_only(books):
    before, totals = books.rows(), books.ask(TOTALS)
    assert before["equivalent"][:2] == (Decimal("1.201"), "priced")
    assert before["hour"][0] == Decimal("1.64")  # 600,000 at twice the input, 400,000 at 1.1
    assert before["equivalent-unpriced"] == before["unpriced"] == (None, "unpriced", None)
    books.check_sums()
    prices(books.own, factor=2, more=["new"])

    shown = await books.run("--since", SINCE, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert books.rows() == before
    assert "3 calls (equivalent) would change by US$ +5.243000" in shown.output  # 1.201 + 1.64 + 2.402
    assert "sub/m1" in shown.output
    assert "2.841000" in shown.output  # what is there now
    assert "5.682000" in shown.output  # what it would be
    assert "billed: history, stays as it is" in shown.output
    assert "billed, had no price: stays without (--unpriced gives it one)" in " ".join(shown.output.split())
    books.check_sums()

    done = await books.run("--since", SINCE)
    assert done.exit_code == 0, done.output
    assert "3 calls (equivalent) changed by US$ +5.243000" in done.output
    after = books.rows()
    assert after["equivalent"] == (Decimal("2.402"), "priced", "a test@2026-11-22")
    assert after["equivalent-unpriced"] == (Decimal("2.402"), "priced", "a test@2026-11-22")
    assert after["hour"][0] == Decimal("3.28")
    changed = {"equivalent", "hour", "equivalent-unpriced"}
    kept = before.keys() - changed
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    books.check_sums()
    assert books.ask(TOTALS) == totals

    again = await books.run("--since", SINCE)
    assert "0 calls (equivalent) changed by US$ +0.000000" in again.output  # only the billed ones are still shown
    assert books.rows() == after


@pytest.mark.req("P-20")
async def test_billed_calls_get_the_price_that_they_lacked_only_when_asked_for(books):
    before, totals = books.rows(), books.ask(TOTALS)
    prices(books.own, more=["new"])

    shown = await books.run("--since", SINCE, "--unpriced", "--dry-run")
    assert "1 call (equivalent) would change by US$ +1.201000" in shown.output
    assert "1 call (billed, had no price) would change by US$ +1.201000" in shown.output
    assert "billed, had no price: the new price applies" in " ".join(shown.output.split())
    assert books.rows() == before

    done = await books.run("--since", SINCE, "--unpriced")
    assert "1 call (billed, had no price) changed by US$ +1.201000" in done.output
    after = books.rows()
    assert after["unpriced"] == (Decimal("1.201"), "priced", "a test@2026-11-21")
    kept = before.keys() - {"unpriced", "equivalent-unpriced"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}  # also a refused cost
    books.check_sums()
    assert books.ask(TOTALS) == totals  # history on boards, which read rows; counters go on as they were

    prices(books.own, factor=5, more=["new"])  # it is billed history from now on
    again = await books.run("--since", SINCE, "--unpriced")
    assert "0 calls (billed, had no price) changed" in again.output
    assert books.rows()["unpriced"] == after["unpriced"]
    books.check_sums()


async def test_two_at_once_change_the_sums_once(books):
    price = ModelPrice("sub", "m1", "v2", Decimal(2), Decimal(4), Decimal("0.2"), None, None, None)

    async with contextlib.AsyncExitStack() as stack:

        async def connected(**options):
            return await stack.enter_async_context(await psycopg.AsyncConnection.connect(books.dsn, **options))

        holder, *writers = [await connected(), await connected(autocommit=True), await connected(autocommit=True)]
        await holder.execute("SELECT 1 FROM lobs.usage_state FOR UPDATE")  # as the exporter in a transaction of its own
        both = [
            asyncio.create_task(reprice_rows(one, "g", NOW - timedelta(days=10), [price], apply=True))
            for one in writers
        ]
        pids = ", ".join(str(one.info.backend_pid) for one in writers)
        waiting = f"SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid IN ({pids})"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.to_thread(books.ask, waiting) != [(2,)]:  # noqa: ASYNC110 - a server's state
                await asyncio.sleep(0.05)
        await holder.rollback()
        done = await asyncio.gather(*both)
    assert sorted(sum(change.calls for change in changes) for changes in done) == [0, 1]
    assert books.rows()["equivalent"][0] == Decimal("2.402")
    books.check_sums()


async def test_a_price_that_is_gone_takes_no_money_away(books):
    before = books.rows()
    books.own.write_text("")
    done = await books.run("--since", SINCE)
    assert "nothing to change" in done.output
    assert books.rows() == before


async def test_a_class_without_a_price_leaves_the_call_as_it_was(books):
    before = books.rows()
    books.own.write_text(
        '[[price]]\nproviders = ["sub", "pay"]\nmodels = ["m1", "new"]\nsource = "x"\ndate = "2026-11-21"\ninput = 9\n'
    )
    done = await books.run("--since", SINCE)
    assert done.exit_code == 0, done.output
    assert books.rows() == before
    books.check_sums()


async def test_what_retention_may_have_thinned_out_is_left_alone(books, postgres_owner_dsn):
    """Its quarter hours have more than its rows: built anew, they would lose money."""
    before = books.rows()
    with psycopg.connect(postgres_owner_dsn) as connection:
        connection.execute("UPDATE lobs.retention SET keep = '30 days' WHERE target = 'model_calls'")
    prices(books.own, factor=3)
    done = await books.run("--since", (NOW - timedelta(days=400)).isoformat())
    assert "2 calls (equivalent) changed" in done.output
    after = books.rows()
    assert after["old"] == before["old"]
    assert after["equivalent"][0] == Decimal("3.603")
    books.check_sums()


async def test_a_date_without_a_limit_by_retention_reaches_back_to_the_first_call(books):
    prices(books.own, factor=3)
    done = await books.run("--since", "2020-01-01")
    assert "3 calls (equivalent) changed" in done.output
    assert books.rows()["old"][0] == Decimal("3.603")
    books.check_sums()


async def test_repricing_while_the_exporter_writes_loses_nothing(books, files_dir, life, transcript, call_of):
    alive = life(files_dir, PostgresLedger(books.dsn, "g"))
    async with alive.running():
        for factor in range(2, 8):
            prices(books.own, factor=factor)
            session = transcript()
            repricing = asyncio.create_task(books.run("--since", SINCE))
            for _ in range(20):
                session.append(call_of("sub", "m1", "0.01"))
                await asyncio.sleep(0)
            assert (await repricing).exit_code == 0
        await alive.until(lambda: alive.exact("claw_model_calls_total") == 9 + 6 * 20)
    assert books.rows()["equivalent"][0] == Decimal("1.201") * 7
    books.check_sums()


@pytest.mark.parametrize(
    ("variables", "arguments", "words"),
    [
        ({"LOBS_DATABASE_URL": ""}, ["--since", "2026-11-01"], "no rows without a database"),
        ({}, ["--since", "last week"], "--since: 'last week'"),
        (
            {"LOBS_DATABASE_URL": "postgresql://u:s3cret@127.0.0.1:1/x"},
            ["--since", "2026-11-01"],
            "nothing was changed",
        ),
    ],
)
def test_mistakes_are_one_clear_line(files_dir, monkeypatch, variables, arguments, words):
    monkeypatch.setenv("LOBS_STATE_DIR", str(files_dir))
    monkeypatch.setenv("LOBS_DATA_DIR", str(files_dir.parent / "data"))
    monkeypatch.setenv("LOBS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    app.command()(reprice)
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, UserError)
    assert words in str(error)
    assert "s3cret" not in str(error)
    assert "\n" not in str(error)
