"""Log-in, bearer tokens, tickets. Tokens are 256 random bits; the database has only their SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import structlog

from api import errors
from api.counts import Counts
from api.models.auth import LoginOut, NewToken, Preferences, Theme, Ticket, TokenIn, TokenOut
from api.security.scopes import Actor, Scope
from lobservatory.errors import NotFoundError
from lobservatory.password import PasswordFile
from store import auth as rows
from store import idempotency
from store.pool import Pool

log = structlog.get_logger(__name__)

PREFIX = "lobs_"
_LOGIN = "password"  # who made the token of a log-in
SESSION = timedelta(hours=24)
TICKET_SECONDS = 30
FAILURES = 5  # wrong passwords from one address …
FAILURES_ANYWHERE = 50  # … or from all of them, a botnet's way …
FAILURE_WINDOW = timedelta(minutes=15)  # … within this time lock the log-in for as long
KEPT = timedelta(hours=24)  # answers under an Idempotency-Key
SERVICE_TOKEN = "api_token"  # noqa: S105 - the name of a file
_LONGEST_TOKEN = 200


def digest(secret: str) -> bytes:
    """What is stored of a token or a ticket."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class AuthService:
    """Who may do what."""

    def __init__(self, pool: Pool, password: PasswordFile, data_dir: Path, counts: Counts) -> None:
        self._pool = pool
        self._password = password
        self._data_dir = data_dir
        self._counts = counts
        # One hash at a time: argon2 is meant to be slow, and must not become a way to keep every core busy.
        self._hashing = asyncio.Semaphore(1)

    async def adopt_service_token(self) -> None:
        """Make the generated token of `secrets/api_token` valid: for Alertmanager and scripts here."""
        path = self._data_dir / "secrets" / SERVICE_TOKEN
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return  # there is none: everything else works without it
        if len(value) < 32:  # noqa: PLR2004 - half of what `lobservatory up` generates
            log.warning("service token ignored: shorter than 32 characters", file=str(path))
            return
        async with self._pool.connection() as connection:
            await rows.adopt_token(
                connection,
                token_id="service",  # noqa: S106 - an id, not a value
                sha256=digest(value),
                name="service",
                scopes=Scope.WRITE.held(),
            )

    async def login(self, password: str, address: str) -> LoginOut:
        """A token for 24 hours. Raises WrongPasswordError and, after too many of those, LockedOutError."""
        async with self._pool.connection() as connection:
            here, anywhere = await rows.login_failures(connection, address, FAILURE_WINDOW)
        if here >= FAILURES or anywhere >= FAILURES_ANYWHERE:
            self._counts.logins.labels("locked_out").inc()
            raise errors.LockedOutError(FAILURE_WINDOW.total_seconds(), "Too many wrong passwords.")
        async with self._hashing:
            right = await asyncio.to_thread(self._password.matches, password)
        if not right:
            self._counts.logins.labels("wrong_password").inc()
            async with self._pool.connection() as connection:
                await rows.insert_login_failure(connection, address)
                await rows.audit(
                    connection, phase="refused", actor="anonymous", action="login", detail={"address": address}
                )
            log.warning("log-in refused", address=address)
            raise errors.WrongPasswordError
        value, token_id = PREFIX + secrets.token_urlsafe(32), _new_id()
        expires_at = datetime.now(UTC) + SESSION
        async with self._pool.connection() as connection:
            await rows.insert_token(
                connection,
                token_id=token_id,
                sha256=digest(value),
                name="login",
                scopes=Scope.ADMIN.held(),
                gateways=None,
                created_by=_LOGIN,
                expires_at=expires_at,
            )
            await rows.clear_login_failures(connection, address)
            await rows.audit(
                connection,
                phase="succeeded",
                actor="login",
                action="login",
                target=token_id,
                detail={"address": address},
            )
        self._counts.logins.labels("ok").inc()
        return LoginOut(token=value, expires_at=expires_at, scopes=[Scope(scope) for scope in Scope.ADMIN.held()])

    async def authenticate(self, token: str) -> Actor | None:
        """Who holds this token; None when it is not valid."""
        if not 0 < len(token) <= _LONGEST_TOKEN:
            return None
        async with self._pool.connection() as connection:
            return actor_of(await rows.find_token(connection, digest(token)))

    async def ticket(self, actor: Actor) -> Ticket:
        """A ticket that opens one live connection within 30 seconds."""
        value = secrets.token_urlsafe(32)
        async with self._pool.connection() as connection:
            await rows.insert_ticket(
                connection,
                sha256=digest(value),
                token_id=actor.token_id,
                lifetime=timedelta(seconds=TICKET_SECONDS),
            )
        return Ticket(ticket=value, expires_in=TICKET_SECONDS)

    async def preferences(self, actor: Actor) -> Preferences:
        """What a user has chosen; a theme that this version does not know is none."""
        async with self._pool.connection() as connection:
            chosen = await rows.theme(connection, actor.name)
        return Preferences.model_validate({"theme": chosen if chosen in get_args(Theme) else None})

    async def choose(self, actor: Actor, wanted: Preferences) -> Preferences:
        """Keep it."""
        async with self._pool.connection() as connection:
            await rows.choose_theme(connection, actor.name, wanted.theme)
        return wanted

    async def redeem(self, ticket: str) -> Actor | None:
        """Who was given this ticket; it is used up."""
        if not 0 < len(ticket) <= _LONGEST_TOKEN:
            return None
        async with self._pool.connection() as connection:
            return actor_of(await rows.redeem_ticket(connection, digest(ticket)))

    async def create_token(self, actor: Actor, wanted: TokenIn) -> NewToken:
        """A new token. Its value is in the answer and nowhere else."""
        if actor.gateways is not None and (wanted.gateways is None or not actor.gateways.issuperset(wanted.gateways)):
            raise errors.WrongGatewayError("A token limited to some gateways cannot make one for others.")
        value = PREFIX + secrets.token_urlsafe(32)
        expires_at = datetime.now(UTC) + timedelta(days=wanted.days) if wanted.days else None
        async with self._pool.connection() as connection:
            row = await rows.insert_token(
                connection,
                token_id=_new_id(),
                sha256=digest(value),
                name=wanted.name,
                scopes=wanted.scope.held(),
                gateways=wanted.gateways,
                created_by=actor.name,
                expires_at=expires_at,
            )
            await rows.audit(
                connection,
                phase="succeeded",
                actor=actor.name,
                action="token.create",
                target=row.id,
                detail={"name": wanted.name, "scope": wanted.scope, "gateways": wanted.gateways},
            )
        return NewToken(token=value, **_shape(row).model_dump())

    async def tokens(self) -> list[TokenOut]:
        """Every token, without its value."""
        async with self._pool.connection() as connection:
            return [_shape(row) for row in await rows.tokens(connection)]

    async def revoke(self, actor: Actor, token_id: str) -> None:
        """End a token now. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            if not await rows.revoke_token(connection, token_id):
                raise NotFoundError("There is no token with this id.", field="path.token_id")
            await rows.audit(connection, phase="succeeded", actor=actor.name, action="token.revoke", target=token_id)

    async def logout(self, actor: Actor) -> None:
        """End the token of a log-in; one that was made for a program goes on."""
        async with self._pool.connection() as connection:
            token = await rows.token(connection, actor.token_id)
            if token is None or token.created_by != _LOGIN:
                return
            await rows.revoke_token(connection, token.id)
            await rows.audit(connection, phase="succeeded", actor=actor.name, action="logout", target=token.id)

    async def still_valid(self, token_ids: Sequence[str]) -> set[str]:
        """Those that are neither revoked nor expired."""
        async with self._pool.connection() as connection:
            return await rows.valid_tokens(connection, token_ids)

    async def forget_expired(self) -> None:
        """Delete what has expired."""
        async with self._pool.connection() as connection:
            await rows.forget_expired(connection, FAILURE_WINDOW)
            await idempotency.forget(connection, KEPT)


def _new_id() -> str:
    return "token_" + secrets.token_hex(8)


def actor_of(token: rows.Token | None) -> Actor | None:
    """Who holds it."""
    if token is None:
        return None
    scope = max((Scope(scope) for scope in token.scopes), key=lambda scope: len(scope.held()), default=Scope.READ)
    gateways = None if token.gateways is None else frozenset(token.gateways)
    return Actor(name=token.name, scope=scope, token_id=token.id, gateways=gateways)


def _shape(row: rows.Token) -> TokenOut:
    actor = actor_of(row)
    return TokenOut(
        id=row.id,
        name=row.name,
        scope=actor.scope if actor else Scope.READ,
        gateways=row.gateways,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked=row.revoked_at is not None,
    )
