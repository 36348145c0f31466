"""The files that shape an agent: a gateway's methods `agents.files.*`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from api import errors
from api.models.commands import Accepted
from api.models.control import AgentFile, AgentFileContent, FileIn
from api.security.scopes import Actor
from api.services.commands import Command, Commands, Note
from api.services.control.turns import Turns
from api.services.gateway import call, done
from lobservatory.errors import NotFoundError
from openclaw.client import GatewayClient
from openclaw.fields import items, mapping, whole


class AgentFiles:
    """Reading and replacing an agent's files. Changes when the gateway gives or takes them in another way."""

    def __init__(self, commands: Commands, turns: Turns) -> None:
        self._commands = commands
        self._turns = turns

    async def every(self, actor: Actor, agent: str) -> list[AgentFile]:
        """Those of an agent, without their texts."""
        await self._commands.known_agent(actor, agent)
        payload = await self._commands.ask(actor, "agents.files.list", {"agentId": agent})
        return [_file(one) for one in items(payload, "files")]

    async def one(self, actor: Actor, agent: str, name: str) -> AgentFileContent:
        """One with its text; reading it leaves a row in the feed. Raises NotFoundError."""
        await self._commands.known_agent(actor, agent)
        payload = await self._commands.ask(actor, "agents.files.get", {"agentId": agent, "name": name})
        found = mapping(payload, "file")
        if not found or found.get("missing"):
            raise NotFoundError(f"The agent {agent} has no file {name}.", field="name")
        await self._commands.note(actor, Note("file_read", "agent", agent, {"file": name}))
        content = str(found.get("content") or "")
        return AgentFileContent(**_file(found).model_dump(), content=content, version=content_version(content))

    async def replace(  # noqa: PLR0917 - as every command: who, what, under which conditions
        self, actor: Actor, agent: str, name: str, wanted: FileIn, version: str | None, key: str | None
    ) -> Accepted:
        """Replace a file's text. Raises StaleVersionError when it is not the one that was read."""
        await self._commands.known_agent(actor, agent)

        async def send(client: GatewayClient) -> Accepted:
            where = {"agentId": agent, "name": name}
            if version is not None:
                now = await call(client, "agents.files.get", where)
                if content_version(str(mapping(now, "file").get("content") or "")) != version:
                    raise errors.StaleVersionError
            await done(client, "agents.files.set", {**where, "content": wanted.content})
            return Accepted(ok=True)

        detail = {"file": name, "characters": len(wanted.content)}
        command = Command(
            answer=Accepted,
            action="agent.file",
            target=agent,
            request={"file": name, "content": wanted.content, "version": version},
            detail=detail,
            note=Note("file_changed", "agent", agent, detail),
        )
        async with self._turns.next():
            return await self._commands.run(actor, command, send, key)


def content_version(content: str) -> str:
    """What `If-Match` compares for a text."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _file(found: Mapping[str, Any]) -> AgentFile:
    return AgentFile(
        name=str(found.get("name", "")),
        missing=bool(found.get("missing")),
        size=whole(found.get("size")),
        updated_at_ms=whole(found.get("updatedAtMs")),
    )
