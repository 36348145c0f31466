"""Runs that were asked for: one, or a pipeline of several; waiting, running, ended, delivered."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.models.base import Camel, Identifier, Instant, Name
from api.models.commands import AgentId, DeliverTo, Prompt
from api.models.events import StreamEvent
from store import requested_runs as rows

MOST_STAGES = 10
RunStatus = Literal["waiting", "running", "completed", "failed", "cancelled"]


class StageIn(Camel):
    """One stage of a pipeline."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    agent_id: AgentId = "main"
    task: Annotated[Prompt, Field(description="`{{previous}}` stands for the reply of the stage before.")]
    model: Annotated[Identifier | None, Field(description="provider/model is written provider:model.")] = None


class RunIn(Camel):
    """Work in one or several stages, each a session of its own; the next starts when the one before has completed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "label": "Release notes",
                    "stages": [
                        {"agentId": "main", "task": "Plan the release notes"},
                        {"agentId": "main", "task": "Write them after this plan:\n{{previous}}"},
                    ],
                    "deliverTo": None,
                }
            ]
        },
        alias_generator=to_camel,
        extra="forbid",
    )

    label: Name
    stages: Annotated[list[StageIn], Field(min_length=1, max_length=MOST_STAGES)]
    deliver_to: DeliverTo = None
    task_id: Annotated[Identifier | None, Field(description="The task that this is for; it logs every stage.")] = None


class StageOut(Camel):
    """How a stage stands."""

    agent_id: str
    status: RunStatus
    session_key: str
    run_id: str | None = None
    operation_id: str | None = None

    @classmethod
    def of(cls, run: rows.RequestedRun, index: int) -> Self:
        """A stage of a run: one that is not at hand has completed, or is to come."""
        stage = run.stages[index]
        status = run.status if index == run.stage else "completed"
        if index > run.stage:
            status = "cancelled" if run.status in {"failed", "cancelled"} else "waiting"
        values = {name: getattr(stage, name) for name in cls.model_fields if name != "status"}
        return cls.model_validate({**values, "status": status})


class RequestedRun(Camel):
    """A run that was asked for."""

    id: str
    label: str
    status: RunStatus
    requested_by: str
    position: int | None = Field(default=None, description="In the queue of its user, from 1; null: it does not wait.")
    stage: int = Field(description="Index of the stage at hand.")
    stages: list[StageOut]
    error: str | None = None
    task_id: str | None = None
    deliver_to: DeliverTo = None
    delivery: Literal["pending", "delivered", "failed"] | None = None
    delivery_attempts: int = 0
    delivery_error: str | None = None
    created_at: Instant
    started_at: Instant | None = None
    ended_at: Instant | None = None

    @classmethod
    def of(cls, run: rows.RequestedRun) -> Self:
        """A row as clients get it."""
        values = {name: getattr(run, name) for name in cls.model_fields if name != "stages"}
        return cls(**values, stages=[StageOut.of(run, index) for index in range(len(run.stages))])


class RequestedRuns(Camel):
    """The newest first."""

    runs: list[RequestedRun]


class Cancelled(Camel):
    """What was stopped."""

    ok: bool = True
    aborted: bool = Field(description="Whether a run of the gateway was stopped for it.")


class ReplyEvent(StreamEvent):
    """What the stage at hand says: `delta` has what is new of the text, `final` all of it."""

    type: Literal["delta", "final", "aborted", "error"]
    run_id: str | None
    text: str | None = None


class RunResult(Camel):
    """What came of a run, as LOBS_RESULT_WEBHOOK_URL gets it. `reply` is the gateway's at this moment."""

    id: str
    label: str
    status: str
    agent_ids: list[str]
    error: str | None
    reply: str | None
    tokens: int | None
    cost_usd: float | None
    duration_seconds: float | None
    operation_ids: list[str]
