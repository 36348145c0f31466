"""Exec approvals, from the gateway's state database: `operator.read` is enough, and expiry is told apart.

The RPC needs the scope operator.approvals and tells pending ones only; 2026.4 has neither the table nor a history.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from lobservatory import logging
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import APPROVAL_DECISIONS
from openclaw.fields import instant
from openclaw.state_records import ApprovalRecord, NoRecordsError, StateRecords
from store.rows import ExecApproval

log = logging.get(__name__)

EXPIRED_FOR = timedelta(hours=24)

SaveApprovals = Callable[[Sequence[ExecApproval]], Awaitable[None]]
# How often each decision was made, from the rows that are kept; None while they cannot be asked.
Decisions = Callable[[], Awaitable[Mapping[str, int] | None]]


def decision_of(row: ExecApproval) -> str:
    """One of the catalogue's decisions."""
    if row.status == "allowed":
        return "allowed_always" if row.decision == "allow-always" else "allowed_once"
    return row.status


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
        decision=record.decision,
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
        decisions: Decisions | None = None,
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
        self._decisions = decisions
        self._decided: Mapping[str, int] | None = None
        self._settled: set[str] | None = None  # ids, for lack of rows; those from before our start count nothing
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
        self._decided = await self._count(rows)

    async def _count(self, rows: Sequence[ExecApproval]) -> Mapping[str, int] | None:
        if self._decisions is not None:
            counted = await self._decisions()
            return self._decided if counted is None else counted
        settled = [row for row in rows if row.status != "pending"]
        if self._settled is None:
            self._settled = {row.approval_id for row in settled}
            return {}
        new = [row for row in settled if row.approval_id not in self._settled]
        self._settled = {row.approval_id for row in settled}
        return Counter(self._decided or {}) + Counter(decision_of(row) for row in new)

    def render(self) -> Iterable[Sample]:
        """How many wait, since when, when the next one expires, and what was decided. Decisions stay known while the
        records cannot be read: they were made."""
        if self._decided is not None:
            for decision in APPROVAL_DECISIONS:
                metric = "claw_exec_approval_decisions_total"
                yield Sample(metric, (self._gateway, decision), self._decided.get(decision, 0))
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
