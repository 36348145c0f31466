"""The scheduled jobs of a gateway: its methods `cron.*`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any, Literal

from api import errors
from api.models.commands import Accepted
from api.models.control import At, Every, Job, JobIn, JobMade, JobPatch, Schedule
from api.security.scopes import Actor
from api.services.commands import Command, Commands, Note, starting
from api.services.control.turns import Turns
from api.services.gateway import call, done, refusal, required
from lobservatory.errors import NotFoundError
from openclaw.client import GatewayClient
from openclaw.fields import items, mapping, text
from openclaw.protocol import GatewayError, RpcError, UnknownMethodError


class Jobs:
    """Adding, changing, removing and running jobs. Changes when the gateway keeps its jobs in another way."""

    def __init__(self, commands: Commands, turns: Turns) -> None:
        self._commands = commands
        self._turns = turns

    async def run(self, actor: Actor, job_id: str, key: str | None) -> Accepted:
        """Run one now."""
        params = {"id": job_id, "mode": "force"}
        command = Command(
            answer=Accepted,
            action="cron.run",
            target=job_id,
            request=params,
            detail={"mode": "force"},
            note=Note("run", "cron", job_id),
        )
        return await self._commands.run(actor, command, starting("cron.run", params), key)

    async def add(self, actor: Actor, wanted: JobIn, key: str | None) -> JobMade:
        """A new one."""
        if wanted.agent_id is not None:
            await self._commands.known_agent(actor, wanted.agent_id)
        params: dict[str, Any] = {
            "name": wanted.name,
            "enabled": wanted.enabled,
            "schedule": _schedule(wanted.schedule),
            "sessionTarget": "isolated",
            "wakeMode": "now",
            "payload": {"kind": "agentTurn", "message": wanted.message},
            "delivery": {"mode": "none"},
        }
        if wanted.agent_id is not None:
            params["agentId"] = wanted.agent_id

        async def send(client: GatewayClient) -> JobMade:
            payload = await call(client, "cron.add", params)
            return JobMade(job_id=required(text(payload.get("id")), "cron.add", "id"))

        command = Command(
            answer=JobMade,
            action="cron.add",
            target=wanted.name,
            request=params,
            detail={"schedule": params["schedule"], "characters": len(wanted.message)},
            note=lambda made: Note("added", "cron", made.job_id, {"name": wanted.name}),
        )
        return await self._commands.run(actor, command, send, key)

    async def one(self, actor: Actor, job_id: str) -> Job:
        """A job as the gateway has it now, with its message. Raises NotFoundError."""
        try:
            found = await _job(self._commands.connection(actor), job_id)
        except GatewayError as error:
            raise refusal(error) from error
        await self._commands.note(actor, Note("job_read", "cron", job_id))
        payload = mapping(found, "payload")
        return Job(
            job_id=job_id,
            name=str(found.get("name", "")),
            enabled=bool(found.get("enabled", True)),
            agent_id=text(found.get("agentId")),
            schedule=dict(mapping(found, "schedule")),
            message=text(payload.get("message")) or text(payload.get("text")),
            version=job_version(found),
        )

    async def update(
        self, actor: Actor, job_id: str, wanted: JobPatch, version: str | None, key: str | None
    ) -> Accepted:
        """Change one. Raises StaleVersionError when it is not the one that was read."""
        patch: dict[str, Any] = wanted.model_dump(exclude_none=True, include={"name", "enabled"})
        if wanted.schedule is not None:
            patch["schedule"] = _schedule(wanted.schedule)
        if wanted.message is not None:
            patch["payload"] = {"kind": "agentTurn", "message": wanted.message}
        return await self._change(actor, "update", {"id": job_id, "patch": patch}, version, key)

    async def remove(self, actor: Actor, job_id: str, version: str | None, key: str | None) -> Accepted:
        """Remove one. Raises StaleVersionError when it is not the one that was read."""
        return await self._change(actor, "remove", {"id": job_id}, version, key)

    async def _change(
        self,
        actor: Actor,
        verb: Literal["update", "remove"],
        params: Mapping[str, Any],
        version: str | None,
        key: str | None,
    ) -> Accepted:
        job_id, method = str(params["id"]), f"cron.{verb}"

        async def send(client: GatewayClient) -> Accepted:
            if version is None:
                await done(client, method, params)
                return Accepted(ok=True)
            found = await _job(client, job_id)
            if job_version(found) != version:
                raise errors.StaleVersionError
            # Newer gateways compare by themselves, so that nobody can come in between.
            revision = found.get("configRevision") if verb == "update" else None
            try:
                await done(
                    client, method, params if revision is None else {**params, "expectedConfigRevision": revision}
                )
            except RpcError:
                if job_version(await _job(client, job_id)) != version:
                    raise errors.StaleVersionError from None
                raise
            return Accepted(ok=True)

        detail = {"fields": sorted(params["patch"])} if "patch" in params else {}
        command = Command(
            answer=Accepted,
            action=method,
            target=job_id,
            request=params if version is None else {**params, "version": version},
            detail=detail,
            note=Note(verb, "cron", job_id, detail),
        )
        async with self._turns.next():
            return await self._commands.run(actor, command, send, key)


def job_version(job: Mapping[str, Any]) -> str:
    """What `If-Match` compares for a job: the gateway's own revision, where it has one."""
    return str(job.get("configRevision") or f"updated:{job.get('updatedAtMs', 0)}")


async def _job(client: GatewayClient, job_id: str) -> Mapping[str, Any]:
    """A job as the gateway has it. Older gateways give all of them only. Raises NotFoundError."""
    try:
        return await call(client, "cron.get", {"id": job_id})
    except UnknownMethodError:
        jobs = [*items(await call(client, "cron.list", {"includeDisabled": True}), "jobs")]
    except RpcError as error:
        if "not found" not in error.message.lower():
            raise
        jobs = []
    for one in jobs:
        if one.get("id") == job_id:
            return one
    raise NotFoundError(f"The gateway has no scheduled job {job_id}.", field="job_id")


def _schedule(schedule: Schedule) -> dict[str, Any]:
    """As the gateway writes it."""
    if isinstance(schedule, At):
        return {"kind": "at", "at": schedule.at.astimezone(UTC).isoformat().replace("+00:00", "Z")}
    if isinstance(schedule, Every):
        return {"kind": "every", "everyMs": schedule.every_ms}
    return schedule.model_dump(exclude_none=True)
