"""The format of the outbox's messages: rows as JSON in the names that live clients read.

A message is kept for 24 hours and is read by processes of another version: what a name means never changes. The API
hands it on as it is, and its models have the same names; a test compares them.
"""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from store.rows import AgentEvent, AlertEvent
from store.work import Activity, Deliverable, FeedRow, Operation, Step, Task, TaskSession

Message = dict[str, Any]

_WORD: Final = re.compile(r"_([a-z])")
_FIGURES: Final = frozenset(
    {"duration_ms", "prompt_tokens", "completion_tokens", "total_tokens", "cost_usd", "model", "steps"}
)


def task(row: Task) -> Message:
    """Of `task_created`, `task_updated` and `task_deleted`: the task as it then was, in camelCase."""
    return _camel(_plain(row))


def activity(row: Activity) -> Message:
    """Of `activity_logged`; as all of the task hub in snake_case, its id a text."""
    return {**_plain(row), "id": str(row.id)}


def deliverable(row: Deliverable) -> Message:
    """Of `deliverable_added`."""
    return {**_plain(row), "id": str(row.id)}


def session(row: TaskSession) -> Message:
    """Of `agent_spawned` and `agent_completed`."""
    return {**_plain(row), "id": str(row.id), "duration_ms": row.duration_ms}


def operation(row: Operation) -> Message:
    """Of `operation_created` and `operation_updated`: the operation, whole."""
    message = {name: value for name, value in _plain(row).items() if name not in _FIGURES}
    return {
        **_camel(message),
        "duration": row.duration_ms,
        "steps": [_step(step) for step in row.steps],
        "metrics": {
            "tokens": {
                "prompt": row.prompt_tokens,
                "completion": row.completion_tokens,
                "total": row.total_tokens,
                "cost": None if row.cost_usd is None else float(row.cost_usd),
                "model": row.model,
            },
            "duration": row.duration_ms,
            "stepsCompleted": row.steps_completed,
            "stepsTotal": len(row.steps),
            "progress": row.progress,
        },
    }


def _step(row: Step) -> Message:
    message = _camel(_plain(row))
    message["duration"] = message.pop("durationMs")
    return message


def feed(row: FeedRow) -> Message:
    """Of `activity` in the feed."""
    message = _camel(_plain(row))
    message |= {"id": str(row.id), "timestamp": message.pop("at")}
    return message


def agent_event(row: AgentEvent) -> Message:
    """Of what an agent just did; its gateway stands beside the message."""
    message = _plain(row)
    return {name: message[name] for name in ("agent", "event", "activity", "tool", "heat", "ts")}


def alert(row: AlertEvent) -> Message:
    """Of `firing` and `resolved`: the alert, with what its annotations are for."""
    message = _camel(_plain(row))
    notes = message.pop("annotations")
    message |= {name: notes.get(name) for name in ("summary", "description", "action", "board", "runbook")}
    return {**message, "id": str(row.id)}


def _plain(row: Any) -> Message:
    """The fields of a row, instants as ISO 8601 in UTC."""
    named = {one.name: getattr(row, one.name) for one in fields(row)}
    return {name: _iso(value) if isinstance(value, datetime) else value for name, value in named.items()}


def _camel(message: Message) -> Message:
    return {_WORD.sub(lambda found: found[1].upper(), name): value for name, value in message.items()}


def _iso(instant: datetime) -> str:
    precision = "microseconds" if instant.microsecond else "seconds"
    return instant.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
