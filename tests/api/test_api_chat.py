"""Questions in words: the loop, hostile models, history, and every question on a real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api import errors
from api.models.chat import ChatIn
from api.security.scopes import Actor, Scope
from api.services import chat
from api.services.chat import ALLOWED, MOST_ROUNDS, ChatService, ModelConnection
from api.services.promql import METRIC_QUESTIONS
from cli.demo.gateway import ReplayGateway
from lobservatory.errors import NotFoundError
from openclaw.client import GatewayClient
from openclaw.protocol import NotReadyError
from store.pool import open_pool
from store.questions import MOST_ROWS, QUESTIONS, answer
from tests.api.conftest import connected, new_token, started
from tests.servers import PATIENCE_SECONDS

ANNA = Actor("anna", Scope.COMMAND, "token-anna")
BEN = Actor("ben", Scope.COMMAND, "token-ben")
PARAMETERS: dict[str, dict[str, Any]] = {"session": {"session": "agent:main:main"}}


class Model(ModelConnection):
    """Replies from a list; the last one is repeated."""

    def __init__(self, *replies: str, error: Exception | None = None) -> None:
        self.heard: list[tuple[str, str]] = []
        self._replies = list(replies)
        self._error = error

    async def ready(self) -> None:
        pass

    async def ask(self, session_key: str, message: str) -> AsyncIterator[str]:
        self.heard.append((session_key, message))
        if self._error is not None:
            raise self._error
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        for end in range(7, len(reply) + 7, 7):
            yield reply[:end]


@pytest.fixture
async def service_of(postgres_dsn, postgres_reader_dsn, settings):
    async with open_pool(postgres_dsn) as pool, open_pool(postgres_reader_dsn) as reader:
        yield lambda model: ChatService(pool, reader, settings, model)


async def told(service: ChatService, message: str = "What did it cost?", actor: Actor = ANNA, **more: Any):
    events = await service.ask(actor, ChatIn(message=message, **more))
    return [{"type": event.type, **event.payload()} async for event in events]


def kinds(events):
    return [event["type"] for event in events]


@pytest.mark.req("S1-9")
async def test_an_answer_rests_on_figures_that_are_kept_for_its_user_only(service_of, postgres_owner_dsn):
    model = Model(
        '{"query": "spending"}', '```json\n{"query": "usage", "params": {"by": "agent"}}\n```', "It cost 0 US$."
    )
    service = service_of(model)
    events = await told(service)
    assert kinds(events)[:3] == ["conversation", "query", "query"]
    assert "".join(event["text"] for event in events if event["type"] == "delta") == "It cost 0 US$."
    assert events[-1]["type"] == "answer"
    assert [figure["query"] for figure in events[-1]["figures"]] == ["spending", "usage"]
    assert events[-1]["figures"][1]["params"] == {"hours": 24, "by": "agent"}
    assert len({key for key, _ in model.heard}) == 1, "one session for one conversation"
    assert "data only" in model.heard[1][1]

    identifier = events[0]["conversationId"]
    kept = (await service.messages(ANNA, identifier)).messages
    assert [(one.role, one.content, one.error) for one in kept] == [
        ("user", "What did it cost?", None),
        ("assistant", "It cost 0 US$.", None),
    ]
    assert [one.id for one in await service.conversations(ANNA)] == [identifier]
    assert await service.conversations(BEN) == []
    for refused in (service.messages(BEN, identifier), service.forget(BEN, identifier)):
        with pytest.raises(NotFoundError):
            await refused
    with pytest.raises(NotFoundError):
        await service.ask(BEN, ChatIn(message="And now?", conversation_id=identifier))
    await told(service, "And now?", conversation_id=identifier)
    assert len((await service.messages(ANNA, identifier)).messages) == 4
    await service.forget(ANNA, identifier)
    assert await service.conversations(ANNA) == []


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('{"query": "SELECT * FROM lobs.tokens"}', "there is no such query"),
        ('{"query": "pg_sleep", "params": {}}', "there is no such query"),
        ('{"query": "usage", "params": {"by": "1; DROP TABLE lobs.model_calls"}}', "params of usage: by"),
        ('{"query": "usage", "params": {"hours": 10000000}}', "params of usage: hours"),
        ('{"query": "session", "params": {"session": "x", "table": "lobs.tokens"}}', "params of session: table"),
        ('{"query": "session", "params": {}}', "params of session: session"),
        ('{"query": ["usage"]}', "there is no such query"),
        ('{"tool": "exec", "command": "id"}', "it must be"),
        ('{"query": "usage"', "no JSON object"),
        ("{" * 50_000, "no JSON object"),
        ('{"query": "session", "params": {"session": "\\ud800"}}', "half a character"),
        ('{"query": "session", "params": {"session": "\\u0000"}}', "zero byte"),
        ('{"query": "course", "params": {"what": "claw_tokens_total"}}', "params of course: what"),
        ('{"query": "up"}', "there is no such query"),
    ],
)
async def test_a_request_outside_the_list_runs_nothing_and_is_told_what_is_wrong(service_of, reply, why):
    model = Model(reply, "I cannot tell.")
    events = await told(service_of(model))
    assert why in model.heard[1][1]
    assert events[-1] == {"type": "answer", "text": "I cannot tell.", "figures": []}


async def test_a_model_that_asks_for_ever_is_stopped_after_five_rounds(service_of):
    model = Model('{"query": "agents"}')
    service = service_of(model)
    events = await told(service)
    assert kinds(events) == ["conversation", *["query"] * MOST_ROUNDS, "error"]
    assert events[-1]["code"] == "too_many_rounds"
    assert "You may not ask again" in model.heard[-1][1]
    kept = (await service.messages(ANNA, events[0]["conversationId"])).messages
    assert kept[-1].error == "too_many_rounds"
    assert kinds(await told(service, "Once more"))[-1] == "error", "the user may ask again"


@pytest.mark.parametrize(("reply", "code"), [("", "no_answer"), ("   \n", "no_answer")])
async def test_nothing_is_no_answer(service_of, reply, code):
    assert (await told(service_of(Model(reply))))[-1]["code"] == code


async def test_a_gateway_that_is_away_is_one_clear_error(service_of):
    events = await told(service_of(Model(error=NotReadyError("chat.send: the gateway is not connected"))))
    assert events[-1] == {
        "type": "error",
        "code": "gateway",
        "detail": "The gateway is not connected any more; the question was not answered.",
    }


async def test_without_a_connection_nothing_is_asked_or_kept(settings, postgres_reader_dsn, monkeypatch):
    monkeypatch.setattr(chat, "_CONNECT_SECONDS", 0.1)
    reader = settings.database_url.__class__(postgres_reader_dsn)
    told = {"chat": True, "reader_url": reader, "gateway_url": "ws://127.0.0.1:9"}
    async with (
        started(settings.model_copy(update=told)) as app,
        connected(app, await new_token(app, Scope.COMMAND)) as commander,
    ):
        for _ in range(2):  # the user may ask again
            refused = await commander.post("/api/chat", json={"message": "What did it cost?"})
            problem = refused.json()
            assert (refused.status_code, problem["code"]) == (503, "gateway_unavailable")
            assert problem["detail"] == "The gateway is not connected; nothing was sent."
        assert (await commander.get("/api/chat/conversations")).json() == []


async def test_rows_are_cut_for_the_model_and_whole_for_the_user(service_of, postgres_dsn):
    async with open_pool(postgres_dsn) as pool, pool.connection() as connection:
        await connection.execute(
            "INSERT INTO lobs.agents (gateway, agent, name) SELECT 'home', 'a' || n, repeat('x', 400)"
            " FROM generate_series(1, 60) AS n"
        )
    model = Model('{"query": "agents"}', "Many.")
    events = await told(service_of(model))
    assert len(events[-1]["figures"][0]["rows"]) == MOST_ROWS
    assert "(cut)" in model.heard[1][1]


async def test_a_token_for_other_gateways_sees_none_of_this_one(service_of, postgres_dsn):
    with pytest.raises(errors.WrongGatewayError):
        await service_of(Model("x")).ask(
            Actor("c", Scope.COMMAND, "c", frozenset({"elsewhere"})), ChatIn(message="What?")
        )
    async with open_pool(postgres_dsn) as pool:
        async with pool.connection() as connection:
            await connection.execute("INSERT INTO lobs.agents (gateway, agent) VALUES ('home', 'a'), ('work', 'b')")
        assert [row["agent"] for row in await answer(pool, "agents", {}, {"work"})] == ["b"]


@pytest.mark.req("S1-9")
@pytest.mark.parametrize("name", QUESTIONS)
async def test_every_question_runs_as_the_role_that_can_only_read(postgres_reader_dsn, name):
    parameters = QUESTIONS[name].parameters.model_validate(PARAMETERS.get(name, {})).model_dump()
    async with open_pool(postgres_reader_dsn) as reader:
        assert await answer(reader, name, parameters, None) is not None
        assert await answer(reader, name, parameters, {"home"}) is not None


@pytest.mark.parametrize("by", ["model", "provider", "agent", "kind", "channel", "day", "hour"])
async def test_usage_can_be_grouped_by_everything_that_is_offered(postgres_reader_dsn, by):
    async with open_pool(postgres_reader_dsn) as reader:
        assert await answer(reader, "usage", {"hours": 24, "by": by}, None) == []


async def test_the_connection_calls_two_methods_only():
    assert {"chat.send", "chat.abort"} == ALLOWED
    model = ModelConnection(GatewayClient("ws://127.0.0.1:9"))
    for method in ("agent", "sessions.delete", "config.patch", "chat.history"):
        with pytest.raises(PermissionError, match=method):
            await model.call(method, {})


class Slow(Model):
    """Never ends."""

    async def ask(self, session_key: str, message: str) -> AsyncIterator[str]:
        self.heard.append((session_key, message))
        yield "Well"
        await asyncio.Event().wait()


async def test_one_question_at_a_time_and_a_stop_is_kept(service_of):
    service = service_of(Slow("x"))
    events = await service.ask(ANNA, ChatIn(message="What?"))
    assert (await anext(events)).type == "conversation"
    with pytest.raises(errors.ChatBusyError):
        await service.ask(ANNA, ChatIn(message="And?"))
    await service.close()
    (conversation,) = await service.conversations(ANNA)
    assert (await service.messages(ANNA, conversation.id)).messages[-1].error == "stopped"


class Client:
    """A gateway's connection whose events the test writes."""

    def __init__(self, *payloads: dict[str, Any]) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._payloads = payloads
        self._callback: Any = None

    def subscribe(self, callback):
        self._callback = callback
        return lambda: None

    def on_lost(self, _callback):
        return lambda: None

    async def wait_connected(self, _seconds):
        return None

    async def call(self, method, params, **_deadline):
        self.calls.append((method, dict(params)))
        if method == "chat.send":
            for payload in self._payloads:
                event = type("E", (), {"event": "chat", "payload": {"runId": params["idempotencyKey"], **payload}})
                self._callback(event)


