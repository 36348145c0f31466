"""A stage and the run of the gateway that it becomes."""

from __future__ import annotations

import contextlib
import re
import secrets

from api.models.commands import Run
from api.services.gateway import NOT_SENT, call, refusal, required
from lobservatory.errors import ConflictError, NotFoundError
from openclaw.client import GatewayClient
from openclaw.fields import text
from openclaw.protocol import MalformedReplyError, RpcError
from store import commands as command_rows
from store import requested_runs as rows
from store import tasks
from store.pool import Connection, Pool
from store.requested_runs import Stage


class Stages:
    """Sends the stage at hand of a run, once, and notes what became of it. Changes when the gateway takes runs in
    another way."""

    def __init__(self, pool: Pool, gateway: str) -> None:
        self._pool = pool
        self._gateway = gateway

    async def begin(self, client: GatewayClient, run: rows.RequestedRun, task: str) -> Run:
        """Send it for somebody who waits for the answer. Raises GatewayError; after one that leaves open whether the
        gateway has it, the run stays held, and is looked for afterwards."""
        try:
            return await self.send(client, run, task)
        except NOT_SENT:
            async with self._pool.connection() as connection:
                await rows.withdraw(connection, run)
            raise
        except (RpcError, MalformedReplyError) as error:
            await self.fail(run, str(refusal(error)))
            raise

    async def send(self, client: GatewayClient, run: rows.RequestedRun, task: str) -> Run:
        """Send it, and make its operation. Raises GatewayError, ConflictError when the run was cancelled before."""
        stage, name = run.at_hand, rows.gateway_run(run.id, run.stage)
        if stage.model is not None:
            model = {"key": stage.session_key, "model": stage.model.replace(":", "/", 1)}
            await call(client, "sessions.create", model)
        async with self._pool.connection() as connection:
            if not await rows.sending(connection, run):
                raise ConflictError("The run was cancelled.")
        params = {"message": task, "sessionKey": stage.session_key, "idempotencyKey": name}
        payload = await call(client, "agent", params)
        run_id = required(text(payload.get("runId")), "agent", "runId")
        async with self._pool.connection() as connection:
            operation_id = await command_rows.follow_run(
                connection,
                gateway=self._gateway,
                run_id=run_id,
                session_key=stage.session_key,
                name=_named(run),
                agent=stage.agent_id,
                user=run.requested_by,
            )
            wanted = await rows.sent(connection, run, run_id=run_id, operation_id=operation_id)
            await log_stage(connection, run, f"Stage {run.stage + 1} of {len(run.stages)} has started.", operation_id)
        if not wanted:  # it was cancelled at this moment
            await abort(client, run)
        return Run(id=run.id, status="running", session_key=stage.session_key, run_id=run_id, operation_id=operation_id)

    async def fail(self, run: rows.RequestedRun, error: str) -> None:
        """End the run, and say why."""
        async with self._pool.connection() as connection:
            await rows.finish(connection, run, "failed", error)


def new_stage(agent: str, label: str, task: str, model: str | None) -> Stage:
    """A stage in a session of its own."""
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:40] or "task"
    return Stage(
        agent_id=agent, session_key=f"agent:{agent}:dashboard:{slug}-{secrets.token_hex(4)}", model=model, task=task
    )


async def abort(client: GatewayClient, run: rows.RequestedRun) -> bool:
    """Stop the run at hand and no other of its session; whether there was one. Raises GatewayError."""
    run_id = run.at_hand.run_id or rows.gateway_run(run.id, run.stage)
    payload = await call(client, "chat.abort", {"sessionKey": run.at_hand.session_key, "runId": run_id})
    return bool(payload.get("aborted"))


async def log_stage(connection: Connection, run: rows.RequestedRun, message: str, operation_id: str | None) -> None:
    """A line under the task that a run is for; the task may be gone."""
    if run.task_id is not None:
        with contextlib.suppress(NotFoundError):
            await tasks.add_activity(
                connection,
                run.task_id,
                activity_type="status_changed",
                message=f"{run.label}: {message}",
                agent_id=run.at_hand.agent_id,
                metadata={"operationId": operation_id, "request": run.id},
            )


def _named(run: rows.RequestedRun) -> str:
    return run.label if len(run.stages) == 1 else f"{run.label} ({run.stage + 1} of {len(run.stages)})"
