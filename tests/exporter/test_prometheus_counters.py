"""Counters as a real Prometheus sees them: no spike at the first start, no first call lost, no fall."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

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

    async def until(self, expression, condition, seconds=60):
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
