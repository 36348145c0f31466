"""Commands that change how a gateway is set up; 403 unless LOBS_COMMANDS=true."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

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
from api.routes.conditional import IfMatch, named
from api.routes.operations import IdempotencyKey
from api.services.service_manager import Verb

router = APIRouter(prefix="/api", tags=["commands"])

FilePath = Annotated[FileName, Path(description="For example AGENTS.md.")]
JobPath = Annotated[Identifier, Path()]


@router.post(
    "/agents",
    status_code=201,
    summary="Make an agent",
    response_model=AgentMade,
    responses=problems(404, 409, 502, body=True),
)
async def create_agent(
    context: ContextDep, actor: Commander, body: AgentIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """The gateway makes its id of its name."""
    return JSONResponse(await context.control.create_agent(actor, body, idempotency_key), status_code=201)


@router.patch(
    "/agents/{agent_id}",
    summary="Change an agent",
    response_model=Accepted,
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
) -> JSONResponse:
    """What is absent stays. With `If-Match`, only when its name and model are still those that you read."""
    answer = await context.control.update_agent(actor, agent_id, body, named(if_match), idempotency_key)
    return JSONResponse(answer)


@router.delete(
    "/agents/{agent_id}",
    summary="Delete an agent",
    response_model=Accepted,
    responses=problems(404, 409, 428, 502),
)
async def delete_agent(
    context: ContextDep,
    actor: Commander,
    agent_id: AgentPath,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Needs a confirmation `agent.delete` (428 without). Its files and what it cost stay."""
    return JSONResponse(await context.control.delete_agent(actor, agent_id, confirmation, idempotency_key))


@router.get("/agents/{agent_id}/files", summary="An agent's files", responses=problems(404, 502))
async def files(context: ContextDep, actor: Commander, agent_id: AgentPath) -> list[AgentFile]:
    """Those that shape it, without their texts."""
    return await context.control.files(actor, agent_id)


@router.get(
    "/agents/{agent_id}/files/{name}",
    summary="One file of an agent",
    response_model=AgentFileContent,
    responses=problems(404, 502),
)
async def file(context: ContextDep, actor: Commander, agent_id: AgentPath, name: FilePath) -> JSONResponse:
    """Its ETag is for `If-Match`."""
    found = await context.control.file(actor, agent_id, name)
    return JSONResponse(found.model_dump(by_alias=True), headers={"ETag": f'"{found.version}"'})


@router.put(
    "/agents/{agent_id}/files/{name}",
    summary="Replace a file of an agent",
    response_model=Accepted,
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
) -> JSONResponse:
    """With `If-Match`, only when it is still the text that you read."""
    return JSONResponse(await context.control.set_file(actor, agent_id, name, body, named(if_match), idempotency_key))


