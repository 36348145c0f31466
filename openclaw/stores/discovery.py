"""Which files of a state directory are transcripts. Only names, `stat` and the first line of new files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from openclaw.stores.contract import Entry, Problem, Source, Store
from openclaw.stores.database import NAME as DATABASE_NAME
from openclaw.stores.entries import decode

_ARCHIVE = re.compile(r"(?P<stem>.+)\.jsonl\.(?:reset|deleted)\.[^/]+", re.DOTALL)
_COLD = re.compile(r"(?P<stem>.+)\.jsonl(?:\.zst)?", re.DOTALL)
_SIDECAR = re.compile(r"\.trajectory$|\.checkpoint\.[0-9A-Za-z-]+$|\.bak", re.DOTALL)
_IGNORED_ENDINGS = (".lock", ".tmp")
_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Name:
    """What a file's name says: the store that it belongs to and its session."""

    store: Store
    session_id: str


@lru_cache(maxsize=16_384)
def classify(name: str) -> Name | None:
    """The transcript that a file of a `sessions` directory is, or None for sidecars, backups and everything else.

    The session id of an archive ends at the last `.jsonl.<reason>.`, for ids may hold any text.
    """
    if name.endswith(_IGNORED_ENDINGS):
        return None
    store: Store
    if name.endswith(".jsonl"):
        store, stem = "jsonl", name.removesuffix(".jsonl")
    elif match := _ARCHIVE.fullmatch(name):  # greedy: the last one
        store, stem = "archive", match["stem"]
    elif name.endswith(".jsonl.zst"):
        store, stem = "archive", name.removesuffix(".jsonl.zst")
    else:
        return None
    return None if not stem or _SIDECAR.search(stem) else Name(store, stem)


class Place(NamedTuple):
    """Where a session lies: whose it is, and in which store."""

    agent: str
    session_id: str
    store: Store


def place(key: str) -> Place | None:
    """The place that a source's key names; None where it does not name the session."""
    agents, _, rest = key.partition("/")
    agent, _, rest = rest.partition("/")
    folder, _, name = rest.partition("/")
    if agents != "agents":
        return None
    if folder == "sessions" and "/" not in name and (found := classify(name)) is not None:
        return Place(agent, found.session_id, found.store)
    if (
        folder == "agent"
        and name.startswith(f"{DATABASE_NAME}#")
        and not name.startswith(f"{DATABASE_NAME}#session_tr")
    ):
        return Place(agent, name.removeprefix(f"{DATABASE_NAME}#"), "sqlite")
    return None


@dataclass(slots=True)
class Found:
    """The files of one look, not yet in reading order."""

    databases: list[tuple[str, str, Path]] = field(default_factory=list)  # agent, key, path
    files: list[Source] = field(default_factory=list)
    indexes: list[tuple[str, Path]] = field(default_factory=list)  # agent, path of sessions.json
    trajectories: dict[tuple[str, str], Path] = field(default_factory=dict)  # by agent, session id
    problems: list[Problem] = field(default_factory=list)
    known: dict[str, tuple[tuple[int, ...], Source]] = field(default_factory=dict)  # files by path, with their state
    seen: set[tuple[int, int]] = field(default_factory=set)  # device and inode of every file so far


