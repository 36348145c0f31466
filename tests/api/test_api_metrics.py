"""The service's own metrics: as the catalogue says, readable for Prometheus, and what they count of the gateway."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.context import of_app
from api.counts import Counts
from api.security.scopes import Actor, Scope
from cli.demo.gateway import ReplayGateway
from lobservatory.metrics.catalogue import API_METRICS
from openclaw.client import GatewayClient
from openclaw.protocol import CallTimeoutError, RpcError
from tests.api.conftest import connected, new_token, started
from tests.servers import PATIENCE_SECONDS


def families(text: str):
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, sample: str, **labels: str) -> float:
    """The value of a series; every label must be given but `le`."""
    found = [
        one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == sample and {**one.labels} == labels
    ]
    assert len(found) == 1, (sample, labels, text)
    return found[0]


async def test_every_family_is_the_catalogues_and_parses(client):
    await client.get("/api/tasks")
    found = families((await client.get("/metrics")).text)
    assert set(found) == {metric.name.removesuffix("_total") for metric in API_METRICS}
    for metric in API_METRICS:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    buckets = [
        sample
        for sample in found["lobservatory_http_request_duration_seconds"].samples
        if sample.labels.get("route") == "/api/tasks" and sample.name.endswith("_bucket")
    ]
    assert [sample.labels["le"] for sample in buckets][-1] == "+Inf"
    assert [sample.value for sample in buckets] == sorted(sample.value for sample in buckets)
    assert buckets[-1].value == 1


@pytest.mark.req("P-13")
async def test_calls_to_the_gateway_are_timed_by_connection_and_method(settings):
    async with ReplayGateway(token="t" * 20) as gateway:
        gateway.answers["cron.run"] = lambda _: {"ok": True, "runId": "r"}
        gateway.faults.missing_methods.add("sessions.compact")
        secret = settings.gateway_token.__class__("t" * 20)
        chosen = settings.model_copy(update={"commands": True, "gateway_url": gateway.url, "gateway_token": secret})
        async with started(chosen) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
            connection = of_app(app).gateway
            assert connection is not None
            await connection.wait_connected(PATIENCE_SECONDS)
            for _ in range(3):
                assert (await client.post("/api/crons/j/run")).status_code == 202
            assert (await client.post("/api/sessions/k/compact")).status_code >= 400
            text = (await client.get("/metrics")).text
            seconds = "lobservatory_gateway_rpc_duration_seconds"
            of = {"connection": "commands", "method": "cron.run"}
            assert value(text, f"{seconds}_count", **of) == 3
            assert value(text, f"{seconds}_bucket", **of, le="+Inf") == 3
            assert value(text, f"{seconds}_sum", **of) > 0
            assert value(text, f"{seconds}_count", connection="commands", method="sessions.compact") == 1
            errors = [one for one in families(text)["lobservatory_gateway_rpc_errors"].samples if one.value]
            assert [one.labels["method"] for one in errors] == ["sessions.compact"]
            assert value(text, "lobservatory_gateway_connected", connection="commands") == 1
            ready = await client.get("/readyz")
            assert ready.json() == {"ok": True, "checks": {"database": True, "gateway_commands": True}}
            await connection.stop()
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["checks"]["gateway_commands"]) == (200, False), "told, and no more"
            assert (
                value((await client.get("/metrics")).text, "lobservatory_gateway_connected", connection="commands") == 0
            )


async def test_a_call_that_is_never_answered_takes_its_deadline_and_is_an_error():
    counts = Counts()
    async with ReplayGateway(token="t") as gateway:
        gateway.faults.never_answer.add("status")
        gateway.answers["health"] = lambda _: {}
        async with GatewayClient(gateway.url, "t", subscribe_sessions=False) as client:
            counts.connection("chat", client)
            await client.wait_connected(PATIENCE_SECONDS)
            with pytest.raises(CallTimeoutError):
                await client.call("status", {}, timeout=0.2)
    text = counts.exposition()
    labels = {"connection": "chat", "method": "status"}
    assert value(text, "lobservatory_gateway_rpc_errors_total", **labels, code="TIMEOUT") == 1
    assert value(text, "lobservatory_gateway_rpc_duration_seconds_bucket", **labels, le="0.1") == 0
    assert value(text, "lobservatory_gateway_rpc_duration_seconds_sum", **labels) >= 0.2


async def test_a_gateways_code_cannot_write_lines_of_its_own_and_series_are_bounded():
    counts = Counts()
    client = GatewayClient("ws://127.0.0.1:9")
    counts.connection("chat", client)

    async def fails(*_: object, **__: object) -> None:
        raise RpcError("m", next(codes), "no")

    client._calls._answered = fails  # what a hostile gateway answers
    codes = iter(['x"} 1\nevil 1', *(f"CODE_{number}" for number in range(600))])
    for _ in range(601):
        with pytest.raises(RpcError):
            await client.call("m")
    samples = families(counts.exposition())["lobservatory_gateway_rpc_errors"].samples
    assert "evil" not in counts.exposition()
    assert sum(sample.value for sample in samples) == 601
    bound = next(metric.bound for metric in API_METRICS if metric.name == "lobservatory_gateway_rpc_errors_total")
    assert len({(s.labels["method"], s.labels["code"]) for s in samples if s.labels["method"] == "m"}) == bound


def test_requests_beyond_the_bound_keep_their_status():
    counts = Counts()
    for number in range(3_000):
        counts.request("GET", f"/r{number}", 500 if number % 2 else 200, 0.1)
    for status in range(300, 600):
        counts.request("GET", "/more", status, 0.1)
    text = counts.exposition()
    for status in ("200", "500"):
        assert value(text, "lobservatory_http_requests_total", method="other", route="other", status=status) >= 500
    assert value(text, "lobservatory_http_requests_total", method="other", route="other", status="other") > 100
    samples = families(text)["lobservatory_http_requests"].samples
    assert sum(sample.value for sample in samples) == 3_300
    assert len(samples) <= 2_101


def test_messages_that_a_slow_client_lost_are_counted():
    from api.live.hub import Hub  # noqa: PLC0415 - only here

    class Nothing:
        """No events."""

    counts = Counts()
    hub = Hub(Nothing(), counts, queue_size=3, most_clients=5)  # nobody follows it here
    with hub.subscribe("operations", lambda _: "", ["operations"], Actor("a", Scope.READ, "t")) as slow:
        for number in range(5):
            hub.give(slow, number, "text")
    text = counts.exposition()
    assert value(text, "lobservatory_live_evictions_total", stream="operations") == 1
    assert value(text, "lobservatory_live_messages_total", stream="operations") == 3
    assert value(text, "lobservatory_live_dropped_messages_total", stream="operations") == 4
