"""The OpenAPI document is complete, and the service keeps to it whatever it is sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.openapi import document
from api.security.password import PasswordFile
from lobservatory.settings import Settings
from tests.api.conftest import FAST, LOOSE

SERVICE = {"Authorization": "Bearer " + "s" * 43}
ENDLESS = {"/api/events/stream"}


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The application on a real port, in a thread with an event loop of its own."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(20)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def test_the_document_needs_no_database_and_is_complete():
    found = document()
    assert found["openapi"].startswith("3.1")
    identifiers = []
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            identifiers.append(operation["operationId"])
            assert operation["summary"], where
            assert operation["description"], where
            assert operation["tags"], where
            assert "security" in operation, where
            answers = operation["responses"]
            if operation["security"]:
                assert {"401", "403", "429", "503"} <= set(answers), where
            if "{" in path:
                assert "404" in answers or operation["operationId"] == "post_agents_agent_id_metrics", where
            if "requestBody" in operation:
                assert {"400", "413", "422"} <= set(answers), where
                (content,) = operation["requestBody"]["content"].values()
                name = content["schema"]["$ref"].rpartition("/")[2]
                schema = found["components"]["schemas"][name]
                if name != "SubagentPatch":
                    assert schema.get("examples"), (where, name)
            for status, answer in answers.items():
                if int(status) >= 400 and path != "/readyz":
                    assert set(answer["content"]) == {"application/problem+json"}, (where, status)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.req("S2-2")
def test_nothing_that_is_sent_makes_a_server_error_or_an_answer_that_is_not_documented(settings: Settings):
    password = PasswordFile(settings.data_dir / "secrets" / "api_password", FAST)
    app = create_app(settings, password, limits=LOOSE)
    with serving(app) as url, httpx.Client(base_url=url, headers=SERVICE) as client:
        task = client.post("/api/tasks", json={"title": "t"}).json()["id"]
        operation = client.post(
            "/api/operations", json={"type": "skill", "name": "n", "steps": [{"id": "s1", "name": "s"}]}
        ).json()["id"]
        real = {"task_id": task, "operation_id": operation, "step_id": "s1"}
        schema = schemathesis.openapi.from_dict(document())
        schema.config.base_url = url
        tried = 0
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            endpoint = found.ok()
            if endpoint.path in ENDLESS:
                continue
            tried += 1

            @given(case=endpoint.as_strategy())
            @hypothesis_settings(
                max_examples=12,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def fuzz(case):
                if case.path_parameters and len(str(case.path_parameters)) % 2:
                    for name in case.path_parameters:
                        case.path_parameters[name] = real.get(name, case.path_parameters[name])
                answer = case.call(headers=SERVICE)
                case.validate_response(
                    answer,
                    checks=[
                        not_a_server_error,
                        status_code_conformance,
                        content_type_conformance,
                        response_schema_conformance,
                    ],
                )

            fuzz()
        assert tried > 40
        text = client.get("/metrics").text
    seen = {int(line.split('status="')[1][:3]) for line in text.splitlines() if 'status="' in line}
    assert seen >= {200, 201, 204, 404, 422}  # it did get through to the handlers
    assert max(seen) < 500


async def test_the_service_gives_the_same_document(anonymous):
    assert (await anonymous.get("/openapi.json")).json() == document()