class Walker:
    """Walks a state directory. Symbolic links are followed inside it only, every target once."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir
        self._real_root = os.path.realpath(state_dir)
        self._known: dict[str, tuple[tuple[int, ...], Source]] = {}  # of the last look, by path

    def walk(self) -> Found:
        """What is there now. Never raises: what cannot be listed is a problem."""
        found = Found()
        agents = self._root / "agents"
        entries = self._entries(agents, found)
        for agent_entry in sorted(entries, key=lambda entry: entry.is_symlink()):  # by its own name where it has one
            if self._is_inside(agent_entry, found) and _is_directory(agent_entry, found):
                self._agent(printable(agent_entry.name), Path(agent_entry.path), found)
        self._known = found.known
        return found

    def _agent(self, agent: str, directory: Path, found: Found) -> None:
        self._database(agent, directory, found)
        links: list[tuple[os.DirEntry[str], Name, str]] = []
        for entry, name, folder in self._transcripts(agent, directory / "sessions", found):
            if entry.is_symlink():
                links.append((entry, name, folder))
            else:
                self._add(agent, entry, name, folder, found)
        for entry, name, folder in links:  # after the files, so that a file is known by its own name
            if self._is_inside(entry, found):
                self._add(agent, entry, name, folder, found)

    def _database(self, agent: str, directory: Path, found: Found) -> None:
        path = directory / "agent" / DATABASE_NAME
        try:
            status = path.stat()
            real = os.path.realpath(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            found.problems.append(Problem("sqlite", path, f"{path}: cannot be read: {error.strerror}"))
            return
        if not self._contains(real):
            found.problems.append(_outside("sqlite", path))
        elif stat.S_ISREG(status.st_mode) and status.st_size and (status.st_dev, status.st_ino) not in found.seen:
            found.seen.add((status.st_dev, status.st_ino))
            found.databases.append((agent, self._key(path), Path(real)))

    def _transcripts(self, agent: str, directory: Path, found: Found) -> Iterator[tuple[os.DirEntry[str], Name, str]]:
        for entry in self._entries(directory, found):
            if entry.name == "sessions.json":
                found.indexes.append((agent, Path(entry.path)))
            elif entry.name.endswith(".trajectory.jsonl"):
                session_id = printable(entry.name.removesuffix(".trajectory.jsonl"))
                found.trajectories[agent, session_id] = Path(entry.path)
            elif (name := classify(entry.name)) is not None:
                yield entry, name, "sessions"
        cold = directory / "cold"
        for entry in self._entries(cold, found):
            match = _COLD.fullmatch(entry.name)
            if match and not _SIDECAR.search(match["stem"]):  # its name is a hash: the header says whose it is
                yield entry, Name("archive", ""), "sessions/cold"

    def _add(self, agent: str, entry: os.DirEntry[str], name: Name, folder: str, found: Found) -> None:
        try:
            status = entry.stat()
        except FileNotFoundError:
            return  # renamed between the listing and now: the next look sees it
        except OSError as error:
            if error.errno == errno.ELOOP:
                return  # a link that leads to itself
            text = f"{entry.path}: cannot be read: {error.strerror}"
            found.problems.append(Problem(name.store, Path(entry.path), text))
            return
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode) or identity in found.seen:
            return
        found.seen.add(identity)
        state = (*identity, status.st_size, status.st_mtime_ns)
        known = self._known.get(entry.path)
        if known is None or known[0] != state:
            source = Source(
                key=f"agents/{agent}/{folder}/{printable(entry.name)}",
                store=name.store,
                agent=agent,
                session_id=printable(name.session_id),
                path=Path(entry.path),
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                fingerprint=f"{status.st_dev}:{status.st_ino}",
            )
            known = (state, source)
        found.known[entry.path] = known
        found.files.append(known[1])

    def _entries(self, directory: Path, found: Found) -> list[os.DirEntry[str]]:
        try:
            if not self._contains(os.path.realpath(directory)):
                found.problems.append(_outside("jsonl", directory))
                return []
            with os.scandir(directory) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            text = (
                f"{directory}: cannot be listed: {error.strerror}; "
                "run as the user of the gateway, or give this user read permission"
            )
            found.problems.append(Problem("jsonl", directory, text))
            return []

    def _is_inside(self, entry: os.DirEntry[str], found: Found) -> bool:
        if not entry.is_symlink() or self._contains(os.path.realpath(entry.path)):
            return True
        found.problems.append(_outside("jsonl", Path(entry.path)))
        return False

    def _contains(self, real: str) -> bool:
        return real == self._real_root or real.startswith(self._real_root.rstrip("/") + "/")

    def _key(self, path: Path) -> str:
        return printable(path.relative_to(self._root).as_posix())


def _is_directory(entry: os.DirEntry[str], found: Found) -> bool:
    """Whether it is a directory that was not walked under another name."""
    try:
        status = entry.stat()
    except OSError:
        return False
    identity = (status.st_dev, status.st_ino)
    if not stat.S_ISDIR(status.st_mode) or identity in found.seen:
        return False
    found.seen.add(identity)
    return True


def _outside(store: Store, path: Path) -> Problem:
    text = f"{path}: a symbolic link out of the state directory: not followed"
    return Problem(store, path, text, fatal=False)


def printable(name: str) -> str:
    """A file name as text that every database can store (bytes that are no UTF-8 become escapes)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Headers:
    """First lines of live transcripts, read once per inode: they tell a parent from its forks."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bool, str]] = {}

    def order(self, source: Source) -> tuple[bool, str, str]:
        """Sorts parents before forks and the rest by the time in their header."""
        known = self._known.get(source.fingerprint)
        if known is None:
            header = self._read(source.path)
            known = (False, "") if header is None else (bool(header.parentSession), str(header.timestamp or ""))
            if header is not None:
                self._known[source.fingerprint] = known
        return (*known, source.key)

    def forget(self, living: set[str]) -> None:
        """Drop what is known of files that are gone: their inodes may be given to others."""
        for fingerprint in self._known.keys() - living:
            del self._known[fingerprint]

    @staticmethod
    def _read(path: Path) -> Entry | None:
        try:
            number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None  # the read of the file itself will say why
        try:
            line, newline, _ = os.pread(number, _HEADER, 0).partition(b"\n")
        except OSError:
            return None
        finally:
            os.close(number)
        entry = decode(line) if newline else None
        return entry if isinstance(entry, Entry) else None
