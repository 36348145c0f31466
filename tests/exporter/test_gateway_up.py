"""What is said of a gateway before anything of it was measured: nothing. Exporters as processes, a gateway that nobody
touches, and a real Prometheus that asks how much of the time it was up."""

import asyncio
import threading
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.demo.gateway import ReplayGateway
from lobservatory.settings import Listen
from tests.dashboards.test_dashboards_static import RECORDED
from tests.live.stack import OurProcess, gateway_settings
from tests.servers import PATIENCE_SECONDS

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: lobservatory
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
# Of these nothing may be said before the gateway was heard; by the value that an untouched gateway has.
TRUTHS = {
    ("claw_gateway_up",): 1.0,
    ("claw_gateway_ready",): 1.0,
    ("claw_agent_state", "offline"): 0.0,
    ("claw_agent_state", "idle"): 1.0,
    ("lobservatory_database_up",): 1.0,
}


class Scraper(threading.Thread):
    """Scrapes as fast as it can, from before the exporter's start until after its end."""

    def __init__(self, listen):
        super().__init__()
        self._url = f"{listen.url}/metrics"
        self._over = threading.Event()
        self.seen = {truth: set() for truth in TRUTHS}
        self.met = set()  # what was as it should be, since the test emptied this
        self.connected_and_silent = 0  # scrapes that met a connection and no `claw_gateway_up`
        self.start()

    def run(self):
        with httpx.Client(timeout=PATIENCE_SECONDS) as client:
            while not self._over.wait(0.01):
                try:
                    self._note(client.get(self._url).text)
                except httpx.TransportError:
                    continue

    def _note(self, text):
        found = {
            (sample.name, *([sample.labels["state"]] if "state" in sample.labels else [])): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("agent", "main") == "main"
        }
        for truth, values in self.seen.items():
            if truth in found:
                values.add(found[truth])
            if found.get(truth) == TRUTHS[truth]:
                self.met.add(truth)
        connected = found.get(("claw_gateway_connection_state", "connected")) == 1
        self.connected_and_silent += connected and ("claw_gateway_up",) not in found

    def end(self):
        self._over.set()
        self.join()


async def until(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.05)


@pytest.fixture
async def recorded(state_dir):
    async with ReplayGateway(token="a-token") as gateway:
        gateway.faults.late["health"] = 1.0  # the connection is there for a while and `health` was not answered yet
        yield SimpleNamespace(replay=gateway, state_dir=state_dir, url=gateway.url, token=gateway.token)


@pytest.mark.parametrize("state_dir", ["2026.9.6"], indirect=True)
async def test_restarts_of_the_exporter_are_no_downtime_of_the_gateway(
    recorded, tmp_path, postgres_dsn, prometheus_server
):
    settings = gateway_settings(recorded, tmp_path, LOBS_GATEWAY_NAME="g", LOBS_DATABASE_URL=postgres_dsn)
    listen = Listen.parse(settings["LOBS_METRICS_LISTEN"])
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=listen.port))
    (tmp_path / "prometheus").mkdir()
    server = await asyncio.to_thread(prometheus_server, tmp_path / "prometheus", config)
    scraper = Scraper(listen)
    lives = 3

    def held():
        """How many samples Prometheus has."""
        return sum(float(one["value"][1]) for one in server.query("count_over_time(claw_gateway_up[1h])"))

    try:
        for _ in range(lives):
            before = await asyncio.to_thread(held)
            exporter = OurProcess("exporter", settings, tmp_path)
            try:
                scraper.met.clear()
                await until(lambda: scraper.met >= TRUTHS.keys())
                while await asyncio.to_thread(held) <= before:  # noqa: ASYNC110 - Prometheus has no event for a scrape
                    await asyncio.sleep(0.05)
            finally:
                await asyncio.to_thread(exporter.stop)
    finally:
        await asyncio.to_thread(scraper.end)
    assert scraper.seen == {truth: {value} for truth, value in TRUTHS.items()}
    assert scraper.connected_and_silent, "the test met the moment that it is about"
    (asked,) = server.query(RECORDED["claw:gateway_up:ratio1d"])  # question 19 of docs/promql.md
    assert float(asked["value"][1]) == 1
    assert not server.query("min_over_time(lobservatory_database_up[1h]) == 0")


async def test_a_gateway_that_is_down_is_down_as_soon_as_the_first_connect_has_failed(lab, tmp_path):
    async with lab.running(lab.settings(lab.state_dir, tmp_path / "data")) as alive:
        assert await alive.until("claw_gateway_up", bool) == {(): 0.0}
        assert await alive.until("claw_gateway_connect_failures_total", lambda shown: shown[("unreachable",)] >= 1)
