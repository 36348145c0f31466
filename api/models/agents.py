"""Agents, their sessions and their scheduled jobs."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.models.base import Camel, Count, Identifier, Instant, Milliseconds, ShortText, Snake, fields_of
from api.models.operations import Usd
from store import agents as rows
from store import monitoring
from store import rows as store_rows

SessionSort = Literal[
    "updatedAt", "-updatedAt", "startedAt", "-startedAt", "cost", "-cost",
    "tokens", "-tokens", "calls", "-calls", "contextRatio", "-contextRatio",
]  # fmt: skip


AgentSort = Literal[
    "id", "-id", "name", "-name", "status", "-status", "lastActivityAt", "-lastActivityAt", "cost", "-cost",
    "calls", "-calls",
]  # fmt: skip
JobSort = Literal[
    "name", "-name", "nextRunAt", "-nextRunAt", "lastRunAt", "-lastRunAt", "lastDuration", "-lastDuration",
    "consecutiveErrors", "-consecutiveErrors",
]  # fmt: skip
RunSort = Literal["startedAt", "-startedAt", "duration", "-duration", "status", "-status"]
ChannelSort = Literal[
    "channel", "-channel", "lastInboundAt", "-lastInboundAt", "lastOutboundAt", "-lastOutboundAt",
]  # fmt: skip
ApprovalSort = Literal["requestedAt", "-requestedAt", "expiresAt", "-expiresAt", "status", "-status"]


def _named(row: rows.AgentNow) -> dict[str, Any]:
    return {**fields_of(row), "id": row.agent, "status": row.state or "unknown", "status_at": row.state_at}


class TokenClasses(Camel):
    """Tokens by class; reasoning is a part of output."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, row: rows.Agent | monitoring.Session | monitoring.CostGroup) -> Self:
        """Those of a row."""
        return cls(
            input=row.input_tokens,
            output=row.output_tokens,
            cache_read=row.cache_read_tokens,
            cache_write=row.cache_write_tokens,
            reasoning=row.reasoning_tokens,
        )


class AgentFigures(Camel):
    """All-time figures of an agent, from its sessions."""

    sessions: int = 0
    calls: int = 0
    errors: int = 0
    tokens: TokenClasses = TokenClasses()
    cost: Usd = Decimal(0)
    equivalent_cost: Usd = Field(
        default=Decimal(0), description="List price of what a subscription covers; never in `cost`."
    )
    unpriced_calls: int = 0
    tasks_completed: int = Field(default=0, description="As agents reported.")
    runtime: int = Field(default=0, description="Milliseconds, as agents reported.")

    @classmethod
    def of(cls, row: rows.Agent) -> Self:
        """The figures of a row."""
        return cls(
            sessions=row.sessions,
            calls=row.calls,
            errors=row.errors,
            tokens=TokenClasses.of(row),
            cost=row.cost_usd,
            equivalent_cost=row.equivalent_cost_usd,
            unpriced_calls=row.unpriced_calls,
            tasks_completed=row.tasks_completed,
            runtime=row.runtime_ms,
        )


class AgentStatus(Camel):
    """What an agent does now, as `agent:status` carries it."""

    id: str
    gateway: str
    name: str | None = None
    status: str
    activity: str | None = None
    status_at: Instant | None = None
    last_activity_at: Instant | None = None

    @classmethod
    def of(cls, row: rows.AgentNow) -> Self:
        """The shape of a row."""
        return cls.model_validate(_named(row))


class Agent(Camel):
    """An agent of a gateway."""

    id: str
    gateway: str
    name: str | None = None
    model: str | None = None
    is_default: bool | None = None
    configured: bool = False
    status: str = Field(description="idle, thinking, tool, waiting, error, offline or unknown.")
    activity: str | None = None
    status_at: Instant | None = None
    first_call_at: Instant | None = None
    last_activity_at: Instant | None = None
    metrics: AgentFigures = AgentFigures()

    @classmethod
    def of(cls, row: rows.Agent) -> Self:
        """The shape of a row."""
        return cls.model_validate({**_named(row), "metrics": AgentFigures.of(row)})


