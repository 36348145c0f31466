"""Commands: authorised by their route, audited before they are sent and after, sent once per Idempotency-Key.

They go through a connection of the API's own with write scopes, which exists only while LOBS_COMMANDS is on.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
import structlog
from pydantic import BaseModel, ValidationError

from api import errors
from api.models.commands import (
    Action,
    Confirmation,
    ConfirmIn,
    DecisionIn,
    KillIn,
    SessionPatch,
    Transcript,
    TranscriptItem,
)
from api.models.control import ChannelAccount, ConfigPatch, RuleIn, SkillInstall, SkillUpdate
from api.security.scopes import Actor
from lobservatory import logging
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from openclaw.fields import flag, items, mapping
from openclaw.fields import text as text_of
from openclaw.protocol import (
    CallTimeoutError,
    GatewayError,
    MalformedReplyError,
    NotReadyError,
    RpcError,
    TooManyRequestsError,
)
from openclaw.state_dir import OpenClawConfig, StateDirError, gateway_token, load_config, resolve
from store import agents as agent_rows
from store import auth as auth_rows
from store import feed, idempotency
from store.errors import StoreError
from store.pool import Connection, Pool

log = structlog.get_logger(__name__)

SCOPES = ("operator.read", "operator.write", "operator.approvals", "operator.admin")
CONFIRM_SECONDS = 60
RPC_SECONDS = 45.0  # a gateway may block its own event loop for 20 s, and proxies in front of us wait for 60
_TRANSCRIPT_CHARACTERS = 4_000  # of one message

_BODIES: Mapping[Action, type[BaseModel]] = {  # of what is confirmed; the others are sent without one
    "exec.rule.add": RuleIn,
    "skill.install": SkillInstall,
    "skill.update": SkillUpdate,
    "config.patch": ConfigPatch,
    "channel.logout": ChannelAccount,
}

NOT_SENT = (NotReadyError, TooManyRequestsError)  # errors after which nothing has happened

Answer = dict[str, Any]
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Note:
    """The row of the feed that a command leaves when it was carried out. `detail` has no texts."""

    action: str
    kind: str
    target: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def gateway_client(settings: Settings, scopes: Sequence[str] = SCOPES) -> GatewayClient:
    """A connection of the API's own; its token is looked up at each attempt."""

    def token() -> str:
        try:
            config = load_config(resolve(settings.state_dir))
        except StateDirError:
            config = OpenClawConfig()
        found = gateway_token(settings, config).get_secret_value()
        logging.REDACTOR.learn(found)
        return found

    return GatewayClient(settings.gateway_url, token, scopes=scopes, capabilities=(), subscribe_sessions=False)


