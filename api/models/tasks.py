"""Tasks, their comments, and the task hub: activities, deliverables, sub-agent sessions."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from api.models.base import (
    Camel,
    Cursor,
    Identifier,
    Instant,
    InstantIn,
    LongText,
    Metadata,
    Name,
    RowId,
    ShortText,
    Snake,
    Tags,
    fields_of,
    order_of,
)
from store import work
from store.tasks import TaskFilter


class TaskStatus(StrEnum):
    """Columns of a board."""

    INBOX = "inbox"
    TODO = "todo"
    ASSIGNED = "assigned"
    IN_PROGRESS = "in_progress"
    REVIEW = "review"
    DONE = "done"


class Priority(StrEnum):
    """How urgent."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


TaskSort = Literal[
    "createdAt", "-createdAt", "updatedAt", "-updatedAt", "dueDate", "-dueDate",
    "priority", "-priority", "status", "-status", "title", "-title",
]  # fmt: skip


class TaskQuery(BaseModel):
    """Which tasks, in which order, and which page of them."""

    model_config = ConfigDict(alias_generator=to_camel)

    status: TaskStatus | None = None
    priority: Priority | None = None
    assigned_agent: ShortText | None = None
    tag: ShortText | None = None
    board: ShortText | None = None
    search: Annotated[ShortText | None, Field(description="Text in title or description, in any case.")] = None
    sort: Annotated[
        TaskSort, Field(description="With `-`: falling. Tasks without a due date come last of the rising order.")
    ] = "-createdAt"
    cursor: Annotated[Cursor | None, Field(description="`nextCursor` of the page before, of the same `sort`.")] = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100

    def filter(self, gateways: list[str] | None) -> TaskFilter:
        """For the store, limited to these gateways (None: all)."""
        return TaskFilter(**self.model_dump() | {"sort": order_of(self.sort)}, gateways=gateways)


class Comment(Camel):
    """What somebody said about a task."""

    id: RowId
    task_id: str
    author: str
    content: str
    created_at: Instant


class CommentIn(Camel):
    """A comment."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"author": "ana", "content": "Looks good"}]})

    author: Name
    content: Annotated[LongText, Field(min_length=1)]


class Task(Camel):
    """A task."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "task_1",
                    "board": "default",
                    "title": "Write the report",
                    "description": None,
                    "status": "todo",
                    "priority": "medium",
                    "assignedAgent": "main",
                    "dueDate": None,
                    "tags": ["report"],
                    "metadata": {},
                    "dependsOn": [],
                    "createdBy": "ana",
                    "createdAt": "2026-01-29T10:00:00Z",
                    "updatedAt": "2026-01-29T10:00:00Z",
                    "version": 1,
                    "comments": [],
                }
            ]
        },
        alias_generator=to_camel,
    )

    id: str
    board: str = "default"
    gateway: str | None = None
    title: str
    description: str | None = None
    status: TaskStatus
    priority: Priority
    assigned_agent: str | None = None
    due_date: Instant | None = None
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    depends_on: list[str] = []
    created_by: str | None = None
    created_at: Instant
    updated_at: Instant
    version: int = Field(default=1, description="Rises with each change; the ETag.")
    comments: list[Comment] = Field(default=[], description="Newest last; only of a single task, empty in lists.")

    @classmethod
    def with_comments(cls, row: work.Task, comments: Sequence[work.Comment]) -> Self:
        """A single task."""
        return cls.model_validate({**fields_of(row), "comments": comments})


class TaskPage(Camel):
    """One page of tasks."""

    tasks: list[Task]
    next_cursor: str | None = Field(
        default=None, description="Give it as `cursor` for the next page; null: there is none."
    )


