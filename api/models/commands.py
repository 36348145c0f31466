"""Commands to a gateway. All text is data: nothing of it reaches a shell or a query."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.models import patterns
from api.models.base import Camel, Identifier, Name, Storable

Prompt = Annotated[str, Field(min_length=1, max_length=200_000), Storable]
AgentId = Annotated[str, Field(min_length=1, max_length=64, pattern=patterns.NAME)]
SessionKey = Annotated[str, Field(min_length=1, max_length=300, pattern=patterns.IDENTIFIER), Storable]
DeliverTo = Annotated[
    Literal["slack", "webhook"] | None,
    Field(
        description="Post the result there: to the Slack of the alerts, or to LOBS_RESULT_WEBHOOK_URL."
        " It contains the reply."
    ),
]
Action = Literal[
    "session.reset",
    "session.delete",
    "agent.delete",
    "exec.rule.add",
    "skill.install",
    "skill.update",
    "config.patch",
    "channel.logout",
    "gateway.restart",
    "gateway.start",
    "gateway.stop",
    "gateway.update",
]


class SpawnIn(Camel):
    """Work for an agent, in a session of its own."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"label": "Research", "task": "Find three sources", "agentId": "main"}]},
        alias_generator=to_camel,
        extra="forbid",
    )

    label: Name
    task: Prompt
    agent_id: AgentId = "main"
    model: Annotated[Identifier | None, Field(description="provider/model is written provider:model.")] = None
    deliver_to: DeliverTo = None


class Run(Camel):
    """A run that the gateway has accepted, or one that waits: its user has LOBS_RUNS_PER_USER of them already."""

    id: str = Field(description="For `/api/runs/{id}`.")
    status: Literal["waiting", "running"] = "running"
    run_id: str | None = Field(default=None, description="The gateway's own id; null while it waits.")
    session_key: str
    operation_id: str | None = Field(default=None, description="Null while it waits.")


class SendIn(Camel):
    """A message for an agent."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"message": "How far are you?"}]},
        alias_generator=to_camel,
        extra="forbid",
    )

    message: Prompt
    session_key: Annotated[SessionKey | None, Field(description="The agent's main session unless given.")] = None


class KillIn(Camel):
    """Which session's run to stop."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sessionKey": "agent:main:main"}]}, alias_generator=to_camel, extra="forbid"
    )

    session_key: Annotated[SessionKey | None, Field(description="The agent's main session unless given.")] = None


class Killed(Camel):
    """What was stopped."""

    aborted: bool
    run_ids: list[str] = []


class Accepted(Camel):
    """The gateway has taken the command."""

    ok: bool = True
    run_id: str | None = None


class DecisionIn(Camel):
    """The answer to a request to run a command."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"decision": "allow-once"}]}, alias_generator=to_camel, extra="forbid"
    )

    decision: Literal["allow-once", "allow-always", "deny"]


class SessionPatch(Camel):
    """The model of a session; null: the agent's own."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "anthropic/claude"}]}, alias_generator=to_camel, extra="forbid"
    )

    model: Annotated[str, Field(max_length=200), Storable] | None


class ConfirmIn(Camel):
    """A dangerous command that is about to be given."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"action": "session.delete", "target": "agent:main:dashboard:old"},
                {"action": "exec.rule.add", "target": "main", "body": {"agentId": "main", "pattern": "/usr/bin/git"}},
            ]
        },
        alias_generator=to_camel,
        extra="forbid",
    )

    action: Action
    target: SessionKey
    body: dict[str, Any] | None = Field(
        default=None,
        description="The body that the command will be sent with, when it has one (of `channel.logout` its query): the"
        " confirmation is for just that.",
    )


class Confirmation(Camel):
    """For the header `X-Confirmation` of that command, once."""

    nonce: str
    expires_in: int = Field(default=60, description="Seconds.")


class TranscriptItem(Camel):
    """One message of a session."""

    role: str
    text: str


class Transcript(Camel):
    """The end of a session, oldest first. It is read from the gateway at this moment and stored nowhere."""

    session_key: str
    items: list[TranscriptItem]
