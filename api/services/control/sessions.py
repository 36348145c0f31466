"""The sessions of agents: a gateway's methods `sessions.*`, and the end of what runs in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.models.commands import Accepted, Killed, KillIn, SessionPatch, Transcript
from api.security.scopes import Actor
from api.services.commands import Command, Commands, Note, starting
from api.services.confirmations import Confirmations
from api.services.gateway import call, refusal, required, said, session_of
from openclaw.client import GatewayClient
from openclaw.fields import flag
from openclaw.protocol import GatewayError

_TRANSCRIPT_CHARACTERS = 4_000  # of one message


class Sessions:
    """Reading, stopping and changing sessions. Changes when the gateway gives or takes that in another way."""

    def __init__(self, commands: Commands, confirmations: Confirmations) -> None:
        self._commands = commands
        self._confirmations = confirmations

    async def kill(self, actor: Actor, agent: str, wanted: KillIn, key: str | None) -> Killed:
        """Stop what runs in a session of an agent."""
        await self._commands.known_agent(actor, agent)
        session_key = session_of(agent, wanted.session_key)

        async def send(client: GatewayClient) -> Killed:
            payload = await call(client, "chat.abort", {"sessionKey": session_key})
            runs = payload.get("runIds")
            aborted = required(flag(payload.get("aborted")), "chat.abort", "aborted")
            return Killed(aborted=aborted, run_ids=[str(run) for run in runs] if isinstance(runs, list) else [])

        command = Command(
            answer=Killed,
            action="agent.kill",
            target=agent,
            request=wanted,
            detail={"session": session_key},
            note=lambda killed: Note("killed", "agent", agent, killed.model_dump(by_alias=True)),
        )
        return await self._commands.run(actor, command, send, key)

    async def patch(self, actor: Actor, session_key: str, wanted: SessionPatch, key: str | None) -> Accepted:
        """Choose a session's model."""
        return await self._change(actor, "patch", session_key, {"model": wanted.model}, key)

    async def compact(self, actor: Actor, session_key: str, key: str | None) -> Accepted:
        """Compact a session's transcript."""
        return await self._change(actor, "compact", session_key, {}, key)

    async def reset(self, actor: Actor, session_key: str, nonce: str | None, key: str | None) -> Accepted:
        """Empty a session. Needs a confirmation."""
        await self._confirmations.take(actor, "session.reset", session_key, nonce)
        return await self._change(actor, "reset", session_key, {}, key)

    async def delete(self, actor: Actor, session_key: str, nonce: str | None, key: str | None) -> Accepted:
        """Delete a session and its transcript. Needs a confirmation."""
        await self._confirmations.take(actor, "session.delete", session_key, nonce)
        return await self._change(actor, "delete", session_key, {"deleteTranscript": True}, key)

    async def transcript(self, actor: Actor, agent: str, session_key: str | None, limit: int) -> Transcript:
        """The end of a session, asked of the gateway at this moment."""
        await self._commands.known_agent(actor, agent)
        key = session_of(agent, session_key)
        try:
            spoken = await said(self._commands.connection(actor), key, limit, _TRANSCRIPT_CHARACTERS)
        except GatewayError as error:
            raise refusal(error) from error
        await self._commands.note(actor, Note("transcript_read", "agent", agent, {"session": key}))
        return Transcript(session_key=key, items=spoken)

    async def _change(
        self, actor: Actor, verb: str, session_key: str, detail: Mapping[str, Any], key: str | None
    ) -> Accepted:
        params = {"key": session_key, **detail}
        command = Command(
            answer=Accepted,
            action=f"session.{verb}",
            target=session_key,
            request=params,
            detail=detail,
            note=Note(verb, "session", session_key),
        )
        return await self._commands.run(actor, command, starting(f"sessions.{verb}", params), key)
