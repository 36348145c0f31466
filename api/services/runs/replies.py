"""What a run says while it runs: asked of the gateway, stored nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from api import errors
from api.models.runs import ReplyEvent
from api.security.scopes import Actor
from api.services.commands import Commands
from api.services.gateway import last_reply, written
from api.services.runs.requests import RunRequests
from lobservatory.errors import ConflictError
from openclaw.client import GatewayClient
from openclaw.protocol import GatewayError, Pushed
from store import operations
from store import requested_runs as rows
from store.pool import Pool

_STREAM_SECONDS = 3_600.0
_STREAM_LOOK_SECONDS = 2.0  # at the operation, for an end that no event told
_MOST_EVENTS = 16  # each has all that was written so far, so that the newest tell everything
_MOST_STREAMS = 100
_KEEP_ALIVE_LOOKS = 7
_ENDS: Mapping[str, Literal["error", "aborted"]] = {"failed": "error", "cancelled": "aborted"}  # by status


class RunReplies:
    """Listens to runs for whoever reads along. Changes when the gateway's events of a reply do, or how they are told
    here."""

    def __init__(self, pool: Pool, commands: Commands, requests: RunRequests) -> None:
        self._pool = pool
        self._commands = commands
        self._requests = requests
        self._streams = 0

    async def follow(self, actor: Actor, run_id: str) -> AsyncIterator[ReplyEvent | None]:
        """What the stage at hand writes, as it comes: `delta`, then `final`, `aborted` or `error`, and no more. None:
        it has said nothing for some time.

        Raises NotFoundError, ConflictError while it waits; CommandsDisabledError, WrongGatewayError.
        """
        client = self._commands.connection(actor)
        run = await self._requests.row(actor, run_id)
        if run.status == "waiting" or run.at_hand.run_id is None:
            raise ConflictError("The run has not started yet.")
        if self._streams >= _MOST_STREAMS:
            raise errors.RateLimitedError(_STREAM_LOOK_SECONDS, "Too many replies are listened to at once.")
        return self._stream(client, run, run.at_hand.run_id)

    async def _stream(
        self, client: GatewayClient, run: rows.RequestedRun, gateway_run: str
    ) -> AsyncIterator[ReplyEvent | None]:
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
                            yield None
                        continue
                    yield event
                    if event.type != "delta":
                        return
                    known += event.text or ""
        except TimeoutError:
            yield ReplyEvent(type="error", run_id=gateway_run)
        finally:
            self._streams -= 1
            stop()

    async def _next(
        self, client: GatewayClient, run: rows.RequestedRun, told: asyncio.Queue[Mapping[str, Any]], known: str
    ) -> ReplyEvent | None:
        """What comes after `known`, within a short while."""
        try:
            async with asyncio.timeout(_STREAM_LOOK_SECONDS):
                payload = await told.get()
        except TimeoutError:
            return await self._end_of(client, run, known)
        state, now = payload.get("state"), written(payload)
        run_id = run.at_hand.run_id
        if state in {"error", "aborted"}:
            return ReplyEvent(type="error" if state == "error" else "aborted", run_id=run_id)
        if state == "final":
            return ReplyEvent(type="final", run_id=run_id, text=now or known)
        fresh = now.startswith(known) and len(now) > len(known)
        return ReplyEvent(type="delta", run_id=run_id, text=now[len(known) :]) if fresh else None

    async def _end_of(self, client: GatewayClient, run: rows.RequestedRun, known: str) -> ReplyEvent | None:
        """The end of a stage that no event told: of one that had ended before anybody listened."""
        stage = run.at_hand
        if stage.operation_id is None:
            return None
        async with self._pool.connection() as connection:
            if not await operations.exists(connection, stage.operation_id):
                return ReplyEvent(type="error", run_id=stage.run_id)
            status = (await operations.get(connection, stage.operation_id)).status
        if status == "completed":
            try:
                reply = await last_reply(client, stage.session_key)
            except GatewayError:
                reply = None
            return ReplyEvent(type="final", run_id=stage.run_id, text=reply or known)
        kind = _ENDS.get(status)
        return ReplyEvent(type=kind, run_id=stage.run_id) if kind else None
