"""The history of alerts is completed by what Prometheus recorded: what was inhibited, silenced or told to nobody."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from api.services.alert_history import AlertHistory, Firing, firings, lacking
from store import pool as database_pool
from store.alerts import Known
from tests.servers import free_port

NOW = datetime.fromtimestamp(datetime.now(UTC).timestamp() // 15 * 15, UTC)
NAME = {"alertname": "ToolFailures", "severity": "warning", "gateway": "home", "tool": "web"}


def ago(minutes):
    return NOW - timedelta(minutes=minutes)


class FakePrometheus:
    """`fired`: [(labels, minutes ago at which it began, minutes ago at which it was seen last)]."""

    def __init__(self):
        self.fired = []
        self.config = "global: {}\n"
        self.url = ""
        self.asked = []

    def answer(self, path, asked):
        if path.endswith("status/config"):
            return {"yaml": self.config}
        if path.endswith("rules"):
            notes = {"summary": "A tool fails", "description": "{{ $value }}", "board": "/d/lobs-agents"}
            rule = {"name": "ToolFailures", "labels": {"severity": "warning"}, "annotations": notes}
            return {"groups": [{"rules": [rule]}]}
        start, end = (datetime.fromtimestamp(float(asked[name][0]), UTC) for name in ("start", "end"))
        self.asked.append((start, end))
        series = []
        for labels, began, last in self.fired:
            at, values = max(ago(began), start), []
            while at <= min(ago(last), end):
                values.append([at.timestamp(), "1"])
                at += timedelta(seconds=15)
            if values:
                metric = {"__name__": "ALERTS", "alertstate": "firing", **labels}
                series.append({"metric": metric, "values": values})
        return {"resultType": "matrix", "result": series}


@pytest.fixture
def prometheus():
    fake = FakePrometheus()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            body = json.dumps({"status": "success", "data": fake.answer(parts.path, parse_qs(parts.query))}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def looks(postgres_dsn, prometheus):
    """`await looks()`: another look of one process."""
    async with database_pool.open_pool(postgres_dsn) as pool:
        history = AlertHistory(pool, prometheus.url)
        yield lambda now=NOW: history.look(now)


async def told(client, *, began, lasted=None, labels=NAME, fingerprint="f1"):
    ends = None if lasted is None else ago(began) + timedelta(minutes=lasted)
    alert = {
        "status": "firing" if ends is None else "resolved",
        "labels": labels,
        "annotations": {"summary": "A tool fails", "description": "7 of 9"},
        "startsAt": (ago(began) + timedelta(milliseconds=123)).isoformat(),
        "endsAt": ends.isoformat() if ends else "0001-01-01T00:00:00Z",
        "fingerprint": fingerprint,
    }
    body = {"version": "4", "status": "firing", "alerts": [alert]}
    answer = await client.post("/api/webhooks/alertmanager", json=body)
    assert answer.status_code == 200
    return answer.json()["recorded"]


async def rows(database):
    """(began, lasted, told), minutes, oldest first."""
    cursor = await database.execute("SELECT starts_at, ends_at, told FROM public.alert_events ORDER BY starts_at, id")
    return [
        (
            round((NOW - starts).total_seconds() / 60, 1),
            None if ends is None else round((ends - starts).total_seconds() / 60, 1),
            known,
        )
        for starts, ends, known in await cursor.fetchall()
    ]


@pytest.mark.req("S1-7")
async def test_what_nobody_told_of_is_in_the_history_once(client, database, prometheus, looks):
    prometheus.fired = [(NAME, 60, 40), (NAME, 20, 0)]
    await looks()
    await looks()
    assert await rows(database) == [(60, 20.2, False), (20, None, False)]
    alerts = (await client.get("/api/monitoring/alerts")).json()["alerts"]
    assert [(one["told"], one["status"], one["summary"]) for one in alerts] == [
        (False, "firing", "A tool fails"),
        (False, "resolved", "A tool fails"),
    ]
    assert alerts[0]["labels"] == NAME
    assert alerts[0]["description"] is None, "computed for Alertmanager only"
    banner = (await client.get("/api/alerts/banner")).json()
    assert banner["firing"] == 0, "who silenced it does not want to see it, and what inhibits it is there"
    cursor = await database.execute("SELECT count(*) FROM public.alert_noise")
    assert await cursor.fetchone() == (0,), "noise is what people heard"
    cursor = await database.execute("SELECT sum(resolved), sum(total_seconds) FROM public.alert_resolution")
    assert await cursor.fetchone() == (1, 1215.0)
    cursor = await database.execute("SELECT count(*) FROM lobs.events WHERE topic = 'alerts'")
    assert await cursor.fetchone() == (2,), "live clients hear of each once"


async def test_what_was_told_is_not_doubled_and_gets_the_end_that_nobody_told(client, database, prometheus, looks):
    prometheus.fired = [(NAME, 60, 3)]
    await told(client, began=60)
    await looks()
    assert await rows(database) == [(60, None, True)], "Alertmanager may tell it yet"
    prometheus.fired = [(NAME, 60, 6)]
    await looks()
    assert await rows(database) == [(60, 54.2, True)]
    assert await told(client, began=60, lasted=54) == 0, "late"
    assert await rows(database) == [(60, 54.2, True)]


async def test_what_was_silenced_becomes_told_when_it_is_told(client, database, prometheus, looks):
    prometheus.fired = [(NAME, 24 * 60 + 30, 0)]  # began before the first look
    await looks()
    assert await rows(database) == [(24 * 60, None, False)]
    assert await told(client, began=24 * 60 + 30) == 1
    assert await rows(database) == [(24 * 60 + 30, None, True)]
    assert (await client.get("/api/alerts/banner")).json()["firing"] == 1
    await looks()
    assert await told(client, began=24 * 60 + 30) == 0
    assert await told(client, began=24 * 60 + 30, lasted=24 * 60) == 1
    prometheus.fired = [(NAME, 24 * 60 + 30, 30)]
    await looks()
    assert await rows(database) == [(24 * 60 + 30, 24 * 60, True)]


async def test_a_young_firing_waits_for_its_notification(database, prometheus, looks):
    prometheus.fired = [(NAME, 1, 0)]
    await looks()
    assert await rows(database) == []
    await looks(NOW + timedelta(minutes=2))
    assert await rows(database) == [(1, 1.2, False)]


async def test_another_agents_alert_and_one_that_prometheus_does_not_know_are_others(
    client, database, prometheus, looks
):
    await told(client, began=30)
    await told(client, began=30, labels={**NAME, "alertname": "AlertTest"}, fingerprint="f2")
    prometheus.fired = [({**NAME, "tool": "exec"}, 30, 0)]
    await looks()
    assert sorted(await rows(database)) == [(30, None, False), (30, None, True), (30, None, True)]


async def test_external_labels_are_part_of_what_alertmanager_tells(client, database, prometheus, looks):
    prometheus.config = "global: {external_labels: {site: home, gateway: other}}\n"
    prometheus.fired = [(NAME, 30, 0)]
    await told(client, began=30, labels={**NAME, "site": "home"})
    await looks()
    assert await rows(database) == [(30, None, True)]


@pytest.mark.parametrize(
    "config", ["alerting: {alert_relabel_configs: [{action: labeldrop, regex: a}]}\n", "[\n", "3\n"]
)
async def test_a_prometheus_that_cannot_be_compared_changes_nothing(database, prometheus, looks, config):
    prometheus.config = config
    prometheus.fired = [(NAME, 30, 0)]
    await looks()
    assert await rows(database) == []


async def test_the_time_without_prometheus_is_looked_at_later(postgres_dsn, database, prometheus):
    async with database_pool.open_pool(postgres_dsn) as pool:
        history = AlertHistory(pool, prometheus.url)
        await history.look(NOW - timedelta(hours=5))
        history._url, real = f"http://127.0.0.1:{free_port()}", history._url
        await history.look(NOW - timedelta(hours=1))
        history._url = real
        prometheus.fired = [(NAME, 4 * 60, 3 * 60)]
        await history.look(NOW)
        await history.look(NOW)
    assert await rows(database) == [(4 * 60, 60.2, False)]
    assert [end - start for start, end in prometheus.asked] == [
        timedelta(hours=24),
        timedelta(hours=5, minutes=15),
        timedelta(minutes=15),
    ]


def test_a_gap_in_the_samples_ends_a_firing():
    times = [0, 15, 30, 90, 105]
    series = [
        {
            "metric": {"__name__": "ALERTS", "alertstate": "firing", "alertname": "A"},
            "values": [[t, "1"] for t in times],
        }
    ]
    found = list(firings(series, {}))
    assert [(one.first.timestamp(), one.last.timestamp()) for one in found] == [(0, 30), (90, 105)]


def test_a_firing_that_pauses_is_not_over():
    """Alertmanager joins what Prometheus lost at its restart."""
    row = Known(id=1, labels=NAME, status="firing", told=True, starts_at=ago(60), ends_at=None)
    seen = [Firing(NAME, ago(60), ago(30)), Firing(NAME, ago(29), NOW)]
    assert lacking([row], seen, NOW) == ([], {})
    assert lacking([row], seen[:1], NOW) == ([], {1: ago(30) + timedelta(seconds=15)})


async def test_hostile_labels_are_kept_as_text(database, prometheus, looks):
    prometheus.fired = [({**NAME, "tool": "a\0'; DROP TABLE x; -- <!channel>"}, 30, 0)]
    await looks()
    cursor = await database.execute("SELECT labels ->> 'tool' FROM public.alert_events")
    assert await cursor.fetchall() == [("a'; DROP TABLE x; -- <!channel>",)]
