"""The facade over all readers of a state directory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from openclaw.stores import files
from openclaw.stores.contract import Chunk, Discovery, Entry, Position, SessionInfo, Source, SourceError, Store
from openclaw.stores.database import AgentDatabase, Contents, Rows, StoredSession
from openclaw.stores.discovery import Found, Headers, Walker
from openclaw.stores.index import MAX_INDEX, index_sessions, parse_index, trajectory_key
from openclaw.stores.keys import session_kind, thread_parent

MAX_CHUNK = 8 * 1024 * 1024


_Parts = list[tuple[str, Mapping[str, SessionInfo]]]


class Stores:
    """Reads one state directory. Not thread-safe: one thread at a time."""

    def __init__(self, state_dir: Path, *, max_bytes: int = MAX_CHUNK) -> None:
        self._max_bytes = max_bytes
        self._walker = Walker(state_dir)
        self._headers = Headers()
        self._databases: dict[str, AgentDatabase] = {}
        self._found = Found()
        self._indexes: dict[Path, tuple[tuple[int, ...], Mapping[str, SessionInfo]]] = {}
        self._merged: tuple[Found, _Parts, dict[tuple[str, str], SessionInfo]] | None = None
        self._trajectory_keys: dict[tuple[str, str], str | None] = {}
        self._archive: tuple[str, int, files.ArchiveStream] | None = None  # key, offset and the open stream
        self._cold_sessions: dict[str, str] = {}
        self._buffer: bytearray | None = None  # of `raw`
        self._compared: dict[str, int] = {}  # up to where files are known to be as they were read, by device and inode

    # --- what is there ------------------------------------------------------------------------------------

    def discover(self) -> Discovery:
        """All sources, in reading order. What cannot be listed is a problem of the answer, not an error."""
        found = self._walker.walk()
        self._found = found
        problems = list(found.problems)
        rows: list[Source] = []
        archives = [source for source in found.files if source.store == "archive"]
        names = {source.path.name for source in archives}
        for agent, key, path in found.databases:
            database = self._database(agent, key, path)
            contents = database.contents()
            if contents.problem is not None:
                problems.append(contents.problem)
            rows += _session_sources(database, contents)
            archives += [
                source for source, name in _stored_archives(database, contents) if name not in names
            ]  # one that was also written to a file is read there
        self._drop_databases({key for _, key, _ in found.databases})
        live = [source for source in found.files if source.store == "jsonl"]
        living = {source.fingerprint for source in live}
        self._headers.forget(living)
        for gone in self._compared.keys() - living:
            del self._compared[gone]
        live.sort(key=self._headers.order)
        archives.sort(key=lambda source: source.key)
        counts: dict[Store, int] = {
            "jsonl": len(live),
            "sqlite": len(found.databases),
            "archive": len(archives),
        }
        return Discovery(sources=(*rows, *live, *archives), problems=tuple(problems), files=counts)

    def attach(self, sources: Sequence[Source]) -> None:
        """Get ready to read sources that another `Stores` of the same directory has discovered."""
        for source in sources:
            if "#" in source.key and (key := _database_key(source)) not in self._databases:
                self._database(source.agent, key, source.path).contents()

    def _database(self, agent: str, key: str, path: Path) -> AgentDatabase:
        database = self._databases.get(key)
        if database is None or database.path != path:
            if database is not None:
                database.close()
            database = self._databases[key] = AgentDatabase(path, key, agent)
        return database

    def _drop_databases(self, living: set[str]) -> None:
        for key in self._databases.keys() - living:
            self._databases.pop(key).close()

    # --- who is who ---------------------------------------------------------------------------------------

    def sessions(self) -> Mapping[tuple[str, str], SessionInfo]:
        """What the indexes know of sessions, by (agent, session id), as of the last `discover`.

        Read again only when an index has changed. A session that no index knows may be named by its trajectory.
        """
        parts: list[tuple[str, Mapping[str, SessionInfo]]] = []
        for agent, path in self._found.indexes:
            parts.append((agent, self._index(agent, path)))
        for database in self._databases.values():
            with contextlib.suppress(SourceError):  # discovery has reported the database already
                parts.append((database.agent, database.sessions()))
        if self._merged is not None and self._merged[0] is self._found and _same(self._merged[1], parts):
            return self._merged[2]
        known: dict[tuple[str, str], SessionInfo] = {}
        for agent, infos in parts:
            known.update({(agent, session_id): info for session_id, info in infos.items()})
        for source in self._found.files:
            identity = (source.agent, source.session_id)
            if identity not in known and (key := self._trajectory_key(identity)) is not None:
                known[identity] = SessionInfo(
                    agent=source.agent,
                    session_id=source.session_id,
                    session_key=key,
                    kind=session_kind(key),
                    parent_session_key=thread_parent(key),
                )
        self._merged = (self._found, parts, known)
        return known

    def _index(self, agent: str, path: Path) -> Mapping[str, SessionInfo]:
        try:
            status = path.stat()
            state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            cached = self._indexes.get(path)
            if cached is not None and cached[0] == state:
                return cached[1]
            if status.st_size > MAX_INDEX:
                return {}
            infos = {info.session_id: info for info in index_sessions(agent, parse_index(path.read_bytes()))}
        except (OSError, ValueError, RecursionError):
            # Being replaced just now, or broken: the kinds that were known stay, the sessions themselves still count.
            cached = self._indexes.get(path)
            return cached[1] if cached is not None else {}
        self._indexes[path] = (state, infos)
        return infos

    def _trajectory_key(self, identity: tuple[str, str]) -> str | None:
        path = self._found.trajectories.get(identity)
        if path is None:
            return None
        if self._trajectory_keys.get(identity) is None:
            self._trajectory_keys[identity] = trajectory_key(path)
        return self._trajectory_keys[identity]

    # --- positions ----------------------------------------------------------------------------------------

    @staticmethod
    def changed(source: Source, position: Position | None) -> bool:
        """Whether a read could give anything, judged by what discovery saw: cheap, no I/O."""
        if position is None:
            return True
        if source.store == "sqlite":
            return position.fingerprint != source.fingerprint or position.offset != source.size - 1
        return not files.unchanged(source, position)

    @staticmethod
    def followed(discovery: Discovery, positions: Mapping[str, Position]) -> dict[str, Position]:
        """`positions`, with those of renamed files under their new keys too.

        A file whose name is new and whose device and inode are those of a position is the same file, or another one
        that was given the inode: the hash in the position tells when it is read.
        """
        known = dict(positions)
        now = {source.key: source.fingerprint for source in discovery.sources}
        moved = {}
        for key, position in positions.items():
            inode = ":".join(position.fingerprint.split(":")[:2])
            if "#" not in key and now.get(key) != inode:
                moved[inode] = position
        for source in discovery.sources:
            if source.store != "sqlite" and source.key not in known and source.fingerprint in moved:
                known[source.key] = replace(moved[source.fingerprint], key=source.key)
        return known

    # --- reading ------------------------------------------------------------------------------------------

    def read(self, source: Source, position: Position | None, *, max_bytes: int | None = None) -> Chunk:
        """The next entries after `position` (None: from the beginning). Raises SourceError when it cannot be read."""
        limit = max_bytes or self._max_bytes
        if source.store == "sqlite":
            database = self._databases[_database_key(source)]
            return database.read(source, position, max_bytes=limit)
        if source.store == "archive":
            chunk = self._read_archive(source, position, limit)
        else:
            chunk = self._read_file(source, position, limit)
        shadowed = self._shadowed(chunk) if chunk.entries else frozenset()
        return replace(chunk, shadowed=shadowed) if shadowed else chunk

    def raw(self, source: Source) -> Iterator[files.Block | files.Lines | Rows] | None:
        """All of a source from its beginning, undecoded, for readers that keep no position; None: only `read` can.

        Raises SourceError.
        """
        if source.store == "sqlite":
            return self._databases[_database_key(source)].rows(source, max_bytes=self._max_bytes)
        if source.archive_of is not None or not source.session_id or self._stored_elsewhere(source):
            return None
        if source.store == "archive" and (archive := files.open_compressed(source)) is not None:
            archive.close()
            return None
        if self._buffer is None:
            self._buffer = bytearray(files.BLOCK)
        return files.read_blocks(source, self._buffer)

    def _stored_elsewhere(self, source: Source) -> bool:
        databases = (database for database in self._databases.values() if database.agent == source.agent)
        return any(database.has(source.session_id) for database in databases)

    def _shadowed(self, chunk: Chunk) -> frozenset[str]:
        """Of a session that lies in the database too, the database's entries win; the file's others are kept."""
        for database in self._databases.values():
            if database.agent == chunk.source.agent:
                return database.entry_ids(chunk.session_id)
        return frozenset()

    def _read_file(self, source: Source, position: Position | None, limit: int) -> Chunk:
        known = self._compared.get(source.fingerprint)
        compare = position is None or not files.need_not_compare(position, known, source.size)
        chunk = files.read_file(source, position, max_bytes=limit, compare=compare)
        if compare or chunk.restarted or (position is not None and known == position.offset):
            self._compared[source.fingerprint] = chunk.position.offset
        return chunk

    def _read_archive(self, source: Source, position: Position | None, limit: int) -> Chunk:
        goes_on = position is not None and files.continues_archive(source, position)
        archive = self._compressed(source, position.offset if position is not None and goes_on else 0)
        if archive is None:
            chunk = files.read_file(source, position, max_bytes=limit)
        else:
            if position is not None and not goes_on:
                position = replace(position, offset=0, generation=position.generation + 1)
            chunk = files.read_archive(source, position, archive, max_bytes=limit)
            self._keep_archive(source, chunk, archive)
        if source.session_id:
            return chunk
        return replace(chunk, session_id=self._cold_session(source, chunk))

    def _compressed(self, source: Source, offset: int) -> files.ArchiveStream | None:
        """The open stream of a compressed archive at or before an offset; None for a plain file."""
        if self._archive is not None:
            key, at, archive = self._archive
            self._archive = None
            if (key, at) == (source.key, offset):
                return archive
            archive.close()
        if source.archive_of is not None:
            return files.ArchiveStream(io.BytesIO(self._stored(source)))
        return files.open_compressed(source)

    def _stored(self, source: Source) -> bytes:
        return self._databases[_database_key(source)].archive(source)

    def _keep_archive(self, source: Source, chunk: Chunk, archive: files.ArchiveStream) -> None:
        if chunk.done:
            archive.close()
        else:
            self._archive = (source.key, chunk.position.offset, archive)

    def _cold_session(self, source: Source, chunk: Chunk) -> str:
        """The session that a cold archive's header names; its own name is only a hash."""
        identity = f"{source.key}:{source.fingerprint}"
        if identity not in self._cold_sessions:
            first = chunk.entries[0] if chunk.entries else None
            if chunk.position.offset != chunk.bytes_read:  # not the beginning: look there
                beginning = self.read(replace(source, session_id="-"), None, max_bytes=1)
                first = beginning.entries[0] if beginning.entries else None
            named = isinstance(first, Entry) and first.type == "session" and isinstance(first.id, str)
            name = source.path.name.partition(".")[0]
            self._cold_sessions[identity] = str(first.id) if named and first is not None else name
        return self._cold_sessions[identity]

    def close(self) -> None:
        """Close databases and open archives."""
        if self._archive is not None:
            self._archive[2].close()
            self._archive = None
        self._drop_databases(set())


