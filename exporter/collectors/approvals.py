"""Exec approvals, from the gateway's state database: `operator.read` is enough, and expiry is told apart.

The RPC needs the scope operator.approvals and tells pending ones only; 2026.4 has neither the table nor a history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from exporter.exposition import Sample
from lobservatory import logging
from openclaw.fields import instant
from openclaw.state_records import ApprovalRecord, NoRecordsError, StateRecords
from store.rows import ExecApproval

log = logging.get(__name__)

EXPIRED_FOR = timedelta(hours=24)

SaveApprovals = Callable[[Sequence[ExecApproval]], Awaitable[None]]


def to_row(gateway: str, record: ApprovalRecord) -> ExecApproval:
    """The row of a record. The command is content and stays where it is."""
    return ExecApproval(
        gateway=gateway,
        approval_id=record.approval_id,
        status=record.status,
        agent=record.agent,
        session_key=record.session_key,
        requested_at=instant(record.created_ms),
        expires_at=instant(record.expires_ms),
        resolved_at=instant(record.resolved_ms),
        resolved_by=record.resolved_by,
        terminal_reason=record.terminal_reason,
    )


class ApprovalsCollector:
    """Reads the table `operator_approvals`."""

    name = "approvals"

    def __init__(
        self,
        gateway: str,
        records: StateRecords,
        *,
        interval: float = 15.0,
        save: SaveApprovals | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.interval = interval
        self.deadline = 20.0
        self._gateway = gateway
        self._records = records
        self._save = save
        self._now = now
        self._pending: list[ExecApproval] | None = None
        self._expired = 0
        self._said = False

    async def refresh(self) -> None:
        """Raises StateRecordsError. A version without approvals is no failure; one line says so."""
        try:
            records = await asyncio.to_thread(self._records.approvals)
        except NoRecordsError as error:
            self._pending = None
            if not self._said:
                log.info("no exec approvals to watch", reason=str(error))
                self._said = True
            return
        except BaseException:  # the deadline's too; but never before: a scrape would find a gap in every refresh
            self._pending = None
            raise
        rows = [to_row(self._gateway, record) for record in records]
        self._pending = [row for row in rows if row.status == "pending"]
        since = self._now() - EXPIRED_FOR
        self._expired = sum(
            row.status == "expired" and (row.resolved_at or row.expires_at or since) > since for row in rows
        )
        if self._save is not None:
            await self._save(rows)

    def render(self) -> Iterable[Sample]:
        """How many wait, since when, and when the next one expires."""
        if self._pending is None:
            return
        yield Sample("claw_exec_approvals_pending", (self._gateway,), len(self._pending))
        yield Sample("claw_exec_approvals_expired", (self._gateway,), self._expired)
        requested = [row.requested_at for row in self._pending if row.requested_at is not None]
        expires = [row.expires_at for row in self._pending if row.expires_at is not None]
        if requested:
            metric = "claw_exec_approval_oldest_timestamp_seconds"
            yield Sample(metric, (self._gateway,), min(requested).timestamp())
        if expires:
            metric = "claw_exec_approval_next_expiry_timestamp_seconds"
            yield Sample(metric, (self._gateway,), min(expires).timestamp())
