"""Conversations about the data: who asked what, and what was answered from which figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from store.pool import Connection
from store.reading import columns, read

MOST_CONVERSATIONS = 100
MOST_MESSAGES = 500


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of one user."""

    id: str
    title: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """A question or an answer. `figures`: what an answer rests on, as it was kept."""

    id: int
    at: datetime
    role: str
    content: str
    figures: list[Mapping[str, Any]]
    error: str | None


async def begin(connection: Connection, *, identifier: str, owner: str, gateway: str, title: str) -> None:
    """A new conversation."""
    await connection.execute(
        "INSERT INTO lobs.chat_conversations (id, owner, gateway, title) VALUES (%s, %s, %s, %s)",
        [identifier, owner, gateway, title],
    )


async def owns(connection: Connection, *, identifier: str, owner: str) -> bool:
    """Whether there is such a conversation of this user."""
    cursor = await connection.execute(
        "SELECT 1 FROM lobs.chat_conversations WHERE id = %s AND owner = %s", [identifier, owner]
    )
    return await cursor.fetchone() is not None


async def add(
    connection: Connection,
    *,
    conversation: str,
    role: str,
    content: str,
    figures: Sequence[Mapping[str, Any]] = (),
    error: str | None = None,
) -> None:
    """A question or an answer."""
    await connection.execute(
        "INSERT INTO lobs.chat_messages (conversation_id, role, content, figures, error) VALUES (%s, %s, %s, %s, %s)",
        [conversation, role, content, Jsonb(list(figures)), error],
    )
    await connection.execute("UPDATE lobs.chat_conversations SET updated_at = now() WHERE id = %s", [conversation])


async def conversations(connection: Connection, *, owner: str, gateways: Collection[str] | None) -> list[Conversation]:
    """The newest conversations of a user."""
    return await read(
        connection,
        Conversation,
        f"SELECT {columns(Conversation)} FROM lobs.chat_conversations"  # noqa: S608 - names of ours
        " WHERE owner = %s AND (%s::text[] IS NULL OR gateway = ANY(%s)) ORDER BY updated_at DESC, id LIMIT %s",
        [owner, *[None if gateways is None else sorted(gateways)] * 2, MOST_CONVERSATIONS],
    )


async def messages(connection: Connection, *, conversation: str) -> list[Message]:
    """The newest messages of a conversation, in their order."""
    return await read(
        connection,
        Message,
        f"SELECT * FROM (SELECT {columns(Message)} FROM lobs.chat_messages"  # noqa: S608 - names of ours
        " WHERE conversation_id = %s ORDER BY id DESC LIMIT %s) AS newest ORDER BY id",
        [conversation, MOST_MESSAGES],
    )


async def forget(connection: Connection, *, identifier: str, owner: str) -> bool:
    """Delete a conversation of this user; whether there was one."""
    cursor = await connection.execute(
        "DELETE FROM lobs.chat_conversations WHERE id = %s AND owner = %s", [identifier, owner]
    )
    return cursor.rowcount == 1
