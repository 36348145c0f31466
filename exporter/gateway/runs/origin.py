"""What started a run, and what it is called by that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from exporter.gateway.runs.activities import THINKING
from exporter.gateway.runs.jobs import Jobs
from exporter.gateway.runs.run import Run
from openclaw.fields import instant, mapping, text
from openclaw.stores.keys import session_kind
from store.operations import DerivedOperation

_CRON_JOB = re.compile(r"(?:^|:)cron:(?P<job>[^:]+)")


def new_run(gateway: str, jobs: Jobs, key: str, payload: Mapping[str, Any], *, at: datetime, now: datetime) -> Run:
    """A run that begins at `at`. `key`: the id of its operation; `payload`: an event, or what a poll told in the names
    of events."""
    session_key = text(payload.get("sessionKey"))
    kind = session_kind(session_key, created_via=text(payload.get("createdVia")) or "")
    agent = text(payload.get("agentId")) or agent_of(session_key)
    job = _CRON_JOB.search(session_key or "")
    job_id = job["job"] if job else None
    operation_type, source, name, tags = _classified(kind, agent, job_id, payload, jobs)
    parent = text(payload.get("spawnedBy"))
    operation = DerivedOperation(
        id=key,
        gateway=gateway,
        type=operation_type,
        name=name,
        status="in_progress",
        source=source,
        agent_id=agent,
        channel=_channel_of(session_key),
        run_id=text(payload.get("runId")),
        session_key=session_key,
        session_id=text(payload.get("sessionId")),
        cron_job_id=job_id if operation_type == "scheduled" else None,
        started_at=instant(mapping(payload, "data").get("startedAt")) or at,
        activity=THINKING,
        metadata={"kind": kind, **({"parentSessionKey": parent} if parent else {})},
        tags=tags,
    )
    return Run(operation, kind, now)


def agent_of(session_key: str | None) -> str:
    """The agent that `agent:<id>:…` names."""
    parts = (session_key or "").split(":")
    return parts[1] if len(parts) > 2 and parts[0] == "agent" and parts[1] else "main"  # noqa: PLR2004 - agent:<id>:…


def _classified(
    kind: str, agent: str, job_id: str | None, payload: Mapping[str, Any], jobs: Jobs
) -> tuple[str, str, str, tuple[str, ...]]:
    """Type, source, name and tags, by what started the run."""
    run_id = text(payload.get("runId")) or ""
    found: tuple[str, str, str, tuple[str, ...]] = ("agent_task", "run", f"Run of {agent}", ())
    if payload.get("isHeartbeat") is True:
        found = ("scheduled", "cron", f"Heartbeat of {agent}", ("heartbeat",))
    elif kind == "cron" and jobs.may_be(job_id):
        found = ("scheduled", "cron", jobs.name(job_id) or f"Scheduled run of {agent}", ())
    elif kind in {"hook", "cron"}:  # 2026.9 gives a webhook's run a cron-like key, but there is no such job
        found = ("webhook", "webhook", f"Webhook run of {agent}", ())
    elif kind == "subagent":
        found = ("agent_task", "run", f"Sub-agent of {agent}", ("subagent",))
    elif run_id.startswith("announce:"):
        found = ("agent_task", "run", f"Report of a sub-agent to {agent}", ("announce",))
    return found


def _channel_of(session_key: str | None) -> str | None:
    """The channel of `agent:<agent>:<channel>:(direct|group|channel|room):…`."""
    parts = (session_key or "").split(":")
    if len(parts) > 4 and parts[0] == "agent" and parts[3] in {"direct", "dm", "group", "channel", "room"}:  # noqa: PLR2004
        return parts[2]
    return None
