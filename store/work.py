"""Rows of what people and agents work on, as functions of this room give them: tasks and what hangs on them, boards,
operations and the feed.

As everywhere: an instant is an aware `datetime`, money a `Decimal` in US dollars, a duration milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Board:
    """What tasks are sorted into. `tasks`: how many by status."""

    id: str
    name: str
    description: str | None
    created_at: datetime
    tasks: Mapping[str, int]

    @property
    def version(self) -> str:
        """A hash of what people edit: it needs no column, and two who write the same do not disturb each other."""
        return hashlib.sha256(json.dumps([self.name, self.description]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Task:
    """A task. `version` rises with each change."""

    id: str
    board: str
    gateway: str | None
    title: str
    description: str | None
    status: str
    priority: str
    assigned_agent: str | None
    due_date: datetime | None
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    depends_on: Sequence[str]
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class Comment:
    """What somebody said about a task."""

    id: int
    task_id: str
    author: str
    content: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A change of a task's status. `from_status` None: it was created; `to_status` None: it was deleted."""

    task_id: str
    from_status: str | None
    to_status: str | None
    actor: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Flow:
    """How many tasks reached `done`, each once, and how long that took from their creation (None: none did)."""

    throughput: int
    cycle_time_ms: int | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What an agent did for a task."""

    id: int
    task_id: str
    activity_type: str
    message: str
    agent_id: str | None
    metadata: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Deliverable:
    """What a task produced."""

    id: int
    task_id: str
    deliverable_type: str
    title: str
    path: str | None
    description: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TaskSession:
    """A session that works on a task."""

    id: int
    task_id: str | None
    openclaw_session_id: str
    agent_name: str | None
    session_type: str
    status: str
    started_at: datetime
    ended_at: datetime | None

    @property
    def duration_ms(self) -> int | None:
        """From its start to its end; None while it has none."""
        return None if self.ended_at is None else round((self.ended_at - self.started_at).total_seconds() * 1000)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an operation."""

    id: str
    name: str
    description: str | None
    status: str
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation with its steps, in their order. `cost_usd` None: not known. `version` rises with each change."""

    id: str
    version: int
    type: str
    name: str
    description: str | None
    status: str
    skill_name: str | None
    agent_id: str | None
    user_id: str | None
    channel: str | None
    gateway: str | None
    source: str
    run_id: str | None
    session_key: str | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None
    current_step: str | None
    current_step_index: int | None
    activity: str | None
    disposition: Mapping[str, Any] | None
    metadata: Mapping[str, Any]
    tags: Sequence[str]
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    model: str | None
    steps: Sequence[Step] = ()

    @property
    def steps_completed(self) -> int:
        """How many of its steps are done."""
        return sum(step.status == "completed" for step in self.steps)

    @property
    def progress(self) -> int:
        """Per cent of the steps that are done, rounded down; without steps it is all or nothing."""
        if not self.steps:
            return 100 if self.status == "completed" else 0
        return self.steps_completed * 100 // len(self.steps)


@dataclass(frozen=True, slots=True)
class FeedRow:
    """Who did what to what. Ids rise with time, which makes them a cursor that inserts do not move."""

    id: int
    at: datetime
    type: str
    actor: str
    action: str
    target_type: str
    target_id: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """Rows in all and of the last 24 hours; those of today and 30 days (UTC) before by type, action and actor."""

    total: int
    last24h: int
    by_type: Mapping[str, int]
    by_action: Mapping[str, int]
    by_actor: Mapping[str, int]
