"""Configured agents and what each does now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import AGENT_STATES
from openclaw.client import GatewayClient
from openclaw.fields import agent_model, instant, items, mapping, text
from openclaw.state_records import ASK_RECORDS, StateRecords
from store.rows import Agent, AgentState

SaveAgents = Callable[[Sequence[Agent]], Awaitable[None]]
SaveStates = Callable[[Sequence[AgentState]], Awaitable[None]]


class Live(Protocol):
    """What pushed events tell of agents."""

    @property
    def looked(self) -> bool:
        """Whether sessions were looked through: before, an agent of which nothing was heard may be at work."""

    @property
    def states(self) -> Mapping[str, AgentState]:
        """The present state of each agent that was seen."""

    @property
    def event_counts(self) -> Mapping[tuple[str, str], int]:
        """How often each (agent, event) was seen."""


def to_agents(gateway: str, answer: Any) -> list[Agent]:
    """The rows of `agents.list`."""
    default = text(mapping(answer).get("defaultId"))
    return [
        Agent(
            gateway=gateway,
            agent=agent_id,
            name=text(agent.get("name"), 200),
            model=agent_model(agent),
            workspace=text(agent.get("workspace")),
            is_default=agent_id == default,
        )
        for agent in items(answer, "agents")
        if (agent_id := text(agent.get("id")))
    ]


def last_activity(health: Any) -> dict[str, datetime]:
    """The newest change of a session of each agent, from `health`."""
    newest: dict[str, datetime] = {}
    for agent in items(health, "agents"):
        times = [instant(session.get("updatedAt")) for session in items(agent, "sessions", "recent")]
        known = [at for at in times if at is not None]
        agent_id = text(agent.get("agentId"))
        if agent_id and known:
            newest[agent_id] = max(known)
    return newest


class AgentsCollector:
    """Polls `agents.list` and `health`; the present state of each agent comes from pushed events (`live`).

    Events make rows of their own at once. What no event tells is kept here after every poll: agents at rest of which
    nothing was heard yet, and that the gateway went away or came back.
    """

    name = "agents"

    def __init__(
        self,
        gateway: str,
        client: GatewayClient,
        *,
        interval: float = 15.0,
        records: StateRecords | None = None,
        live: Live | None = None,
        save: SaveAgents | None = None,
        save_states: SaveStates | None = None,
    ) -> None:
        self.interval = interval
        self.deadline = 30.0
        self._gateway = gateway
        self._client = client
        self._records = records
        self._live = live
        self._save = save
        self._save_states = save_states
        self._agents: list[Agent] = []
        self._activity: dict[str, datetime] = {}
        self._known = False

    async def refresh(self) -> None:
        """Raises GatewayError, StateRecordsError."""
        asked_at = datetime.now(UTC)  # news that come meanwhile are newer
        try:
            await self._poll()
        except Exception:
            await self._keep_states(asked_at)  # that a gateway without records is away is known all the same
            raise
        await self._keep_states(asked_at)

    async def _keep_states(self, asked_at: datetime) -> None:
        if self._save_states is not None:
            await self._save_states(self._present(asked_at))

    async def _poll(self) -> None:
        try:
            listed = await self._client.call("agents.list")
            health = await self._client.call("health")
        except ASK_RECORDS:
            self._known = False
            if self._records is None:
                raise
            self._agents = to_agents(self._gateway, {"agents": await asyncio.to_thread(self._records.agents)})
            self._known = True
            return  # the activity that was known stays true; rows keep what a gateway told of them
        except BaseException:  # the deadline's too; but never before: a scrape would find a gap in every refresh
            self._known = False
            raise
        self._agents = to_agents(self._gateway, listed)
        self._activity = last_activity(health)
        self._known = True
        if self._save is not None:
            await self._save(self._agents)

    def _present(self, at: datetime) -> list[AgentState]:
        """What each agent does, for metrics and rows alike: `offline` while the gateway is away, `idle` when nothing
        was heard of it, and not in the list while nobody knows."""
        connected = self._client.connected
        if connected is None:
            return []
        found = []
        for agent in self._agents:
            heard = self._live.states.get(agent.agent) if self._live else None
            if not connected:
                state, activity = "offline", None
            elif heard is not None:
                state, activity = heard.state, heard.activity
            elif self._live and self._live.looked:
                state, activity = "idle", None
            else:
                continue
            found.append(AgentState(self._gateway, agent.agent, state, at, activity))
        return found

    def render(self) -> Iterable[Sample]:
        """How many there are, when each was last active and what it does; nothing while nobody knows."""
        states = self._live.states if self._live else {}
        if self._known:
            yield Sample("claw_agents", (self._gateway,), len(self._agents))
        for agent in self._agents:
            state = states.get(agent.agent)
            times = [at for at in (self._activity.get(agent.agent), state.at if state else None) if at is not None]
            if times:
                metric = "claw_agent_last_activity_timestamp_seconds"
                yield Sample(metric, (self._gateway, agent.agent), max(times).timestamp())
        for present in self._present(datetime.now(UTC)):
            for name in AGENT_STATES:
                yield Sample("claw_agent_state", (self._gateway, present.agent, name), float(name == present.state))
        for (agent_id, event), count in (self._live.event_counts if self._live else {}).items():
            yield Sample("claw_agent_events_total", (self._gateway, agent_id, event), count)