def _same(one: _Parts, other: _Parts) -> bool:
    """Whether the indexes are the very same objects, which they are until they change."""
    return len(one) == len(other) and all(a[1] is b[1] for a, b in zip(one, other, strict=True))


def _database_key(source: Source) -> str:
    return source.key.partition("#")[0]


def _session_sources(database: AgentDatabase, contents: Contents) -> list[Source]:
    """Those of sessions that are as they were last time are the same objects: thousands are made at each write else."""
    made: dict[str, tuple[StoredSession, Source]] = {}
    sources = []
    for session in contents.sessions:
        fingerprint = f"{contents.identity}:{session.generation}"
        known = database.sources.get(session.session_id)
        if known is None or known[0] is not session or known[1].fingerprint != fingerprint:
            source = Source(
                key=f"{database.key}#{session.session_id}",
                store="sqlite",
                agent=database.agent,
                session_id=session.session_id,
                path=database.path,
                size=session.last_seq + 1,
                mtime_ns=0,
                fingerprint=fingerprint,
            )
            known = (session, source)
        made[session.session_id] = known
        sources.append(known[1])
    database.sources = made
    return sources


def _stored_archives(database: AgentDatabase, contents: Contents) -> list[tuple[Source, str]]:
    return [
        (
            Source(
                key=f"{database.key}#{archive.table}:{archive.session_id}:{archive.generation}",
                store="archive",
                agent=database.agent,
                session_id=archive.session_id,
                path=database.path,
                size=0,
                mtime_ns=0,
                fingerprint=f"{contents.identity}:{archive.generation}",
                archive_of=(archive.session_id, archive.generation),
            ),
            archive.name,
        )
        for archive in contents.archives
    ]
