"""Sources → batches: what there is to read, and reading it to its present end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from exporter.accounting import Accountant
from exporter.ingest.batch import Batch
from exporter.ingest.positions import Positions, archived
from exporter.ingest.sessions import Infos, Sessions
from lobservatory.metrics.labels import SOURCES
from openclaw.stores import Chunk, Discovery, Position, SessionInfo, Source, SourceError, Store, place


class SessionStores(Protocol):
    """What is used of `openclaw.stores.Stores`."""

    def discover(self) -> Discovery:
        """All sources, in reading order."""

    def sessions(self) -> Mapping[tuple[str, str], SessionInfo]:
        """What the indexes know."""

    def changed(self, source: Source, position: Position | None) -> bool:
        """Whether a read could give anything."""

    def followed(self, discovery: Discovery, positions: Mapping[str, Position]) -> dict[str, Position]:
        """Positions, with those of renamed files."""

    def read(self, source: Source, position: Position | None, *, max_bytes: int | None = None) -> Chunk:
        """The next entries. Raises SourceError."""

    def close(self) -> None:
        """Close what is open."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at all sources found."""

    discovery: Discovery
    sessions: Infos
    positions: Mapping[str, Position]  # from where to read, by source key
    pending: list[Source]  # those of which a read could give anything


@dataclass(frozen=True, slots=True)
class Left:
    """What could not be read."""

    unread: dict[str, int]  # bytes or rows by store
    broken: Mapping[str, tuple[Store, str]]  # by source key, its store and what is wrong


class Reading:
    """Reads sources in order and gives each full batch to `commit`; `advanced` is called after every chunk."""

    def __init__(
        self,
        stores: SessionStores,
        accountant: Accountant,
        positions: Positions,
        sessions: Sessions,
        *,
        commit: Callable[[Batch], Awaitable[None]],
        advanced: Callable[[Chunk], None],
    ) -> None:
        self._stores = stores
        self._accountant = accountant
        self._positions = positions
        self._sessions = sessions
        self._commit = commit
        self._advanced = advanced
        self._files: dict[str, Source] = {}  # known transcripts by path

    def find(self) -> Found:
        """Look at all sources."""
        discovery = self._stores.discover()
        self._files = {str(one.path): one for one in discovery.sources if one.store == "jsonl"}
        sessions = self._stores.sessions()
        positions = self._stores.followed(discovery, self._positions.by_key)
        pending = [one for one in discovery.sources if self._stores.changed(one, positions.get(one.key))]
        return Found(discovery, sessions, positions, pending)

    async def read(self, found: Found, batch: Batch) -> Left:
        """Read all that is pending; one source that cannot be read costs only itself. Raises LedgerUnavailableError."""
        unread: dict[str, int] = dict.fromkeys(SOURCES, 0)
        broken: dict[str, tuple[Store, str]] = {}
        for source in found.pending:
            try:
                unread[source.store] += await self._read(source, found.positions.get(source.key), batch, found.sessions)
            except SourceError as error:
                broken[source.key] = (source.store, str(error))
        return Left(unread, broken)

    def known(self, paths: Iterable[str]) -> list[Source]:
        """The transcripts of the last look among these paths, as they are now."""
        files = []
        for path in paths:
            source = self._files.get(path)
            if source is None:
                continue
            try:
                status = os.stat(path)  # noqa: PTH116 - a name as the kernel gave it
            except OSError:
                continue
            if source.fingerprint == f"{status.st_dev}:{status.st_ino}":
                files.append(replace(source, size=status.st_size, mtime_ns=status.st_mtime_ns))
        return files

    async def read_files(self, files: Iterable[Source], batch: Batch) -> bool:
        """Read what was appended to known transcripts. Tells whether all could be read. Raises
        LedgerUnavailableError."""
        complete = True
        sessions = self._stores.sessions()
        for source in files:
            try:
                await self._read(source, self._positions.by_key.get(source.key), batch, sessions)
            except SourceError:
                complete = False
        return complete

    async def _read(self, source: Source, position: Position | None, batch: Batch, sessions: Infos) -> int:
        """Read one source to its present end into the batch, committing it whenever it is full. Tells how much could
        not be read yet. Raises SourceError; what was read before it stays in the batch."""
        while True:
            chunk = self._stores.read(source, position)
            self._take(batch, chunk, await self._sessions.of(chunk, sessions))
            if batch.full:
                await self._commit(batch)
                batch.clear()
            if chunk.done:
                return chunk.lag
            position = chunk.position
            await asyncio.sleep(0)  # where a stop can reach us

    def _take(self, batch: Batch, chunk: Chunk, sessions: Infos) -> None:
        source = chunk.source
        self._advanced(chunk)
        if not chunk.entries and not chunk.rejects and chunk.position == self._positions.by_key.get(source.key):
            return
        facts = self._accountant.facts(chunk, sessions)
        facts.moved = self._positions.moved(chunk)
        batch.facts.append(facts)
        batch.mark([chunk.position])
        if facts.calls and place(source.key) is None:
            batch.mark([archived(source.agent, chunk.session_id)])
        batch.rows += len(chunk.entries)
        batch.bytes += chunk.bytes_read
