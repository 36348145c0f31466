"""The chat channels of a gateway: its methods `channels.*`."""

from __future__ import annotations

from api.models.commands import Accepted
from api.models.control import ChannelAccount
from api.security.scopes import Actor
from api.services.commands import Command, Commands, Note, once
from api.services.confirmations import Confirmations


class Channels:
    """Who is logged in to which channel. Changes when the gateway logs channels out in another way."""

    def __init__(self, commands: Commands, confirmations: Confirmations) -> None:
        self._commands = commands
        self._confirmations = confirmations

    async def logout(
        self, actor: Actor, channel: str, account: str | None, nonce: str | None, key: str | None
    ) -> Accepted:
        """Log a chat channel out. Needs a confirmation: only a person at the other end can log it in again."""
        await self._confirmations.take(actor, "channel.logout", channel, nonce, ChannelAccount(account=account))
        params = {"channel": channel} if account is None else {"channel": channel, "accountId": account}
        command = Command(
            answer=Accepted,
            action="channel.logout",
            target=channel,
            request=params,
            detail=params,
            note=Note("logout", "channel", channel, params),
        )
        return await self._commands.run(actor, command, once("channels.logout", params), key)