class CommandService:
    """What may be asked of one gateway."""

    def __init__(self, pool: Pool, gateway: str, client: GatewayClient | None) -> None:
        self._pool = pool
        self._gateway = gateway
        self._client = client  # None: commands are off

    async def confirm(self, actor: Actor, wanted: ConfirmIn) -> Confirmation:
        """A nonce for one dangerous command: this action on this target with this body. Raises InvalidFieldError."""
        self._connection(actor)
        body = _body(wanted)
        nonce = secrets.token_urlsafe(24)
        async with self._pool.connection() as connection:
            await auth_rows.insert_ticket(
                connection,
                sha256=_confirmation(nonce, wanted.action, wanted.target, body),
                token_id=actor.token_id,
                lifetime=timedelta(seconds=CONFIRM_SECONDS),
            )
        return Confirmation(nonce=nonce, expires_in=CONFIRM_SECONDS)

    async def kill(self, actor: Actor, agent: str, wanted: KillIn, key: str | None) -> Answer:
        """Stop what runs in a session of an agent."""
        await self._known_agent(actor, agent)
        session_key = session_of(agent, wanted.session_key)

        async def send(client: GatewayClient) -> Answer:
            payload = await call(client, "chat.abort", {"sessionKey": session_key})
            runs = payload.get("runIds")
            aborted = required(flag(payload.get("aborted")), "chat.abort", "aborted")
            return {"aborted": aborted, "runIds": [str(run) for run in runs] if isinstance(runs, list) else []}

        return await self._run(
            actor,
            "agent.kill",
            agent,
            detail={"session": session_key},
            request=wanted,
            key=key,
            send=send,
            note=lambda answer: Note("killed", "agent", agent, answer),
        )

    async def run_cron(self, actor: Actor, job_id: str, key: str | None) -> Answer:
        """Run a scheduled job now."""
        return await self._simple(
            actor, "cron.run", job_id, method="cron.run", params={"id": job_id, "mode": "force"}, key=key
        )

    async def resolve(self, actor: Actor, approval_id: str, wanted: DecisionIn, key: str | None) -> Answer:
        """Answer a request to run a command."""
        params = {"id": approval_id, "decision": wanted.decision}
        return await self._simple(
            actor, "approval.resolve", approval_id, method="exec.approval.resolve", params=params, key=key
        )

    async def patch_session(self, actor: Actor, session_key: str, wanted: SessionPatch, key: str | None) -> Answer:
        """Choose a session's model."""
        params = {"key": session_key, "model": wanted.model}
        return await self._simple(actor, "session.patch", session_key, method="sessions.patch", params=params, key=key)

    async def compact_session(self, actor: Actor, session_key: str, key: str | None) -> Answer:
        """Compact a session's transcript."""
        return await self._simple(
            actor, "session.compact", session_key, method="sessions.compact", params={"key": session_key}, key=key
        )

    async def reset_session(self, actor: Actor, session_key: str, nonce: str | None, key: str | None) -> Answer:
        """Empty a session. Needs a confirmation."""
        await self._confirmed(actor, "session.reset", session_key, nonce)
        return await self._simple(
            actor, "session.reset", session_key, method="sessions.reset", params={"key": session_key}, key=key
        )

    async def delete_session(self, actor: Actor, session_key: str, nonce: str | None, key: str | None) -> Answer:
        """Delete a session and its transcript. Needs a confirmation."""
        await self._confirmed(actor, "session.delete", session_key, nonce)
        params = {"key": session_key, "deleteTranscript": True}
        return await self._simple(
            actor, "session.delete", session_key, method="sessions.delete", params=params, key=key
        )

    # --- what is read from the gateway at the moment of asking ------------------------------------------------

    async def transcript(self, actor: Actor, agent: str, session_key: str | None, limit: int) -> Transcript:
        """The end of a session."""
        await self._known_agent(actor, agent)
        key = session_of(agent, session_key)
        try:
            said = await self._said(self._connection(actor), key, limit)
        except GatewayError as error:
            raise refusal(error) from error
        await self._note(actor, Note("transcript_read", "agent", agent, {"session": key}))
        return Transcript(session_key=key, items=said)

    @staticmethod
    async def _said(
        client: GatewayClient, session_key: str, limit: int, longest: int = _TRANSCRIPT_CHARACTERS
    ) -> list[TranscriptItem]:
        """The last messages of a session, oldest first, each cut to `longest` characters. Raises GatewayError."""
        params = {"keys": [session_key], "limit": limit, "maxChars": longest}
        payload = await call(client, "sessions.preview", params)
        previews = [one for one in items(payload, "previews") if one.get("key") == session_key]
        return [
            TranscriptItem(role=str(one.get("role", "")), text=str(one.get("text", "")))
            for one in (items(previews[0], "items") if previews else ())
        ]

    async def _ask(self, actor: Actor, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return await call(self._connection(actor), method, params)
        except GatewayError as error:
            raise refusal(error) from error

    # --- how every command goes -------------------------------------------------------------------------------

    def _connection(self, actor: Actor) -> GatewayClient:
        if self._client is None:
            raise errors.CommandsDisabledError
        if not actor.sees(self._gateway):
            raise errors.WrongGatewayError("This token is limited to other gateways.")
        return self._client

    async def _known_agent(self, actor: Actor, agent: str) -> None:
        """Raises NotFoundError; GatewayUnavailableError where only the gateway, which is away, could tell."""
        client = self._connection(actor)
        async with self._pool.connection() as connection:
            found = await agent_rows.agents(connection, gateways=[self._gateway], agent=agent)
        if not any(row["configured"] for row in found):
            if client.state != "connected":
                raise refusal(NotReadyError("the agents cannot be asked for: the gateway is not connected"))
            raise errors.NotFoundError(f"The gateway {self._gateway} has no agent {agent}.", field="agentId")

    async def _confirmed(
        self, actor: Actor, action: Action, target: str, nonce: str | None, body: BaseModel | None = None
    ) -> None:
        self._connection(actor)
        token = None
        if nonce is not None:
            async with self._pool.connection() as connection:
                token = await auth_rows.redeem_ticket(connection, _confirmation(nonce, action, target, body))
        if token is None or token.id != actor.token_id:
            raise errors.ConfirmationNeededError(action)

    async def _simple(
        self, actor: Actor, action: str, target: str, *, method: str, params: Mapping[str, Any], key: str | None
    ) -> Answer:
        async def send(client: GatewayClient) -> Answer:
            payload = await done(client, method, params)
            return {"ok": True, "runId": text_of(payload.get("runId"))}

        detail = {name: value for name, value in params.items() if name not in {"id", "key"}}
        kind, _, verb = action.partition(".")
        return await self._run(
            actor,
            action,
            target,
            detail=detail,
            request=params,
            key=key,
            send=send,
            note=lambda _: Note(verb, kind, target),
        )

    async def _run(
        self,
        actor: Actor,
        action: str,
        target: str,
        *,
        detail: Mapping[str, Any],
        request: Any,
        key: str | None,
        send: Callable[[GatewayClient], Awaitable[Answer]],
        note: Callable[[Answer], Note],
    ) -> Answer:
        """Send once. Whoever repeats an Idempotency-Key gets the first answer, and nothing else happens."""
        client = self._connection(actor)
        content = [action, target, request.model_dump() if hasattr(request, "model_dump") else dict(request)]
        digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest()
        request_id = secrets.token_hex(8)
        common = {"actor": actor.name, "action": action, "target": target, "gateway": self._gateway}
        async with self._pool.connection() as connection:
            if key is not None:
                done = await idempotency.reserve(connection, actor=actor.token_id, key=key, request_hash=digest)
                if done is not None:
                    return done
            await auth_rows.audit(connection, phase="started", request_id=request_id, detail=detail, **common)
        try:
            answer: Answer = await send(client)
        except (GatewayError, errors.ApiError, StoreError) as error:
            async with self._pool.connection() as connection:
                # After a deadline, a lost connection or an answer that makes no sense nobody knows whether it was
                # carried out: the key stays taken.
                if key is not None and isinstance(error, (*NOT_SENT, RpcError, errors.ApiError)):
                    await idempotency.release(connection, actor=actor.token_id, key=key)
                reason = error.code if isinstance(error, RpcError | errors.ApiError) else type(error).__name__
                await auth_rows.audit(
                    connection, phase="failed", request_id=request_id, detail={"reason": reason}, **common
                )
            if not isinstance(error, GatewayError):  # what was found there did not allow it
                raise
            raise refusal(error) from error
        async with self._pool.connection() as connection:
            if key is not None:
                await idempotency.complete(
                    connection, actor=actor.token_id, key=key, status=HTTPStatus.ACCEPTED, response=answer
                )
            await auth_rows.audit(connection, phase="succeeded", request_id=request_id, detail={}, **common)
            await _feed(connection, actor, note(answer))
        return answer

    async def _note(self, actor: Actor, note: Note) -> None:
        async with self._pool.connection() as connection:
            await _feed(connection, actor, note)


async def _feed(connection: Connection, actor: Actor, note: Note) -> None:
    await feed.add(
        connection,
        type=note.kind,
        actor=actor.name,
        action=note.action,
        target_type=note.kind,
        target_id=note.target,
        metadata=note.detail,
    )


async def call(
    client: GatewayClient, method: str, params: Mapping[str, Any], seconds: float = RPC_SECONDS
) -> Mapping[str, Any]:
    """The object that a method answers. Raises MalformedReplyError for anything else, GatewayError."""
    payload = await client.call(method, params, timeout=seconds)
    if not isinstance(payload, dict):
        raise MalformedReplyError(method, "the answer is no object")
    return payload


async def done(
    client: GatewayClient, method: str, params: Mapping[str, Any], seconds: float = RPC_SECONDS
) -> Mapping[str, Any]:
    """The same for methods that say in their answer whether they did it. Raises RpcError when they did not."""
    payload = await call(client, method, params, seconds)
    if payload.get("ok") is False:
        raise RpcError(method, "REFUSED", str(payload.get("reason") or payload.get("error") or "refused"))
    return payload


def required(value: _Value | None, method: str, name: str) -> _Value:
    """A field that an answer must have. Raises MalformedReplyError."""
    if value is None:
        raise MalformedReplyError(method, f"the answer has no {name}")
    return value


def written(payload: Mapping[str, Any]) -> str:
    """All that a `chat` event says the model has written so far."""
    content = mapping(payload, "message").get("content")
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in items(payload, "message", "content"))


