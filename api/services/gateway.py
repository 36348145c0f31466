"""The gateway as the API speaks to it: a connection of its own, answers that are checked, and what a client is told of
an error. Nothing here knows which commands there are, nor who may give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from api import errors
from api.models.commands import TranscriptItem
from lobservatory import logging
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from openclaw.fields import items, mapping
from openclaw.protocol import (
    CallTimeoutError,
    GatewayError,
    MalformedReplyError,
    NotReadyError,
    RpcError,
    TooManyRequestsError,
)
from openclaw.state_dir import OpenClawConfig, StateDirError, gateway_token, load_config, resolve

SCOPES = ("operator.read", "operator.write", "operator.approvals", "operator.admin")
RPC_SECONDS = 45.0  # a gateway may block its own event loop for 20 s, and proxies in front of us wait for 60
NOT_SENT = (NotReadyError, TooManyRequestsError)  # errors after which nothing has happened
_LAST_MESSAGES = 10
_LONGEST_REPLY = 50_000  # characters

_Value = TypeVar("_Value")


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


async def said(client: GatewayClient, session_key: str, limit: int, longest: int) -> list[TranscriptItem]:
    """The last messages of a session, oldest first, each cut to `longest` characters. Raises GatewayError."""
    params = {"keys": [session_key], "limit": limit, "maxChars": longest}
    payload = await call(client, "sessions.preview", params)
    previews = [one for one in items(payload, "previews") if one.get("key") == session_key]
    return [
        TranscriptItem(role=str(one.get("role", "")), text=str(one.get("text", "")))
        for one in (items(previews[0], "items") if previews else ())
    ]


async def last_reply(client: GatewayClient, session_key: str) -> str | None:
    """The last that an agent said in a session; asked of the gateway, stored nowhere. Raises GatewayError."""
    spoken = await said(client, session_key, _LAST_MESSAGES, _LONGEST_REPLY)
    replies = [item.text for item in spoken if item.role == "assistant"]
    return replies[-1] if replies else None


def refusal(error: GatewayError) -> errors.ApiError:
    """What a client is told of an error of the gateway."""
    if isinstance(error, RpcError):
        return errors.GatewayRefusedError(f"The gateway refused: {error.code}: {error.message[:300]}")
    if isinstance(error, MalformedReplyError):
        return errors.GatewayRefusedError(
            f"The gateway's answer is not what {error.method} gives; whether it was carried out is not known."
        )
    if isinstance(error, TooManyRequestsError):
        return errors.GatewayAwayError("Too many requests wait for the gateway's answer; nothing was sent.")
    if isinstance(error, NotReadyError):
        return errors.GatewayAwayError("The gateway is not connected; nothing was sent.")
    return errors.GatewayAwayError(
        "The gateway did not answer in time; whether it was carried out is not known."
        if isinstance(error, CallTimeoutError)
        else "The connection to the gateway was lost; whether it was carried out is not known."
    )
