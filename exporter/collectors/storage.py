"""How large the state directory is, by part. Names and sizes only: no file is opened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lobservatory.metrics.exposition import Sample

PARTS = (
    "agent_database",
    "agent_wal",
    "state_database",
    "state_wal",
    "transcripts",
    "archives",
    "logs",
    "other",
)
_MOST_ENTRIES = 500_000


def part_of(relative: str) -> str:
    """The part that a file belongs to, by its path below the state directory (with `/`)."""
    name = relative.rsplit("/", 1)[-1]
    in_agents = relative.startswith("agents/")
    if ".sqlite" in name:
        wal = name.endswith(("-wal", "-shm", "-journal"))
        if in_agents:
            return "agent_wal" if wal else "agent_database"
        return "state_wal" if wal else "state_database"
    if in_agents and "/sessions/" in relative:
        if ".jsonl.reset." in name or ".jsonl.deleted." in name or "/sessions/cold/" in relative:
            return "archives"
        return "transcripts"
    if relative.startswith("logs/") or name.endswith(".log"):
        return "logs"
    return "other"


@dataclass(slots=True)
class Sizes:
    """Bytes by part, and of each SQLite database: (path below the state directory, `main` or `wal`)."""

    parts: dict[str, int] = field(default_factory=dict)
    databases: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, relative: str, size: int) -> None:
        """One file more."""
        self.parts[part_of(relative)] += size
        database = relative.removesuffix("-wal")
        if database.endswith(".sqlite"):
            self.databases[database, "main" if database == relative else "wal"] = size


def measure(state_dir: Path) -> Sizes:
    """What is there now. Symbolic links are not followed; a file that vanishes meanwhile is left out.

    Raises OSError when the directory itself cannot be read, or when it holds more than half a million entries.
    """
    sizes = Sizes(dict.fromkeys(PARTS, 0))
    root = os.fspath(state_dir).rstrip(os.sep)
    folders = [root]
    entries = 0
    first = True
    while folders:
        try:
            listing = os.scandir(folders.pop())
        except OSError:
            if first:
                raise
            continue
        first = False
        with listing:
            for entry in listing:
                entries += 1
                if entries > _MOST_ENTRIES:
                    raise OSError(f"{state_dir} holds more than {_MOST_ENTRIES:,} files: it is not measured")
                try:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        relative = entry.path[len(root) + 1 :].replace(os.sep, "/")
                        sizes.add(relative, entry.stat(follow_symlinks=False).st_size)
                except OSError:
                    continue
    return sizes


class StorageCollector:
    """Measures the state directory in a thread."""

    name = "storage"
    deadline = 30.0

    def __init__(self, gateway: str, state_dir: Path, *, interval: float = 60.0) -> None:
        self.interval = interval
        self._gateway = gateway
        self._state_dir = state_dir
        self._sizes = Sizes()

    async def refresh(self) -> None:
        """Walk through the directory."""
        try:
            self._sizes = await asyncio.to_thread(measure, self._state_dir)
        except BaseException:
            self._sizes = Sizes()
            raise

    def render(self) -> Iterable[Sample]:
        """The sizes of the last walk."""
        for part, size in self._sizes.parts.items():
            yield Sample("claw_state_dir_bytes", (self._gateway, part), size)
        for (database, file), size in sorted(self._sizes.databases.items()):
            yield Sample("claw_sqlite_bytes", (self._gateway, database, file), size)
