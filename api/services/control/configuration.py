"""A gateway's configuration: its methods `config.*`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from api import errors
from api.models.commands import Accepted
from api.models.control import REDACTED, ConfigChecked, ConfigPatch, ConfigProblem, GatewayConfig
from api.security.scopes import Actor
from api.services.commands import Command, Commands, Note
from api.services.confirmations import Confirmations
from api.services.control.turns import Turns
from api.services.gateway import call, done, refusal
from openclaw.client import GatewayClient
from openclaw.fields import items
from openclaw.protocol import GatewayError, RpcError

_MOST_PATHS = 50  # of one patch that is looked up
_SECRET = re.compile(r"(token|secret|password|passphrase|api_?key|credential)s?$", re.IGNORECASE)
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


class Configuration:
    """Reading, checking and patching it. Changes when the gateway gives or takes its configuration in another way."""

    def __init__(self, commands: Commands, confirmations: Confirmations, turns: Turns) -> None:
        self._commands = commands
        self._confirmations = confirmations
        self._turns = turns

    async def read(self, actor: Actor) -> GatewayConfig:
        """The configuration, secrets hidden; reading it leaves a row in the feed."""
        payload = await self._commands.ask(actor, "config.get", {})
        await self._commands.note(actor, Note("config_read", "gateway", self._commands.gateway))
        config = payload.get("config")
        return GatewayConfig(
            hash=str(payload.get("hash", "")),
            valid=bool(payload.get("valid", True)),
            config=without_secrets(config) if isinstance(config, dict) else {},
            issues=[str(one.get("message", one)) for one in items(payload, "issues")],
        )

    async def check(self, actor: Actor, patch: Mapping[str, Any]) -> ConfigChecked:
        """Look up each path of a patch in the gateway's own schema."""
        found = [one for one in _leaves(patch) if one[1] is not None]
        if len(found) > _MOST_PATHS:
            raise errors.InvalidFieldError(f"At most {_MOST_PATHS} values are checked at once.", field="body.patch")
        problems = []
        for path, value in found:
            problem = await self._problem(actor, path, value)
            if problem is not None:
                problems.append(ConfigProblem(path=path, message=problem))
        present = await self._commands.ask(actor, "config.get", {})
        return ConfigChecked(valid=not problems, hash=str(present.get("hash", "")), problems=problems)

    async def _problem(self, actor: Actor, path: str, value: Any) -> str | None:
        try:
            payload = await call(self._commands.connection(actor), "config.schema.lookup", {"path": path})
        except RpcError as error:
            if error.code != "INVALID_REQUEST":
                raise refusal(error) from error
            return "The gateway's schema has no such path."
        except GatewayError as error:
            raise refusal(error) from error
        schema = payload.get("schema")
        kinds = schema.get("type") if isinstance(schema, Mapping) else None
        wanted = [kinds] if isinstance(kinds, str) else list(kinds) if isinstance(kinds, list) else []
        allowed = tuple(kind for name in wanted for kind in _JSON_TYPES.get(name, ()))
        wrong_boolean = isinstance(value, bool) and bool not in allowed
        if allowed and (wrong_boolean or not isinstance(value, allowed)):
            return f"Must be of type {' or '.join(wanted)}."
        return None

    async def patch(self, actor: Actor, wanted: ConfigPatch, nonce: str | None, key: str | None) -> Accepted:
        """Change the configuration as it was read. Needs a confirmation; raises StaleVersionError."""
        gateway = self._commands.gateway
        await self._confirmations.take(actor, "config.patch", gateway, nonce, wanted)

        async def send(client: GatewayClient) -> Accepted:
            present = await call(client, "config.get", {})
            if present.get("hash") != wanted.base_hash:
                raise errors.StaleVersionError
            try:
                await done(client, "config.patch", {"raw": json.dumps(wanted.patch), "baseHash": wanted.base_hash})
            except RpcError as error:
                now = (await call(client, "config.get", {})).get("hash") if error.code == "INVALID_REQUEST" else None
                if now not in {None, wanted.base_hash}:
                    raise errors.StaleVersionError from None
                raise
            return Accepted(ok=True)

        detail = {"paths": [path for path, _ in _leaves(wanted.patch)][:_MOST_PATHS]}
        command = Command(
            answer=Accepted,
            action="config.patch",
            target=gateway,
            request=wanted,
            detail=detail,
            note=Note("config_changed", "gateway", gateway, detail),
        )
        async with self._turns.next():
            return await self._commands.run(actor, command, send, key)


def without_secrets(value: Any) -> Any:
    """The same JSON with every value under a secret's name hidden: older gateways hide less."""
    if isinstance(value, dict):
        return {
            name: REDACTED if _SECRET.search(name) and isinstance(part, str) else without_secrets(part)
            for name, part in value.items()
        }
    return [without_secrets(part) for part in value] if isinstance(value, list) else value


def _leaves(patch: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in patch.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            yield path, value
