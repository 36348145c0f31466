"""`agent:status` on `/ws`: how every agent is, every few seconds, and only while somebody listens."""

from __future__ import annotations

import asyncio

import structlog

from api import errors
from api.live.events import json
from api.live.hub import Hub
from api.services.agents import AgentService

log = structlog.get_logger(__name__)

SECONDS = 5.0


async def broadcast_agent_status(hub: Hub, agents: AgentService, seconds: float = SECONDS) -> None:
    """Run until cancelled. Each client gets the agents that its token may see."""
    while True:
        await hub.until_someone("agents", "channels")
        try:
            everyone = [agent.model_dump(mode="json", by_alias=True) for agent in await agents.status()]
        except errors.DATABASE_AWAY as error:
            log.warning("agent status failed", error=type(error).__name__)
            await asyncio.sleep(seconds)
            continue
        whole = json({"type": "agent:status", "data": everyone, "seq": hub.last_seq})
        for subscription in hub.anyone("agents", "channels"):
            text = whole
            if subscription.actor.gateways is not None:
                seen = [agent for agent in everyone if subscription.actor.sees(agent["gateway"])]
                text = json({"type": "agent:status", "data": seen, "seq": hub.last_seq})
            hub.give(subscription, 0, text)
        await asyncio.sleep(seconds)
