"""Commands that change how a gateway is set up; 403 unless LOBS_COMMANDS=true."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.context import Commander, ContextDep
from api.models.base import Identifier, ShortText
from api.models.commands import Accepted, AgentId
from api.models.control import (
    AgentFile,
    AgentFileContent,
    AgentIn,
    AgentMade,
    AgentPatch,
    ChannelId,
    ConfigCheck,
    ConfigChecked,
    ConfigPatch,
    FileIn,
    FileName,
    GatewayConfig,
    JobIn,
    JobMade,
    JobPatch,
    Pattern,
    Rule,
    RuleIn,
    Skill,
    SkillInstall,
    SkillKey,
    SkillPatch,
    SkillUpdate,
    UpdateStatus,
)
from api.responses import problems
from api.routes.commands import AgentPath, ConfirmationHeader
from api.routes.conditional import IfMatch, named, tagged
from api.routes.operations import IdempotencyKey
from api.services.service_manager import Verb

router = APIRouter(prefix="/api", tags=["commands"])

FilePath = Annotated[FileName, Path(description="For example AGENTS.md.")]
JobPath = Annotated[Identifier, Path()]


@router.post(
    "/agents",
    status_code=201,
    summary="Make an agent",
    responses=problems(404, 409, 502, body=True),
)
async def create_agent(
    context: ContextDep, actor: Commander, body: AgentIn, idempotency_key: IdempotencyKey = None
) -> AgentMade:
    """The gateway makes its id of its name."""
    return await context.control.agents.create(actor, body, idempotency_key)


@router.patch(
    "/agents/{agent_id}",
    summary="Change an agent",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, 502, body=True),
)
async def update_agent(
    *,
    context: ContextDep,
    actor: Commander,
    agent_id: AgentPath,
    body: AgentPatch,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """What is absent stays. With `If-Match`, only when its name and model are still those that you read."""
    return await context.control.agents.update(actor, agent_id, body, named(if_match), idempotency_key)


@router.delete(
    "/agents/{agent_id}",
    summary="Delete an agent",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502),
)
async def delete_agent(
    context: ContextDep,
    actor: Commander,
    agent_id: AgentPath,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation `agent.delete` (428 without). Its files and what it cost stay."""
    return await context.control.agents.delete(actor, agent_id, confirmation, idempotency_key)


@router.get("/agents/{agent_id}/files", summary="An agent's files", responses=problems(404, 502))
async def files(context: ContextDep, actor: Commander, agent_id: AgentPath) -> list[AgentFile]:
    """Those that shape it, without their texts."""
    return await context.control.files.every(actor, agent_id)


@router.get(
    "/agents/{agent_id}/files/{name}",
    summary="One file of an agent",
    responses=problems(404, 502),
)
async def file(
    context: ContextDep, actor: Commander, response: Response, agent_id: AgentPath, name: FilePath
) -> AgentFileContent:
    """Its ETag is for `If-Match`."""
    return tagged(response, await context.control.files.one(actor, agent_id, name))


