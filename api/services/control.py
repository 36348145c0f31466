"""Commands that change how a gateway is set up. They go the way of every command: see `api.services.commands`.

Texts (files, messages, values of the configuration) go to the gateway and nowhere else: the audit log has names, sizes
and paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC
from typing import Any

from api import errors
from api.models.commands import Action
from api.models.control import (
    REDACTED,
    AgentFile,
    AgentFileContent,
    AgentIn,
    AgentPatch,
    At,
    ChannelAccount,
    ConfigChecked,
    ConfigPatch,
    ConfigProblem,
    Every,
    FileIn,
    GatewayConfig,
    Job,
    JobIn,
    JobPatch,
    Rule,
    RuleIn,
    Schedule,
    Skill,
    SkillInstall,
    SkillUpdate,
    UpdateStatus,
)
from api.security.scopes import Actor
from api.services import service_manager
from api.services.agents import version_of
from api.services.commands import RPC_SECONDS, Answer, CommandService, Note, call, done, refusal, required
from api.services.service_manager import Verb
from openclaw.client import GatewayClient
from openclaw.fields import agent_model, items, mapping, text, whole
from openclaw.protocol import GatewayError, RpcError, UnknownMethodError
from store import commands as rows
from store.pool import Pool

APPLIED_SECONDS = 15.0  # a gateway needs about one to work with what it has written, on a busy machine several
_APPLIED_POLL_SECONDS = 0.2
_TURN_SECONDS = 30.0
_INSTALL_SECONDS = 120.0
_MOST_PATHS = 50  # of one patch that is looked up
_SECRET = re.compile(r"(token|secret|password|passphrase|api_?key|credential)s?$", re.IGNORECASE)
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


class ControlService(CommandService):
    """What may be changed of one gateway. `service`: its name for the service manager, "" where it has none."""

    def __init__(self, pool: Pool, gateway: str, client: GatewayClient | None, service: str = "") -> None:
        super().__init__(pool, gateway, client)
        self._service = service
        self._changing = asyncio.Lock()  # so that of this process at most one holds a connection while it waits

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """One after the other, over all processes on this database: what looks at the gateway before it changes it
        would else be carried out by two who have both seen the same. Raises ConflictError."""
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._changing.acquire()
        except TimeoutError:
            raise errors.ConflictError(
                f"Another change of the gateway {self._gateway} has not ended; nothing was sent. Try again."
            ) from None
        try:
            async with self._pool.connection() as connection:
                await rows.take_turn(connection, self._gateway)
                yield
        finally:
            self._changing.release()

    # --- agents and their files -------------------------------------------------------------------------------

    async def create_agent(self, actor: Actor, wanted: AgentIn, key: str | None) -> Answer:
        """A new agent."""
        params = wanted.model_dump(exclude_none=True)

        async def send(client: GatewayClient) -> Answer:
            payload = await call(client, "agents.create", params)
            return {"agentId": required(text(payload.get("agentId")), "agents.create", "agentId")}

        return await self._run(
            actor,
            "agent.create",
            wanted.name,
            detail={"fields": sorted(params)},
            request=wanted,
            key=key,
            send=send,
            note=lambda answer: Note("created", "agent", answer["agentId"]),
        )

    async def update_agent(
        self, actor: Actor, agent: str, wanted: AgentPatch, version: str | None, key: str | None
    ) -> Answer:
        """Change an agent's name, model or emoji. Raises StaleVersionError when it is not the one that was read."""
        await self._known_agent(actor, agent)
        changes = wanted.model_dump(exclude_unset=True)
        params = {"agentId": agent, **changes}

        async def send(client: GatewayClient) -> Answer:
            if version is not None and await _agent_version(client, agent) != version:
                raise errors.StaleVersionError
            await done(client, "agents.update", params)
            return {"ok": True}

        detail = {"fields": sorted(changes)}
        async with self._in_turn():
            return await self._run(
                actor,
                "agent.update",
                agent,
                detail=detail,
                request=params if version is None else {**params, "version": version},
                key=key,
                send=send,
                note=lambda _: Note("update", "agent", agent, detail),
            )

    async def delete_agent(self, actor: Actor, agent: str, nonce: str | None, key: str | None) -> Answer:
        """Delete an agent; its files stay. Needs a confirmation."""
        await self._confirmed(actor, "agent.delete", agent, nonce)
        params = {"agentId": agent, "deleteFiles": False}
        return await self._change(actor, "agent.delete", agent, "agents.delete", params, key, {})

    async def files(self, actor: Actor, agent: str) -> list[AgentFile]:
        """The files that shape an agent."""
        await self._known_agent(actor, agent)
        payload = await self._ask(actor, "agents.files.list", {"agentId": agent})
        return [_file(one) for one in items(payload, "files")]

    async def file(self, actor: Actor, agent: str, name: str) -> AgentFileContent:
        """One with its text; reading it leaves a row in the feed."""
        await self._known_agent(actor, agent)
        payload = await self._ask(actor, "agents.files.get", {"agentId": agent, "name": name})
        found = mapping(payload, "file")
        if not found or found.get("missing"):
            raise errors.NotFoundError(f"The agent {agent} has no file {name}.", field="name")
        await self._note(actor, Note("file_read", "agent", agent, {"file": name}))
        content = str(found.get("content") or "")
        return AgentFileContent(**_file(found).model_dump(), content=content, version=content_version(content))

    async def set_file(  # noqa: PLR0917 - as every command: who, what, under which conditions
        self, actor: Actor, agent: str, name: str, wanted: FileIn, version: str | None, key: str | None
    ) -> Answer:
        """Replace a file's text. Raises StaleVersionError when it is not the one that was read."""
        await self._known_agent(actor, agent)

        async def send(client: GatewayClient) -> Answer:
            where = {"agentId": agent, "name": name}
            if version is not None:
                now = await call(client, "agents.files.get", where)
                if content_version(str(mapping(now, "file").get("content") or "")) != version:
                    raise errors.StaleVersionError
            await done(client, "agents.files.set", {**where, "content": wanted.content})
            return {"ok": True}

        detail = {"file": name, "characters": len(wanted.content)}
        request = {"file": name, "content": wanted.content, "version": version}
        async with self._in_turn():
            return await self._run(
                actor,
                "agent.file",
                agent,
                detail=detail,
                request=request,
                key=key,
                send=send,
                note=lambda _: Note("file_changed", "agent", agent, detail),
            )

    # --- scheduled jobs ---------------------------------------------------------------------------------------

    async def add_job(self, actor: Actor, wanted: JobIn, key: str | None) -> Answer:
        """A new scheduled job."""
        if wanted.agent_id is not None:
            await self._known_agent(actor, wanted.agent_id)
        params: Answer = {
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

        async def send(client: GatewayClient) -> Answer:
            payload = await call(client, "cron.add", params)
            return {"jobId": required(text(payload.get("id")), "cron.add", "id")}

        return await self._run(
            actor,
            "cron.add",
            wanted.name,
            detail={"schedule": params["schedule"], "characters": len(wanted.message)},
            request=params,
            key=key,
            send=send,
            note=lambda answer: Note("added", "cron", answer["jobId"], {"name": wanted.name}),
        )

    async def job(self, actor: Actor, job_id: str) -> Job:
        """A job as the gateway has it now, with its message. Raises NotFoundError."""
        try:
            found = await _job(self._connection(actor), job_id)
        except GatewayError as error:
            raise refusal(error) from error
        await self._note(actor, Note("job_read", "cron", job_id))
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

    async def update_job(
        self, actor: Actor, job_id: str, wanted: JobPatch, version: str | None, key: str | None
    ) -> Answer:
        """Change a job. Raises StaleVersionError when it is not the one that was read."""
        patch: Answer = wanted.model_dump(exclude_none=True, include={"name", "enabled"})
        if wanted.schedule is not None:
            patch["schedule"] = _schedule(wanted.schedule)
        if wanted.message is not None:
            patch["payload"] = {"kind": "agentTurn", "message": wanted.message}
        params = {"id": job_id, "patch": patch}
        return await self._change_job(actor, "cron.update", params, version, key, {"fields": sorted(patch)})

    async def remove_job(self, actor: Actor, job_id: str, version: str | None, key: str | None) -> Answer:
        """Remove a job. Raises StaleVersionError when it is not the one that was read."""
        return await self._change_job(actor, "cron.remove", {"id": job_id}, version, key, {})

    async def _change_job(  # noqa: PLR0917 - as every command: who, what, under which conditions
        self, actor: Actor, method: str, params: Answer, version: str | None, key: str | None, detail: Answer
    ) -> Answer:
        job_id: str = params["id"]

        async def send(client: GatewayClient) -> Answer:
            if version is None:
                await done(client, method, params)
                return {"ok": True}
            found = await _job(client, job_id)
            if job_version(found) != version:
                raise errors.StaleVersionError
            # Newer gateways compare by themselves, so that nobody can come in between.
            revision = found.get("configRevision") if method == "cron.update" else None
            try:
                await done(
                    client, method, params if revision is None else {**params, "expectedConfigRevision": revision}
                )
            except RpcError:
                if job_version(await _job(client, job_id)) != version:
                    raise errors.StaleVersionError from None
                raise
            return {"ok": True}

        async with self._in_turn():
            return await self._run(
                actor,
                method,
                job_id,
                detail=detail,
                request=params if version is None else {**params, "version": version},
                key=key,
                send=send,
                note=lambda _: Note(method.partition(".")[2], "cron", job_id, detail),
            )

    # --- rules of commands that need no approval --------------------------------------------------------------

    async def rules(self, actor: Actor) -> list[Rule]:
        """Every pattern that is allowed, by agent."""
        return list(_rules(await self._ask(actor, "exec.approvals.get", {})))

    async def add_rule(self, actor: Actor, wanted: RuleIn, nonce: str | None, key: str | None) -> Answer:
        """Allow a pattern from now on. Needs a confirmation."""
        await self._confirmed(actor, "exec.rule.add", wanted.agent_id, nonce, wanted)
        return await self._change_rules(actor, "exec.rule.add", wanted, key)

    async def remove_rule(self, actor: Actor, wanted: RuleIn, key: str | None) -> Answer:
        """Take a pattern back. Raises NotFoundError."""
        return await self._change_rules(actor, "exec.rule.remove", wanted, key)

    async def _change_rules(self, actor: Actor, action: str, wanted: RuleIn, key: str | None) -> Answer:
        adding = action.endswith("add")

        async def send(client: GatewayClient) -> Answer:
            found = await call(client, "exec.approvals.get", {})
            file = required(
                found["file"] if isinstance(found.get("file"), dict) else None, "exec.approvals.get", "file"
            )
            base = required(text(found.get("hash")), "exec.approvals.get", "hash")
            agents = mapping(file, "agents")
            agent = mapping(agents, wanted.agent_id)
            known = agent.get("allowlist")
            before = known if isinstance(known, list) else []
            after = [one for one in before if not isinstance(one, dict) or one.get("pattern") != wanted.pattern]
            if not adding and len(after) == len(before):
                raise errors.NotFoundError("There is no such rule.", field="pattern")
            if adding:
                after.append({"pattern": wanted.pattern})
            changed = {**file, "agents": {**agents, wanted.agent_id: {**agent, "allowlist": after}}}
            # The hash guards against a change by somebody else in between.
            await done(client, "exec.approvals.set", {"file": changed, "baseHash": base})
            return {"ok": True}

        detail = {"pattern": wanted.pattern}
        verb = "rule_added" if adding else "rule_removed"
        async with self._in_turn():
            return await self._run(
                actor,
                action,
                wanted.agent_id,
                detail=detail,
                request=wanted,
                key=key,
                send=send,
                note=lambda _: Note(verb, "agent", wanted.agent_id, detail),
            )

    # --- skills -----------------------------------------------------------------------------------------------

    async def skills(self, actor: Actor, agent: str | None) -> list[Skill]:
        """Every skill and its state."""
        payload = await self._ask(actor, "skills.status", {} if agent is None else {"agentId": agent})
        return [_skill(one) for one in items(payload, "skills")]

    async def install_skill(self, actor: Actor, wanted: SkillInstall, nonce: str | None, key: str | None) -> Answer:
        """Install a skill of the public registry: code that agents will run. Needs a confirmation."""
        await self._confirmed(actor, "skill.install", _target(wanted.slug), nonce, wanted)
        params = {"source": "clawhub", "slug": wanted.slug}
        params |= {} if wanted.version is None else {"version": wanted.version}
        params |= {} if wanted.agent_id is None else {"agentId": wanted.agent_id}
        return await self._change(
            actor, "skill.install", wanted.slug, "skills.install", params, key, params, seconds=_INSTALL_SECONDS
        )

    async def update_skill(self, actor: Actor, slug: str, nonce: str | None, key: str | None) -> Answer:
        """Update a skill of the public registry to its newest version: other code that agents will run. Needs a
        confirmation."""
        await self._confirmed(actor, "skill.update", _target(slug), nonce, SkillUpdate(slug=slug))
        params = {"source": "clawhub", "slug": slug}
        return await self._change(
            actor, "skill.upgrade", slug, "skills.update", params, key, params, seconds=_INSTALL_SECONDS
        )

    async def set_skill(self, actor: Actor, skill: str, *, enabled: bool, key: str | None) -> Answer:
        """Turn a skill on or off."""
        params = {"skillKey": skill, "enabled": enabled}
        return await self._change(actor, "skill.update", skill, "skills.update", params, key, {"enabled": enabled})

    # --- configuration ----------------------------------------------------------------------------------------

    async def config(self, actor: Actor) -> GatewayConfig:
        """The configuration, secrets hidden; reading it leaves a row in the feed."""
        payload = await self._ask(actor, "config.get", {})
        await self._note(actor, Note("config_read", "gateway", self._gateway))
        config = payload.get("config")
        return GatewayConfig(
            hash=str(payload.get("hash", "")),
            valid=bool(payload.get("valid", True)),
            config=without_secrets(config) if isinstance(config, dict) else {},
            issues=[str(one.get("message", one)) for one in items(payload, "issues")],
        )

    async def check_config(self, actor: Actor, patch: Mapping[str, Any]) -> ConfigChecked:
        """Look up each path of a patch in the gateway's own schema."""
        found = [one for one in _leaves(patch) if one[1] is not None]
        if len(found) > _MOST_PATHS:
            raise errors.InvalidFieldError(f"At most {_MOST_PATHS} values are checked at once.", field="body.patch")
        problems = []
        for path, value in found:
            problem = await self._problem(actor, path, value)
            if problem is not None:
                problems.append(ConfigProblem(path=path, message=problem))
        present = await self._ask(actor, "config.get", {})
        return ConfigChecked(valid=not problems, hash=str(present.get("hash", "")), problems=problems)

    async def _problem(self, actor: Actor, path: str, value: Any) -> str | None:
        try:
            payload = await call(self._connection(actor), "config.schema.lookup", {"path": path})
        except RpcError as error:
            if error.code != "INVALID_REQUEST":
                raise refusal(error) from error
            return "The gateway's schema has no such path."
        except GatewayError as error:
            raise refusal(error) from error
        schema = payload.get("schema")
        kinds = schema.get("type") if isinstance(schema, Mapping) else None
        wanted = [kinds] if isinstance(kinds, str) else list(kinds) if isinstance(kinds, list) else []
        allowed = tuple(kind for name in wanted for kind in _JSON_TYPES.get(name, ()))
        wrong_boolean = isinstance(value, bool) and bool not in allowed
        if allowed and (wrong_boolean or not isinstance(value, allowed)):
            return f"Must be of type {' or '.join(wanted)}."
        return None

    async def patch_config(self, actor: Actor, wanted: ConfigPatch, nonce: str | None, key: str | None) -> Answer:
        """Change the configuration as it was read. Needs a confirmation; raises StaleVersionError."""
        await self._confirmed(actor, "config.patch", self._gateway, nonce, wanted)

        async def send(client: GatewayClient) -> Answer:
            present = await call(client, "config.get", {})
            if present.get("hash") != wanted.base_hash:
                raise errors.StaleVersionError
            try:
                await done(client, "config.patch", {"raw": json.dumps(wanted.patch), "baseHash": wanted.base_hash})
            except RpcError as error:
                now = (await call(client, "config.get", {})).get("hash") if error.code == "INVALID_REQUEST" else None
                if now not in {None, wanted.base_hash}:
                    raise errors.StaleVersionError from None
                raise
            return {"ok": True}

        detail = {"paths": [path for path, _ in _leaves(wanted.patch)][:_MOST_PATHS]}
        async with self._in_turn():
            return await self._run(
                actor,
                "config.patch",
                self._gateway,
                detail=detail,
                request=wanted,
                key=key,
                send=send,
                note=lambda _: Note("config_changed", "gateway", self._gateway, detail),
            )

    # --- channels and the gateway itself ----------------------------------------------------------------------

    async def logout(
        self, actor: Actor, channel: str, account: str | None, nonce: str | None, key: str | None
    ) -> Answer:
        """Log a chat channel out. Needs a confirmation: only a person at the other end can log it in again."""
        await self._confirmed(actor, "channel.logout", channel, nonce, ChannelAccount(account=account))
        params = {"channel": channel} if account is None else {"channel": channel, "accountId": account}
        return await self._change(actor, "channel.logout", channel, "channels.logout", params, key, params)

    async def restart(self, actor: Actor, nonce: str | None, key: str | None) -> Answer:
        """Restart the gateway when its runs have ended. Needs a confirmation."""
        await self._confirmed(actor, "gateway.restart", self._gateway, nonce)
        params = {"reason": "requested through Lobservatory"}
        return await self._change(actor, "gateway.restart", self._gateway, "gateway.restart.request", params, key, {})

    async def start_or_stop(self, actor: Actor, verb: Verb, nonce: str | None, key: str | None) -> Answer:
        """Start or stop the gateway's service. Needs a confirmation: what runs in it ends, or costs again.

        Raises ServiceNotConfiguredError, ServiceFailedError.
        """
        action: Action = "gateway.start" if verb == "start" else "gateway.stop"
        await self._confirmed(actor, action, self._gateway, nonce)

        async def send(_: GatewayClient) -> Answer:
            await service_manager.run(self._service, verb)
            return {"ok": True}

        return await self._run(
            actor,
            action,
            self._gateway,
            detail={},
            request={"service": self._service},
            key=key,
            send=send,
            note=lambda _: Note(verb, "gateway", self._gateway),
        )

    async def update_status(self, actor: Actor) -> UpdateStatus:
        """What the gateway knows of a newer version of itself."""
        payload = await self._ask(actor, "update.status", {})
        told = payload.get("updateAvailable")
        newer = told if isinstance(told, Mapping) else {}
        version = newer.get("latestVersion") or newer.get("version")
        return UpdateStatus(
            available=None if "updateAvailable" not in payload else bool(told),
            version=None if version is None else str(version)[:64],
            channel=str(payload["effectiveChannel"])[:64] if payload.get("effectiveChannel") else None,
        )

    async def update(self, actor: Actor, nonce: str | None, key: str | None) -> Answer:
        """Update the gateway to the newest version of its channel. Needs a confirmation."""
        await self._confirmed(actor, "gateway.update", self._gateway, nonce)
        return await self._change(
            actor, "gateway.update", self._gateway, "update.run", {}, key, {}, seconds=_INSTALL_SECONDS
        )

    async def _change(  # noqa: PLR0917 - one line per command
        self,
        actor: Actor,
        action: str,
        target: str,
        method: str,
        params: Mapping[str, Any],
        key: str | None,
        detail: Mapping[str, Any],
        *,
        seconds: float = RPC_SECONDS,
    ) -> Answer:
        """One call whose answer says no more than that it was done."""

        async def send(client: GatewayClient) -> Answer:
            await done(client, method, params, seconds)
            return {"ok": True}

        kind, _, verb = action.partition(".")
        return await self._run(
            actor,
            action,
            target,
            detail=detail,
            request=params,
            key=key,
            send=send,
            note=lambda _: Note(verb, kind, target, detail),
        )


async def _agent_version(client: GatewayClient, agent: str) -> str | None:
    """The version of an agent as the gateway wrote it last; None: it has no such agent. Raises ConflictError."""
    await _applied(client)
    for one in items(await call(client, "agents.list", {}), "agents"):
        if one.get("id") == agent:
            return version_of(text(one.get("name"), 200), agent_model(one))
    return None


async def _applied(client: GatewayClient) -> None:
    """Wait until the gateway works with the configuration that it wrote last: until then its list of agents shows
    what was before. It has no event for that. Older gateways name no revisions, and list at once what they wrote.

    Raises ConflictError when that does not come to be, as where reloading is off or a restart is due.
    """
    deadline = asyncio.get_running_loop().time() + APPLIED_SECONDS
    while True:
        present = await call(client, "config.get", {})
        if present.get("appliedConfigHash") == present.get("configRevisionHash"):
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise errors.ConflictError(
                "The gateway does not work with its latest configuration yet, so it cannot be told whether the agent "
                "is still the one that you read; nothing was changed. Try again later, after a restart of the gateway "
                "where one is due, or without If-Match.",
                field="header.If-Match",
            )
        await asyncio.sleep(_APPLIED_POLL_SECONDS)


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
    raise errors.NotFoundError(f"The gateway has no scheduled job {job_id}.", field="job_id")


def job_version(job: Mapping[str, Any]) -> str:
    """What `If-Match` compares for a job: the gateway's own revision, where it has one."""
    return str(job.get("configRevision") or f"updated:{job.get('updatedAtMs', 0)}")


def content_version(content: str) -> str:
    """What `If-Match` compares for a text."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def without_secrets(value: Any) -> Any:
    """The same JSON with every value under a secret's name hidden: older gateways hide less."""
    if isinstance(value, dict):
        return {
            name: REDACTED if _SECRET.search(name) and isinstance(part, str) else without_secrets(part)
            for name, part in value.items()
        }
    return [without_secrets(part) for part in value] if isinstance(value, list) else value


def _leaves(patch: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in patch.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _schedule(schedule: Schedule) -> Answer:
    if isinstance(schedule, At):
        return {"kind": "at", "at": schedule.at.astimezone(UTC).isoformat().replace("+00:00", "Z")}
    if isinstance(schedule, Every):
        return {"kind": "every", "everyMs": schedule.every_ms}
    return schedule.model_dump(exclude_none=True)


def _file(found: Mapping[str, Any]) -> AgentFile:
    return AgentFile(
        name=str(found.get("name", "")),
        missing=bool(found.get("missing")),
        size=whole(found.get("size")),
        updated_at_ms=whole(found.get("updatedAtMs")),
    )


def _rules(payload: Mapping[str, Any]) -> Iterator[Rule]:
    agents = mapping(payload, "file", "agents")
    for agent, entry in sorted(agents.items()):
        for one in items(entry, "allowlist"):
            yield Rule(agent_id=agent, pattern=str(one.get("pattern", "")), last_used_at=whole(one.get("lastUsedAt")))


def _skill(found: Mapping[str, Any]) -> Skill:
    missing = [mapping(found, "missing").get(kind) for kind in ("bins", "anyBins", "env", "config", "os")]
    return Skill(
        key=str(found.get("skillKey") or found.get("name", "")),
        name=str(found.get("name", "")),
        description=text(found.get("description"), 5_000),
        source=text(found.get("source")),
        disabled=bool(found.get("disabled")),
        eligible=bool(found.get("eligible")),
        missing=[str(one) for kind in missing if isinstance(kind, list) for one in kind],
    )


def _target(slug: str) -> str:
    """A slug as the target of a confirmation, which has no slash."""
    return slug.replace("/", ":")
