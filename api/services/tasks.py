"""Tasks and the task hub: what is written also shows in the feed, and with live clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from api import errors
from api.models.tasks import (
    Activity,
    ActivityIn,
    Comment,
    CommentIn,
    Deliverable,
    DeliverableIn,
    FeedPage,
    FeedRow,
    FeedStats,
    Flow,
    StatusChange,
    Subagent,
    SubagentIn,
    Task,
    TaskIn,
    TaskPage,
    TaskPatch,
    TaskQuery,
)
from api.security.scopes import Actor
from api.services.agents import gateways_of
from api.services.requests import Made, made_once
from lobservatory.errors import NotFoundError
from store import feed, work
from store import tasks as rows
from store.pool import Connection, Pool


class TaskService:
    """Tasks and what hangs on them, and the feed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def tasks(self, actor: Actor, wanted: TaskQuery) -> TaskPage:
        """A page of those that the actor may see."""
        async with self._pool.connection() as connection:
            found, following = await rows.list_tasks(connection, wanted.filter(gateways_of(actor)))
        return TaskPage(tasks=[Task.model_validate(row) for row in found], next_cursor=following)

    async def task(self, actor: Actor, task_id: str) -> Task:
        """One with its comments. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            found = await _visible(connection, actor, task_id)
            return Task.with_comments(found, await rows.comments(connection, task_id))

    async def create(self, actor: Actor, wanted: TaskIn, key: str | None) -> Task:
        """A new task. Raises InvalidValueError for an unknown board or dependency."""
        if not actor.sees(wanted.gateway):
            raise errors.WrongGatewayError("This token is limited to other gateways.", field="body.gateway")
        async with self._pool.connection() as connection:

            async def make() -> Task:
                made = await rows.create(connection, actor=actor.name, **_values(wanted))
                await _note(connection, actor, "created", made.id, {"title": wanted.title})
                return Task.model_validate(made)

            return await made_once(connection, actor, key, "tasks", wanted, Task, make)

    async def replace(self, actor: Actor, task_id: str, wanted: TaskIn, version: int | None) -> Task:
        """All fields anew (the gateway stays)."""
        changes = _values(wanted)
        changes.pop("gateway")
        return await self._update(actor, task_id, changes, version)

    async def patch(self, actor: Actor, task_id: str, wanted: TaskPatch, version: int | None) -> Task:
        """Some fields anew."""
        return await self._update(actor, task_id, _values(wanted, only_given=True), version)

    async def _update(self, actor: Actor, task_id: str, changes: Mapping[str, Any], version: int | None) -> Task:
        async with self._pool.connection() as connection:
            before = await _visible(connection, actor, task_id)
            after = await rows.update(connection, task_id, changes, actor=actor.name, expected_version=version)
            detail: dict[str, Any] = {"title": after.title, "fields": sorted(changes)}
            if before.status != after.status:
                detail |= {"from": before.status, "to": after.status}
            await _note(connection, actor, "updated", task_id, detail)
            return Task.model_validate(after)

    async def delete(self, actor: Actor, task_id: str, version: int | None) -> None:
        """With all that hangs on it. Raises NotFoundError, ConflictError."""
        async with self._pool.connection() as connection:
            await _visible(connection, actor, task_id)
            gone = await rows.delete(connection, task_id, actor=actor.name, expected_version=version)
            await _note(connection, actor, "deleted", task_id, {"title": gone.title})

    async def comment(self, actor: Actor, task_id: str, wanted: CommentIn, key: str | None) -> Comment:
        """Comment on a task. Raises NotFoundError."""

        async def make(connection: Connection) -> Comment:
            made = await rows.add_comment(connection, task_id, author=wanted.author, content=wanted.content)
            await _note(connection, actor, "commented", task_id, {"author": wanted.author, "comment": str(made.id)})
            return Comment.model_validate(made)

        return await self._add(actor, task_id, "comment", wanted, key, Comment, make)

    async def _add(  # noqa: PLR0917 - who, to what, what, once
        self,
        actor: Actor,
        task_id: str,
        path: str,
        wanted: BaseModel,
        key: str | None,
        kind: type[Made],
        make: Callable[[Connection], Awaitable[Made]],
    ) -> Made:
        """Something new of a task. Raises NotFoundError, and ConflictError for a key of another request."""
        async with self._pool.connection() as connection:
            await _visible(connection, actor, task_id)
            return await made_once(
                connection, actor, key, f"tasks/{task_id}/{path}", wanted, kind, lambda: make(connection)
            )

    async def history(self, actor: Actor, task_id: str) -> list[StatusChange]:
        """Every change of the status, oldest first; of a deleted task too, to whoever sees all gateways."""
        async with self._pool.connection() as connection:
            found = await rows.status_history(connection, task_id)
            if not found or actor.gateways is not None:
                await _visible(connection, actor, task_id)
        return [StatusChange.model_validate(row) for row in found]

    async def flow(self, since: datetime, until: datetime) -> Flow:
        """Throughput and mean cycle time of a span."""
        async with self._pool.connection() as connection:
            return Flow.model_validate(await rows.flow(connection, since=since, until=until))

    async def add_activity(self, actor: Actor, task_id: str, wanted: ActivityIn, key: str | None) -> Activity:
        """Log what an agent did. Raises NotFoundError."""

        async def make(connection: Connection) -> Activity:
            made = await rows.add_activity(
                connection,
                task_id,
                activity_type=wanted.activity_type,
                message=wanted.message,
                agent_id=wanted.agent_id,
                metadata=wanted.metadata,
            )
            return Activity.model_validate(made)

        return await self._add(actor, task_id, "activities", wanted, key, Activity, make)

    async def activities(self, actor: Actor, task_id: str, before: int | None, limit: int) -> list[Activity]:
        """Newest first. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            await _visible(connection, actor, task_id)
            found = await rows.activities(connection, task_id, before=before, limit=limit)
        return [Activity.model_validate(row) for row in found]

    async def add_deliverable(self, actor: Actor, task_id: str, wanted: DeliverableIn, key: str | None) -> Deliverable:
        """Note what a task produced. Raises NotFoundError."""

        async def make(connection: Connection) -> Deliverable:
            made = await rows.add_deliverable(connection, task_id, **wanted.model_dump())
            return Deliverable.model_validate(made)

        return await self._add(actor, task_id, "deliverables", wanted, key, Deliverable, make)

    async def deliverables(self, actor: Actor, task_id: str, before: int | None, limit: int) -> list[Deliverable]:
        """Newest first. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            await _visible(connection, actor, task_id)
            found = await rows.deliverables(connection, task_id, before=before, limit=limit)
        return [Deliverable.model_validate(row) for row in found]

    async def add_subagent(self, actor: Actor, task_id: str, wanted: SubagentIn, key: str | None) -> Subagent:
        """Put a session under a task. Raises NotFoundError, ConflictError."""

        async def make(connection: Connection) -> Subagent:
            made = await rows.add_session(
                connection, task_id, openclaw_session_id=wanted.openclaw_session_id, agent_name=wanted.agent_name
            )
            await _note(connection, actor, "spawned", task_id, {"session": wanted.openclaw_session_id})
            return Subagent.model_validate(made)

        return await self._add(actor, task_id, "subagent", wanted, key, Subagent, make)

    async def subagents(self, actor: Actor, task_id: str) -> list[Subagent]:
        """The sessions of a task, newest first. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            await _visible(connection, actor, task_id)
            found = await rows.sessions(connection, task_id=task_id)
        return [Subagent.model_validate(row) for row in found]

    async def set_subagent_status(self, actor: Actor, task_id: str, session: str, status: str) -> Subagent:
        """How a session stands. Raises NotFoundError, ConflictError when it has ended otherwise."""
        async with self._pool.connection() as connection:
            await _visible(connection, actor, task_id)
            known = await rows.sessions(connection, task_id=task_id)
            if not any(one.openclaw_session_id == session for one in known):
                raise NotFoundError("The task has no such session.", field="path.openclaw_session_id")
            return Subagent.model_validate(await rows.set_session_status(connection, session, status))

    async def feed(self, before: str | None, limit: int) -> FeedPage:
        """A page of the feed, newest first."""
        async with self._pool.connection() as connection:
            found = await feed.page(connection, before=_cursor(before), limit=limit + 1)
        page = found[:limit]
        following = str(page[-1].id) if len(found) > limit else None
        return FeedPage(items=[FeedRow.of(row) for row in page], next_cursor=following)

    async def feed_statistics(self) -> FeedStats:
        """How much was done."""
        async with self._pool.connection() as connection:
            return FeedStats.model_validate(await feed.statistics(connection))


def _cursor(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:  # noqa: PLR2004 - digits of a bigint
        raise errors.InvalidFieldError("Not a cursor of this list.", field="query.cursor")
    return int(text)


def _values(wanted: TaskIn | TaskPatch, *, only_given: bool = False) -> dict[str, Any]:
    return wanted.model_dump(exclude_unset=only_given)


async def _visible(connection: Connection, actor: Actor, task_id: str) -> work.Task:
    """The task, when the actor may see it: one of another gateway is not there for them."""
    found = await rows.get(connection, task_id)
    if not actor.sees(found.gateway):
        raise NotFoundError(f"There is no task {task_id}.", field="id")
    return found


async def _note(connection: Connection, actor: Actor, action: str, task_id: str, detail: Mapping[str, Any]) -> None:
    await feed.add(
        connection,
        type="task",
        actor=actor.name,
        action=action,
        target_type="task",
        target_id=task_id,
        metadata=detail,
    )