def said(text, state="delta"):
    return {"state": state, "message": {"content": [{"type": "text", "text": text}]}}


@pytest.mark.parametrize(
    ("payloads", "code"),
    [
        ([said("x" * (chat.LONGEST_REPLY + 1))], "too_long"),
        ([{"state": "error"}], "model_failed"),
        ([said("Well"), {"state": "aborted"}], "aborted"),
        ([{**said("other", "final"), "runId": "another run"}], "too_slow"),
    ],
)
async def test_what_a_run_can_end_with(payloads, code, monkeypatch):
    monkeypatch.setattr(chat, "REPLY_SECONDS", 0.5)
    client = Client(*payloads)
    with pytest.raises(chat.ChatError) as raised:
        _ = [piece async for piece in ModelConnection(client).ask("agent:main:x", "Hello")]
    assert raised.value.code == code
    aborted = [method for method, _ in client.calls] == ["chat.send", "chat.abort"]
    assert aborted == (code in {"too_long", "too_slow"}), "what goes on for ever is aborted"


async def test_pieces_come_once_and_in_order():
    client = Client(said("It "), said("It cost"), said("It cost 4.", "final"))
    model = ModelConnection(client)
    assert [text async for text in model.ask("k", "Hello")] == ["It cost 4."], "the newest has it all"