def session_of(agent: str, session_key: str | None) -> str:
    """The session that is meant; it must be one of the agent."""
    if session_key is None:
        return f"agent:{agent}:main"
    if not session_key.startswith(f"agent:{agent}:"):
        raise errors.InvalidFieldError("This session belongs to another agent.", field="body.sessionKey")
    return session_key


def _body(wanted: ConfirmIn) -> BaseModel | None:
    """The body of the command that is confirmed, read as the command itself reads it."""
    model = _BODIES.get(wanted.action)
    if model is None:
        if wanted.body:
            raise errors.InvalidFieldError(f"{wanted.action} has no body.", field="body.body")
        return None
    try:
        return model.model_validate(wanted.body or {})
    except ValidationError as error:
        wrong = errors.field_problem(error.errors()[0], "body", "body")
        raise errors.InvalidFieldError(f"{wrong.field}: {wrong.message}", field=wrong.field) from None


def _confirmation(nonce: str, action: str, target: str, body: BaseModel | None) -> bytes:
    content = ["confirm", nonce, action, target, None if body is None else body.model_dump()]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest()


def refusal(error: GatewayError) -> errors.ApiError:
    """What a client is told of an error of the gateway."""
    if isinstance(error, RpcError):
        return errors.GatewayRefusedError(f"The gateway refused: {error.code}: {error.message[:300]}")
    if isinstance(error, MalformedReplyError):
        return errors.GatewayRefusedError(
            f"The gateway's answer is not what {error.method} gives; whether it was carried out is not known."
        )
    if isinstance(error, TooManyRequestsError):
        return errors.GatewayUnavailableError("Too many requests wait for the gateway's answer; nothing was sent.")
    if isinstance(error, NotReadyError):
        return errors.GatewayUnavailableError("The gateway is not connected; nothing was sent.")
    return errors.GatewayUnavailableError(
        "The gateway did not answer in time; whether it was carried out is not known."
        if isinstance(error, CallTimeoutError)
        else "The connection to the gateway was lost; whether it was carried out is not known."
    )
