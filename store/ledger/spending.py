"""What a checkpoint knows of money by time: the windows of cost have no rows to look at without a database.

The ledger notes what was billed by quarter hour, and of the last two hours by single call; the exporter reads it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from store.ledger.contract import EXACT, LedgerUnavailableError
from store.rows import ModelCall

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS agents (agent TEXT PRIMARY KEY, first_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    bucket_ms INTEGER NOT NULL, agent TEXT NOT NULL, cost TEXT NOT NULL, PRIMARY KEY (bucket_ms, agent)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS recent_calls (ts_ms INTEGER NOT NULL, agent TEXT NOT NULL, cost TEXT NOT NULL);
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BUCKET_MS: Final = 15 * 60 * 1000
_RECENT_MS: Final = 2 * 3600 * 1000  # of single calls; older money is kept by quarter hours
_SPENDING_MS: Final = 40 * 86_400_000  # longer than the longest window

_State = tuple[tuple[int, int, int], ...]  # of files: inode, bytes, time of change in nanoseconds
_SETTLED_NS = 2_000_000_000  # longer than any file system's clock ticks


@dataclass(frozen=True, slots=True)
class Spending:
    """Billed US dollars: by quarter hour (its start), and of single calls of the last two hours."""

    first_calls: dict[str, datetime]  # of every agent that ever called a model
    buckets: list[tuple[datetime, str, Decimal]]
    recent: list[tuple[datetime, str, Decimal]]


def note(connection: sqlite3.Connection, calls: Sequence[ModelCall]) -> None:
    """Add what was billed for new calls, on an open transaction."""
    now_ms = int(time.time() * 1000)
    first: dict[str, int] = {}
    buckets: dict[tuple[int, str], Decimal] = {}
    recent = []
    for row in calls:
        agent = row.agent.encode("utf-8", "replace").decode()
        ts_ms = (row.ts - _EPOCH) // timedelta(milliseconds=1)
        first[agent] = min(ts_ms, first.get(agent, ts_ms))
        if row.billing != "billed" or not row.cost_usd or ts_ms < now_ms - _SPENDING_MS:
            continue
        bucket = (ts_ms // _BUCKET_MS * _BUCKET_MS, agent)
        buckets[bucket] = EXACT.add(buckets.get(bucket, Decimal(0)), row.cost_usd)
        if ts_ms >= now_ms - _RECENT_MS:
            recent.append((ts_ms, agent, str(row.cost_usd)))
    run = connection.execute
    for agent, ts_ms in first.items():
        statement = "INSERT INTO agents VALUES (?, ?) ON CONFLICT DO UPDATE SET first_ms = min(first_ms, ?)"
        run(statement, (agent, ts_ms, ts_ms))
    for key, cost in buckets.items():
        found = run("SELECT cost FROM spending WHERE bucket_ms = ? AND agent = ?", key).fetchone()
        known = Decimal(found[0]) if found else Decimal(0)
        run("REPLACE INTO spending VALUES (?, ?, ?)", (*key, str(EXACT.add(known, cost))))
    if recent:
        run("DELETE FROM recent_calls WHERE ts_ms < ?", (now_ms - _RECENT_MS,))
        connection.executemany("INSERT INTO recent_calls VALUES (?, ?, ?)", recent)


def forget(connection: sqlite3.Connection) -> None:
    """Drop the quarter hours that no window reaches."""
    connection.execute("DELETE FROM spending WHERE bucket_ms < ?", (int(time.time() * 1000) - _SPENDING_MS,))


class SpendingReader:
    """What a checkpoint knows of money by time, read again only when the file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[_State, Spending] | None = None

    def read(self) -> Spending:
        """Blocks. Raises LedgerUnavailableError."""
        now, state = time.time_ns(), self._state()
        if self._known is not None and self._known[0] == state:
            return self._known[1]
        spending = _read_spending(self._path)
        # A commit right after a look may leave the same time behind: what changed just now is read once more.
        settled = all(now - changed > _SETTLED_NS for _, _, changed in state)
        self._known = (state, spending) if settled else None
        return spending

    def _state(self) -> _State:
        states = []
        for path in (self._path, self._path.with_name(f"{self._path.name}-wal")):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                states.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(states)


def _read_spending(path: Path) -> Spending:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            agents = connection.execute("SELECT agent, first_ms FROM agents").fetchall()
            buckets = connection.execute("SELECT bucket_ms, agent, cost FROM spending").fetchall()
            recent = connection.execute("SELECT ts_ms, agent, cost FROM recent_calls").fetchall()
    except sqlite3.Error as error:
        raise LedgerUnavailableError(f"{path}: {error}") from error

    def instant(ms: int) -> datetime:
        return _EPOCH + timedelta(milliseconds=ms)

    return Spending(
        {agent: instant(ms) for agent, ms in agents},
        [(instant(ms), agent, Decimal(cost)) for ms, agent, cost in buckets],
        [(instant(ms), agent, Decimal(cost)) for ms, agent, cost in recent],
    )
