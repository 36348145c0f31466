"""Making, changing and deleting the agents of a gateway: its methods `agents.*`."""

from __future__ import annotations

import asyncio

from api import errors
from api.models.commands import Accepted
from api.models.control import AgentIn, AgentMade, AgentPatch
from api.security.scopes import Actor
from api.services.agents import version_of
from api.services.commands import Command, Commands, Note, once
from api.services.confirmations import Confirmations
from api.services.control.turns import Turns
from api.services.gateway import call, done, required
from lobservatory.errors import ConflictError
from openclaw.client import GatewayClient
from openclaw.fields import agent_model, items, text

APPLIED_SECONDS = 15.0  # a gateway needs about one to work with what it has written, on a busy machine several
_APPLIED_POLL_SECONDS = 0.2


class AgentSetup:
    """The agents that a gateway has. Changes when the gateway makes, changes or deletes agents in another way."""

    def __init__(self, commands: Commands, confirmations: Confirmations, turns: Turns) -> None:
        self._commands = commands
        self._confirmations = confirmations
        self._turns = turns

    async def create(self, actor: Actor, wanted: AgentIn, key: str | None) -> AgentMade:
        """A new agent."""
        params = wanted.model_dump(exclude_none=True)

        async def send(client: GatewayClient) -> AgentMade:
            payload = await call(client, "agents.create", params)
            return AgentMade(agent_id=required(text(payload.get("agentId")), "agents.create", "agentId"))

        command = Command(
            answer=AgentMade,
            action="agent.create",
            target=wanted.name,
            request=wanted,
            detail={"fields": sorted(params)},
            note=lambda made: Note("created", "agent", made.agent_id),
        )
        return await self._commands.run(actor, command, send, key)

    async def update(
        self, actor: Actor, agent: str, wanted: AgentPatch, version: str | None, key: str | None
    ) -> Accepted:
        """Change an agent's name, model or emoji. Raises StaleVersionError when it is not the one that was read."""
        await self._commands.known_agent(actor, agent)
        changes = wanted.model_dump(exclude_unset=True)
        params = {"agentId": agent, **changes}

        async def send(client: GatewayClient) -> Accepted:
            if version is not None and await _version(client, agent) != version:
                raise errors.StaleVersionError
            await done(client, "agents.update", params)
            return Accepted(ok=True)

        detail = {"fields": sorted(changes)}
        command = Command(
            answer=Accepted,
            action="agent.update",
            target=agent,
            request=params if version is None else {**params, "version": version},
            detail=detail,
            note=Note("update", "agent", agent, detail),
        )
        async with self._turns.next():
            return await self._commands.run(actor, command, send, key)

    async def delete(self, actor: Actor, agent: str, nonce: str | None, key: str | None) -> Accepted:
        """Delete an agent; its files stay. Needs a confirmation."""
        await self._confirmations.take(actor, "agent.delete", agent, nonce)
        params = {"agentId": agent, "deleteFiles": False}
        command = Command(
            answer=Accepted,
            action="agent.delete",
            target=agent,
            request=params,
            detail={},
            note=Note("delete", "agent", agent),
        )
        return await self._commands.run(actor, command, once("agents.delete", params), key)


async def _version(client: GatewayClient, agent: str) -> str | None:
    """The version of an agent as the gateway wrote it last; None: it has no such agent. Raises ConflictError."""
    await _applied(client)
    for one in items(await call(client, "agents.list", {}), "agents"):
        if one.get("id") == agent:
            return version_of(text(one.get("name"), 200), agent_model(one))
    return None


async def _applied(client: GatewayClient) -> None:
    """Wait until the gateway works with the configuration that it wrote last: until then its list of agents shows
    what was before. It has no event for that. Older gateways name no revisions, and list at once what they wrote.

    Raises ConflictError when that does not come to be, as where reloading is off or a restart is due.
    """
    deadline = asyncio.get_running_loop().time() + APPLIED_SECONDS
    while True:
        present = await call(client, "config.get", {})
        if present.get("appliedConfigHash") == present.get("configRevisionHash"):
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise ConflictError(
                "The gateway does not work with its latest configuration yet, so it cannot be told whether the agent "
                "is still the one that you read; nothing was changed. Try again later, after a restart of the gateway "
                "where one is due, or without If-Match.",
                field="header.If-Match",
            )
        await asyncio.sleep(_APPLIED_POLL_SECONDS)