async def test_a_final_text_that_does_not_go_on_with_the_pieces_is_delivered():
    client = Client(said("It cost"), said("The cost is 4.", "final"), said("late", "delta"))
    assert [text async for text in ModelConnection(client).ask("k", "Hello")][-1] == "The cost is 4."
    client = Client(said("It cost 4."), {"state": "final"})
    assert [text async for text in ModelConnection(client).ask("k", "Hello")][-1] == "It cost 4."
    assert [method for method, _ in client.calls] == ["chat.send"], "what has ended is not aborted"


class Revising(Model):
    """Writes something, then something else."""

    async def ask(self, session_key: str, message: str) -> AsyncIterator[str]:
        self.heard.append((session_key, message))
        for text in ("It ", "It cost", "It cost", "The cost", "The cost is 4."):
            yield text


async def test_pieces_say_when_they_replace_what_was_shown(service_of):
    events = await told(service_of(Revising("x")))
    shown = ""
    for event in events:
        if event["type"] == "delta":
            shown = event["text"] if event.get("replace") else shown + event["text"]
    assert shown == "The cost is 4."
    assert events[-1] == {"type": "answer", "text": "The cost is 4.", "figures": []}


async def test_who_does_not_read_gets_the_end_all_the_same(service_of, monkeypatch):
    monkeypatch.setattr(chat, "_MOST_EVENTS", 6)
    service = service_of(Model("It cost 4 US$. " * 50))
    events = await service.ask(ANNA, ChatIn(message="What?"))
    (task,) = service._tasks
    await task  # nobody has read until the answer was there
    found = [event async for event in events]
    assert [event.type for event in found] == ["conversation", *["delta"] * 3, "answer"]
    assert found[-1].text == ("It cost 4 US$. " * 50).strip()


