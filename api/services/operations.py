"""Operations: posted by clients, or derived from what agents do."""

from __future__ import annotations

from api import errors
from api.models.operations import MetricsPatch, Operation, OperationIn, OperationPatch, OperationQuery, StepPatch
from api.security.scopes import Actor
from api.services.agents import gateways_of
from api.services.requests import made_once
from lobservatory.errors import NotFoundError
from store import feed, work
from store import operations as rows
from store.pool import Connection, Pool


class OperationService:
    """Operations."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def operations(self, actor: Actor, wanted: OperationQuery) -> tuple[list[Operation], str | None]:
        """A page of those that the actor may see, and the cursor of the next."""
        async with self._pool.connection() as connection:
            found, following = await rows.list_operations(connection, wanted.filter(gateways_of(actor)))
        return [Operation.of(row) for row in found], following

    async def operation(self, actor: Actor, operation_id: str) -> Operation:
        """One. Raises NotFoundError."""
        async with self._pool.connection() as connection:
            return Operation.of(await _visible(connection, actor, operation_id))

    async def create(self, actor: Actor, wanted: OperationIn, key: str | None) -> Operation:
        """A new one, `pending`."""
        if not actor.sees(wanted.gateway):
            raise errors.WrongGatewayError("This token is limited to other gateways.", field="body.gateway")
        async with self._pool.connection() as connection:

            async def make() -> Operation:
                made = await rows.create(
                    connection,
                    type=wanted.type,
                    name=wanted.name,
                    description=wanted.description,
                    skill_name=wanted.skill_name,
                    agent_id=wanted.agent_id,
                    user_id=wanted.user_id,
                    channel=wanted.channel,
                    gateway=wanted.gateway,
                    steps=[rows.NewStep(**step.model_dump()) for step in wanted.steps],
                    metadata=wanted.metadata,
                    tags=wanted.tags,
                )
                await feed.add(
                    connection,
                    type="operation",
                    actor=actor.name,
                    action="created",
                    target_type="operation",
                    target_id=made.id,
                    metadata={"name": wanted.name},
                )
                return Operation.of(made)

            return await made_once(connection, actor, key, "operations", wanted, Operation, make)

    async def patch(
        self, actor: Actor, operation_id: str, wanted: OperationPatch, version: int | None = None
    ) -> Operation:
        """Change some fields. Raises NotFoundError, ConflictError for an illegal transition, StaleVersionError."""
        changes = wanted.model_dump(exclude_unset=True)
        if "duration" in changes:
            changes["duration_ms"] = changes.pop("duration")
        if wanted.disposition is not None:
            changes["disposition"] = wanted.disposition.model_dump(mode="json", by_alias=True, exclude_none=True)
        async with self._pool.connection() as connection:
            await _visible(connection, actor, operation_id)
            return Operation.of(await rows.patch(connection, operation_id, changes, expected_version=version))

    async def patch_step(
        self, actor: Actor, operation_id: str, step_id: str, wanted: StepPatch, version: int | None = None
    ) -> Operation:
        """Change a step. Raises NotFoundError, ConflictError for an illegal transition, StaleVersionError."""
        changes = wanted.model_dump(exclude_unset=True)
        if "duration" in changes:
            changes["duration_ms"] = changes.pop("duration")
        async with self._pool.connection() as connection:
            await _visible(connection, actor, operation_id)
            return Operation.of(
                await rows.patch_step(connection, operation_id, step_id, changes, expected_version=version)
            )

    async def patch_metrics(
        self, actor: Actor, operation_id: str, wanted: MetricsPatch, version: int | None = None
    ) -> Operation:
        """Replace the token figures. Raises NotFoundError, StaleVersionError."""
        tokens = wanted.tokens
        async with self._pool.connection() as connection:
            await _visible(connection, actor, operation_id)
            after = await rows.patch_metrics(
                connection,
                operation_id,
                prompt=tokens.prompt,
                completion=tokens.completion,
                total=tokens.total,
                cost=tokens.cost,
                model=tokens.model,
                expected_version=version,
            )
        return Operation.of(after)


async def _visible(connection: Connection, actor: Actor, operation_id: str) -> work.Operation:
    """The operation, when the actor may see it: one of another gateway is not there for them."""
    found = await rows.get(connection, operation_id)
    if not actor.sees(found.gateway):
        raise NotFoundError(f"There is no operation {operation_id}.", field="id")
    return found
