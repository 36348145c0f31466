"""Commands to the gateway; 403 unless LOBS_COMMANDS=true."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query

from api.context import Commander, ContextDep
from api.models.base import Identifier
from api.models.commands import (
    Accepted,
    AgentId,
    Confirmation,
    ConfirmIn,
    DecisionIn,
    Killed,
    KillIn,
    Run,
    SendIn,
    SessionKey,
    SessionPatch,
    SpawnIn,
    Transcript,
)
from api.responses import problems
from api.routes.operations import IdempotencyKey

router = APIRouter(prefix="/api", tags=["commands"])

AgentPath = Annotated[AgentId, Path()]
SessionPath = Annotated[SessionKey, Path(description="For example agent:main:main.")]
ConfirmationHeader = Annotated[
    Identifier | None,
    Header(alias="X-Confirmation", description="The nonce of `POST /api/commands/confirm`."),
]


@router.post("/commands/confirm", summary="Confirm a dangerous command", responses=problems(body=True))
async def confirm(context: ContextDep, actor: Commander, body: ConfirmIn) -> Confirmation:
    """A nonce for this command on this target with this body, once, within 60 seconds."""
    return await context.control.confirmations.give(actor, body)


@router.post(
    "/agents/spawn",
    status_code=202,
    summary="Start work in a new session",
    responses=problems(404, 409, 502, body=True),
)
async def spawn(context: ContextDep, actor: Commander, body: SpawnIn, idempotency_key: IdempotencyKey = None) -> Run:
    """The run shows up as the operation of the answer; who has LOBS_RUNS_PER_USER of them already waits."""
    return await context.runs.requests.spawn(actor, body, idempotency_key)


@router.post(
    "/agents/{agent_id}/send",
    status_code=202,
    summary="Say something to an agent",
    responses=problems(404, 409, 502, body=True),
)
async def send(
    context: ContextDep, actor: Commander, agent_id: AgentPath, body: SendIn, idempotency_key: IdempotencyKey = None
) -> Run:
    """In its main session unless another is named."""
    return await context.runs.requests.send(actor, agent_id, body, idempotency_key)


@router.post(
    "/agents/{agent_id}/kill",
    summary="Stop what an agent does",
    responses=problems(404, 409, 502, body=True),
)
async def kill(
    context: ContextDep, actor: Commander, agent_id: AgentPath, body: KillIn, idempotency_key: IdempotencyKey = None
) -> Killed:
    """In its main session unless another is named."""
    return await context.control.sessions.kill(actor, agent_id, body, idempotency_key)


@router.post(
    "/crons/{job_id}/run",
    status_code=202,
    summary="Run a scheduled job now",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 502),
)
async def run_cron(
    context: ContextDep,
    actor: Commander,
    job_id: Annotated[Identifier, Path()],
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Its run shows up among the runs of scheduled jobs."""
    return await context.control.jobs.run(actor, job_id, idempotency_key)


@router.post(
    "/approvals/{approval_id}/resolve",
    summary="Answer a request to run a command",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 502, body=True),
)
async def resolve(
    context: ContextDep,
    actor: Commander,
    approval_id: Annotated[Identifier, Path()],
    body: DecisionIn,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Once, always, or not."""
    return await context.control.approvals.resolve(actor, approval_id, body, idempotency_key)


@router.patch(
    "/sessions/{session_key}",
    summary="Choose a session's model",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 502, body=True),
)
async def patch_session(
    context: ContextDep,
    actor: Commander,
    session_key: SessionPath,
    body: SessionPatch,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """From its next turn on."""
    return await context.control.sessions.patch(actor, session_key, body, idempotency_key)


@router.post(
    "/sessions/{session_key}/compact",
    summary="Compact a session",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 502),
)
async def compact_session(
    context: ContextDep, actor: Commander, session_key: SessionPath, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """A model call that no transcript holds."""
    return await context.control.sessions.compact(actor, session_key, idempotency_key)


@router.post(
    "/sessions/{session_key}/reset",
    summary="Empty a session",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502),
)
async def reset_session(
    context: ContextDep,
    actor: Commander,
    session_key: SessionPath,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation (428 without). What it cost stays counted."""
    return await context.control.sessions.reset(actor, session_key, confirmation, idempotency_key)


@router.delete(
    "/sessions/{session_key}",
    summary="Delete a session",
    response_model_exclude_unset=True,
    responses=problems(404, 409, 428, 502),
)
async def delete_session(
    context: ContextDep,
    actor: Commander,
    session_key: SessionPath,
    confirmation: ConfirmationHeader = None,
    idempotency_key: IdempotencyKey = None,
) -> Accepted:
    """Needs a confirmation (428 without). What it cost stays counted."""
    return await context.control.sessions.delete(actor, session_key, confirmation, idempotency_key)


@router.get(
    "/agents/{agent_id}/transcript", summary="The end of a session", responses=problems(404, 502), tags=["commands"]
)
async def transcript(
    context: ContextDep,
    actor: Commander,
    agent_id: AgentPath,
    session_key: Annotated[SessionKey | None, Query(alias="sessionKey")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Transcript:
    """Asked of the gateway at this moment and stored nowhere; the main session unless another is named."""
    return await context.control.sessions.transcript(actor, agent_id, session_key, limit)
