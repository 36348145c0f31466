"""Runs of sub-agents as OpenClaw records them: in its state database, before 2026.8 in `subagents/runs.json`.

No RPC lists them, so that they are known with and without a gateway. How many run this moment tells `sessions`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import SUBAGENT_STATUSES
from openclaw.fields import instant, mapping, number, text
from openclaw.state_records import NoRecordsError, StateRecords
from store.rows import SubagentRun

SaveSubagents = Callable[[Sequence[SubagentRun]], Awaitable[None]]


def to_row(gateway: str, run: Mapping[str, Any]) -> SubagentRun | None:
    """The row of a recorded run: 2026.9 nests its course in `execution`, before it lay at the top."""
    run_id, child = text(run.get("runId")), text(run.get("childSessionKey"))
    if run_id is None or child is None:
        return None
    course = mapping(run, "execution") or run
    started, ended = instant(course.get("startedAt")), instant(course.get("endedAt"))
    outcome = mapping(course, "outcome")
    elapsed = number(outcome.get("elapsedMs"))
    if ended is None and started is not None and elapsed is not None:
        ended = started + timedelta(milliseconds=elapsed)
    return SubagentRun(
        gateway=gateway,
        run_id=run_id,
        child_session_key=child,
        parent_session_key=text(run.get("requesterSessionKey")),
        status=text(outcome.get("status"), 32) or ("running" if ended is None else "unknown"),
        label=text(run.get("label"), 200),
        started_at=started or instant(run.get("createdAt")),
        ended_at=ended,
    )


class SubagentsCollector:
    """Reads the records. `alive` tells whether the gateway is connected: while it is not, a run that its records call
    running may have died with it, and counts as `unknown`."""

    name = "subagents"

    def __init__(
        self,
        gateway: str,
        records: StateRecords,
        *,
        interval: float = 15.0,
        alive: Callable[[], bool | None] = lambda: True,
        save: SaveSubagents | None = None,
    ) -> None:
        self.interval = interval
        self.deadline = 20.0
        self._gateway = gateway
        self._records = records
        self._alive = alive
        self._save = save
        self._counts: Counter[str] | None = None

    async def refresh(self) -> None:
        """Raises StateRecordsError. A state directory in which no sub-agent ever ran is no failure."""
        try:
            runs = await asyncio.to_thread(self._records.subagent_runs)
        except NoRecordsError:
            self._counts = Counter()
            return
        except BaseException:  # the deadline's too: nothing stale is shown
            self._counts = None
            raise
        rows = [row for row in (to_row(self._gateway, run) for run in runs) if row is not None]
        self._counts = Counter(row.status if row.status in SUBAGENT_STATUSES else "unknown" for row in rows)
        if self._save is not None:
            await self._save(rows)

    def render(self) -> Iterable[Sample]:
        """How many the records hold now, by status; they forget old ones. Nothing while nobody knows whether what they
        call running runs."""
        alive = self._alive()
        if self._counts is None or alive is None:
            return
        counts = Counter(self._counts)
        if not alive:
            counts["unknown"] += counts.pop("running", 0)
        for status in SUBAGENT_STATUSES:
            yield Sample("claw_subagent_runs", (self._gateway, status), counts[status])
