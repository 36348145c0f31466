"""The OpenAPI document is complete, and the service keeps to it whatever it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from pydantic_core import core_schema
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app, document
from api.models import patterns
from cli.demo.gateway import ReplayGateway
from lobservatory.complaints import explained
from lobservatory.password import PasswordFile
from lobservatory.settings import Settings
from tests.api.conftest import FAST, LOOSE, PASSWORD
from tests.servers import PATIENCE_SECONDS, wait_for

# Hypothesis sees that the state of `random` changed while it drew: the service runs in another thread of this process.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
SERVICE = {"Authorization": "Bearer " + "s" * 43}
ENDLESS = {"/api/events/stream"}
REQUESTS = "lobservatory_http_requests_total{"


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
        assert ready.wait(PATIENCE_SECONDS)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)


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


def keeps_to_the_document(
    url: str,
    headers: Mapping[str, str],
    real: Mapping[str, str],
    chosen: Callable[[Any], bool],
    more_checks: Sequence[Any] = (),
) -> int:
    """Send generated requests to each chosen endpoint, with ids of `real` now and then; gives how many were tried."""
    schema = schemathesis.openapi.from_dict(document())
    schema.config.base_url = url
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        endpoint = found.ok()
        if not chosen(endpoint):
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
            answer = case.call(headers=headers)
            assert answer.status_code != httpx.codes.INTERNAL_SERVER_ERROR
            if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
                said = [answer.json()["detail"], *(one["message"] for one in answer.json()["errors"])]
                assert not any(re.search(RAW, one) for one in said), answer.text
            case.validate_response(
                answer,
                checks=[*more_checks, status_code_conformance, content_type_conformance, response_schema_conformance],
            )

        fuzz()
    return tried


# What of pydantic's own sentences must not be heard, and what we say only where we have no words.
RAW = (
    r"\bshould\b|Value error|Field required|Extra inputs|JSON decode error|[Uu]nable to|\bvalid (string|integer|number|"
    r"boolean|list|dictionary|datetime|decimal)|match pattern|timezone info|Input tag|after validation|"
    r"is not what it must be|has characters that it must not have"
)


@pytest.mark.parametrize("kind", get_args(core_schema.ErrorType))
def test_no_sentence_of_pydantic_is_handed_on(kind):
    limits = dict.fromkeys(("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length"), 1000)
    digits = dict.fromkeys(("max_digits", "decimal_places", "whole_digits"), 3)
    texts = dict.fromkeys(("expected", "expected_tags", "discriminator", "pattern"), "'a'")
    raised = kind in {"value_error", "assertion_error"}
    message = "Value error, must be odd" if raised else "Input should be a valid string, unable to parse 'hunter2'"
    problem = {"type": kind, "loc": ("body", 12), "msg": message, "ctx": {**limits, **digits, **texts}}
    said = explained(problem)
    assert re.match(r"(must|is|has) ", said), said
    assert not re.search(rf"hunter2|[{{}}]|{RAW.partition('|is not what')[0]}", said), said
    if kind.startswith(("greater", "less")):
        assert "1000" in said


def test_every_pattern_has_words_for_what_does_not_match():
    def found(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            # A money's texts have one in the document only: they are read as numbers.
            if isinstance(part.get("pattern"), str) and not part["pattern"].startswith("^(?!"):
                yield part["pattern"]
            for one in part.values():
                yield from found(one)
        elif isinstance(part, list):
            for one in part:
                yield from found(one)

    (example,) = (one["pattern"] for one in document()["components"]["schemas"]["RuleIn"]["examples"])
    assert {*found(document())} - {example} == {*patterns.SAID}
    for said in patterns.SAID.values():
        assert said.startswith("must be ")


@pytest.mark.req("S2-2")
def test_nothing_that_is_sent_makes_a_server_error_or_an_answer_that_is_not_documented(settings: Settings):
    password = PasswordFile(settings.data_dir / "secrets" / "api_password", FAST)
    app = create_app(settings, password, limits=LOOSE)
    with serving(app) as url, httpx.Client(base_url=url, headers=SERVICE, timeout=PATIENCE_SECONDS) as client:
        task = client.post("/api/tasks", json={"title": "t"}).json()["id"]
        operation = client.post(
            "/api/operations", json={"type": "skill", "name": "n", "steps": [{"id": "s1", "name": "s"}]}
        ).json()["id"]
        real = {"task_id": task, "operation_id": operation, "step_id": "s1"}
        tried = keeps_to_the_document(
            url, SERVICE, real, lambda endpoint: endpoint.path not in ENDLESS, [not_a_server_error]
        )
        assert tried > 40
        text = client.get("/metrics").text
    seen = {int(line.split('status="')[1][:3]) for line in text.splitlines() if line.startswith(REQUESTS)}
    assert seen >= {200, 201, 204, 404, 422}  # it did get through to the handlers
    assert max(seen) < 500


@pytest.mark.req("S2-4", "S4-7")
async def test_commands_keep_to_the_document_when_they_are_on(settings: Settings, database):
    await database.execute("INSERT INTO lobs.agents (gateway, agent, configured) VALUES ('home', 'main', true)")
    password = PasswordFile(settings.data_dir / "secrets" / "api_password", FAST)
    password.load()
    async with ReplayGateway(token="t" * 20) as gateway:
        for method in ("sessions.create", "sessions.patch", "cron.run", "exec.approval.resolve", "skills.update"):
            gateway.answers[method] = lambda _: {"ok": True, "runId": "r"}
        gateway.answers["agent"] = lambda params: {"runId": "r", "sessionKey": params["sessionKey"]}
        gateway.answers["sessions.preview"] = lambda _: {"previews": []}
        gateway.answers["chat.abort"] = lambda _: {"ok": True, "aborted": False, "runIds": []}
        gateway.answers["sessions.compact"] = lambda _: {"ok": False, "reason": "nothing to compact"}
        secret = settings.gateway_token.__class__("t" * 20)
        told = {"commands": True, "gateway_url": gateway.url, "gateway_token": secret}
        app = create_app(settings.model_copy(update=told), password, limits=LOOSE)

        def ask() -> tuple[int, set[int]]:
            with serving(app) as url, httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
                token = client.post("/api/auth/login", json={"password": PASSWORD}).json()["token"]
                headers = {"Authorization": f"Bearer {token}"}
                wait_for(
                    lambda: client.get("/api/agents/main/transcript", headers=headers).status_code == 200, "the gateway"
                )
                real = {"agent_id": "main", "session_key": "agent:main:main", "job_id": "j", "name": "SOUL.md"}
                tried = keeps_to_the_document(
                    url, headers, real, lambda endpoint: "commands" in endpoint.definition.raw["tags"]
                )
                text = client.get("/metrics", headers=headers).text
            return tried, {
                int(line.split('status="')[1][:3]) for line in text.splitlines() if line.startswith(REQUESTS)
            }

        tried, seen = await asyncio.to_thread(ask)
    assert tried > 20
    assert seen >= {200, 202, 404, 422, 428, 502}  # 502: what the gateway refused
    assert 500 not in seen
    assert any(method == "agent" for method, _ in gateway.calls)


@pytest.mark.req("S1-9")
async def test_chat_keeps_to_the_document_when_it_is_on(settings: Settings, postgres_reader_dsn):
    password = PasswordFile(settings.data_dir / "secrets" / "api_password", FAST)
    password.load()
    replies = itertools.cycle(['{"query": "agents"}', "There is none.", '{"query": "context"}', '{"query": 1}', ""])
    async with ReplayGateway(token="t" * 20) as gateway, asyncio.TaskGroup() as speaking:

        def speak(params: Mapping[str, Any]) -> dict[str, Any]:
            said = {"content": [{"type": "text", "text": next(replies)}]}
            payload = {"runId": params["idempotencyKey"], "state": "final", "message": said}
            speaking.create_task(gateway.emit("chat", payload))
            return {"ok": True}

        gateway.answers["chat.send"] = speak
        gateway.answers["chat.abort"] = lambda _: {"ok": True, "aborted": False, "runIds": []}
        secret = settings.gateway_token.__class__("t" * 20)
        told = {
            "chat": True,
            "reader_url": settings.database_url.__class__(postgres_reader_dsn),
            "gateway_url": gateway.url,
            "gateway_token": secret,
        }
        app = create_app(settings.model_copy(update=told), password, limits=LOOSE)

        def ask() -> tuple[int, str, set[str]]:
            with serving(app) as url, httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
                token = client.post("/api/auth/login", json={"password": PASSWORD}).json()["token"]
                headers = {"Authorization": f"Bearer {token}"}
                first = client.post("/api/chat", json={"message": "What?"}, headers=headers)
                assert first.status_code == 200, first.text
                assert "There is none." in first.text
                (conversation,) = client.get("/api/chat/conversations", headers=headers).json()
                tried = keeps_to_the_document(
                    url,
                    headers,
                    {"conversation_id": conversation["id"]},
                    lambda endpoint: "chat" in endpoint.definition.raw["tags"],
                    [not_a_server_error],
                )
                kept = client.get("/api/chat/conversations", headers=headers).json()
                codes = {
                    message["error"]
                    for one in kept
                    for message in client.get(f"/api/chat/conversations/{one['id']}", headers=headers).json()[
                        "messages"
                    ]
                }
                return tried, client.get("/metrics", headers=headers).text, codes

        tried, text, codes = await asyncio.to_thread(ask)
    assert tried == 5
    assert 'method="POST",route="/api/chat",status="200"' in text
    assert codes >= {None, "no_answer"}, "some were answered, some not"
    assert {method for method, _ in gateway.calls} <= {"chat.send", "chat.abort"}


async def test_the_service_gives_the_same_document(anonymous):
    assert (await anonymous.get("/openapi.json")).json() == document()
