"""The gateway's own register of background work, by what runs it and how it went (`tasks.list`, else its database)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from exporter.collectors.poll import PollCollector
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import TASK_RUNTIMES, TASK_STATUSES
from openclaw.client import GatewayClient
from openclaw.fields import items, whole
from openclaw.state_records import StateRecords

_STATUSES = {"succeeded": "completed", "canceled": "cancelled"}


def samples(gateway: str, answer: Any) -> Iterable[Sample]:
    """How many the register holds now; it forgets old ones. Entries of records carry a `count`."""
    counts: Counter[tuple[str, str]] = Counter()
    for task in items(answer, "tasks"):
        status = str(task.get("status"))
        status = _STATUSES.get(status, status)
        runtime = str(task.get("runtime"))
        key = (
            runtime if runtime in TASK_RUNTIMES else "other",
            status if status in TASK_STATUSES else "unknown",
        )
        counts[key] += whole(task.get("count")) or 1
    for (runtime, status), count in sorted(counts.items()):
        yield Sample("claw_tasks", (gateway, runtime, status), count)


def collector(
    gateway: str, client: GatewayClient, records: StateRecords | None, interval: float, *, limit: int = 500
) -> PollCollector:
    """2026.4 has no such method: there the records are the only source."""

    def from_records() -> Any:
        return {"tasks": [] if records is None else records.task_counts()}

    return PollCollector(
        "tasks",
        gateway,
        client,
        "tasks.list",
        samples,
        interval=interval,
        params={"limit": limit},
        records=None if records is None else from_records,
    )
