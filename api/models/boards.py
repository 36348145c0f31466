"""Boards of tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.models.base import Camel, Instant, LongText, Name


class BoardIn(Camel):
    """What people write of a board."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Release", "description": "What must be done before 1.0"}]},
        alias_generator=to_camel,
        extra="forbid",
    )

    name: Name
    description: LongText | None = None


class Board(Camel):
    """A board and how full it is."""

    id: str
    name: str
    description: str | None = None
    created_at: Instant
    version: str = Field(description="For `If-Match`, as the ETag.")
    tasks: Annotated[dict[str, int], Field(description="How many tasks by status.")] = {}
