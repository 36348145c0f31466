"""`lobservatory backfill`: a real Prometheus with the history of before its first scrape, equal to SQL."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from cli.commands import backfill
from lobservatory.errors import UserError
from tests.servers import PATIENCE_SECONDS, prometheus
from tests.tools import debian_tool

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: lobservatory
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
KEEP = "--storage.tsdb.retention.time=60d"
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def ask(server, expression, at):
    """Sums by model (or what else there is) at an instant."""
    return {
        row["metric"].get("model", ""): Decimal(row["value"][1]) for row in server.query(expression, at.timestamp())
    }


@pytest.fixture
def promtool(monkeypatch):
    monkeypatch.setenv("PATH", str(debian_tool("promtool").parent))


async def scraped(server):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            rows = await asyncio.to_thread(server.query, "count_over_time(claw_source_entries_total[1m])")
            if rows and float(rows[0]["value"][1]) >= 3:
                return
            await asyncio.sleep(0.2)


def refused_until_deleted(settings, data, url, made):
    """At once again, while Prometheus has not loaded the blocks: the same samples would lie there twice."""
    marked = sorted(path.parent.name for path in data.glob("*/lobservatory-backfill"))
    assert len(marked) == made[0]
    with pytest.raises(UserError, match=f"has {made[0]} blocks of an earlier one already .*{marked[0]}"):
        backfill.run(settings, data, url)
    with pytest.raises(UserError, match="there are no calls of gateway 'other'"):  # it has a history of its own
        backfill.run(settings.model_copy(update={"gateway_name": "other"}), data, url)
    for name in marked:
        shutil.rmtree(data / name)
    assert backfill.run(settings, data, url) == made


@pytest.mark.req("P-17")
async def test_the_days_before_prometheus_are_those_of_sql(lab, tmp_path, postgres_dsn, promtool):
    history = lab.transcript()
    for hours in range(24 * 9, 0, -1):
        if hours % 5 == 0:
            continue
        at = datetime.now(UTC) - timedelta(hours=hours, minutes=hours % 7)
        model = "rare" if hours % 24 == 7 and hours < 100 else "often"
        history.append(lab.call(str(Decimal(hours) / 1000), at=at, model=model, tokens=(hours, 5, 3, 0)))
    settings = lab.settings(lab.state_dir, tmp_path / "data", dsn=postgres_dsn)
    folder = tmp_path / "prometheus"
    folder.mkdir()
    async with lab.running(settings) as alive:
        (tmp_path / "prometheus.yml").write_text(CONFIG.format(port=alive.exporter.port))
        with prometheus(folder, tmp_path / "prometheus.yml", KEEP) as server:
            await scraped(server)
            scraped_total = ask(server, "sum by (model) (claw_cost_usd_total)", datetime.now(UTC))
            blocks, samples = await asyncio.to_thread(backfill.run, settings, folder / "tsdb", server.url)
            first = backfill.asked(server.url, "g", "").first
            assert first is not None
            await asyncio.to_thread(refused_until_deleted, settings, folder / "tsdb", server.url, (blocks, samples))
    assert blocks >= 2
    assert samples > 1_000
    metas = [json.loads(path.read_text()) for path in (folder / "tsdb").glob("*/meta.json")]
    assert len(metas) >= blocks
    # Nothing of it lies where Prometheus has scraped.
    assert max(meta["maxTime"] for meta in metas if meta["stats"]["numSamples"] > 100) <= first.timestamp() * 1000 + 1
    assert sorted(path.name for path in (folder / "tsdb").glob("backfill-*")) == []
    with psycopg.connect(postgres_dsn) as connection, prometheus(folder, tmp_path / "prometheus.yml", KEEP) as server:
        days = 0
        for ago in range(8, 0, -1):
            end = TODAY - timedelta(days=ago - 1)
            expected = dict(
                connection.execute(
                    "SELECT model, sum(cost_usd) FROM cost_daily WHERE day = %s GROUP BY 1", [end - timedelta(days=1)]
                ).fetchall()
            )
            found = ask(server, "sum by (model) (increase(claw_cost_usd_total[1d]))", end)
            assert {name: round(value, 6) for name, value in found.items() if value} == expected
            tokens = connection.execute(
                "SELECT sum(input_tokens + output_tokens + cache_read_tokens) FROM cost_daily WHERE day = %s",
                [end - timedelta(days=1)],
            ).fetchone()[0]
            assert round(ask(server, "sum(increase(claw_tokens_total[1d]))", end)[""]) == tokens
            calls = connection.execute(
                "SELECT count(*) FROM model_calls WHERE ts >= %s AND ts < %s", [end - timedelta(days=1), end]
            ).fetchone()[0]
            found = ask(server, 'sum(increase(claw_model_calls_total{outcome="ok"}[1d]))', end)
            assert round(found[""], 3) == calls
            days += calls > 0
        assert days >= 7
        # One series from the first day to the scrape: it never falls, and does not jump where the two meet.
        now = datetime.now(UTC)
        assert set(ask(server, "sum by (model) (resets(claw_cost_usd_total[20d]))", now).values()) == {Decimal(0)}
        assert ask(server, "count by (model) (last_over_time(claw_cost_usd_total[20d]))", now) == {
            "often": 1,
            "rare": 1,
        }
        edge = first - timedelta(seconds=first.timestamp() % 900)
        before = ask(server, "sum by (model) (claw_cost_usd_total)", edge)
        late = dict(
            connection.execute(
                "SELECT model, sum(cost_usd) FROM model_calls WHERE ts >= %s GROUP BY 1", [edge]
            ).fetchall()
        )
        assert {name: value + late.get(name, 0) for name, value in before.items()} == scraped_total
        # Also when Prometheus has made other blocks of ours.
        for path in (folder / "tsdb").glob("*/lobservatory-backfill"):
            path.unlink()
        with pytest.raises(UserError, match="it was backfilled"):
            backfill.run(settings, folder / "tsdb", server.url)


def test_two_at_once_are_refused(tmp_path):
    refused = pytest.raises(UserError, match=f"another one writes into {tmp_path} just now")
    with backfill._alone(tmp_path), refused, backfill._alone(tmp_path):
        pass
    with backfill._alone(tmp_path):
        pass


async def test_what_is_missing_is_said_in_one_line(lab, tmp_path, postgres_dsn, monkeypatch, promtool):
    settings = lab.settings(lab.state_dir, tmp_path, dsn=postgres_dsn)
    with pytest.raises(UserError, match=r"no directory: give Prometheus' data directory with --into"):
        backfill.run(settings, tmp_path / "none", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"does not answer at http://127.0.0.1:1: start it, or give its address"):
        backfill.run(settings, tmp_path, "http://127.0.0.1:1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LOBS_PROMETHEUS_BIN", raising=False)
    with pytest.raises(UserError, match="promtool is missing: it comes with Prometheus"):
        backfill.run(settings, tmp_path, "http://127.0.0.1:1")


@pytest.mark.req("P-17")
def test_a_series_ends_where_it_was_first_scraped_and_never_falls():
    """Whatever rows say now: some were repriced, one came late, one was counted under another label."""
    at = TODAY - timedelta(days=1)
    labels = ("g", "main", "p", "m", "main")
    key = ("claw_cost_usd_total", labels)
    for known, expected in (
        (Decimal(10), [7, 7, 8, 8, 10]),  # 7 of before the first row
        (Decimal(2), [0, 0, 0, 0, 2]),  # less was shown than rows tell
    ):
        counters = backfill.Counters({key: known})
        counters.add(at + timedelta(minutes=15), *key, Decimal(1))
        counters.add(at + timedelta(minutes=45), *key, Decimal(2))
        ((found, values),) = counters.samples(at, at + timedelta(hours=1))
        assert found == key
        assert [value for _, value in values] == expected[1:]
    assert [moment for moment, _ in values] == [at + n * timedelta(minutes=15) for n in range(1, 5)]
