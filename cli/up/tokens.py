"""Tokens of the API, made on the command line: by whoever may read the database's secret."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import psycopg
from psycopg.rows import dict_row

from cli.up.access import database_url
from lobservatory.errors import UserError, one_line
from lobservatory.settings import Settings
from store import auth
from store.pool import Connection

_ACTOR = "command line"
_CONNECT_SECONDS = 10
_Answer = TypeVar("_Answer")


def create(
    settings: Settings, name: str, scopes: Sequence[str], gateways: Sequence[str] | None, days: int
) -> tuple[auth.Token, str]:
    """A new token and its value; `days` 0: it does not expire. Raises UserError."""
    value = "lobs_" + secrets.token_urlsafe(32)

    async def make(connection: Connection) -> auth.Token:
        row = await auth.insert_token(
            connection,
            token_id="token_" + secrets.token_hex(8),
            sha256=hashlib.sha256(value.encode()).digest(),
            name=name,
            scopes=scopes,
            gateways=gateways,
            created_by=_ACTOR,
            expires_at=datetime.now(UTC) + timedelta(days=days) if days else None,
        )
        detail = {"name": name, "scope": scopes[-1], "gateways": gateways}
        await auth.audit(
            connection, phase="succeeded", actor=_ACTOR, action="token.create", target=row.id, detail=detail
        )
        return row

    return _in_transaction(settings, make), value


def every(settings: Settings) -> list[auth.Token]:
    """Every token, newest first, without its value. Raises UserError."""
    return _in_transaction(settings, auth.tokens)


def revoke(settings: Settings, token_id: str) -> bool:
    """End a token now. False when there is none with that id. Raises UserError."""

    async def end(connection: Connection) -> bool:
        found = await auth.revoke_token(connection, token_id)
        if found:
            await auth.audit(connection, phase="succeeded", actor=_ACTOR, action="token.revoke", target=token_id)
        return found

    return "\0" not in token_id and _in_transaction(settings, end)


def _in_transaction(settings: Settings, do: Callable[[Connection], Awaitable[_Answer]]) -> _Answer:
    url = database_url(settings)

    async def run() -> _Answer:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=_CONNECT_SECONDS, row_factory=dict_row)
        async with connection:
            return await do(connection)

    try:
        return asyncio.run(run())
    except psycopg.errors.UndefinedTable as error:
        raise UserError("the database has no tables of ours: run lobservatory migrate") from error
    except psycopg.Error as error:
        raise UserError(f"LOBS_DATABASE_URL: {one_line(error)}") from error
