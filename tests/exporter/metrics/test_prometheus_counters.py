"""Counters as a real Prometheus sees them: no spike at the first start, no first call lost, no fall."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
import typer
from pydantic import SecretStr
from typer.testing import CliRunner

from cli.commands.reprice import reprice
from cli.up import postgres
from lobservatory.settings import Listen
from tests.servers import PATIENCE_SECONDS

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: lobservatory
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
SINCE_START = "[10m]"


class Asked:
    """A Prometheus that scrapes one exporter after another on the same port."""

    def __init__(self, server):
        self._server = server

    async def query(self, expression):
        found = await asyncio.to_thread(self._server.query, expression)
        return {
            (row["metric"].get("model") or row["metric"].get("__name__") or ""): float(row["value"][1]) for row in found
        }

    async def until(self, expression, condition, seconds=PATIENCE_SECONDS):
        async with asyncio.timeout(seconds):
            while not condition(shown := await self.query(expression)):  # noqa: ASYNC110 - over HTTP, as users look
                await asyncio.sleep(0.2)
            return shown


@pytest.fixture
async def asked(lab, tmp_path, prometheus_server):
    """An exporter with history, and a Prometheus that has scraped it at least twice."""
    history = lab.transcript()
    for _ in range(40):
        history.append(lab.call("25.0", at=datetime.now(UTC) - timedelta(hours=5)))
    async with lab.running(lab.settings(lab.state_dir, tmp_path / "data")) as alive:
        config = tmp_path / "prometheus.yml"
        config.write_text(CONFIG.format(port=alive.exporter.port))
        (tmp_path / "prometheus").mkdir()
        server = await asyncio.to_thread(prometheus_server, tmp_path / "prometheus", config)
        asked = Asked(server)
        await asked.until("count_over_time(claw_cost_usd_total[1m])", lambda shown: shown.get("fake-1", 0) >= 3)
        yield asked, history


async def test_history_makes_no_spike_and_the_first_call_of_a_newborn_series_is_seen(asked, lab):
    prometheus, history = asked
    increase = f"sum by (model) (increase(claw_cost_usd_total{SINCE_START}))"
    assert await prometheus.query("sum by (model) (claw_cost_usd_total)") == {"fake-1": 1000.0}
    assert (await prometheus.query(increase)).get("fake-1", 0) == 0
    history.append(lab.call("0.5", model="newborn"))
    # The sample before the first is 0, so nothing of it is lost. (`increase` extrapolates; the difference does not.)
    total = "sum by (model) (claw_cost_usd_total)"
    shown = await prometheus.until(total, lambda shown: shown.get("newborn") == 0.5)
    assert shown == {"fake-1": 1000.0, "newborn": 0.5}
    least = await prometheus.query(f"min by (model) (min_over_time(claw_cost_usd_total{SINCE_START}))")
    assert least == {"fake-1": 1000.0, "newborn": 0.0}
    await prometheus.until(increase, lambda shown: shown.get("newborn", 0) >= 0.5)
    history.append(lab.call("0.25"))
    await prometheus.until(total, lambda shown: shown.get("fake-1") == 1000.25)
    shown = await prometheus.until(increase, lambda shown: shown.get("fake-1", 0) > 0)
    assert 0.2 < shown["fake-1"] < 1  # a quarter, extrapolated over seconds; never the history
    assert await prometheus.query(f"sum(resets(claw_cost_usd_total{SINCE_START}))") == {"": 0.0}
    series = await prometheus.query("count({__name__=~'claw_.+|lobservatory_.+'})")
    assert series[""] > 100
    assert await prometheus.query("max(claw_source_lag_bytes)") == {"": 0.0}


@pytest.fixture
async def watched(lab, tmp_path, prometheus_server):
    """A Prometheus, and lives of an exporter on the port that it scrapes, one after another."""
    return await watching(lab, tmp_path, prometheus_server)


async def watching(lab, tmp_path, prometheus_server, **values):
    configured = lab.settings(lab.state_dir, tmp_path / "data", **values)
    async with lab.running(configured) as alive:
        port = alive.exporter.port
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=port))
    (tmp_path / "prometheus").mkdir()
    asked = Asked(await asyncio.to_thread(prometheus_server, tmp_path / "prometheus", config))
    same = configured.model_copy(update={"metrics_listen": Listen(host="127.0.0.1", port=port)})
    return asked, lambda **changed: lab.running(same.model_copy(update=changed))


@pytest.mark.req("P-2")
async def test_no_counter_falls_over_a_crash_a_prune_a_reclassification_and_a_restore(
    watched, lab, tmp_path, monkeypatch
):
    prometheus, life = watched
    billed, money = "sum(claw_cost_usd_total)", 0.0
    monkeypatch.setattr("exporter.ingest.ingest.LAST_RETRY", 0.05)

    async def add(session, *costs):
        nonlocal money
        session.append(b"".join(lab.call(cost) for cost in costs))
        money += sum(map(float, costs))
        await prometheus.until(billed, lambda shown: shown.get("") == pytest.approx(money, abs=1e-12))

    first, second = lab.transcript(), lab.transcript()
    async with life():
        # Costs whose floating point sum depends on its order.
        await add(first, *["0.1"] * 7, "0.3", "1e-8")
        # A crash before the commit: what was read is shown only when it is kept.
        with monkeypatch.context() as patch:
            tries = []

            async def broken(*_arguments):
                tries.append(1)
                raise RuntimeError("as if it had crashed here")

            patch.setattr("exporter.ingest.committing._keep", broken)
            second.append(lab.call("2.5"))
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(tries) < 2:  # noqa: ASYNC110 - tried again by the ingest
                    await asyncio.sleep(0.02)
            assert (await prometheus.query(billed))[""] == pytest.approx(money, abs=1e-12)
        money += 2.5
        await prometheus.until(billed, lambda shown: shown.get("") == pytest.approx(money, abs=1e-12))
    (checkpoint,) = (tmp_path / "data").glob("checkpoint-*.sqlite")
    backup = checkpoint.read_bytes()
    first.path.unlink()  # pruned while nobody watched
    async with life():
        await add(second, "0.7")
    checkpoint.write_bytes(backup)  # an older state of the books; the stores know the rest
    async with life():
        await add(second, "0.11")
    # The provider is a subscription's from now on: what was billed stays billed.
    profile = '{"auth": {"profiles": {"fake:me": {"provider": "fake", "mode": "oauth"}}}}'
    (lab.state_dir / "openclaw.json").write_text(profile)
    async with life():
        second.append(lab.call("8"))
        equivalent = "sum(claw_equivalent_cost_usd_total)"
        await prometheus.until(equivalent, lambda shown: shown.get("") == 8)
        assert (await prometheus.query(billed))[""] == pytest.approx(money, abs=1e-12)
        for counter in ("cost_usd", "equivalent_cost_usd", "tokens", "model_calls", "source_entries"):
            falls = await prometheus.query(f"sum(resets(claw_{counter}_total{SINCE_START}))")
            assert falls == {"": 0.0}, counter
        spike = await prometheus.query(f"sum(max_over_time(claw_cost_usd_total{SINCE_START}))")
        assert spike[""] == pytest.approx(money, abs=1e-12)


OWN = """\
[[price]]
providers = ["pay", "sub"]
models = ["m"]
source = "contract"
date = "2026-11-20"
input = 0.5
"""


def gateway_prices(state_dir, price, *, also=()):
    """The gateway's configuration: one price for all tokens of the model `m` of `pay` and `sub`, and of others."""
    cost = {"input": price, "output": price, "cacheRead": 0, "cacheWrite": 0}
    models = [{"id": name, "cost": cost} for name in ("m", *also)]
    document = {
        "auth": {"profiles": {"sub:me": {"provider": "sub", "mode": "oauth"}}},
        "models": {"providers": {provider: {"models": models} for provider in ("pay", "sub")}},
    }
    (state_dir / "openclaw.json").write_text(json.dumps(document))


