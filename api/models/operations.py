"""Operations: what agents do, step by step. The shapes that outside clients already speak."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator, model_validator
from pydantic.alias_generators import to_camel

from api.models.base import (
    Camel,
    Count,
    Cursor,
    Identifier,
    Instant,
    InstantIn,
    JsonValue,
    LongText,
    Metadata,
    Milliseconds,
    Name,
    ShortText,
    Tags,
    fields_of,
    order_of,
)
from store import work
from store.operations import OperationFilter

MOST_STEPS = 200


class OperationType(StrEnum):
    """What kind of work it is."""

    SKILL = "skill"
    TOOL_CALL = "tool_call"
    AGENT_TASK = "agent_task"
    WEBHOOK = "webhook"
    SCHEDULED = "scheduled"


OperationSort = Literal[
    "createdAt", "-createdAt", "updatedAt", "-updatedAt", "completedAt", "-completedAt",
    "duration", "-duration", "name", "-name", "status", "-status",
]  # fmt: skip


class OperationStatus(StrEnum):
    """Where an operation is."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """Where a step is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class OperationQuery(BaseModel):
    """Which operations, in which order, and which page of them."""

    model_config = ConfigDict(alias_generator=to_camel)

    status: OperationStatus | None = None
    type: OperationType | None = None
    agent_id: ShortText | None = None
    tag: ShortText | None = None
    sort: Annotated[
        OperationSort, Field(description="With `-`: falling. What runs still comes last by `completedAt`.")
    ] = "-createdAt"
    cursor: Annotated[
        Cursor | None, Field(description="The header `X-Next-Cursor` of the page before, of the same `sort`.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    since: Annotated[
        InstantIn | None,
        Field(
            description="Those created or changed at this instant or later: what a WebSocket client missed. Clocks and "
            "commits differ by a little, so ask from some seconds before the last `updatedAt` that you have.",
            examples=["2026-01-29T10:00:00Z"],
        ),
    ] = None

    def filter(self, gateways: list[str] | None) -> OperationFilter:
        """For the store, limited to these gateways (None: all)."""
        return OperationFilter(**self.model_dump() | {"sort": order_of(self.sort)}, gateways=gateways)


Usd = Annotated[
    Decimal, PlainSerializer(float, return_type=float, when_used="json"), Field(description="US dollars, billed.")
]

EXAMPLE: dict[str, Any] = {
    "id": "op_1",
    "type": "skill",
    "name": "Research the course",
    "description": "Find dates and prices",
    "status": "in_progress",
    "skillName": "research",
    "agentId": "main",
    "userId": None,
    "channel": "telegram",
    "gateway": None,
    "runId": None,
    "sessionKey": None,
    "source": "posted",
    "createdAt": "2026-01-29T10:00:00Z",
    "updatedAt": "2026-01-29T10:02:00Z",
    "startedAt": "2026-01-29T10:00:00Z",
    "completedAt": None,
    "duration": 120000,
    "currentStep": "Browse the website",
    "currentStepIndex": 1,
    "activity": "Extracting course information",
    "steps": [
        {
            "id": "s1",
            "name": "Search",
            "description": None,
            "status": "completed",
            "startedAt": "2026-01-29T10:00:00Z",
            "completedAt": "2026-01-29T10:00:01.200000Z",
            "duration": 1200,
            "error": None,
        },
        {
            "id": "s2",
            "name": "Browse the website",
            "description": None,
            "status": "running",
            "startedAt": "2026-01-29T10:00:02Z",
            "completedAt": None,
            "duration": None,
            "error": None,
        },
    ],
    "metrics": {
        "tokens": {"prompt": 1200, "completion": 500, "total": 1700, "cost": 0.0123, "model": "claude"},
        "duration": 120000,
        "stepsCompleted": 1,
        "stepsTotal": 2,
        "progress": 50,
    },
    "disposition": None,
    "metadata": {},
    "tags": ["course"],
}


class Tokens(Camel):
    """Tokens of an operation and what they cost. `cost` null: not known (never shown as 0)."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cost: Usd | None = None
    model: str | None = None


class Metrics(Camel):
    """Figures of an operation; `progress` is the floor of stepsCompleted / stepsTotal in per cent."""

    tokens: Tokens = Tokens()
    duration: int | None = Field(default=None, description="Milliseconds.")
    steps_completed: int = 0
    steps_total: int = 0
    progress: int = Field(default=0, ge=0, le=100)

    @classmethod
    def of(cls, row: work.Operation) -> Self:
        """The figures of a row."""
        return cls(
            tokens=Tokens(
                prompt=row.prompt_tokens,
                completion=row.completion_tokens,
                total=row.total_tokens,
                cost=row.cost_usd,
                model=row.model,
            ),
            duration=row.duration_ms,
            steps_completed=row.steps_completed,
            steps_total=len(row.steps),
            progress=row.progress,
        )


class Disposition(Camel):
    """How it ended: a result, or an error with its code."""

    success: bool
    result: JsonValue = None
    error: Annotated[LongText | None, Field(examples=["The site did not answer"])] = None
    error_code: Annotated[ShortText | None, Field(examples=["TIMEOUT"])] = None


class Step(Camel):
    """One step."""

    id: str
    name: str
    description: str | None = None
    status: StepStatus = StepStatus.PENDING
    started_at: Instant | None = None
    completed_at: Instant | None = None
    duration: int | None = Field(default=None, description="Milliseconds.")
    error: str | None = None

    @classmethod
    def of(cls, row: work.Step) -> Self:
        """The shape of a row."""
        return cls.model_validate({**fields_of(row), "duration": row.duration_ms})


class Operation(Camel):
    """One operation, posted by a client or derived from what an agent did."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]}, alias_generator=to_camel)

    id: str
    version: int = Field(default=1, description="Rises with each change; the ETag.")
    type: OperationType
    name: str
    description: str | None = None
    status: OperationStatus
    skill_name: str | None = None
    agent_id: str | None = None
    user_id: str | None = None
    channel: str | None = None
    gateway: str | None = None
    run_id: str | None = Field(default=None, description="The agent run that it was derived from.")
    session_key: str | None = None
    source: str = Field(default="posted", description="`posted`, or what it was derived from: run, cron, webhook.")
    created_at: Instant
    updated_at: Instant
    started_at: Instant | None = None
    completed_at: Instant | None = None
    duration: int | None = Field(default=None, description="Milliseconds; of a running one, up to its last update.")
    current_step: str | None = None
    current_step_index: int | None = None
    activity: str | None = None
    steps: list[Step] = []
    metrics: Metrics = Metrics()
    disposition: Disposition | None = None
    metadata: dict[str, Any] = {}
    tags: list[str] = []

    @classmethod
    def of(cls, row: work.Operation) -> Self:
        """The shape of a row. What a disposition does not have stays unset, and is not shown."""
        return cls.model_validate(
            {
                **fields_of(row),
                "duration": row.duration_ms,
                "steps": [Step.of(step) for step in row.steps],
                "metrics": Metrics.of(row),
            }
        )


class StepIn(Camel):
    """A step of a new operation."""

    id: Identifier
    name: Name
    description: LongText | None = None


class OperationIn(Camel):
    """A new operation; it starts as `pending`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "skill",
                    "name": "Research the course",
                    "skillName": "research",
                    "agentId": "main",
                    "channel": "telegram",
                    "steps": [{"id": "s1", "name": "Search"}, {"id": "s2", "name": "Browse the website"}],
                    "tags": ["course"],
                }
            ]
        },
        alias_generator=to_camel,
        populate_by_name=True,
    )

    type: OperationType
    name: Name
    description: LongText | None = None
    skill_name: ShortText | None = None
    agent_id: ShortText | None = None
    user_id: ShortText | None = None
    channel: ShortText | None = None
    gateway: Annotated[ShortText | None, Field(min_length=1, max_length=64)] = None
    steps: Annotated[list[StepIn], Field(max_length=MOST_STEPS)] = []
    metadata: Metadata = {}
    tags: Tags = []

    @field_validator("steps")
    @classmethod
    def _distinct(cls, steps: list[StepIn]) -> list[StepIn]:
        if len({step.id for step in steps}) != len(steps):
            raise ValueError("each step needs an id of its own")
        return steps


class OperationPatch(Camel):
    """What changes. A field that is absent stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "in_progress", "currentStep": "Browse the website", "currentStepIndex": 1},
                {
                    "status": "failed",
                    "disposition": {"success": False, "error": "No answer", "errorCode": "TIMEOUT"},
                },
            ]
        },
        alias_generator=to_camel,
        populate_by_name=True,
    )

    status: OperationStatus | None = None
    current_step: ShortText | None = None
    current_step_index: Annotated[int | None, Field(ge=0, le=MOST_STEPS)] = None
    activity: ShortText | None = None
    completed_at: InstantIn | None = None
    duration: Milliseconds | None = None
    disposition: Disposition | None = None

    @model_validator(mode="after")
    def _status_is_never_null(self) -> Self:
        if "status" in self.model_fields_set and self.status is None:
            raise ValueError("status must not be null; leave it out to keep it")
        return self


class StepPatch(Camel):
    """What changes of a step. Instants that are absent are set as the status says; duration is their difference."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "completed"}, {"status": "failed", "error": "404"}]},
        alias_generator=to_camel,
        populate_by_name=True,
    )

    status: StepStatus
    started_at: InstantIn | None = None
    completed_at: InstantIn | None = None
    duration: Milliseconds | None = None
    error: LongText | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.started_at and self.completed_at and self.completed_at < self.started_at:
            raise ValueError("completedAt must not be before startedAt")
        return self


class TokensIn(Camel):
    """Tokens used. `cost` in US dollars, exact; absent: not known, which is never shown as 0."""

    prompt: Count = 0
    completion: Count = 0
    total: Annotated[Count | None, Field(description="Absent: the sum.")] = None
    cost: Annotated[Decimal | None, Field(ge=0, le=10**9, decimal_places=12)] = None
    model: ShortText | None = None


class MetricsPatch(Camel):
    """Token figures; they replace the earlier ones."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"tokens": {"prompt": 1200, "completion": 500, "total": 1700, "cost": 0.0123, "model": "claude"}}
            ]
        },
        alias_generator=to_camel,
        populate_by_name=True,
    )

    tokens: TokensIn