class TaskIn(Camel):
    """A new task (POST), or all of one (PUT)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"title": "Write the report", "priority": "high", "tags": ["report"]}]},
        alias_generator=to_camel,
    )

    title: Name
    description: LongText | None = None
    status: TaskStatus = TaskStatus.TODO
    priority: Priority = Priority.MEDIUM
    board: Identifier = "default"
    gateway: Annotated[Identifier | None, Field(max_length=64)] = None
    assigned_agent: ShortText | None = None
    due_date: InstantIn | None = None
    tags: Tags = []
    metadata: Metadata = {}
    depends_on: Annotated[list[Identifier], Field(max_length=100)] = []


class TaskPatch(Camel):
    """What changes. A field that is absent stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "in_progress"}]}, alias_generator=to_camel)

    title: Name | None = None
    description: LongText | None = None
    status: TaskStatus | None = None
    priority: Priority | None = None
    board: Identifier | None = None
    assigned_agent: ShortText | None = None
    due_date: InstantIn | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None
    depends_on: Annotated[list[Identifier] | None, Field(max_length=100)] = None

    @model_validator(mode="after")
    def _some_are_never_null(self) -> Self:
        for name in ("title", "status", "priority", "board", "tags", "metadata", "depends_on"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{to_camel(name)} must not be null; leave it out to keep it")
        return self


class StatusChange(Camel):
    """One row of the append-only history of a task's status."""

    task_id: str
    from_status: TaskStatus | None = Field(default=None, description="null: it was created.")
    to_status: TaskStatus | None = Field(description="null: it was deleted.")
    actor: str | None = None
    at: Instant


class ActivityType(StrEnum):
    """What an agent did for a task."""

    SPAWNED = "spawned"
    UPDATED = "updated"
    COMPLETED = "completed"
    FILE_CREATED = "file_created"
    STATUS_CHANGED = "status_changed"


class ActivityIn(Snake):
    """An activity."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"activity_type": "file_created", "message": "Wrote notes.md", "agent_id": "main"}]
        }
    )

    activity_type: ActivityType
    message: Annotated[LongText, Field(min_length=1)]
    agent_id: ShortText | None = None
    metadata: Metadata | None = None


class Activity(Snake):
    """An activity of a task."""

    id: RowId
    task_id: str
    activity_type: ActivityType
    message: str
    agent_id: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: Instant


class DeliverableIn(Snake):
    """What a task produced: a file by its relative path, a URL, or an artifact by its name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"deliverable_type": "file", "title": "Notes", "path": "out/notes.md"}]}
    )

    deliverable_type: Literal["file", "url", "artifact"]
    title: Name
    path: Annotated[ShortText | None, Field(min_length=1)] = None
    description: LongText | None = None

    @field_validator("path")
    @classmethod
    def _printable(cls, path: str | None) -> str | None:
        if path is not None and any(not character.isprintable() for character in path):
            raise ValueError("must not contain control characters")
        return path

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.deliverable_type == "artifact":
            return self
        if self.path is None:
            raise ValueError(f"a {self.deliverable_type} needs its path")
        if self.deliverable_type == "url":
            try:
                parts = urlsplit(self.path)
            except ValueError:
                parts = urlsplit("")
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
                raise ValueError("path must be an http or https URL without a password")
        elif posixpath.normpath(self.path).startswith("../") or posixpath.normpath(self.path) == "..":
            raise ValueError("path must not lead out of its folder")
        return self


class Deliverable(Snake):
    """A deliverable of a task."""

    id: RowId
    task_id: str
    deliverable_type: Literal["file", "url", "artifact"]
    title: str
    path: str | None = None
    description: str | None = None
    created_at: Instant


class SubagentIn(Snake):
    """A sub-agent session that works on a task."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"openclaw_session_id": "agent:main:subagent:1", "agent_name": "main"}]}
    )

    openclaw_session_id: Annotated[ShortText, Field(min_length=1)]
    agent_name: ShortText | None = None


SessionStatus = Literal["active", "completed", "failed"]


class SubagentPatch(Snake):
    """How a sub-agent session stands."""

    status: SessionStatus


class Subagent(Snake):
    """A sub-agent session of a task."""

    id: RowId
    task_id: str | None = None
    openclaw_session_id: str
    agent_name: str | None = None
    session_type: Literal["persistent", "subagent"] = "subagent"
    status: SessionStatus
    started_at: Instant | None = None
    ended_at: Instant | None = None
    duration_ms: int | None = None


class FeedRow(Camel):
    """Something that somebody did."""

    id: RowId
    type: str
    actor: str
    action: str
    target_type: str
    target_id: str
    metadata: dict[str, Any] = {}
    timestamp: Instant

    @classmethod
    def of(cls, row: work.FeedRow) -> Self:
        """A row of the feed."""
        return cls.model_validate({**fields_of(row), "timestamp": row.at})


class FeedPage(Camel):
    """One page of the feed, newest first."""

    items: list[FeedRow]
    next_cursor: str | None = None


class FeedStats(Camel):
    """How much was done."""

    total: int
    last24h: int = Field(alias="last24h")
    by_type: dict[str, int]
    by_action: dict[str, int]
    by_actor: dict[str, int]


class Flow(Camel):
    """Throughput and cycle time of a span. What it says of the past never changes."""

    throughput: int = Field(description="Tasks that reached `done` for the first time.")
    cycle_time_ms: int | None = Field(description="Mean from creation to the first `done`; null: none did.")