@router.post(
    "/crons",
    status_code=201,
    summary="Add a scheduled job",
    response_model=JobMade,
    responses=problems(404, 409, 502, body=True),
)
async def add_job(
    context: ContextDep, actor: Commander, body: JobIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """It gives an agent a message, in a session of its own."""
    return JSONResponse(await context.control.add_job(actor, body, idempotency_key), status_code=201)


@router.patch(
    "/crons/{job_id}",
    summary="Change a scheduled job",
    response_model=Accepted,
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
) -> JSONResponse:
    """What is absent stays. With `If-Match`, only when it is still the job that you read."""
    return JSONResponse(await context.control.update_job(actor, job_id, body, named(if_match), idempotency_key))


@router.delete(
    "/crons/{job_id}",
    summary="Remove a scheduled job",
    response_model=Accepted,
    responses=problems(404, 409, 412, 502),
)
async def remove_job(
    context: ContextDep,
    actor: Commander,
    job_id: JobPath,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """The history of its runs stays."""
    return JSONResponse(await context.control.remove_job(actor, job_id, named(if_match), idempotency_key))


@router.get("/approval-rules", summary="Commands that need no approval", responses=problems(502))
async def rules(context: ContextDep, actor: Commander) -> list[Rule]:
    """By agent; asked of the gateway at this moment."""
    return await context.control.rules(actor)


@router.post(
    "/approval-rules",
    status_code=201,
    summary="Allow a command from now on",
    response_model=Accepted,
    responses=problems(404, 409, 428, 502, body=True),
)
async def add_rule(
    context: ContextDep,
    actor: Commander,
    body: RuleIn,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Needs a confirmation `exec.rule.add` with the agent as its target and this body (428 without)."""
    return JSONResponse(await context.control.add_rule(actor, body, confirmation, idempotency_key), status_code=201)


@router.delete(
    "/approval-rules", summary="Take a rule back", response_model=Accepted, responses=problems(404, 409, 502)
)
async def remove_rule(
    context: ContextDep,
    actor: Commander,
    agent_id: Annotated[AgentId, Query(alias="agentId")],
    pattern: Annotated[Pattern, Query()],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """The agent is asked about such commands again."""
    wanted = RuleIn(agent_id=agent_id, pattern=pattern)
    return JSONResponse(await context.control.remove_rule(actor, wanted, idempotency_key))


@router.get("/skills", summary="Skills and their state", responses=problems(404, 502))
async def skills(
    context: ContextDep, actor: Commander, agent_id: Annotated[AgentId | None, Query(alias="agentId")] = None
) -> list[Skill]:
    """Asked of the gateway at this moment; the default agent unless another is named."""
    return await context.control.skills(actor, agent_id)


@router.post(
    "/skills",
    status_code=202,
    summary="Install a skill",
    response_model=Accepted,
    responses=problems(404, 409, 428, 502, body=True),
)
async def install_skill(
    context: ContextDep,
    actor: Commander,
    body: SkillInstall,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Needs a confirmation `skill.install` with this body (428 without); its target is the slug, with `:` for `/`."""
    answer = await context.control.install_skill(actor, body, confirmation, idempotency_key)
    return JSONResponse(answer, status_code=202)


@router.post(
    "/skills/update",
    status_code=202,
    summary="Update a skill",
    response_model=Accepted,
    responses=problems(404, 409, 428, 502, body=True),
)
async def update_skill(
    context: ContextDep,
    actor: Commander,
    body: SkillUpdate,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """To the newest version of the public registry, for the default agent. Needs a confirmation `skill.update` with
    this body (428 without); its target is the slug, with `:` for `/`."""
    answer = await context.control.update_skill(actor, body.slug, confirmation, idempotency_key)
    return JSONResponse(answer, status_code=202)


@router.patch(
    "/skills/{skill_key}",
    summary="Turn a skill on or off",
    response_model=Accepted,
    responses=problems(404, 409, 502, body=True),
)
async def set_skill(
    context: ContextDep,
    actor: Commander,
    skill_key: Annotated[SkillKey, Path()],
    body: SkillPatch,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """For every agent of the gateway."""
    answer = await context.control.set_skill(actor, skill_key, enabled=body.enabled, key=idempotency_key)
    return JSONResponse(answer)


@router.get("/config", summary="The gateway's configuration", responses=problems(502))
async def config(context: ContextDep, actor: Commander) -> GatewayConfig:
    """Its secrets are hidden; asked of the gateway at this moment."""
    return await context.control.config(actor)


@router.post("/config/validate", summary="Check a change", responses=problems(502, body=True))
async def check_config(context: ContextDep, actor: Commander, body: ConfigCheck) -> ConfigChecked:
    """Against the gateway's own schema; nothing is changed."""
    return await context.control.check_config(actor, body.patch)


@router.patch(
    "/config",
    summary="Change the configuration",
    response_model=Accepted,
    responses=problems(404, 409, 412, 428, 502, body=True),
)
async def patch_config(
    context: ContextDep,
    actor: Commander,
    body: ConfigPatch,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Needs a confirmation `config.patch` with the gateway's name as its target and this body (428 without). 412 when
    somebody has changed it since. The gateway may restart."""
    return JSONResponse(await context.control.patch_config(actor, body, confirmation, idempotency_key))


@router.post(
    "/channels/{channel}/logout",
    summary="Log a channel out",
    response_model=Accepted,
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
) -> JSONResponse:
    """Needs a confirmation `channel.logout`, its body `{"account": …}` where one is named (428 without)."""
    return JSONResponse(await context.control.logout(actor, channel, account, confirmation, idempotency_key))


@router.post(
    "/gateway/restart",
    status_code=202,
    summary="Restart the gateway",
    response_model=Accepted,
    responses=problems(404, 409, 428, 502),
)
async def restart(
    context: ContextDep,
    actor: Commander,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Needs a confirmation `gateway.restart` with the gateway's name as its target (428 without)."""
    return JSONResponse(await context.control.restart(actor, confirmation, idempotency_key), status_code=202)


@router.get("/gateway/update", summary="Whether an update is there", responses=problems(502))
async def update_status(context: ContextDep, actor: Commander) -> UpdateStatus:
    """As the gateway knows at this moment."""
    return await context.control.update_status(actor)


@router.post(
    "/gateway/update",
    status_code=202,
    summary="Update the gateway",
    response_model=Accepted,
    responses=problems(404, 409, 428, 502),
)
async def update(
    context: ContextDep,
    actor: Commander,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Needs a confirmation `gateway.update` with the gateway's name as its target (428 without)."""
    return JSONResponse(await context.control.update(actor, confirmation, idempotency_key), status_code=202)


@router.post(
    "/gateway/{verb}",
    status_code=202,
    summary="Start or stop the gateway's service",
    response_model=Accepted,
    responses=problems(404, 409, 428, 502),
)
async def start_or_stop(
    *,
    context: ContextDep,
    actor: Commander,
    verb: Annotated[Verb, Path()],
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """By `systemctl` or `launchctl`, where LOBS_GATEWAY_SERVICE names the service (409 without). Needs a confirmation
    `gateway.start` or `gateway.stop` with the gateway's name as its target (428 without)."""
    answer = await context.control.start_or_stop(actor, verb, confirmation, idempotency_key)
    return JSONResponse(answer, status_code=202)