async def test_an_answer_to_a_conversation_that_was_deleted_meanwhile_is_told(service_of):
    class Deleting(Model):
        async def ask(self, session_key: str, message: str) -> AsyncIterator[str]:
            (conversation,) = await service.conversations(ANNA)
            await service.forget(ANNA, conversation.id)
            yield "It cost 4."

    service = service_of(Deleting("x"))
    events = await told(service)
    assert events[-1]["text"] == "It cost 4."
    assert await service.conversations(ANNA) == []


@pytest.mark.req("S1-9")
async def test_a_lost_connection_ends_a_question_at_once(service_of):
    """With the deadline of a reply as it is: who waits for that has another code, and a test that takes too long."""
    async with ReplayGateway(token="t") as gateway:
        asked = asyncio.Event()
        gateway.answers["chat.send"] = lambda _: asked.set() or {"ok": True}
        async with GatewayClient(gateway.url, "t", scopes=chat.SCOPES, subscribe_sessions=False) as client:
            await client.wait_connected(PATIENCE_SECONDS)
            service = service_of(ModelConnection(client))
            events = await service.ask(ANNA, ChatIn(message="What?"))
            await asked.wait()
            await gateway.drop_clients()
            async with asyncio.timeout(chat.REPLY_SECONDS / 2):
                found = [event async for event in events]
    assert found[-1].type == "error"
    assert found[-1].code == "gateway"
    assert found[-1].detail
    (conversation,) = await service.conversations(ANNA)
    assert (await service.messages(ANNA, conversation.id)).messages[-1].error == "gateway"


async def test_it_is_off_by_default_and_needs_the_scope_for_commands(app):
    async with connected(app, await new_token(app, Scope.COMMAND)) as commander:
        refused = await commander.post("/api/chat", json={"message": "What?"})
        assert (refused.status_code, refused.json()["code"]) == (403, "chat_disabled")
        offered = (await commander.get("/api/chat/questions")).json()
        assert [one["name"] for one in offered] == [*QUESTIONS, *METRIC_QUESTIONS]
        assert {one["name"] for one in offered if one["source"] == "promql"} == {*METRIC_QUESTIONS}
        assert (await commander.get("/api/chat/conversations")).json() == []
        assert (await commander.get("/api/chat/conversations/none")).status_code == 404
        assert (await commander.delete("/api/chat/conversations/none")).status_code == 404
    async with connected(app, await new_token(app, Scope.WRITE)) as writer:
        assert (await writer.post("/api/chat", json={"message": "What?"})).status_code == 403


def test_the_page_lists_every_question():
    page = (Path(__file__).parents[2] / "docs" / "chat.md").read_text()
    for name, question in {**QUESTIONS, **METRIC_QUESTIONS}.items():
        parameters = ", ".join(f"`{one}`" for one in question.parameters.model_fields) or "\u2013"
        assert f"| `{name}` | {parameters} | {question.about} |" in page


def test_parameters_have_schemas_that_a_model_understands():
    for question in [*QUESTIONS.values(), *METRIC_QUESTIONS.values()]:
        json.dumps(question.parameters.model_json_schema())
        assert question.about.endswith(".")
