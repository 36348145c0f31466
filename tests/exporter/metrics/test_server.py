"""The web server over a real socket."""

import contextlib
import json
import re

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.registry import Registry
from exporter.metrics.server import Application, MetricsServer, PortTakenError, bind
from lobservatory.metrics.exposition import Format, Sample
from lobservatory.settings import Listen
from tests.servers import PATIENCE_SECONDS


@contextlib.asynccontextmanager
async def serving(registry, health=lambda: {"version": "1", "first_scan": "done"}):
    def render(text_format, prometheus):
        return registry.render(text_format, prometheus=prometheus)

    server = MetricsServer(Application(render, health), bind(Listen(host="127.0.0.1", port=0)))
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_SECONDS) as client:
            yield client
    finally:
        await server.stop()


def many(count):
    registry = Registry()
    registry.register("c", lambda: [Sample("claw_active_runs", ("g", f"agent-{n}"), n) for n in range(count)])
    return registry


async def test_metrics_in_both_formats_with_their_content_types():
    async with serving(many(3)) as client:
        text = await client.get("/metrics")
        assert text.status_code == 200
        assert text.headers["content-type"] == Format.TEXT.value
        assert {family.name for family in parse_text(text.text)} >= {"claw_active_runs"}
        accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        openmetrics = await client.get("/metrics", headers=accept)
        assert openmetrics.headers["content-type"] == Format.OPENMETRICS.value
        assert openmetrics.text.endswith("# EOF\n")
        assert {family.name for family in parse_openmetrics(openmetrics.text)} >= {"claw_active_runs"}
        assert "accept" in openmetrics.headers["vary"].lower()


async def test_gzip_when_asked_and_only_then():
    async with serving(many(500)) as client:
        packed = await client.get("/metrics", headers={"accept-encoding": "gzip"})
        plain = await client.get("/metrics", headers={"accept-encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 5
        assert [line for line in packed.text.splitlines() if line.startswith("claw_")] == [
            line for line in plain.text.splitlines() if line.startswith("claw_")
        ]


async def test_only_a_scrape_by_prometheus_uses_up_the_zero_of_a_newborn_series():
    registry = Registry()
    registry.begin()
    registry.add(registry.admit({("claw_compactions_total", ("g", "main")): 1}))
    line = re.compile(r"^claw_compactions_total\{.*\} (.*)$", re.MULTILINE)
    scraper = {"X-Prometheus-Scrape-Timeout-Seconds": "10"}
    async with serving(registry) as client:
        shown = [
            line.search((await client.get("/metrics", headers=headers)).text)[1]
            for headers in ({}, scraper, {}, scraper)
        ]
    assert shown == ["1.0", "0.0", "1.0", "1.0"]


async def test_the_landing_page_links_to_the_rest_and_runs_no_script():
    async with serving(Registry(), lambda: {"version": "<1>"}) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert 'href="/metrics"' in page.text
        assert 'href="/healthz"' in page.text
        assert "&lt;1&gt;" in page.text
        assert "<script" not in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


async def test_healthz_is_json():
    async with serving(Registry()) as client:
        answer = await client.get("/healthz")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(answer.text) == {"status": "ok", "version": "1", "first_scan": "done"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/", 405),
        ("HEAD", "/metrics", 200),
        ("OPTIONS", "/healthz", 405),
    ],
)
async def test_other_paths_and_methods_are_refused_and_every_answer_carries_the_security_headers(method, path, status):
    async with serving(many(2)) as client:
        answer = await client.request(method, path)
        assert answer.status_code == status
        if status == 405:
            assert answer.headers["allow"] == "GET, HEAD"
        if method == "HEAD":
            assert answer.content == b""
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


def test_a_taken_port_is_one_clear_line_that_names_the_setting():
    with bind(Listen(host="127.0.0.1", port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            bind(Listen(host="127.0.0.1", port=port))
    text = str(caught.value)
    assert f"LOBS_METRICS_LISTEN=127.0.0.1:{port}" in text
    assert "\n" not in text
    assert "another port" in text


def test_an_unknown_host_is_one_clear_line():
    with pytest.raises(PortTakenError, match=r"^LOBS_METRICS_LISTEN=no\.such\.invalid:1: "):
        bind(Listen(host="no.such.invalid", port=1))
