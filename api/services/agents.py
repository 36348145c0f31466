"""What is known of agents, their sessions and jobs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from api import errors
from api.models.agents import Agent, AgentDetail, AgentMetricsIn, AgentStatus
from api.models.base import order_of
from api.security.scopes import Actor
from api.services.requests import request_hash
from lobservatory.errors import ConflictError, NotFoundError
from store import agents as rows
from store import feed, idempotency
from store.pool import Pool

_HISTORY = 100


class AgentService:
    """Agents."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def agents(self, actor: Actor, sort: str = "id") -> list[Agent]:
        """Every agent that the actor may see, in an order of `store.agents.SORTS`."""
        async with self._pool.connection() as connection:
            found = await rows.agents(connection, gateways=gateways_of(actor), sort=order_of(sort))
        return [Agent.of(row) for row in found]

    async def agent(self, actor: Actor, agent: str, gateway: str | None) -> AgentDetail:
        """One agent with its history. Raises NotFoundError; ConflictError when several gateways have one so named."""
        async with self._pool.connection() as connection:
            found = await rows.agents(connection, gateways=gateways_of(actor), agent=agent)
            if gateway is not None:
                found = [row for row in found if row.gateway == gateway]
            if not found:
                raise NotFoundError("There is no such agent.", field="path.agent_id")
            if len(found) > 1:
                raise ConflictError("Several gateways have an agent of this id.", field="query.gateway")
            only = [found[0].gateway]
            history = await rows.history(connection, agent, gateways=only, limit=_HISTORY)
            active = await rows.active_subagents(connection, gateways=only)
        version = version_of(found[0].name, found[0].model)
        return AgentDetail.with_history(found[0], version=version, history=history, active_subagents=active)

    async def status(self) -> list[AgentStatus]:
        """What each agent does now."""
        async with self._pool.connection() as connection:
            return [AgentStatus.of(row) for row in await rows.status(connection)]

    async def report(self, actor: Actor, agent: str, figures: AgentMetricsIn, key: str | None) -> None:
        """Keep what an agent reports of itself. Raises ConflictError for a key of another request."""
        if not actor.sees(figures.gateway):
            raise errors.WrongGatewayError("This token is limited to other gateways.", field="body.gateway")
        async with self._pool.connection() as connection:

            async def make() -> dict[str, Any]:
                await rows.insert_metrics(
                    connection,
                    agent=agent,
                    gateway=figures.gateway,
                    session_id=figures.session_id,
                    tokens=figures.tokens,
                    cost_usd=figures.cost,
                    runtime_ms=figures.runtime,
                    tasks_completed=figures.tasks_completed,
                )
                await feed.add(
                    connection, type="agent", actor=actor.name, action="metrics", target_type="agent", target_id=agent
                )
                return {}

            await idempotency.once(
                connection,
                actor=actor.token_id,
                key=key,
                request_hash=request_hash(f"agents/{agent}/metrics", figures),
                make=make,
            )


def version_of(name: str | None, model: str | None) -> str:
    """What `If-Match` compares for an agent: what two people may change of it."""
    return hashlib.sha256(json.dumps([name, model]).encode()).hexdigest()[:32]


def gateways_of(actor: Actor) -> list[str] | None:
    """The gateways whose rows an actor may see, as the store wants them: None is all."""
    return None if actor.gateways is None else sorted(actor.gateways)
