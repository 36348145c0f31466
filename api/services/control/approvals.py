"""Which commands agents may run: single requests, and patterns that need none. Methods `exec.approval*`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from api.models.commands import Accepted, DecisionIn
from api.models.control import Rule, RuleIn
from api.security.scopes import Actor
from api.services.commands import Command, Commands, Note, starting
from api.services.confirmations import Confirmations
from api.services.control.turns import Turns
from api.services.gateway import call, done, required
from lobservatory.errors import NotFoundError
from openclaw.client import GatewayClient
from openclaw.fields import items, mapping, text, whole


class Approvals:
    """What agents are allowed. Changes when the gateway asks for approvals, or keeps its rules, in another way."""

    def __init__(self, commands: Commands, confirmations: Confirmations, turns: Turns) -> None:
        self._commands = commands
        self._confirmations = confirmations
        self._turns = turns

    async def resolve(self, actor: Actor, approval_id: str, wanted: DecisionIn, key: str | None) -> Accepted:
        """Answer a request to run a command."""
        params = {"id": approval_id, "decision": wanted.decision}
        command = Command(
            answer=Accepted,
            action="approval.resolve",
            target=approval_id,
            request=params,
            detail={"decision": wanted.decision},
            note=Note("resolve", "approval", approval_id),
        )
        return await self._commands.run(actor, command, starting("exec.approval.resolve", params), key)

    async def rules(self, actor: Actor) -> list[Rule]:
        """Every pattern that is allowed, by agent."""
        return list(_rules(await self._commands.ask(actor, "exec.approvals.get", {})))

    async def add_rule(self, actor: Actor, wanted: RuleIn, nonce: str | None, key: str | None) -> Accepted:
        """Allow a pattern from now on. Needs a confirmation."""
        await self._confirmations.take(actor, "exec.rule.add", wanted.agent_id, nonce, wanted)
        return await self._change_rules(actor, wanted, key, adding=True)

    async def remove_rule(self, actor: Actor, wanted: RuleIn, key: str | None) -> Accepted:
        """Take a pattern back. Raises NotFoundError."""
        return await self._change_rules(actor, wanted, key, adding=False)

    async def _change_rules(self, actor: Actor, wanted: RuleIn, key: str | None, *, adding: bool) -> Accepted:
        async def send(client: GatewayClient) -> Accepted:
            found = await call(client, "exec.approvals.get", {})
            file = required(
                found["file"] if isinstance(found.get("file"), dict) else None, "exec.approvals.get", "file"
            )
            base = required(text(found.get("hash")), "exec.approvals.get", "hash")
            agents = mapping(file, "agents")
            agent = mapping(agents, wanted.agent_id)
            known = agent.get("allowlist")
            before = known if isinstance(known, list) else []
            after = [one for one in before if not isinstance(one, dict) or one.get("pattern") != wanted.pattern]
            if not adding and len(after) == len(before):
                raise NotFoundError("There is no such rule.", field="pattern")
            if adding:
                after.append({"pattern": wanted.pattern})
            changed = {**file, "agents": {**agents, wanted.agent_id: {**agent, "allowlist": after}}}
            # The hash guards against a change by somebody else in between.
            await done(client, "exec.approvals.set", {"file": changed, "baseHash": base})
            return Accepted(ok=True)

        detail = {"pattern": wanted.pattern}
        command = Command(
            answer=Accepted,
            action="exec.rule.add" if adding else "exec.rule.remove",
            target=wanted.agent_id,
            request=wanted,
            detail=detail,
            note=Note("rule_added" if adding else "rule_removed", "agent", wanted.agent_id, detail),
        )
        async with self._turns.next():
            return await self._commands.run(actor, command, send, key)


def _rules(payload: Mapping[str, Any]) -> Iterator[Rule]:
    agents = mapping(payload, "file", "agents")
    for agent, entry in sorted(agents.items()):
        for one in items(entry, "allowlist"):
            yield Rule(agent_id=agent, pattern=str(one.get("pattern", "")), last_used_at=whole(one.get("lastUsedAt")))