@router.put(
    "/agents/{agent_id}/files/{name}",
    summary="Replace a file of an agent",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, 502, body=True),
)
async def set_file(
    *,
    context: ContextDep,
    actor: Commander,
    agent_id: AgentPath,
    name: FilePath,
    body: FileIn,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """With `If-Match`, only when it is still the text that you read."""
    return await context.control.files.replace(actor, agent_id, name, body, named(if_match), idempotency_key)


@router.post(
    "/crons",
    status_code=201,
    summary="Add a scheduled job",
    responses=problems(404, 409, 502, body=True),
)
async def add_job(
    context: ContextDep, actor: Commander, body: JobIn, idempotency_key: IdempotencyKey = None
) -> JobMade:
    """It gives an agent a message, in a session of its own."""
    return await context.control.jobs.add(actor, body, idempotency_key)


@router.patch(
    "/crons/{job_id}",
    summary="Change a scheduled job",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, 502, body=True),
)
async def update_job(
    *,
    context: ContextDep,
    actor: Commander,
    job_id: JobPath,
    body: JobPatch,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """What is absent stays. With `If-Match`, only when it is still the job that you read."""
    return await context.control.jobs.update(actor, job_id, body, named(if_match), idempotency_key)


@router.delete(
    "/crons/{job_id}",
    summary="Remove a scheduled job",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, 502),
)
async def remove_job(
    context: ContextDep,
    actor: Commander,
    job_id: JobPath,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """The history of its runs stays."""
    return await context.control.jobs.remove(actor, job_id, named(if_match), idempotency_key)


@router.get("/approval-rules", summary="Commands that need no approval", responses=problems(502))
async def rules(context: ContextDep, actor: Commander) -> list[Rule]:
    """By agent; asked of the gateway at this moment."""
    return await context.control.approvals.rules(actor)


@router.post(
    "/approval-rules",
    status_code=201,
    summary="Allow a command from now on",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502, body=True),
)
async def add_rule(
    context: ContextDep,
    actor: Commander,
    body: RuleIn,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation `exec.rule.add` with the agent as its target and this body (428 without)."""
    return await context.control.approvals.add_rule(actor, body, confirmation, idempotency_key)


@router.delete(
    "/approval-rules", summary="Take a rule back", response_model_exclude_unset=True, responses=problems(404, 409, 502)
)
async def remove_rule(
    context: ContextDep,
    actor: Commander,
    agent_id: Annotated[AgentId, Query(alias="agentId")],
    pattern: Annotated[Pattern, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """The agent is asked about such commands again."""
    wanted = RuleIn(agent_id=agent_id, pattern=pattern)
    return await context.control.approvals.remove_rule(actor, wanted, idempotency_key)


@router.get("/skills", summary="Skills and their state", responses=problems(404, 502))
async def skills(
    context: ContextDep, actor: Commander, agent_id: Annotated[AgentId | None, Query(alias="agentId")] = None
) -> list[Skill]:
    """Asked of the gateway at this moment; the default agent unless another is named."""
    return await context.control.skills.every(actor, agent_id)


@router.post(
    "/skills",
    status_code=202,
    summary="Install a skill",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502, body=True),
)
async def install_skill(
    context: ContextDep,
    actor: Commander,
    body: SkillInstall,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation `skill.install` with this body (428 without); its target is the slug, with `:` for `/`."""
    return await context.control.skills.install(actor, body, confirmation, idempotency_key)


@router.post(
    "/skills/update",
    status_code=202,
    summary="Update a skill",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502, body=True),
)
async def update_skill(
    context: ContextDep,
    actor: Commander,
    body: SkillUpdate,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """To the newest version of the public registry, for the default agent. Needs a confirmation `skill.update` with
    this body (428 without); its target is the slug, with `:` for `/`."""
    return await context.control.skills.update(actor, body.slug, confirmation, idempotency_key)


@router.patch(
    "/skills/{skill_key}",
    summary="Turn a skill on or off",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 502, body=True),
)
async def set_skill(
    context: ContextDep,
    actor: Commander,
    skill_key: Annotated[SkillKey, Path()],
    body: SkillPatch,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """For every agent of the gateway."""
    return await context.control.skills.turn(actor, skill_key, enabled=body.enabled, key=idempotency_key)


@router.get("/config", summary="The gateway's configuration", responses=problems(502))
async def config(context: ContextDep, actor: Commander) -> GatewayConfig:
    """Its secrets are hidden; asked of the gateway at this moment."""
    return await context.control.configuration.read(actor)


@router.post("/config/validate", summary="Check a change", responses=problems(502, body=True))
async def check_config(context: ContextDep, actor: Commander, body: ConfigCheck) -> ConfigChecked:
    """Against the gateway's own schema; nothing is changed."""
    return await context.control.configuration.check(actor, body.patch)


@router.patch(
    "/config",
    summary="Change the configuration",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 412, 428, 502, body=True),
)
async def patch_config(
    context: ContextDep,
    actor: Commander,
    body: ConfigPatch,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation `config.patch` with the gateway's name as its target and this body (428 without). 412 when
    somebody has changed it since. The gateway may restart."""
    return await context.control.configuration.patch(actor, body, confirmation, idempotency_key)


@router.post(
    "/channels/{channel}/logout",
    summary="Log a channel out",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502),
)
async def logout(
    *,
    context: ContextDep,
    actor: Commander,
    channel: Annotated[ChannelId, Path()],
    account: Annotated[ShortText | None, Query()] = None,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation `channel.logout`, its body `{"account": …}` where one is named (428 without)."""
    return await context.control.channels.logout(actor, channel, account, confirmation, idempotency_key)


@router.post(
    "/gateway/restart",
    status_code=202,
    summary="Restart the gateway",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502),
)
async def restart(
    context: ContextDep,
    actor: Commander,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation `gateway.restart` with the gateway's name as its target (428 without)."""
    return await context.control.process.restart(actor, confirmation, idempotency_key)


@router.get("/gateway/update", summary="Whether an update is there", responses=problems(502))
async def update_status(context: ContextDep, actor: Commander) -> UpdateStatus:
    """As the gateway knows at this moment."""
    return await context.control.process.update_status(actor)


@router.post(
    "/gateway/update",
    status_code=202,
    summary="Update the gateway",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502),
)
async def update(
    context: ContextDep,
    actor: Commander,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation `gateway.update` with the gateway's name as its target (428 without)."""
    return await context.control.process.update(actor, confirmation, idempotency_key)


@router.post(
    "/gateway/{verb}",
    status_code=202,
    summary="Start or stop the gateway's service",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502),
)
async def start_or_stop(
    *,
    context: ContextDep,
    actor: Commander,
    verb: Annotated[Verb, Path()],
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """By `systemctl` or `launchctl`, where LOBS_GATEWAY_SERVICE names the service (409 without). Needs a confirmation
    `gateway.start` or `gateway.stop` with the gateway's name as its target (428 without)."""
    return await context.control.process.start_or_stop(actor, verb, confirmation, idempotency_key)
