"""How far sources were read, as the ledger has it: the one place where positions cross between stores and ledger.

Beside those of sources, the ledger keeps marks in the shape of positions; `#` keeps them apart from names of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, get_args

from exporter.accounting import Facts
from openclaw.stores import Chunk, Place, Position, Store, place
from store import rows

_SCANNED: Final = "#first-scan"  # it has ended once
_ARCHIVED: Final = "#archived:"  # and agent/session: counted from an archive whose name does not tell its session
_NEWEST: Final = "#newest:"  # and the source: the time of its newest entry, epoch milliseconds


class Positions:
    """Those that were committed. `newest` (epoch seconds by source) is replaced, never changed: any thread may look."""

    def __init__(self) -> None:
        self.by_key: dict[str, Position] = {}
        self.newest: Mapping[str, float] = {}
        self._places: set[Place] = set()  # where sessions were read

    @property
    def scanned(self) -> bool:
        """Whether a first scan has ended."""
        return _SCANNED in self.by_key

    def take_over(self, kept: Mapping[str, rows.Position]) -> None:
        """These instead of what was known."""
        self.by_key, self._places = {}, set()
        newest = {key.removeprefix(_NEWEST): one.offset / 1000 for key, one in kept.items() if key.startswith(_NEWEST)}
        self.keep(
            {
                key: Position(key, one.offset, one.generation, one.fingerprint, one.size, one.mtime_ns)
                for key, one in kept.items()
            },
            newest,
        )

    def keep(self, committed: Mapping[str, Position], newest: Mapping[str, float]) -> None:
        """These too, after their commit."""
        self.by_key.update(committed)
        self._places.update(filter(None, map(_place, committed)))
        self.newest = newest

    def moved(self, chunk: Chunk) -> bool:
        """Whether the session was read in another kind of store before."""
        source = chunk.source
        others = (Place(source.agent, chunk.session_id, store) for store in get_args(Store) if store != source.store)
        return any(one in self._places for one in others)

    def newest_with(self, batch: Sequence[Facts]) -> dict[str, float]:
        """`newest`, as it is when a batch is committed."""
        newest = dict(self.newest)
        for facts in batch:
            for kept in (facts.calls, facts.tool_results, facts.events):
                if kept:
                    newest[facts.source] = max(newest.get(facts.source, 0.0), kept[-1].ts.timestamp())
        return newest


def newest_marks(newest: Mapping[str, float]) -> Iterable[Position]:
    """The marks that keep the times of the newest entries."""
    return (Position(_NEWEST + store, round(at * 1000)) for store, at in newest.items())


def end_of_scan() -> Position:
    """The mark that the first scan has ended."""
    return Position(_SCANNED, 1)


def archived(agent: str, session_id: str) -> Position:
    """The mark that a session was counted from an archive that is not named after it."""
    return Position(f"{_ARCHIVED}{agent}/{session_id}", 1)


def for_ledger(gateway: str, positions: Iterable[Position]) -> list[rows.Position]:
    """The rows that keep these positions."""
    return [
        rows.Position(gateway, one.key, one.offset, one.generation, one.fingerprint, one.size, one.mtime_ns)
        for one in positions
    ]


def _place(key: str) -> Place | None:
    """Where the session lay that was read up to this position."""
    if not key.startswith(_ARCHIVED):
        return place(key)
    agent, _, session_id = key.removeprefix(_ARCHIVED).partition("/")
    return Place(agent, session_id, "archive")
