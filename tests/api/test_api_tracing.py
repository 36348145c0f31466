"""The service's own traces, as a backend gets them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from api.context import of_app
from api.security.scopes import Scope
from cli.demo.gateway import ReplayGateway
from tests.api.conftest import connected, new_token, started
from tests.api.test_api_metrics import value
from tests.otlp import values
from tests.servers import PATIENCE_SECONDS

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
VARIABLES = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED"}
SERVER, CLIENT = 2, 3  # kinds of spans in the protocol
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def spans_of(receiver):
    """Name → spans, sent by the service, with resource."""
    found = {}
    for span, resource in receiver.spans():
        found.setdefault(span.name, []).append((span, resource))
    return found


@pytest.mark.req("P-16")
async def test_a_request_is_a_server_span_with_its_transactions_below_it(receiver, settings):
    async with started(settings) as app, connected(app, token := await new_token(app, Scope.WRITE)) as client:
        made = (await client.post("/api/tasks", json={"title": "a-private-title"})).json()["id"]
        sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = await client.get(f"/api/tasks/{made}?note=a-private-note", headers=sent)
        assert answer.status_code == 200
        await client.get("/api/tasks/a-private-name")
        await client.get("/api/auth/verify", headers={"Authorization": "Bearer a-wrong-token"})
        await client.request("BREW", "/api/tasks")
    found = spans_of(receiver)  # the end of the service has sent everything
    ((got, resource),) = [one for one in found["GET /api/tasks/{task_id}"] if one[0].trace_id.hex() == TRACE]
    assert got.kind == SERVER
    assert got.parent_span_id.hex() == PARENT
    attributes = values(got.attributes)
    assert attributes["http.request.method"] == "GET"
    assert attributes["http.route"] == attributes["url.path"] == "/api/tasks/{task_id}"
    assert attributes["http.response.status_code"] == 200
    assert attributes["url.scheme"] == "http"
    assert "error.type" not in attributes
    assert got.status.code == 0
    assert resource["service.name"] == "lobservatory-api"
    assert resource["service.version"]
    below = [one for one, _ in found["transaction"] if one.parent_span_id == got.span_id]
    assert below
    for one in below:
        assert (one.kind, one.trace_id) == (CLIENT, got.trace_id)
        assert values(one.attributes) == {"db.system.name": "postgresql"}
        assert got.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
    ((post, _),) = found["POST /api/tasks"]
    assert post.trace_id.hex() != TRACE
    assert values(post.attributes)["http.response.status_code"] == 201
    (missing,) = [
        one for one, _ in found["GET /api/tasks/{task_id}"] if one is not got and one.trace_id != got.trace_id
    ]
    assert values(missing.attributes)["http.response.status_code"] == 404
    assert missing.status.code == 0, "a client's mistake is no error of the server"
    ((refused, _),) = found["GET"]
    assert values(refused.attributes)["http.response.status_code"] == 401
    assert values(found["HTTP /api/tasks"][0][0].attributes)["http.request.method"] == "_OTHER"
    everything = b"".join(receiver.requests)
    for secret in (made, "a-private", token, "a-wrong-token", "a-secret"):
        assert secret.encode() not in everything
    assert receiver.headers[0][1]["authorization"] == "a-secret"


async def test_what_is_not_sampled_by_its_caller_is_not_sent(receiver, settings):
    async with started(settings) as app, connected(app, await new_token(app, Scope.READ)) as client:
        for _ in range(3):
            await client.get("/api/tasks", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        await client.get("/api/boards", headers={"traceparent": "nonsense"})
    names = set(spans_of(receiver))
    assert "GET /api/boards" in names
    assert "GET /api/tasks" not in names


async def test_a_call_to_the_gateway_is_a_client_span_of_its_request(receiver, settings):
    async with ReplayGateway(token="t" * 20) as gateway:
        gateway.answers["cron.run"] = lambda _: {"ok": True, "runId": "r"}
        gateway.faults.missing_methods.add("sessions.compact")
        secret = settings.gateway_token.__class__("t" * 20)
        chosen = settings.model_copy(update={"commands": True, "gateway_url": gateway.url, "gateway_token": secret})
        async with started(chosen) as app, connected(app, await new_token(app, Scope.COMMAND)) as client:
            connection = of_app(app).gateway
            assert connection is not None
            await connection.wait_connected(PATIENCE_SECONDS)
            assert (await client.post("/api/crons/a-job/run")).status_code == 202
            assert (await client.post("/api/sessions/k/compact")).status_code == 502
    found = spans_of(receiver)
    ((request, _),) = found["POST /api/crons/{job_id}/run"]
    ((call, _),) = found["cron.run"]
    assert (call.kind, call.parent_span_id, call.trace_id) == (CLIENT, request.span_id, request.trace_id)
    assert values(call.attributes) == {
        "rpc.system.name": "openclaw",
        "rpc.method": "cron.run",
        "lobservatory.connection": "commands",
    }
    ((failed, _),) = found["sessions.compact"]
    assert failed.status.code == 2
    assert values(failed.attributes)["error.type"]
    ((answered, _),) = found["POST /api/sessions/{session_key}/compact"]
    assert answered.status.code == 2
    assert values(answered.attributes)["error.type"] == "502"
    assert b"a-job" not in b"".join(receiver.requests)


async def test_a_stream_is_a_span_of_its_beginning(receiver, settings):
    async with started(settings) as app, connected(app, await new_token(app, Scope.READ)) as client:
        streaming = asyncio.create_task(client.get("/api/events/stream"))
        await of_app(app).hub.until_someone("tasks", "sse")
        of_app(app).hub.close()
        await streaming
    ((span, _),) = spans_of(receiver)["GET /api/events/stream"]
    assert values(span.attributes)["http.response.status_code"] == 200


async def test_a_backend_that_refuses_harms_nobody_and_is_counted(receiver, settings):
    receiver.status = 400
    async with started(settings) as app, connected(app, await new_token(app, Scope.READ)) as client:
        assert (await client.get("/api/tasks")).status_code == 200
        counts = of_app(app).counts
    assert counts.tracing is not None
    text = counts.exposition()
    assert value(text, "lobservatory_spans_sent_total") == 0
    assert value(text, "lobservatory_spans_dropped_total", reason="not_sent") > 0


def test_off_not_even_the_sdk_is_imported():
    code = "import sys, api.app; print({'opentelemetry.sdk', 'opentelemetry.exporter', 'requests'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_off_there_is_nothing_in_a_requests_way(app):
    assert "Traced" not in {one.cls.__name__ for one in app.user_middleware}
    assert of_app(app).counts.tracing is None


def test_both_services_get_the_variables_in_containers():
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    for name in ("exporter", "api"):
        assert services[name]["environment"].keys() >= VARIABLES, name
        assert {services[name]["environment"][variable] for variable in VARIABLES} == {None}, "those of the host"
