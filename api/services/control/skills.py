"""The skills that agents can use: a gateway's methods `skills.*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.models.commands import Accepted
from api.models.control import Skill, SkillInstall, SkillUpdate
from api.security.scopes import Actor
from api.services.commands import Command, Commands, Note, once
from api.services.confirmations import Confirmations
from openclaw.fields import items, mapping, text

_INSTALL_SECONDS = 120.0


class Skills:
    """What is installed and turned on. Changes when the gateway keeps its skills in another way."""

    def __init__(self, commands: Commands, confirmations: Confirmations) -> None:
        self._commands = commands
        self._confirmations = confirmations

    async def every(self, actor: Actor, agent: str | None) -> list[Skill]:
        """Every skill and its state."""
        payload = await self._commands.ask(actor, "skills.status", {} if agent is None else {"agentId": agent})
        return [_skill(one) for one in items(payload, "skills")]

    async def install(self, actor: Actor, wanted: SkillInstall, nonce: str | None, key: str | None) -> Accepted:
        """Install a skill of the public registry: code that agents will run. Needs a confirmation."""
        await self._confirmations.take(actor, "skill.install", _target(wanted.slug), nonce, wanted)
        params = {"source": "clawhub", "slug": wanted.slug}
        params |= {} if wanted.version is None else {"version": wanted.version}
        params |= {} if wanted.agent_id is None else {"agentId": wanted.agent_id}
        command = _command("install", wanted.slug, params, params)
        return await self._commands.run(actor, command, once("skills.install", params, _INSTALL_SECONDS), key)

    async def update(self, actor: Actor, slug: str, nonce: str | None, key: str | None) -> Accepted:
        """Update a skill of the public registry to its newest version: other code that agents will run. Needs a
        confirmation."""
        await self._confirmations.take(actor, "skill.update", _target(slug), nonce, SkillUpdate(slug=slug))
        params = {"source": "clawhub", "slug": slug}
        command = _command("upgrade", slug, params, params)
        return await self._commands.run(actor, command, once("skills.update", params, _INSTALL_SECONDS), key)

    async def turn(self, actor: Actor, skill: str, *, enabled: bool, key: str | None) -> Accepted:
        """Turn a skill on or off."""
        params = {"skillKey": skill, "enabled": enabled}
        command = _command("update", skill, params, {"enabled": enabled})
        return await self._commands.run(actor, command, once("skills.update", params), key)


def _command(verb: str, skill: str, params: Mapping[str, Any], detail: Mapping[str, Any]) -> Command[Accepted]:
    return Command(
        answer=Accepted,
        action=f"skill.{verb}",
        target=skill,
        request=params,
        detail=detail,
        note=Note(verb, "skill", skill, detail),
    )


def _skill(found: Mapping[str, Any]) -> Skill:
    missing = [mapping(found, "missing").get(kind) for kind in ("bins", "anyBins", "env", "config", "os")]
    return Skill(
        key=str(found.get("skillKey") or found.get("name", "")),
        name=str(found.get("name", "")),
        description=text(found.get("description"), 5_000),
        source=text(found.get("source")),
        disabled=bool(found.get("disabled")),
        eligible=bool(found.get("eligible")),
        missing=[str(one) for kind in missing if isinstance(kind, list) for one in kind],
    )


def _target(slug: str) -> str:
    """A slug as the target of a confirmation, which has no slash."""
    return slug.replace("/", ":")
