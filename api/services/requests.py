"""What makes two requests the same one, for `Idempotency-Key`, and the answer that the second one gets."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel

from api.security.scopes import Actor
from store import idempotency
from store.pool import Connection

Made = TypeVar("Made", bound=BaseModel)


def request_hash(path: str, body: BaseModel) -> bytes:
    """A digest of where something is sent and of what."""
    return hashlib.sha256(
        path.encode() + b"\0" + msgspec.json.encode(body.model_dump(mode="json"), order="sorted")
    ).digest()


async def made_once(  # noqa: PLR0917 - who asks for what, and what that makes
    connection: Connection,
    actor: Actor,
    key: str | None,
    path: str,
    body: BaseModel,
    kind: type[Made],
    make: Callable[[], Awaitable[Made]],
) -> Made:
    """What `make` gives, or gave when this key was used first; kept as clients got it. Raises ConflictError when the
    key was used for another request."""

    async def document() -> dict[str, Any]:
        made = await make()
        return made.model_dump(mode="json", by_alias=True, exclude_unset=True)

    return kind.model_validate(
        await idempotency.once(
            connection, actor=actor.token_id, key=key, request_hash=request_hash(path, body), make=document
        )
    )
