"""Who is who: what the gateway's indexes and the ledger know of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from exporter.ingest.state import Stage, State
from openclaw.stores import Chunk, SessionInfo
from store.ledger.contract import Ledger
from store.rows import Session

Infos = Mapping[tuple[str, str], SessionInfo]  # by agent and session id


class Sessions:
    """What the ledger was told of sessions in this life, and what it knows of those that the gateway has forgotten."""

    def __init__(self, ledger: Ledger, stage: Stage) -> None:
        self._ledger = ledger
        self._stage = stage
        self._told: dict[tuple[str, str], SessionInfo] = {}
        self._forgotten: dict[tuple[str, str], SessionInfo | None] = {}

    def clear(self) -> None:
        """Nothing is certain to be in the ledger."""
        self._told, self._forgotten = {}, {}

    def news(self, sessions: Infos) -> list[SessionInfo]:
        """What the ledger was not told yet."""
        told = self._told
        return [info for key, info in sessions.items() if (before := told.get(key)) is not info and before != info]

    def keep(self, committed: Iterable[SessionInfo]) -> None:
        """These were told, after their commit."""
        for info in committed:
            self._told[info.agent, info.session_id] = info
            self._forgotten.pop((info.agent, info.session_id), None)

    async def of(self, chunk: Chunk, sessions: Infos) -> Infos:
        """`sessions`, with what we know of the chunk's session where the gateway knows nothing of it any more.

        Of one that was deleted or reset, an archive is left, which does not hold its key. Raises
        LedgerUnavailableError.
        """
        session = (chunk.source.agent, chunk.session_id)
        if session in sessions or not chunk.entries or self._stage.state is State.SCANNING:
            return sessions
        if session not in self._forgotten:
            found = await self._ledger.session(*session)
            self._forgotten[session] = None if found is None else _info_of(found)
        known = self._forgotten[session]
        if known is None:
            return sessions
        return {session: replace(known, archived=True) if chunk.source.store == "archive" else known}


def _info_of(row: Session) -> SessionInfo:
    return SessionInfo(
        agent=row.agent,
        session_id=row.session_id,
        session_key=row.session_key,
        kind=row.kind or "unknown",
        channel=row.channel,
        parent_session_key=row.parent_session_key,
    )
