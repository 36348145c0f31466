"""What users ask for, and how it stands: the front of the queue."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from api import errors
from api.models.base import Camel
from api.models.commands import DeliverTo, Run, SendIn, SpawnIn
from api.models.runs import Cancelled, RequestedRun, RunIn, RunStatus
from api.security.scopes import Actor
from api.services import delivery
from api.services.agents import gateways_of
from api.services.commands import Command, Commands, Note
from api.services.gateway import required, session_of
from api.services.runs.stages import Stages, abort, new_stage
from lobservatory.errors import ConflictError, NotFoundError
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from openclaw.protocol import NotReadyError
from store import requested_runs as rows
from store import tasks
from store.pool import Pool
from store.requested_runs import Stage

PREVIOUS = "{{previous}}"  # in a task: the reply of the stage before


class RunRequests:
    """Asking for runs, taking them back, looking at them. Changes when users may ask for something else. `wake`: told
    when there may be room for what waits."""

    def __init__(
        self, pool: Pool, commands: Commands, stages: Stages, settings: Settings, wake: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._commands = commands
        self._stages = stages
        self._settings = settings
        self._wake = wake

    async def spawn(self, actor: Actor, wanted: SpawnIn, key: str | None) -> Run:
        """Start a run in a new session. Raises NotFoundError for an agent that is not configured."""
        await self._commands.known_agent(actor, wanted.agent_id)
        stage = new_stage(wanted.agent_id, wanted.label, wanted.task, wanted.model)
        asked = rows.Asked(wanted.label, [stage], self._receiver(wanted.deliver_to), None)
        return await self._ask_for(actor, "agent.spawn", asked, wanted, key)

    async def send(self, actor: Actor, agent: str, wanted: SendIn, key: str | None) -> Run:
        """Say something to an agent."""
        await self._commands.known_agent(actor, agent)
        stage = Stage(agent_id=agent, session_key=session_of(agent, wanted.session_key), task=wanted.message)
        return await self._ask_for(actor, "agent.send", rows.Asked(f"Message to {agent}", [stage]), wanted, key)

    async def start(self, actor: Actor, wanted: RunIn, key: str | None) -> Run:
        """Start a pipeline. Raises NotFoundError for an agent or a task that is not there."""
        for agent in {stage.agent_id for stage in wanted.stages}:
            await self._commands.known_agent(actor, agent)
        if PREVIOUS in wanted.stages[0].task:
            raise errors.InvalidFieldError(f"There is no stage before for {PREVIOUS}.", field="body.stages.0.task")
        if wanted.task_id is not None:
            await self._known_task(actor, wanted.task_id)
        stages = [new_stage(one.agent_id, wanted.label, one.task, one.model) for one in wanted.stages]
        asked = rows.Asked(wanted.label, stages, self._receiver(wanted.deliver_to), wanted.task_id)
        return await self._ask_for(actor, "agent.spawn", asked, wanted, key)

    async def cancel(self, actor: Actor, run_id: str, key: str | None) -> Cancelled:
        """Take a run out of the queue, or stop it with all stages that were to come."""
        self._commands.connection(actor)
        run = await self.row(actor, run_id)

        async def send(client: GatewayClient) -> Cancelled:
            async with self._pool.connection() as connection:
                now = await rows.locked(connection, run.id)
                if now is not None and now.status == "running" and client.state != "connected":
                    raise NotReadyError("chat.abort: the gateway is not connected")
                if now is None or not await rows.finish(connection, now, "cancelled"):
                    raise ConflictError("The run has ended already.")
            # One that is being sent at this moment is stopped by whoever sends it.
            return Cancelled(ok=True, aborted=now.status == "running" and await abort(client, now))

        command = Command(
            answer=Cancelled,
            action="run.cancel",
            target=run.id,
            request={},
            detail={"label": run.label},
            note=Note("cancelled", "run", run.id, {"label": run.label}),
        )
        answer = await self._commands.run(actor, command, send, key)
        self._wake()
        return answer

    async def every(self, actor: Actor, *, mine: bool, status: RunStatus | None, limit: int) -> list[RequestedRun]:
        """The newest first."""
        async with self._pool.connection() as connection:
            found = await rows.newest(
                connection,
                gateways=gateways_of(actor),
                requested_by=actor.name if mine else None,
                status=status,
                limit=limit,
            )
        return [RequestedRun.of(run) for run in found]

    async def one(self, actor: Actor, run_id: str) -> RequestedRun:
        """One. Raises NotFoundError."""
        return RequestedRun.of(await self.row(actor, run_id))

    async def row(self, actor: Actor, run_id: str) -> rows.RequestedRun:
        """The same, as it is kept. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            run = await rows.get(connection, run_id)
        if run is None or not actor.sees(run.gateway):
            raise NotFoundError(f"There is no run {run_id}.", field="run_id")
        return run

    async def _known_task(self, actor: Actor, task_id: str) -> None:
        async with self._pool.connection() as connection:
            with contextlib.suppress(NotFoundError):
                if actor.sees((await tasks.get(connection, task_id)).gateway):
                    return
        raise NotFoundError(f"There is no task {task_id}.", field="body.taskId")

    def _receiver(self, receiver: DeliverTo) -> delivery.Receiver | None:
        if receiver is not None and (lacks := delivery.missing(self._settings, receiver)):
            raise errors.InvalidFieldError(
                f"Nothing can be delivered to {receiver}: {lacks} is not set.", field="body.deliverTo"
            )
        return receiver

    async def _ask_for(self, actor: Actor, action: str, asked: rows.Asked, request: Camel, key: str | None) -> Run:
        first = asked.stages[0]
        task = required(first.task, action, "task")

        async def send(client: GatewayClient) -> Run:
            try:
                async with self._pool.connection() as connection:
                    run = await rows.place(
                        connection,
                        asked,
                        gateway=self._commands.gateway,
                        token_id=actor.token_id,
                        requested_by=actor.name,
                        most=self._settings.runs_per_user,
                    )
            except ConflictError as error:
                raise ConflictError(f"{error}.") from None
            if run.status == "waiting":
                return Run(id=run.id, status="waiting", session_key=first.session_key, run_id=None, operation_id=None)
            return await self._stages.begin(client, run, task)

        def note(answer: Run) -> Note:
            verb = "queued" if answer.status == "waiting" else "spawned"
            verb = "message_sent" if action == "agent.send" and verb == "spawned" else verb
            return Note(verb, "agent", first.agent_id, {"run": answer.run_id, "request": answer.id})

        command = Command(
            answer=Run,
            action=action,
            target=first.agent_id,
            request=request,
            detail={
                "label": asked.label,
                "characters": sum(len(stage.task or "") for stage in asked.stages),
                "session": first.session_key,
                "stages": len(asked.stages),
            },
            note=note,
        )
        return await self._commands.run(actor, command, send, key)
