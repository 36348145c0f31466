"""Tokens, single-use tickets, failed log-ins and the audit log."""

# ruff: noqa: S608 - the only thing put into a statement is the constant list of columns below
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from store.pool import Connection

Phase = Literal["started", "succeeded", "failed", "refused"]

_COLUMNS = "id, name, scopes, gateways, created_at, created_by, expires_at, revoked_at, last_used_at"


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its value. `gateways` None: all of them; `expires_at` None: never."""

    id: str
    name: str
    scopes: list[str]
    gateways: list[str] | None
    created_at: datetime
    created_by: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


async def insert_token(
    connection: Connection,
    *,
    token_id: str,
    sha256: bytes,
    name: str,
    scopes: Sequence[str],
    gateways: Sequence[str] | None,
    created_by: str | None,
    expires_at: datetime | None,
) -> Token:
    """Keep a new token."""
    async with connection.cursor(row_factory=class_row(Token)) as cursor:
        await cursor.execute(
            "INSERT INTO lobs.tokens (id, sha256, name, scopes, gateways, created_by, expires_at)"
            f" VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING {_COLUMNS}",
            [
                token_id,
                sha256,
                name,
                list(scopes),
                None if gateways is None else list(gateways),
                created_by,
                expires_at,
            ],
        )
        row = await cursor.fetchone()
    if row is None:
        raise AssertionError("INSERT … RETURNING gave no row")
    return row


async def adopt_token(
    connection: Connection, *, token_id: str, sha256: bytes, name: str, scopes: Sequence[str]
) -> None:
    """Make a token whose value comes from a file valid under a fixed id; a changed file replaces the old value."""
    await connection.execute(
        "INSERT INTO lobs.tokens (id, sha256, name, scopes, created_by) VALUES (%s, %s, %s, %s, 'start')"
        " ON CONFLICT (id) DO UPDATE SET sha256 = excluded.sha256, name = excluded.name, scopes = excluded.scopes,"
        " revoked_at = NULL WHERE (tokens.sha256, tokens.name, tokens.scopes)"
        " IS DISTINCT FROM (excluded.sha256, excluded.name, excluded.scopes)",
        [token_id, sha256, name, list(scopes)],
    )


async def find_token(connection: Connection, sha256: bytes) -> Token | None:
    """The valid token with that hash; marks it as used (at most once a minute)."""
    async with connection.cursor(row_factory=class_row(Token)) as cursor:
        await cursor.execute(
            f"SELECT {_COLUMNS} FROM lobs.tokens"
            " WHERE sha256 = %s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
            [sha256],
        )
        token = await cursor.fetchone()
        if token is not None:
            await cursor.execute(
                "UPDATE lobs.tokens SET last_used_at = now()"
                " WHERE id = %s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
                [token.id],
            )
    return token


async def token(connection: Connection, token_id: str) -> Token | None:
    """The token with that id, when it is valid."""
    async with connection.cursor(row_factory=class_row(Token)) as cursor:
        await cursor.execute(
            f"SELECT {_COLUMNS} FROM lobs.tokens"
            " WHERE id = %s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
            [token_id],
        )
        return await cursor.fetchone()


async def tokens(connection: Connection) -> list[Token]:
    """Every token, newest first."""
    async with connection.cursor(row_factory=class_row(Token)) as cursor:
        await cursor.execute(f"SELECT {_COLUMNS} FROM lobs.tokens ORDER BY created_at DESC, id")
        return await cursor.fetchall()


async def revoke_token(connection: Connection, token_id: str) -> bool:
    """End a token now. False when there is none with that id."""
    cursor = await connection.execute(
        "UPDATE lobs.tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s", [token_id]
    )
    return cursor.rowcount > 0


async def valid_tokens(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of the ids that are still valid."""
    cursor = await connection.execute(
        "SELECT id FROM lobs.tokens"
        " WHERE id = ANY(%s) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
        [list(ids)],
    )
    return {row["id"] for row in await cursor.fetchall()}


async def insert_ticket(connection: Connection, *, sha256: bytes, token_id: str, lifetime: timedelta) -> None:
    """Keep a ticket of a token."""
    await connection.execute(
        "INSERT INTO lobs.tickets (sha256, token_id, expires_at) VALUES (%s, %s, now() + %s)",
        [sha256, token_id, lifetime],
    )


async def redeem_ticket(connection: Connection, sha256: bytes) -> Token | None:
    """The token of a ticket, once: the ticket is gone afterwards. None when it is unknown, used or expired."""
    async with connection.cursor(row_factory=class_row(Token)) as cursor:
        await cursor.execute(
            "WITH used AS (DELETE FROM lobs.tickets WHERE sha256 = %s RETURNING token_id, expires_at)"
            f" SELECT {_COLUMNS} FROM lobs.tokens"
            " WHERE id = (SELECT token_id FROM used WHERE expires_at > now())"
            " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
            [sha256],
        )
        return await cursor.fetchone()


async def login_failures(connection: Connection, source: str, window: timedelta) -> tuple[int, int]:
    """Failed log-ins within the window: from that address, and from anywhere."""
    cursor = await connection.execute(
        "SELECT count(*) FILTER (WHERE source = %s) AS here, count(*) AS anywhere FROM lobs.login_failures"
        " WHERE at > now() - %s",
        [source, window],
    )
    row = await cursor.fetchone()
    return (row["here"], row["anywhere"]) if row else (0, 0)


async def insert_login_failure(connection: Connection, source: str) -> None:
    """Count a wrong password."""
    await connection.execute("INSERT INTO lobs.login_failures (source) VALUES (%s)", [source])


async def clear_login_failures(connection: Connection, source: str) -> None:
    """A right password forgives the wrong ones of that address."""
    await connection.execute("DELETE FROM lobs.login_failures WHERE source = %s", [source])


async def forget_expired(connection: Connection, failures: timedelta) -> None:
    """Delete expired tickets, log-in failures older than that, and log-in tokens a week after their end."""
    await connection.execute("DELETE FROM lobs.tickets WHERE expires_at < now()")
    await connection.execute("DELETE FROM lobs.login_failures WHERE at < now() - %s", [failures])
    await connection.execute("DELETE FROM lobs.tokens WHERE name = 'login' AND expires_at < now() - interval '7 days'")


async def audit(
    connection: Connection,
    *,
    phase: Phase,
    actor: str,
    action: str,
    target: str | None = None,
    gateway: str | None = None,
    request_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append one row to the audit log. `detail` holds names and numbers, never a secret."""
    await connection.execute(
        "INSERT INTO lobs.audit_log (phase, actor, action, target, gateway, request_id, detail)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [phase, actor, action, target, gateway, request_id, Jsonb(dict(detail or {}))],
    )


async def theme(connection: Connection, owner: str) -> str | None:
    """The theme of our pages that a user has chosen; None: the system's."""
    cursor = await connection.execute("SELECT theme FROM lobs.user_preferences WHERE owner = %s", [owner])
    row = await cursor.fetchone()
    return None if row is None else str(row["theme"])


async def choose_theme(connection: Connection, owner: str, chosen: str | None) -> None:
    """Keep a user's theme; None forgets it."""
    if chosen is None:
        await connection.execute("DELETE FROM lobs.user_preferences WHERE owner = %s", [owner])
        return
    await connection.execute(
        "INSERT INTO lobs.user_preferences (owner, theme) VALUES (%s, %s)"
        " ON CONFLICT (owner) DO UPDATE SET theme = excluded.theme, updated_at = now()",
        [owner, chosen],
    )
