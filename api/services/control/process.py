"""The gateway itself: its restart, its update, and its service, by the gateway's own methods or the service manager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.models.commands import Accepted, Action
from api.models.control import UpdateStatus
from api.security.scopes import Actor
from api.services import service_manager
from api.services.commands import Command, Commands, Note, once
from api.services.confirmations import Confirmations
from api.services.service_manager import Verb
from openclaw.client import GatewayClient

_UPDATE_SECONDS = 120.0


class GatewayProcess:
    """Starting, stopping and updating a gateway. Changes when that is done in another way. `service`: its name for the
    service manager, "" where it has none."""

    def __init__(self, commands: Commands, confirmations: Confirmations, service: str) -> None:
        self._commands = commands
        self._confirmations = confirmations
        self._service = service

    async def restart(self, actor: Actor, nonce: str | None, key: str | None) -> Accepted:
        """Restart the gateway when its runs have ended. Needs a confirmation."""
        params = {"reason": "requested through Lobservatory"}
        command = await self._confirmed(actor, "gateway.restart", nonce, params)
        return await self._commands.run(actor, command, once("gateway.restart.request", params), key)

    async def start_or_stop(self, actor: Actor, verb: Verb, nonce: str | None, key: str | None) -> Accepted:
        """Start or stop the gateway's service. Needs a confirmation: what runs in it ends, or costs again.

        Raises ServiceNotConfiguredError, ServiceFailedError.
        """
        action: Action = "gateway.start" if verb == "start" else "gateway.stop"
        command = await self._confirmed(actor, action, nonce, {"service": self._service})

        async def send(_: GatewayClient) -> Accepted:
            await service_manager.run(self._service, verb)
            return Accepted(ok=True)

        return await self._commands.run(actor, command, send, key)

    async def update_status(self, actor: Actor) -> UpdateStatus:
        """What the gateway knows of a newer version of itself."""
        payload = await self._commands.ask(actor, "update.status", {})
        told = payload.get("updateAvailable")
        newer = told if isinstance(told, Mapping) else {}
        version = newer.get("latestVersion") or newer.get("version")
        return UpdateStatus(
            available=None if "updateAvailable" not in payload else bool(told),
            version=None if version is None else str(version)[:64],
            channel=str(payload["effectiveChannel"])[:64] if payload.get("effectiveChannel") else None,
        )

    async def update(self, actor: Actor, nonce: str | None, key: str | None) -> Accepted:
        """Update the gateway to the newest version of its channel. Needs a confirmation."""
        command = await self._confirmed(actor, "gateway.update", nonce, {})
        return await self._commands.run(actor, command, once("update.run", {}, _UPDATE_SECONDS), key)

    async def _confirmed(
        self, actor: Actor, action: Action, nonce: str | None, request: Mapping[str, Any]
    ) -> Command[Accepted]:
        gateway = self._commands.gateway
        await self._confirmations.take(actor, action, gateway, nonce)
        return Command(
            answer=Accepted,
            action=action,
            target=gateway,
            request=request,
            detail={},
            note=Note(action.partition(".")[2], "gateway", gateway),
        )
