"""The work behind the queue: starting what waits, going on with what ended, looking for what was left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

from api import errors
from api.counts import Counts
from api.models.commands import Run
from api.security.scopes import Scope
from api.services.auth import actor_of
from api.services.commands import Command, Commands, Note
from api.services.gateway import NOT_SENT, last_reply, required
from api.services.runs.requests import PREVIOUS
from api.services.runs.results import RunResults
from api.services.runs.stages import Stages, log_stage
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from store import auth as auth_rows
from store import operations
from store import requested_runs as rows
from store.pool import Pool

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
_LONGEST_TASK = 400_000  # characters, with the replies of the stage before
_FORGET_EVERY = 3_600  # looks


class RunWorker:
    """Takes every run on to its end, whoever asked for it. Changes when the order of that work does."""

    def __init__(  # noqa: PLR0917 - what it works with
        self,
        pool: Pool,
        commands: Commands,
        client: GatewayClient,
        stages: Stages,
        results: RunResults,
        settings: Settings,
        counts: Counts,
    ) -> None:
        self._pool = pool
        self._commands = commands
        self._client = client
        self._stages = stages
        self._results = results
        self._most = settings.runs_per_user
        self._counts = counts
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look at once: there may be room for what waits."""
        self._woken.set()

    async def work(self) -> None:
        """Start what waits, go on with what ended, deliver results; for ever."""
        looks, away = 0, False
        while True:
            try:
                while await self._count() and await self._step():
                    pass
                if looks % _FORGET_EVERY == 0:
                    async with self._pool.connection() as connection:
                        await rows.forget(connection)
                away = False
            except errors.DATABASE_AWAY as error:
                if not away:
                    log.warning("runs that were asked for could not be looked at", error=type(error).__name__)
                away = True
            looks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._woken.wait()
            self._woken.clear()

    async def _count(self) -> bool:
        """Whether there is anything that could be done."""
        async with self._pool.connection() as connection:
            now = await rows.counts(connection, gateway=self._commands.gateway)
        found = {"waiting": now.waiting, "running": now.running, "undelivered": now.undelivered}
        for status, number in found.items():
            self._counts.runs.labels(status).set(number)
        self._counts.oldest_waiting = now.oldest.timestamp() if now.oldest else None
        return any(found.values())

    async def _step(self) -> bool:
        """One thing that is to be done; False: there is none."""
        gateway = self._commands.gateway
        async with self._pool.connection() as connection:
            due = await rows.take_delivery(connection, gateway=gateway)
            ended = await rows.take_ended(connection, gateway=gateway)
        if due is not None:
            await self._guarded(due, self._results.deliver(self._client, due))
        if ended is not None:
            await self._guarded(ended[0], self._ended(*ended))
        if self._client.state != "connected":
            return due is not None or ended is not None
        async with self._pool.connection() as connection:
            lost = await rows.take_lost(connection, gateway=gateway)
            waiting = await rows.take_waiting(connection, gateway=gateway, most=self._most)
        if lost is not None:
            await self._guarded(lost, self._found(lost))
        if waiting is not None:
            await self._guarded(waiting, self._continue(waiting))
        return any(one is not None for one in (due, ended, lost, waiting))

    async def _guarded(self, run: rows.RequestedRun, action: Coroutine[Any, Any, None]) -> None:
        """A run that cannot be handled fails; it does not take the service with it."""
        try:
            await action
        except errors.DATABASE_AWAY:
            raise  # it is taken again when the database is back
        except Exception:
            log.exception("a run that was asked for could not be handled", run=run.id)
            async with self._pool.connection() as connection:
                if not await rows.finish(
                    connection, run, "failed", "The service could not handle it; its log says why."
                ):
                    await rows.not_delivered(connection, run.id, "The service could not deliver it.", None)

    async def _ended(self, run: rows.RequestedRun, status: str, error: str | None) -> None:
        last = run.stage + 1 == len(run.stages)
        async with self._pool.connection() as connection:
            await log_stage(connection, run, f"Stage {run.stage + 1} of {len(run.stages)}: {status}.", run.operation_id)
            if status != "completed" or last:
                if status == "failed" and not last:
                    error = f"Stage {run.stage + 1} failed{f': {error}' if error else '.'}"
                await rows.finish(connection, run, status, error)
                return
            following = await rows.next_stage(connection, run)
        if following is not None:
            await self._continue(following)

    async def _found(self, run: rows.RequestedRun) -> None:
        """Go on with what another process left behind, when that can be done without doing anything twice."""
        stage = run.at_hand
        run_id = rows.gateway_run(run.id, run.stage)
        operation_id = operations.run_operation_id(self._commands.gateway, run_id)
        async with self._pool.connection() as connection:
            if stage.run_id is not None:
                there = await operations.exists(connection, operation_id)
                why = "No end of the run was seen; its operation tells more." if there else "Its operation was deleted."
                await rows.finish(connection, run, "failed", why)
                return
            if await operations.exists(connection, operation_id):  # the exporter has seen it
                await rows.sent(connection, run, run_id=run_id, operation_id=operation_id)
                return
            if stage.task is None:
                why = "Its sending was cut off; whether it was carried out is not known."
                await rows.finish(connection, run, "failed", why)
                return
        await self._continue(run)

    async def _continue(self, run: rows.RequestedRun) -> None:
        """Send the stage at hand of a run that nobody waits for, in the name of its user."""
        async with self._pool.connection() as connection:
            actor = actor_of(await auth_rows.token(connection, run.token_id))
        if actor is None or not actor.scope.includes(Scope.COMMAND) or not actor.sees(run.gateway):
            await self._stages.fail(run, "The token that asked for it is not valid any more.")
            return
        stage = run.at_hand

        async def send(client: GatewayClient) -> Run:
            return await self._stages.send(client, run, await _task(client, run))

        command = Command(
            answer=Run,
            action="agent.spawn",
            target=stage.agent_id,
            request={},
            detail={"request": run.id, "stage": run.stage + 1, "session": stage.session_key},
            note=lambda answer: Note("spawned", "agent", stage.agent_id, {"run": answer.run_id}),
        )
        try:
            await self._commands.run(actor, command, send, None)
        except errors.GatewayAwayError as error:
            if isinstance(error.__cause__, NOT_SENT):
                async with self._pool.connection() as connection:
                    await rows.put_back(connection, run)
                await asyncio.sleep(LOOK_SECONDS)  # the next one would fare no better
            # Else it stays held, and is looked for afterwards: by then the exporter may have seen it.
        except errors.REFUSALS as error:
            await self._stages.fail(run, str(error))


async def _task(client: GatewayClient, run: rows.RequestedRun) -> str:
    """What the stage at hand has to do, with the reply of the stage before in its place. Raises GatewayError,
    InvalidFieldError when that is too long."""
    task = required(run.at_hand.task, "agent", "task")
    if PREVIOUS not in task:
        return task
    reply = await last_reply(client, run.stages[run.stage - 1].session_key) or ""
    if len(task) + task.count(PREVIOUS) * len(reply) > _LONGEST_TASK:
        raise errors.InvalidFieldError(
            f"With the reply of the stage before, the task has more than {_LONGEST_TASK:,} characters."
        )
    return task.replace(PREVIOUS, reply)