class AgentEvent(Camel):
    """Something that an agent did."""

    gateway: str
    ts: Instant
    event: str
    activity: str | None = None
    tool: str | None = None
    session_key: str | None = None
    run_id: str | None = None


class AgentDetail(Agent):
    """An agent with what it did last, newest first."""

    version: str = Field(description="Of its name and model, for `If-Match`.")
    history: list[AgentEvent] = []
    active_subagents: int = 0

    @classmethod
    def with_history(
        cls, row: rows.Agent, *, version: str, history: Sequence[rows.PastEvent], active_subagents: int
    ) -> Self:
        """An agent, its newest events, and how many sub-agents work for it."""
        return cls.model_validate(
            {
                **_named(row),
                "metrics": AgentFigures.of(row),
                "version": version,
                "history": history,
                "active_subagents": active_subagents,
            }
        )


class AgentMetricsIn(Camel):
    """What an agent reports of itself; kept apart from what is measured."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"tokens": 1700, "cost": 0.0123, "runtime": 120000, "tasksCompleted": 1}]},
        alias_generator=to_camel,
    )

    session_id: ShortText | None = None
    gateway: Annotated[Identifier | None, Field(max_length=64)] = None
    tokens: Count = 0
    cost: Annotated[Decimal, Field(ge=0, le=10**9, decimal_places=12)] = Decimal(0)
    runtime: Milliseconds = 0
    tasks_completed: Annotated[int, Field(ge=0, le=10**6)] = 0


class Session(Camel):
    """A session, with the sums of its calls."""

    gateway: str
    agent: str
    session_id: str
    session_key: str | None = None
    kind: str | None = None
    channel: str | None = None
    parent_session_key: str | None = None
    label: str | None = None
    status: str | None = None
    provider: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    context_limit: int | None = None
    context_ratio: float | None = Field(default=None, description="0 to 1.")
    archived: bool | None = None
    calls: int = 0
    errors: int = 0
    tokens: TokenClasses = TokenClasses()
    cost: Usd = Decimal(0)
    equivalent_cost: Usd = Decimal(0)
    unpriced_calls: int = 0
    started_at: Instant | None = None
    updated_at: Instant | None = None
    ended_at: Instant | None = None

    @classmethod
    def of(cls, row: monitoring.Session) -> Self:
        """The shape of a row."""
        return cls.model_validate(
            {
                **fields_of(row),
                "tokens": TokenClasses.of(row),
                "cost": row.cost_usd,
                "equivalent_cost": row.equivalent_cost_usd,
            }
        )


class SessionPage(Camel):
    """One page of sessions, those that changed last first."""

    sessions: list[Session]
    next_cursor: str | None = None


class HubSession(Snake):
    """A session in the words of the task hub."""

    model_config = ConfigDict(extra="ignore")

    id: str
    openclaw_session_id: str
    agent_name: str | None = None
    session_type: Literal["persistent", "subagent"]
    status: Literal["active", "completed", "failed"]
    task_id: str | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    duration_ms: int | None = None


class CronJob(Camel):
    """A scheduled job."""

    gateway: str
    job_id: str
    agent: str | None = None
    name: str
    schedule: str
    enabled: bool
    period_seconds: float | None = None
    next_run_at: Instant | None = None
    last_run_at: Instant | None = None
    last_status: str | None = None
    last_duration: int | None = Field(default=None, description="Milliseconds.")
    consecutive_errors: int = 0
    last_error: str | None = None
    delivery_status: str | None = None

    @classmethod
    def of(cls, row: store_rows.CronJob) -> Self:
        """The shape of a row."""
        return cls.model_validate({**fields_of(row), "last_duration": row.last_duration_ms})


class CronRun(Camel):
    """One run of a scheduled job."""

    gateway: str
    job_id: str
    started_at: Instant
    finished_at: Instant | None = None
    duration: int | None = Field(default=None, description="Milliseconds.")
    status: str
    error: str | None = None
    session_id: str | None = None

    @classmethod
    def of(cls, row: monitoring.CronRun) -> Self:
        """The shape of a row."""
        return cls.model_validate({**fields_of(row), "duration": row.duration_ms})