class Repricing:
    """The command as a person calls it who has rows."""

    def __init__(self, dsn, setenv):
        self.dsn, self.setenv = dsn, setenv
        self._app = typer.Typer()
        self._app.command()(reprice)

    async def run(self, *options):
        since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        done = await asyncio.to_thread(CliRunner().invoke, self._app, ["--since", since, *options])
        assert done.exit_code == 0, done.output

    def rows(self):
        with psycopg.connect(self.dsn) as connection:
            return dict(connection.execute("SELECT billing, sum(cost_usd) FROM usage_15m GROUP BY 1").fetchall())


@pytest.fixture
def repricing(lab, postgres_dsn, tmp_path, monkeypatch):
    monkeypatch.setenv("LOBS_DATABASE_URL", postgres_dsn)
    monkeypatch.setenv("LOBS_STATE_DIR", str(lab.state_dir))
    monkeypatch.setenv("LOBS_GATEWAY_NAME", "g")
    monkeypatch.chdir(tmp_path)
    return Repricing(postgres_dsn, monkeypatch.setenv)


@pytest.mark.req("P-20", "P-2")
async def test_no_counter_moves_when_prices_change(lab, tmp_path, prometheus_server, repricing):
    """The gateway's prices and then a user's own, over repricing and restarts, as a real Prometheus sees them."""
    gateway_prices(lab.state_dir, 1)
    history = lab.transcript()
    now = datetime.now(UTC)

    def call(provider, model, at=now - timedelta(minutes=90)):
        line = lab.call("@", provider=provider, model=model, at=at, tokens=(1_000_000, 0, 0, 0))
        return line.replace(b',"cost":{"total":@}', b"")

    for _ in range(4):
        history.append(call("pay", "m") + call("sub", "m") + call("pay", "late") + call("sub", "late"))
    prometheus, life = await watching(lab, tmp_path, prometheus_server, dsn=repricing.dsn)
    billed, window = "sum by (model) (claw_cost_usd_total)", 'sum(claw_cost_window_usd{window="30d"})'

    async def apply(*options):
        await repricing.run(*options)
        at = time.time()  # and Prometheus has looked since
        await prometheus.until("max(timestamp(claw_cost_usd_total))", lambda shown: shown.get("", 0) > at)

    async with life() as alive:
        await prometheus.until(billed, lambda shown: shown.get("m") == 4)
        gateway_prices(lab.state_dir, 3, also=["late"])
        await apply("--dry-run")
        assert repricing.rows() == {"billed": 4, "equivalent": 4}
        await apply()
        assert repricing.rows() == {"billed": 4, "equivalent": 24}
        alive.exporter._runner.wake("windows")
        await prometheus.until(window, lambda shown: shown.get("") == 4)
        await apply("--unpriced")
        assert repricing.rows() == {"billed": 16, "equivalent": 24}
        alive.exporter._runner.wake("windows")
        await prometheus.until(window, lambda shown: shown.get("") == 16)  # what rows say
    async with life():  # knows the gateway's new price
        history.append(call("pay", "m", now))
        await prometheus.until(billed, lambda shown: shown.get("m") == 7)
    own = tmp_path / "prices.toml"
    own.write_text(OWN)
    repricing.setenv("LOBS_PRICES_FILE", str(own))
    async with life(prices_file=own):
        await apply()
        assert repricing.rows() == {"billed": 19, "equivalent": 14}  # 4 of `m` at a half, 4 of `late` at 3
        history.append(call("pay", "m", now))
        await prometheus.until(billed, lambda shown: shown.get("m") == 7.5)
    for counter in ("cost_usd", "equivalent_cost_usd", "tokens", "unpriced_tokens", "model_calls"):
        falls = await prometheus.query(f"sum(resets(claw_{counter}_total{SINCE_START}))")
        assert falls == {"": 0.0}, counter
    # Of 12 US$ that `--unpriced` added and of 30 by which equivalents rose and fell, nothing is in a counter.
    most = await prometheus.query(f"sum by (model) (max_over_time(claw_cost_usd_total{SINCE_START}))")
    assert {model: cost for model, cost in most.items() if cost} == {"m": 7.5}
    most = await prometheus.query(f"sum by (model) (max_over_time(claw_equivalent_cost_usd_total{SINCE_START}))")
    assert {model: cost for model, cost in most.items() if cost} == {"m": 4.0}
    jump = await prometheus.query("max(max_over_time(idelta(claw_cost_usd_total[5s])[10m:1s]))")
    assert jump[""] <= 3  # one call at its price


