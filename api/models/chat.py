"""Questions about the data in words, and what comes back."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.models.base import Camel, Identifier, Instant, Storable
from api.models.events import StreamEvent

LONGEST_MESSAGE = 4_000


class ChatIn(Camel):
    """A question. Without a conversation, a new one begins."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"message": "Which model cost most this week?"}]},
        alias_generator=to_camel,
        extra="forbid",
    )

    message: Annotated[str, Field(min_length=1, max_length=LONGEST_MESSAGE), Storable]
    conversation_id: Identifier | None = None


class Figure(Camel):
    """What an answer rests on: a question of the fixed list, its parameters and the rows that it gave."""

    query: str
    params: dict[str, Any]
    rows: list[dict[str, Any]]
    error: str | None = Field(default=None, description="Why there are no rows: Prometheus did not answer.")


class ChatMessage(Camel):
    """One message of a conversation."""

    id: int
    at: Instant
    role: Literal["user", "assistant"]
    content: str
    figures: list[Figure] = []
    error: str | None = Field(default=None, description="Why there is no answer.")


class Conversation(Camel):
    """A conversation of the user who asks."""

    id: str
    title: str
    created_at: Instant
    updated_at: Instant


class ConversationMessages(Camel):
    """The newest 500 messages, oldest first."""

    id: str
    messages: list[ChatMessage]


class AvailableQuestion(Camel):
    """A question that the model may ask of the data."""

    name: str
    about: str
    source: Literal["sql", "promql"] = Field(description="What it is asked of: the database or Prometheus.")
    parameters: dict[str, Any] = Field(description="JSON schema.")


class ConversationEvent(StreamEvent):
    """Where the answer will be kept."""

    type: Literal["conversation"] = "conversation"
    conversation_id: str


class QueryEvent(StreamEvent):
    """What the model has asked of the data. `rows`: how many it got; `error`: why there are none."""

    type: Literal["query"] = "query"
    query: str
    params: dict[str, Any]
    rows: int
    error: str | None = None

    @classmethod
    def of(cls, figure: Figure) -> Self:
        """The question of a figure."""
        why = {"error": figure.error} if figure.error else {}
        return cls.model_validate({"query": figure.query, "params": figure.params, "rows": len(figure.rows), **why})


class DeltaEvent(StreamEvent):
    """What is new of the answer; with `replace`, the whole of it, because it does not go on with what was shown."""

    type: Literal["delta"] = "delta"
    text: str
    replace: bool = False


class AnswerEvent(StreamEvent):
    """The whole answer, and what it rests on."""

    type: Literal["answer"] = "answer"
    text: str
    figures: list[Figure]


class ErrorEvent(StreamEvent):
    """Why there is no answer: `code` for programs, `detail` for people."""

    type: Literal["error"] = "error"
    code: str
    detail: str


ChatEvent = ConversationEvent | QueryEvent | DeltaEvent | AnswerEvent | ErrorEvent
