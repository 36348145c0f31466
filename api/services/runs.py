"""Runs that users ask for: at most LOBS_RUNS_PER_USER of each at once, the rest in a queue that outlives a restart.

A request has one stage or several (a pipeline). A stage is a run of the gateway with an operation of its own, which the
exporter follows; when the operation has ended, the next stage starts or the request ends, and its result is delivered
where that was asked for. Any number of API processes on one database share the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Literal

import structlog

from api import errors
from api.counts import Counts
from api.models.commands import DeliverTo, SendIn, SpawnIn
from api.models.runs import RequestedRun, RunIn, RunStatus, StageOut
from api.security.scopes import Actor, Scope
from api.services import delivery
from api.services.agents import gateways_of
from api.services.auth import actor_of
from api.services.commands import (
    NOT_SENT,
    Answer,
    CommandService,
    Note,
    call,
    refusal,
    required,
    session_of,
    written,
)
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from openclaw.fields import text
from openclaw.protocol import GatewayError, MalformedReplyError, NotReadyError, Pushed, RpcError
from store import auth as auth_rows
from store import commands as command_rows
from store import operations, tasks
from store import requested_runs as rows
from store.errors import ConflictError, NotFoundError
from store.pool import Connection, Pool
from store.requested_runs import Stage

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
PREVIOUS = "{{previous}}"
_LAST_MESSAGES = 10
_LONGEST_REPLY = 50_000  # characters
_STREAM_SECONDS = 3_600.0
_STREAM_LOOK_SECONDS = 2.0  # at the operation, for an end that no event told
_MOST_EVENTS = 16  # each has all that was written so far, so that the newest tell everything
_MOST_STREAMS = 100
_KEEP_ALIVE_LOOKS = 7
KEEP_ALIVE = "keep-alive"  # no proxy ends the connection while the model thinks
_LONGEST_TASK = 400_000  # characters, with the replies of the stage before
_FORGET_EVERY = 3_600  # looks

Event = dict[str, Any]


class RunService(CommandService):
    """What may be asked of the agents of one gateway."""

    def __init__(self, pool: Pool, client: GatewayClient | None, settings: Settings, counts: Counts) -> None:
        super().__init__(pool, settings.gateway_name, client)
        self._counts = counts
        self._settings = settings
        self._most = settings.runs_per_user
        self._woken = asyncio.Event()
        self._streams = 0

    # --- asked for by users -----------------------------------------------------------------------------------

    async def spawn(self, actor: Actor, wanted: SpawnIn, key: str | None) -> Answer:
        """Start a run in a new session. Raises NotFoundError for an agent that is not configured."""
        await self._known_agent(actor, wanted.agent_id)
        stage = _stage(wanted.agent_id, wanted.label, wanted.task, wanted.model)
        asked = rows.Asked(wanted.label, [stage], self._receiver(wanted.deliver_to), None)
        return await self._ask_for(actor, "agent.spawn", asked, wanted, key)

    async def send(self, actor: Actor, agent: str, wanted: SendIn, key: str | None) -> Answer:
        """Say something to an agent."""
        await self._known_agent(actor, agent)
        stage = Stage(agent_id=agent, session_key=session_of(agent, wanted.session_key), task=wanted.message)
        return await self._ask_for(actor, "agent.send", rows.Asked(f"Message to {agent}", [stage]), wanted, key)

    async def start(self, actor: Actor, wanted: RunIn, key: str | None) -> Answer:
        """Start a pipeline. Raises NotFoundError for an agent or a task that is not there."""
        for agent in {stage.agent_id for stage in wanted.stages}:
            await self._known_agent(actor, agent)
        if PREVIOUS in wanted.stages[0].task:
            raise errors.InvalidFieldError(f"There is no stage before for {PREVIOUS}.", field="body.stages.0.task")
        if wanted.task_id is not None:
            await self._known_task(actor, wanted.task_id)
        stages = [_stage(one.agent_id, wanted.label, one.task, one.model) for one in wanted.stages]
        asked = rows.Asked(wanted.label, stages, self._receiver(wanted.deliver_to), wanted.task_id)
        return await self._ask_for(actor, "agent.spawn", asked, wanted, key)

    async def cancel(self, actor: Actor, run_id: str, key: str | None) -> Answer:
        """Take a run out of the queue, or stop it with all stages that were to come."""
        self._connection(actor)
        run = await self._own(actor, run_id)

        async def send(client: GatewayClient) -> Answer:
            async with self._pool.connection() as connection:
                now = await rows.locked(connection, run.id)
                if now is not None and now.status == "running" and client.state != "connected":
                    raise NotReadyError("chat.abort: the gateway is not connected")
                if now is None or not await rows.finish(connection, now, "cancelled"):
                    raise errors.ConflictError("The run has ended already.")
            # One that is being sent at this moment is stopped by whoever sends it.
            return {"ok": True, "aborted": now.status == "running" and await _abort(client, now)}

        answer = await self._run(
            actor,
            "run.cancel",
            run.id,
            detail={"label": run.label},
            request={},
            key=key,
            send=send,
            note=lambda _: Note("cancelled", "run", run.id, {"label": run.label}),
        )
        self._woken.set()
        return answer

    async def runs(self, actor: Actor, *, mine: bool, status: RunStatus | None, limit: int) -> list[RequestedRun]:
        """The newest first."""
        async with self._pool.connection() as connection:
            found = await rows.newest(
                connection,
                gateways=gateways_of(actor),
                requested_by=actor.name if mine else None,
                status=status,
                limit=limit,
            )
        return [_shape(run) for run in found]

    async def run_of(self, actor: Actor, run_id: str) -> RequestedRun:
        """One. Raises NotFoundError."""
        return _shape(await self._own(actor, run_id))

    async def _known_task(self, actor: Actor, task_id: str) -> None:
        async with self._pool.connection() as connection:
            with contextlib.suppress(NotFoundError):
                if actor.sees((await tasks.get(connection, task_id)).get("gateway")):
                    return
        raise errors.NotFoundError(f"There is no task {task_id}.", field="body.taskId")

    async def _own(self, actor: Actor, run_id: str) -> rows.RequestedRun:
        async with self._pool.connection() as connection:
            run = await rows.get(connection, run_id)
        if run is None or not actor.sees(run.gateway):
            raise errors.NotFoundError(f"There is no run {run_id}.", field="run_id")
        return run

    def _receiver(self, receiver: DeliverTo) -> Literal["slack", "webhook"] | None:
        if receiver is not None and (lacks := delivery.missing(self._settings, receiver)):
            raise errors.InvalidFieldError(
                f"Nothing can be delivered to {receiver}: {lacks} is not set.", field="body.deliverTo"
            )
        return receiver

    async def _ask_for(self, actor: Actor, action: str, asked: rows.Asked, request: Any, key: str | None) -> Answer:
        first = asked.stages[0]
        task = required(first.task, action, "task")

        async def send(client: GatewayClient) -> Answer:
            try:
                async with self._pool.connection() as connection:
                    run = await rows.place(
                        connection,
                        asked,
                        gateway=self._gateway,
                        token_id=actor.token_id,
                        requested_by=actor.name,
                        most=self._most,
                    )
            except ConflictError as error:
                raise errors.ConflictError(f"{error}.") from None
            answer = {
                "id": run.id,
                "status": run.status,
                "sessionKey": first.session_key,
                "runId": None,
                "operationId": None,
            }
            if run.status == "waiting":
                return answer
            return answer | await self._begin(client, run, task)

        def note(answer: Answer) -> Note:
            verb = "queued" if answer["status"] == "waiting" else "spawned"
            verb = "message_sent" if action == "agent.send" and verb == "spawned" else verb
            return Note(verb, "agent", first.agent_id, {"run": answer.get("runId"), "request": answer["id"]})

        detail = {
            "label": asked.label,
            "characters": sum(len(stage.task or "") for stage in asked.stages),
            "session": first.session_key,
            "stages": len(asked.stages),
        }
        return await self._run(
            actor, action, first.agent_id, detail=detail, request=request, key=key, send=send, note=note
        )

    async def _begin(self, client: GatewayClient, run: rows.RequestedRun, task: str) -> Answer:
        """Send the stage at hand. Raises GatewayError; after one that leaves open whether the gateway has it, the run
        stays held, and is looked for afterwards."""
        try:
            return await self._send(client, run, task)
        except NOT_SENT:
            async with self._pool.connection() as connection:
                await rows.withdraw(connection, run)
            raise
        except (RpcError, MalformedReplyError) as error:
            await self._fail(run, refusal(error).detail)
            raise

    async def _send(self, client: GatewayClient, run: rows.RequestedRun, task: str) -> Answer:
        stage, name = run.at_hand, rows.gateway_run(run.id, run.stage)
        if stage.model is not None:
            model = {"key": stage.session_key, "model": stage.model.replace(":", "/", 1)}
            await call(client, "sessions.create", model)
        async with self._pool.connection() as connection:
            if not await rows.sending(connection, run):
                raise errors.ConflictError("The run was cancelled.")
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
            await _log(connection, run, f"Stage {run.stage + 1} of {len(run.stages)} has started.", operation_id)
        if not wanted:  # it was cancelled at this moment
            await _abort(client, run)
        return {"runId": run_id, "operationId": operation_id}

    # --- the work behind it -----------------------------------------------------------------------------------

    async def work(self) -> None:
        """Start what waits, go on with what ended, deliver results; for ever."""
        client = self._client
        if client is None:
            return  # commands are off: what waits goes on waiting
        looks, away = 0, False
        while True:
            try:
                while await self._count() and await self._step(client):
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
            now = await rows.counts(connection, gateway=self._gateway)
        found = {status: now[status] for status in ("waiting", "running", "undelivered")}
        for status, number in found.items():
            self._counts.runs.labels(status).set(number)
        self._counts.oldest_waiting = now["oldest"].timestamp() if now["oldest"] else None
        return any(found.values())

    async def _step(self, client: GatewayClient) -> bool:
        """One thing that is to be done; False: there is none."""
        async with self._pool.connection() as connection:
            due = await rows.take_delivery(connection, gateway=self._gateway)
            ended = await rows.take_ended(connection, gateway=self._gateway)
        if due is not None:
            await self._guarded(due, self._deliver(client, due))
        if ended is not None:
            await self._guarded(ended[0], self._ended(client, *ended))
        if client.state != "connected":
            return due is not None or ended is not None
        async with self._pool.connection() as connection:
            lost = await rows.take_lost(connection, gateway=self._gateway)
            waiting = await rows.take_waiting(connection, gateway=self._gateway, most=self._most)
        if lost is not None:
            await self._guarded(lost, self._found(client, lost))
        if waiting is not None:
            await self._guarded(waiting, self._continue(client, waiting))
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

    async def _ended(self, client: GatewayClient, run: rows.RequestedRun, status: str, error: str | None) -> None:
        last = run.stage + 1 == len(run.stages)
        async with self._pool.connection() as connection:
            await _log(connection, run, f"Stage {run.stage + 1} of {len(run.stages)}: {status}.", run.operation_id)
            if status != "completed" or last:
                if status == "failed" and not last:
                    error = f"Stage {run.stage + 1} failed{f': {error}' if error else '.'}"
                await rows.finish(connection, run, status, error)
                return
            following = await rows.next_stage(connection, run)
        if following is not None:
            await self._continue(client, following)

    async def _found(self, client: GatewayClient, run: rows.RequestedRun) -> None:
        """Go on with what another process left behind, when that can be done without doing anything twice."""
        stage = run.at_hand
        run_id = rows.gateway_run(run.id, run.stage)
        operation_id = operations.run_operation_id(self._gateway, run_id)
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
                text_ = "Its sending was cut off; whether it was carried out is not known."
                await rows.finish(connection, run, "failed", text_)
                return
        await self._continue(client, run)

    async def _continue(self, client: GatewayClient, run: rows.RequestedRun) -> None:
        """Send the stage at hand of a run that nobody waits for, in the name of its user."""
        async with self._pool.connection() as connection:
            actor = actor_of(await auth_rows.token(connection, run.token_id))
        if actor is None or not actor.scope.includes(Scope.COMMAND) or not actor.sees(run.gateway):
            await self._fail(run, "The token that asked for it is not valid any more.")
            return
        stage = run.at_hand

        async def send(_: GatewayClient) -> Answer:
            task = required(stage.task, "agent", "task")
            if PREVIOUS in task:
                before = run.stages[run.stage - 1]
                reply = await self._reply(client, before.session_key) or ""
                if len(task) + task.count(PREVIOUS) * len(reply) > _LONGEST_TASK:
                    raise errors.InvalidFieldError(
                        f"With the reply of the stage before, the task has more than {_LONGEST_TASK:,} characters."
                    )
                task = task.replace(PREVIOUS, reply)
            return await self._send(client, run, task)

        try:
            await self._run(
                actor,
                "agent.spawn",
                stage.agent_id,
                detail={"request": run.id, "stage": run.stage + 1, "session": stage.session_key},
                request={},
                key=None,
                send=send,
                note=lambda answer: Note("spawned", "agent", stage.agent_id, {"run": answer["runId"]}),
            )
        except errors.GatewayUnavailableError as error:
            if isinstance(error.__cause__, NOT_SENT):
                async with self._pool.connection() as connection:
                    await rows.put_back(connection, run)
                await asyncio.sleep(LOOK_SECONDS)  # the next one would fare no better
            # Else it stays held, and is looked for afterwards: by then the exporter may have seen it.
        except errors.ApiError as error:
            await self._fail(run, error.detail)

    async def _fail(self, run: rows.RequestedRun, error: str) -> None:
        async with self._pool.connection() as connection:
            await rows.finish(connection, run, "failed", error)

    async def _deliver(self, client: GatewayClient, run: rows.RequestedRun) -> None:
        receiver: Literal["slack", "webhook"] = "slack" if run.deliver_to == "slack" else "webhook"
        try:
            result = await self._result(client, run)
            await asyncio.to_thread(delivery.post, self._settings, receiver, result)
        except (delivery.DeliveryError, GatewayError) as error:
            reason = refusal(error).detail if isinstance(error, GatewayError) else str(error)
            again = delivery.pause(run.delivery_attempts)
            self._counts.deliveries.labels(receiver, "failed").inc()
            log.warning("a result was not delivered", run=run.id, to=receiver, again=again is not None, error=reason)
            async with self._pool.connection() as connection:
                await rows.not_delivered(connection, run.id, reason, again)
            return
        self._counts.deliveries.labels(receiver, "delivered").inc()
        async with self._pool.connection() as connection:
            await rows.delivered(connection, run.id)

    async def _result(self, client: GatewayClient, run: rows.RequestedRun) -> delivery.Result:
        reply = None
        if run.status == "completed":
            with contextlib.suppress(RpcError, MalformedReplyError):  # a session that is gone has no reply
                reply = await self._reply(client, run.at_hand.session_key)
        done = [stage.operation_id for stage in run.stages if stage.operation_id]
        async with self._pool.connection() as connection:
            documents = [
                await operations.get(connection, one) for one in done if await operations.exists(connection, one)
            ]
        metrics = [(one.get("metrics") or {}).get("tokens") or {} for one in documents]
        costs = [one["cost"] for one in metrics if one.get("cost") is not None]
        seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at and run.started_at else None
        return delivery.Result(
            id=run.id,
            label=run.label,
            status=run.status,
            agents=list(dict.fromkeys(stage.agent_id for stage in run.stages)),
            error=run.error,
            reply=reply,
            tokens=sum(one.get("total") or 0 for one in metrics) if metrics else None,
            cost_usd=float(sum(costs)) if costs else None,
            seconds=seconds,
            operation_ids=done,
        )

    async def _reply(self, client: GatewayClient, session_key: str) -> str | None:
        """The last that an agent said in a session; asked of the gateway, stored nowhere."""
        items = await self._said(client, session_key, _LAST_MESSAGES, _LONGEST_REPLY)
        said = [item.text for item in items if item.role == "assistant"]
        return said[-1] if said else None

    # --- what a run says while it runs ------------------------------------------------------------------------

    async def reply(self, actor: Actor, run_id: str) -> AsyncIterator[Event]:
        """What the stage at hand writes, as it comes: `delta`, then `final`, `aborted` or `error`, and no more.

        Raises NotFoundError, ConflictError while it waits; CommandsDisabledError, WrongGatewayError.
        """
        client = self._connection(actor)
        run = await self._own(actor, run_id)
        if run.status == "waiting" or run.at_hand.run_id is None:
            raise errors.ConflictError("The run has not started yet.")
        if self._streams >= _MOST_STREAMS:
            raise errors.RateLimitedError(_STREAM_LOOK_SECONDS, "Too many replies are listened to at once.")
        return self._stream(client, run, run.at_hand.run_id)

    async def _stream(self, client: GatewayClient, run: rows.RequestedRun, gateway_run: str) -> AsyncIterator[Event]:
        told: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_MOST_EVENTS)

        def hear(event: Pushed) -> None:
            payload = event.payload
            if event.event == "chat" and isinstance(payload, dict) and payload.get("runId") == gateway_run:
                if told.full():
                    told.get_nowait()  # each has all that was written so far: the newest matter
                told.put_nowait(payload)

        stop = client.subscribe(hear)
        self._streams += 1
        known, quiet = "", 0
        try:
            async with asyncio.timeout(_STREAM_SECONDS):
                while True:
                    event = await self._next(client, run, told, known)
                    if event is None:
                        quiet += 1
                        if quiet % _KEEP_ALIVE_LOOKS == 0:
                            yield {"type": KEEP_ALIVE}
                        continue
                    yield event
                    if event["type"] != "delta":
                        return
                    known += event["text"]
        except TimeoutError:
            yield {"type": "error", "runId": gateway_run}
        finally:
            self._streams -= 1
            stop()

    async def _next(
        self, client: GatewayClient, run: rows.RequestedRun, told: asyncio.Queue[Mapping[str, Any]], known: str
    ) -> Event | None:
        """What comes after `known`, within a short while."""
        try:
            async with asyncio.timeout(_STREAM_LOOK_SECONDS):
                payload = await told.get()
        except TimeoutError:
            return await self._end_of(client, run, known)
        state, now = payload.get("state"), written(payload)
        common = {"runId": payload.get("runId")}
        if state in {"error", "aborted"}:
            return {"type": str(state), **common}
        if state == "final":
            return {"type": "final", **common, "text": now or known}
        fresh = now.startswith(known) and len(now) > len(known)
        return {"type": "delta", **common, "text": now[len(known) :]} if fresh else None

    async def _end_of(self, client: GatewayClient, run: rows.RequestedRun, known: str) -> Event | None:
        """The end of a stage that no event told: of one that had ended before anybody listened."""
        stage = run.at_hand
        if stage.operation_id is None:
            return None
        async with self._pool.connection() as connection:
            if not await operations.exists(connection, stage.operation_id):
                return {"type": "error", "runId": stage.run_id}
            status = (await operations.get(connection, stage.operation_id))["status"]
        if status == "completed":
            try:
                reply = await self._reply(client, stage.session_key)
            except GatewayError:
                reply = None
            return {"type": "final", "runId": stage.run_id, "text": reply or known}
        kind = {"failed": "error", "cancelled": "aborted"}.get(status)
        return {"type": kind, "runId": stage.run_id} if kind else None


def _stage(agent: str, label: str, task: str, model: str | None) -> Stage:
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:40] or "task"
    return Stage(
        agent_id=agent, session_key=f"agent:{agent}:dashboard:{slug}-{secrets.token_hex(4)}", model=model, task=task
    )


async def _abort(client: GatewayClient, run: rows.RequestedRun) -> bool:
    """Stop the run at hand and no other of its session; whether there was one. Raises GatewayError."""
    run_id = run.at_hand.run_id or rows.gateway_run(run.id, run.stage)
    payload = await call(client, "chat.abort", {"sessionKey": run.at_hand.session_key, "runId": run_id})
    return bool(payload.get("aborted"))


def _named(run: rows.RequestedRun) -> str:
    return run.label if len(run.stages) == 1 else f"{run.label} ({run.stage + 1} of {len(run.stages)})"


async def _log(connection: Connection, run: rows.RequestedRun, message: str, operation_id: str | None) -> None:
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


def _shape(run: rows.RequestedRun) -> RequestedRun:
    values = {name: getattr(run, name) for name in RequestedRun.model_fields if name != "stages"}
    return RequestedRun(**values, stages=[_shape_of_stage(run, index) for index in range(len(run.stages))])


def _shape_of_stage(run: rows.RequestedRun, index: int) -> StageOut:
    stage = run.stages[index]
    status = run.status if index == run.stage else "completed"
    if index > run.stage:
        status = "cancelled" if run.status in {"failed", "cancelled"} else "waiting"
    values = {name: getattr(stage, name) for name in StageOut.model_fields if name != "status"}
    return StageOut.model_validate({**values, "status": status})
