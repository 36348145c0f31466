"""Confirmations of dangerous commands: a nonce that is given for one of them and taken once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import timedelta

import msgspec
from pydantic import ValidationError

from api import errors
from api.models.base import Camel
from api.models.commands import Action, Confirmation, ConfirmIn
from api.models.control import ChannelAccount, ConfigPatch, RuleIn, SkillInstall, SkillUpdate
from api.security.scopes import Actor
from api.services.commands import Commands
from store import auth as rows
from store.pool import Pool

CONFIRM_SECONDS = 60

_BODIES: Mapping[Action, type[Camel]] = {  # of what is confirmed; the others are sent without one
    "exec.rule.add": RuleIn,
    "skill.install": SkillInstall,
    "skill.update": SkillUpdate,
    "config.patch": ConfigPatch,
    "channel.logout": ChannelAccount,
}


class Confirmations:
    """Who has confirmed what. Changes with the way in which a person confirms."""

    def __init__(self, pool: Pool, commands: Commands) -> None:
        self._pool = pool
        self._commands = commands

    async def give(self, actor: Actor, wanted: ConfirmIn) -> Confirmation:
        """A nonce for one dangerous command: this action on this target with this body. Raises InvalidFieldError."""
        self._commands.connection(actor)
        body = _body(wanted)
        nonce = secrets.token_urlsafe(24)
        async with self._pool.connection() as connection:
            await rows.insert_ticket(
                connection,
                sha256=_digest(nonce, wanted.action, wanted.target, body),
                token_id=actor.token_id,
                lifetime=timedelta(seconds=CONFIRM_SECONDS),
            )
        return Confirmation(nonce=nonce, expires_in=CONFIRM_SECONDS)

    async def take(
        self, actor: Actor, action: Action, target: str, nonce: str | None, body: Camel | None = None
    ) -> None:
        """Use it up. Raises ConfirmationNeededError unless it was given to this token for just that."""
        self._commands.connection(actor)
        token = None
        if nonce is not None:
            async with self._pool.connection() as connection:
                token = await rows.redeem_ticket(connection, _digest(nonce, action, target, body))
        if token is None or token.id != actor.token_id:
            raise errors.ConfirmationNeededError(action)


def _body(wanted: ConfirmIn) -> Camel | None:
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


def _digest(nonce: str, action: str, target: str, body: Camel | None) -> bytes:
    content = ["confirm", nonce, action, target, None if body is None else body.model_dump()]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest()
