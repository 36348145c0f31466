"""What came of a run, delivered where that was asked for."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from api.counts import Counts
from api.models.runs import RunResult
from api.services import delivery
from api.services.gateway import last_reply, refusal
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from openclaw.protocol import GatewayError, MalformedReplyError, RpcError
from store import operations
from store import requested_runs as rows
from store.pool import Pool

log = structlog.get_logger(__name__)


class RunResults:
    """Gathers a result and delivers it once, or notes when to try again. Changes when what is told of a run does."""

    def __init__(self, pool: Pool, settings: Settings, counts: Counts) -> None:
        self._pool = pool
        self._settings = settings
        self._counts = counts

    async def deliver(self, client: GatewayClient, run: rows.RequestedRun) -> None:
        """One attempt."""
        receiver: delivery.Receiver = "slack" if run.deliver_to == "slack" else "webhook"
        try:
            result = await self._result(client, run)
            await asyncio.to_thread(delivery.post, self._settings, receiver, result)
        except (delivery.DeliveryError, GatewayError) as error:
            reason = str(refusal(error)) if isinstance(error, GatewayError) else str(error)
            again = delivery.pause(run.delivery_attempts)
            self._counts.deliveries.labels(receiver, "failed").inc()
            log.warning("a result was not delivered", run=run.id, to=receiver, again=again is not None, error=reason)
            async with self._pool.connection() as connection:
                await rows.not_delivered(connection, run.id, reason, again)
            return
        self._counts.deliveries.labels(receiver, "delivered").inc()
        async with self._pool.connection() as connection:
            await rows.delivered(connection, run.id)

    async def _result(self, client: GatewayClient, run: rows.RequestedRun) -> RunResult:
        reply = None
        if run.status == "completed":
            with contextlib.suppress(RpcError, MalformedReplyError):  # a session that is gone has no reply
                reply = await last_reply(client, run.at_hand.session_key)
        done = [stage.operation_id for stage in run.stages if stage.operation_id]
        async with self._pool.connection() as connection:
            known = [await operations.get(connection, one) for one in done if await operations.exists(connection, one)]
        costs = [one.cost_usd for one in known if one.cost_usd is not None]
        seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at and run.started_at else None
        return RunResult(
            id=run.id,
            label=run.label,
            status=run.status,
            agent_ids=list(dict.fromkeys(stage.agent_id for stage in run.stages)),
            error=run.error,
            reply=reply,
            tokens=sum(one.total_tokens for one in known) if known else None,
            cost_usd=float(sum(costs)) if costs else None,
            duration_seconds=seconds,
            operation_ids=done,
        )
