"""One prompt for several agents: each gets a run of its own, and a refusal of one does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from api import errors
from api.models.commands import SpawnIn
from api.models.dispatch import Dispatched, DispatchIn, Result
from api.security.scopes import Actor
from api.services.control.sessions import Sessions
from api.services.operations import OperationService
from api.services.runs.requests import RunRequests

_ENDED = frozenset({"completed", "failed", "cancelled"})
_LAST_MESSAGES = 10


class DispatchService:
    """Parallel runs and their results side by side."""

    def __init__(self, runs: RunRequests, sessions: Sessions, operations: OperationService) -> None:
        self._runs = runs
        self._sessions = sessions
        self._operations = operations

    async def dispatch(self, actor: Actor, wanted: DispatchIn, key: str | None) -> list[Dispatched]:
        """Start all at once, in the order that was given. Raises what holds for all: commands off, wrong gateway."""

        async def one(agent: str) -> Dispatched:
            spawn = SpawnIn(label=wanted.label, task=wanted.task, agent_id=agent)
            try:
                run = await self._runs.spawn(actor, spawn, None if key is None else f"{key} {agent}")
            except (errors.CommandsDisabledError, errors.WrongGatewayError):
                raise
            except errors.REFUSALS as error:
                return Dispatched(agent_id=agent, error=str(error))
            return Dispatched(agent_id=agent, **run.model_dump())

        return list(await asyncio.gather(*(one(agent) for agent in wanted.agent_ids)))

    async def results(self, actor: Actor, operation_ids: Sequence[str]) -> list[Result]:
        """How the runs stand, in the order that was given. Raises NotFoundError."""
        return [await self._result(actor, one) for one in operation_ids]

    async def _result(self, actor: Actor, operation_id: str) -> Result:
        found = await self._operations.operation(actor, operation_id)
        agent, session = found.agent_id, found.session_key
        reply = None
        if found.status in _ENDED and agent and session:
            transcript = await self._sessions.transcript(actor, agent, session, _LAST_MESSAGES)
            said = [item.text for item in transcript.items if item.role == "assistant"]
            reply = said[-1] if said else None
        tokens = found.metrics.tokens
        return Result(
            operation_id=operation_id,
            agent_id=agent,
            status=found.status,
            duration=found.duration,
            tokens=tokens.total,
            cost=None if tokens.cost is None else float(tokens.cost),
            model=tokens.model,
            reply=reply,
            error=found.disposition.error if found.disposition else None,
        )
