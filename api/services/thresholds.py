"""Thresholds of alerts at run time: validated, audited, and taken over by the exporters within one poll."""

from __future__ import annotations

from api import errors
from api.models.thresholds import AlertThreshold, ThresholdIn, ThresholdOverride
from api.security.scopes import Actor
from lobservatory.errors import NotFoundError
from lobservatory.settings import Settings
from lobservatory.thresholds import THRESHOLDS, check
from store import alerts as rows
from store import auth
from store.pool import Connection, Pool

Name = tuple[str, str, str, str]  # alert, severity, gateway, agent


class ThresholdService:
    """What alerts compare with."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings.alert_thresholds()

    async def thresholds(self, actor: Actor) -> list[AlertThreshold]:
        """Every threshold, with what was set at run time and the actor may see."""
        async with self._pool.connection() as connection:
            overrides = [one for one in await rows.thresholds(connection) if actor.sees(one.gateway or None)]
        return [
            AlertThreshold(
                alert=one.alert,
                severity=one.severity,
                meaning=one.meaning,
                unit=one.unit,
                minimum=one.minimum,
                maximum=one.maximum,
                default=one.default,
                value=self._settings[one.alert, one.severity, ""],
                agents={
                    agent: value
                    for (alert, severity, agent), value in self._settings.items()
                    if agent and (alert, severity) == (one.alert, one.severity)
                },
                per_agent=one.per_agent,
                overrides=[
                    _shown(override)
                    for override in overrides
                    if (override.alert, override.severity) == (one.alert, one.severity)
                ],
            )
            for one in THRESHOLDS
        ]

    async def set(self, actor: Actor, body: ThresholdIn, version: str | None) -> ThresholdOverride:
        """Raises InvalidFieldError, WrongGatewayError, and StaleVersionError when it is not the one that was read."""
        _may(actor, body.gateway)
        try:
            check(body.alert, body.severity, body.agent, body.value)
        except ValueError as error:
            raise errors.InvalidFieldError(str(error), field="body.value") from error
        override = rows.ThresholdOverride(
            body.alert, body.severity, body.gateway, body.agent, body.value, updated_by=actor.name
        )
        async with self._pool.connection() as connection:
            await _unchanged(connection, (body.alert, body.severity, body.gateway, body.agent), version)
            stored = await rows.set_threshold(connection, override)
            await auth.audit(
                connection,
                phase="succeeded",
                actor=actor.name,
                action="threshold.set",
                target=f"{body.alert}.{body.severity}",
                gateway=body.gateway or None,
                detail={"value": body.value, "agent": body.agent},
            )
        return _shown(stored)

    async def delete(self, actor: Actor, named: Name, version: str | None) -> None:
        """Back to the settings'. Raises NotFoundError, WrongGatewayError, StaleVersionError."""
        alert, severity, gateway, agent = named
        _may(actor, gateway)
        async with self._pool.connection() as connection:
            await _unchanged(connection, named, version)
            if not await rows.delete_threshold(connection, *named):
                raise NotFoundError("No such threshold was set at run time.")
            await auth.audit(
                connection,
                phase="succeeded",
                actor=actor.name,
                action="threshold.delete",
                target=f"{alert}.{severity}",
                gateway=gateway or None,
                detail={"agent": agent},
            )


async def _unchanged(connection: Connection, named: Name, version: str | None) -> None:
    """Raises StaleVersionError when it is not in that version any more."""
    if version is None:
        return
    found = await rows.locked_threshold(connection, *named)
    if found is None or _version(found) != version:
        raise errors.StaleVersionError


def _version(override: rows.ThresholdOverride) -> str:
    return "" if override.updated_at is None else override.updated_at.isoformat()


def _may(actor: Actor, gateway: str) -> None:
    """Who is limited to some gateways must name one of them."""
    if actor.gateways is not None and gateway not in actor.gateways:
        raise errors.WrongGatewayError("This token is limited to other gateways.", field="body.gateway")


def _shown(override: rows.ThresholdOverride) -> ThresholdOverride:
    return ThresholdOverride(
        gateway=override.gateway,
        agent=override.agent,
        value=override.value,
        updated_at=override.updated_at,
        updated_by=override.updated_by,
        version=_version(override),
    )
