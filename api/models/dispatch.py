"""One prompt for several agents at once, and what came of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

from api.models.base import Camel, Name
from api.models.commands import AgentId, Prompt

MOST_AGENTS = 8


class DispatchIn(Camel):
    """The same work for several agents, each in a session of its own."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"label": "Compare", "task": "Name three risks", "agentIds": ["main", "helper"]}]
        },
        alias_generator=to_camel,
        extra="forbid",
    )

    label: Name
    task: Prompt
    agent_ids: Annotated[list[AgentId], Field(min_length=1, max_length=MOST_AGENTS)]

    @field_validator("agent_ids")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("must name each agent once")
        return value


class Dispatched(Camel):
    """A run that was started or waits, or why it was not."""

    agent_id: str
    id: str | None = Field(default=None, description="For `/api/runs/{id}`.")
    status: Literal["waiting", "running"] | None = None
    run_id: str | None = None
    session_key: str | None = None
    operation_id: str | None = None
    error: str | None = None


class Result(Camel):
    """How one run stands, and its reply when it has ended."""

    operation_id: str
    agent_id: str | None = None
    status: str
    duration: int | None = Field(default=None, description="Milliseconds.")
    tokens: int | None = None
    cost: float | None = Field(default=None, description="US$.")
    model: str | None = None
    reply: str | None = Field(default=None, description="Asked of the gateway at this moment and stored nowhere.")
    error: str | None = None
