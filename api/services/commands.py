"""Commands: authorised by their route, audited before they are sent and after, sent once per Idempotency-Key.

They go through a connection of the API's own with write scopes, which exists only while LOBS_COMMANDS is on.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from api import errors
from api.models.base import Camel
from api.models.commands import Accepted
from api.security.scopes import Actor
from api.services.gateway import NOT_SENT, RPC_SECONDS, call, done, refusal
from lobservatory.errors import LobservatoryError, NotFoundError
from openclaw.client import GatewayClient
from openclaw.fields import text
from openclaw.protocol import GatewayError, NotReadyError, RpcError
from store import agents as agent_rows
from store import auth as auth_rows
from store import feed, idempotency
from store.pool import Connection, Pool

_Answer = TypeVar("_Answer", bound=Camel)
Send: TypeAlias = Callable[[GatewayClient], Awaitable[_Answer]]


@dataclass(frozen=True, slots=True)
class Note:
    """The row of the feed that a command leaves when it was carried out. `detail` has no texts."""

    action: str
    kind: str
    target: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Generic[_Answer]):
    """What is told of one command, besides how it is sent. `detail` is for the audit log and has no texts; `request`
    makes two commands the same one under an Idempotency-Key."""

    answer: type[_Answer]
    action: str
    target: str
    request: Camel | Mapping[str, Any]
    detail: Mapping[str, Any]
    note: Note | Callable[[_Answer], Note]

    def digest(self) -> bytes:
        """Of what makes two commands the same one."""
        request = self.request.model_dump() if isinstance(self.request, Camel) else dict(self.request)
        content = [self.action, self.target, request]
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest()


class Commands:
    """How every command to one gateway goes: whether it may, its rows in the audit log and the feed, its key.

    Changes when that changes; what commands there are and how they are sent is said elsewhere.
    """

    def __init__(self, pool: Pool, gateway: str, client: GatewayClient | None) -> None:
        self.gateway = gateway
        self._pool = pool
        self._client = client  # None: commands are off

    def connection(self, actor: Actor) -> GatewayClient:
        """To the gateway, for who may use it. Raises CommandsDisabledError, WrongGatewayError."""
        if self._client is None:
            raise errors.CommandsDisabledError
        if not actor.sees(self.gateway):
            raise errors.WrongGatewayError("This token is limited to other gateways.")
        return self._client

    async def known_agent(self, actor: Actor, agent: str) -> None:
        """Raises NotFoundError; GatewayUnavailableError where only the gateway, which is away, could tell."""
        client = self.connection(actor)
        async with self._pool.connection() as connection:
            found = await agent_rows.agents(connection, gateways=[self.gateway], agent=agent)
        if not any(row.configured for row in found):
            if client.state != "connected":
                raise refusal(NotReadyError("the agents cannot be asked for: the gateway is not connected"))
            raise NotFoundError(f"The gateway {self.gateway} has no agent {agent}.", field="agentId")

    async def ask(self, actor: Actor, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the gateway says at this moment; changes nothing there."""
        try:
            return await call(self.connection(actor), method, params)
        except GatewayError as error:
            raise refusal(error) from error

    async def run(self, actor: Actor, command: Command[_Answer], send: Send[_Answer], key: str | None) -> _Answer:
        """Send once. Whoever repeats an Idempotency-Key gets the first answer, and nothing else happens."""
        client = self.connection(actor)
        request_id = secrets.token_hex(8)
        common = {
            "actor": actor.name,
            "action": command.action,
            "target": command.target,
            "gateway": self.gateway,
            "request_id": request_id,
        }
        async with self._pool.connection() as connection:
            if key is not None:
                before = await idempotency.reserve(
                    connection, actor=actor.token_id, key=key, request_hash=command.digest()
                )
                if before is not None:
                    return command.answer.model_validate(before)
            await auth_rows.audit(connection, phase="started", detail=command.detail, **common)
        try:
            answer = await send(client)
        except LobservatoryError as error:
            async with self._pool.connection() as connection:
                # After a deadline, a lost connection or an answer that makes no sense nobody knows whether it was
                # carried out: the key stays taken.
                if key is not None and isinstance(error, (*NOT_SENT, RpcError, *errors.REFUSALS)):
                    await idempotency.release(connection, actor=actor.token_id, key=key)
                reason = errors.code_of(error)
                await auth_rows.audit(connection, phase="failed", detail={"reason": reason}, **common)
            if not isinstance(error, GatewayError):  # what was found there did not allow it
                raise
            raise refusal(error) from error
        async with self._pool.connection() as connection:
            if key is not None:
                told = answer.model_dump(mode="json", by_alias=True, exclude_unset=True)
                await idempotency.complete(
                    connection, actor=actor.token_id, key=key, status=HTTPStatus.ACCEPTED, response=told
                )
            await auth_rows.audit(connection, phase="succeeded", detail={}, **common)
            await _feed(connection, actor, command.note if isinstance(command.note, Note) else command.note(answer))
        return answer

    async def note(self, actor: Actor, note: Note) -> None:
        """A row of the feed for what was only read."""
        async with self._pool.connection() as connection:
            await _feed(connection, actor, note)


def once(method: str, params: Mapping[str, Any], seconds: float = RPC_SECONDS) -> Send[Accepted]:
    """One call whose answer says no more than that it was done."""

    async def send(client: GatewayClient) -> Accepted:
        await done(client, method, params, seconds)
        return Accepted(ok=True)

    return send


def starting(method: str, params: Mapping[str, Any]) -> Send[Accepted]:
    """One call whose answer may name the run that it has started."""

    async def send(client: GatewayClient) -> Accepted:
        payload = await done(client, method, params)
        return Accepted(ok=True, run_id=text(payload.get("runId")))

    return send


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
