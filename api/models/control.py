"""Commands that change how a gateway is set up: agents, their files, jobs, rules, skills, configuration."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from api.models import patterns
from api.models.base import Camel, Identifier, InstantIn, Metadata, Name, ShortText, Storable
from api.models.commands import AgentId, Prompt

REDACTED = "__OPENCLAW_REDACTED__"
LARGEST_PATCH = 100_000  # characters of JSON

Model = Annotated[str, Field(min_length=1, max_length=200), Storable]
FileName = Annotated[str, Field(min_length=1, max_length=100, pattern=patterns.NAME)]
ChannelId = Annotated[str, Field(min_length=1, max_length=64, pattern=patterns.NAME)]
SkillKey = Annotated[str, Field(min_length=1, max_length=100, pattern=patterns.SKILL_KEY)]
Slug = Annotated[str, Field(min_length=1, max_length=200, pattern=patterns.SLUG)]
Pattern = Annotated[str, Field(min_length=1, max_length=500, pattern=patterns.ONE_LINE), Storable]


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]}, alias_generator=to_camel, extra="forbid")


class AgentIn(Camel):
    """A new agent. Its id is made of its name by the gateway."""

    model_config = _example(name="helper", model="anthropic/claude-sonnet-4-5")

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=patterns.NAME_WITH_SPACES)]
    workspace: Annotated[
        str | None, Field(max_length=500, pattern=patterns.PATH, description="Absolute path on its host.")
    ] = None
    model: Model | None = None
    emoji: Annotated[ShortText | None, Field(max_length=16)] = None


class AgentMade(Camel):
    """It can be used when `GET /api/agents` shows it, some seconds later."""

    agent_id: str


class AgentPatch(Camel):
    """What is absent stays."""

    model_config = _example(model="anthropic/claude-haiku-4-5")

    name: Name | None = None
    model: Model | None = None
    emoji: Annotated[ShortText | None, Field(max_length=16)] = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("nothing to change: give name, model or emoji")
        return self


class AgentFile(Camel):
    """A file that shapes an agent: AGENTS.md, SOUL.md and so on."""

    name: str
    missing: bool = False
    size: int | None = None
    updated_at_ms: int | None = None


class AgentFileContent(AgentFile):
    """With its text, read from the gateway at this moment and stored nowhere. `version` is for `If-Match`."""

    content: str
    version: str


class FileIn(Camel):
    """A file's whole new text."""

    model_config = _example(content="# Who you are\n")

    content: Annotated[str, Field(max_length=200_000), Storable]


class At(Camel):
    """Once."""

    model_config = _example(kind="at", at="2026-02-01T09:00:00Z")
    kind: Literal["at"]
    at: InstantIn


class Every(Camel):
    """Again and again."""

    model_config = _example(kind="every", everyMs=3_600_000)
    kind: Literal["every"]
    every_ms: Annotated[int, Field(ge=60_000, le=10**12, description="Milliseconds, at least a minute.")]


class Cron(Camel):
    """By a cron expression."""

    model_config = _example(kind="cron", expr="0 3 * * *", tz="UTC")
    kind: Literal["cron"]
    expr: Annotated[str, Field(min_length=9, max_length=200, pattern=patterns.CRON)]
    tz: Annotated[str | None, Field(max_length=64, pattern=patterns.TIME_ZONE)] = None


Schedule = Annotated[At | Every | Cron, Field(discriminator="kind")]


class JobIn(Camel):
    """A job that gives an agent a message, in a session of its own."""

    model_config = _example(
        name="nightly report", schedule={"kind": "cron", "expr": "0 3 * * *", "tz": "UTC"}, message="Write the report"
    )

    name: Name
    schedule: Schedule
    message: Prompt
    agent_id: AgentId | None = None
    enabled: bool = True


class JobPatch(Camel):
    """What is absent stays."""

    model_config = _example(enabled=False)

    name: Name | None = None
    schedule: Schedule | None = None
    message: Prompt | None = None
    enabled: bool | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(value is None for value in self.model_dump().values()):
            raise ValueError("nothing to change: give name, schedule, message or enabled")
        return self


class Job(Camel):
    """A job as the gateway has it at this moment. `version` is for `If-Match`."""

    job_id: str
    name: str
    enabled: bool
    agent_id: str | None = None
    schedule: dict[str, Any] = Field(description="As the gateway writes it: `kind` at, every or cron.")
    message: str | None = Field(default=None, description="What the agent is told; a job of OpenClaw's own has none.")
    version: str


class JobMade(Camel):
    """The id is the gateway's."""

    job_id: str


class RuleIn(Camel):
    """Commands that an agent may run without being asked about."""

    model_config = _example(agentId="main", pattern="/usr/bin/git")

    agent_id: AgentId
    pattern: Pattern


class Rule(Camel):
    """A rule as the gateway has it."""

    agent_id: str
    pattern: str
    last_used_at: float | None = Field(default=None, description="Epoch milliseconds.")


class Skill(Camel):
    """A skill, and what keeps it from being used."""

    key: str
    name: str
    description: str | None = None
    source: str | None = None
    disabled: bool = False
    eligible: bool = False
    missing: list[str] = Field(default=[], description="Programs, variables and settings that it lacks.")


class SkillInstall(Camel):
    """A skill of the public registry."""

    model_config = _example(slug="@owner/skill")

    slug: Slug
    version: Annotated[Identifier | None, Field(max_length=64)] = None
    agent_id: AgentId | None = None


class SkillUpdate(Camel):
    """A skill that came from the public registry."""

    model_config = _example(slug="@owner/skill")

    slug: Slug


class SkillPatch(Camel):
    """Turn a skill on or off."""

    model_config = _example(enabled=False)

    enabled: bool


class GatewayConfig(Camel):
    """The gateway's configuration without its secrets."""

    hash: str = Field(description="For `baseHash` of a patch.")
    valid: bool
    config: dict[str, Any]
    issues: list[str] = []


def _patch(value: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(value)
    if not value:
        raise ValueError("must change something")
    if len(text) > LARGEST_PATCH:
        raise ValueError(f"must be at most {LARGEST_PATCH} characters of JSON")
    if REDACTED in text:
        raise ValueError("must not contain a hidden secret's placeholder: leave that key out, and it stays")
    return value


Patch = Annotated[Metadata, AfterValidator(_patch), Field(description="Merged into the configuration; null removes.")]


class ConfigCheck(Camel):
    """A change of the configuration that is only looked at."""

    model_config = _example(patch={"cron": {"enabled": True}})

    patch: Patch


class ConfigProblem(Camel):
    """What is wrong at a path of a patch."""

    path: str
    message: str


class ConfigChecked(Camel):
    """What the gateway's schema says of a patch. The gateway itself checks everything again when it is applied."""

    valid: bool
    hash: str
    problems: list[ConfigProblem] = []


class ConfigPatch(ConfigCheck):
    """A change of the configuration as it was read."""

    model_config = _example(patch={"cron": {"enabled": True}}, baseHash="hmac-sha256:v1:abc")

    base_hash: Annotated[str, Field(min_length=1, max_length=200, description="`hash` of GET /api/config."), Storable]


class ChannelAccount(Camel):
    """Which account of a channel is meant; null: its default one."""

    model_config = _example(account=None)

    account: ShortText | None = None


class UpdateStatus(Camel):
    """Whether a newer version of the gateway is there. `available` null: the gateway has not looked yet."""

    model_config = _example(available=True, version="2026.10.1", channel="stable")

    available: bool | None
    version: str | None = Field(default=None, description="The newer version, where the gateway tells it.")
    channel: str | None = None