@pytest.fixture
def backup_of(postgres_server, postgres_database):
    """Makes a copy of the test's database, as a backup that is restored later; gives its DSN."""
    if postgres_server.cluster is None:
        # Nobody misses it: without LOBS_TEST_DSN, as in CI, it runs on the embedded server.
        pytest.skip("TimescaleDB's workers are connected to every database of this server: none can be copied")
    copy = f"{postgres_database}_backup"

    def make():
        with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {copy} TEMPLATE {postgres_database}")
        return postgres_server.dsn(copy, postgres.WRITER)

    yield make
    with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {copy} WITH (FORCE)")


@pytest.mark.req("P-2")
async def test_no_counter_falls_when_a_backup_older_than_a_prune_is_restored(
    lab, tmp_path, prometheus_server, postgres_dsn, backup_of
):
    """Counters keep what was billed; rows and the windows over them are what the backup and the stores hold."""
    pruned, kept = lab.transcript(), lab.transcript()
    at = datetime.now(UTC) - timedelta(minutes=90)
    pruned.append(lab.call("0.5", at=at))
    kept.append(lab.call("0.25", at=at))
    prometheus, life = await watching(lab, tmp_path, prometheus_server, dsn=postgres_dsn)
    billed, window = "sum(claw_cost_usd_total)", 'sum(claw_cost_window_usd{window="30d"})'
    async with life():
        await prometheus.until(billed, lambda shown: shown.get("") == 0.75)
    backup = backup_of()
    async with life():
        pruned.append(lab.call("4", at=at))
        kept.append(lab.call("2", at=at, model="newborn"))
        await prometheus.until(billed, lambda shown: shown.get("") == 6.75)
    pruned.path.unlink()
    async with life(database_url=SecretStr(backup)) as alive:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not alive.exporter.sources.looked:  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.02)
        await prometheus.until(billed, lambda shown: shown.get("") == 6.75)
        kept.append(lab.call("8"))
        await prometheus.until(billed, lambda shown: shown.get("") == 14.75)
        alive.exporter._runner.wake("windows")
        with psycopg.connect(backup) as connection:
            ((rows,),) = connection.execute("SELECT sum(cost_usd) FROM usage_15m").fetchall()
        assert rows == Decimal("10.75")  # without the 4 that only the pruned file knew
        await prometheus.until(window, lambda shown: shown.get("") == 10.75)
    async with life(database_url=SecretStr(backup)):
        kept.append(lab.call("0.125"))
        await prometheus.until(billed, lambda shown: shown.get("") == 14.875)
    for counter in ("cost_usd", "tokens", "model_calls", "source_entries", "source_bytes", "duplicate_entries"):
        falls = await prometheus.query(f"sum(resets(claw_{counter}_total{SINCE_START}))")
        assert falls == {"": 0.0}, counter
