"""The facade over all readers of a state directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from openclaw.stores.contract import Chunk, Discovery, SessionInfo, Source
from store.rows import Position

MAX_CHUNK = 8 * 1024 * 1024


class Stores:
    """Reads one state directory. Not thread-safe: one thread at a time."""

    def __init__(self, state_dir: Path, *, gateway: str = "default", max_bytes: int = MAX_CHUNK) -> None: ...

    def discover(self) -> Discovery:
        """All sources, in reading order. What cannot be listed is a problem of the answer, not an error."""

    def sessions(self) -> Mapping[tuple[str, str], SessionInfo]:
        """What the indexes know of sessions, by (agent, session id). Read again only when an index has changed."""

    def changed(self, source: Source, position: Position | None) -> bool:
        """Whether a read could give anything, judged by what discovery saw: cheap, no I/O."""

    def followed(self, discovery: Discovery, positions: Mapping[str, Position]) -> dict[str, Position]:
        """`positions`, with those of renamed files under their new keys too."""

    def read(self, source: Source, position: Position | None, *, max_bytes: int | None = None) -> Chunk:
        """The next entries after `position` (None: from the beginning). Raises StoreError when it cannot be read."""

    def close(self) -> None:
        """Close databases."""
