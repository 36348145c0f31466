"""What OpenClaw keeps about jobs, sub-agents and approvals, read without the gateway.

2026.8 and later: `state/openclaw.sqlite`, of which only the tables named here are read (others hold secrets). Before:
`cron/jobs.json` with `cron/jobs-state.json`, `cron/runs/<job>.jsonl` and `subagents/runs.json`; those versions store
no approvals. Everything is read-only and in short reads; call it from a thread, it blocks.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lobservatory.errors import LobservatoryError
from openclaw.fields import items, mapping, text, whole
from openclaw.protocol import GatewayUnavailableError, MissingScopeError, UnknownMethodError
from openclaw.state_dir import OpenClawConfig, load_config
from openclaw.stores import Stores
from openclaw.stores.database import NAME as DATABASE_NAME

# What a call to the gateway fails with when the records are asked instead: it is away, lacks the method or refuses it.
ASK_RECORDS = (GatewayUnavailableError, MissingScopeError, UnknownMethodError)
BUSY_TIMEOUT = 5.0  # seconds
MAX_FILE = 64 << 20
MAX_ROWS = 5_000
_DATABASE_FILES = (f"agent/{DATABASE_NAME}", f"agent/{DATABASE_NAME}-wal")
_SETTLED_NS = 2_000_000_000  # longer than any file system's clock ticks

_State = tuple[tuple[str, int, int, int], ...]  # of files: name, inode, bytes, time of change in nanoseconds


class StateRecordsError(LobservatoryError):
    """The records cannot be read now. The text is one line: what, why."""


class NoRecordsError(StateRecordsError):
    """This version of OpenClaw keeps no such records."""


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """A row of `operator_approvals`, without the command. Times are epoch milliseconds."""

    approval_id: str
    status: str
    agent: str | None
    session_key: str | None
    created_ms: int
    expires_ms: int
    resolved_ms: int | None
    resolved_by: str | None
    terminal_reason: str | None
    decision: str | None = None


class StateRecords:
    """The records of one state directory. It keeps nothing open between calls."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self._database = state_dir / "state" / "openclaw.sqlite"
        # What it has learnt of files saves reading thousands of them at each poll; one thread at a time may use it.
        self._stores = Stores(state_dir)
        self._using_stores = threading.Lock()
        self._sessions: tuple[_State, list[dict[str, Any]]] | None = None

    @property
    def has_database(self) -> bool:
        """Whether this is the state directory of 2026.8 or later."""
        return self._database.is_file()

    def approvals(self) -> list[ApprovalRecord]:
        """Pending approvals and the newest settled ones. Raises NoRecordsError before 2026.8, StateRecordsError."""
        rows = self._rows(
            "SELECT approval_id, status, source_agent_id, source_session_key, created_at_ms, expires_at_ms,"
            " resolved_at_ms, resolver_id, terminal_reason, decision FROM operator_approvals"
            " WHERE kind = 'exec' ORDER BY status = 'pending' DESC, created_at_ms DESC LIMIT ?",
            "approvals",
        )
        return [ApprovalRecord(*row) for row in rows]

    def cron_jobs(self) -> list[dict[str, Any]]:
        """The jobs in the shape of `cron.list`."""
        if self.has_database:
            rows = self._rows("SELECT job_json, state_json FROM cron_jobs ORDER BY sort_order LIMIT ?", "cron jobs")
            return [_job(_object(job), _object(state)) for job, state in rows]
        jobs = self._file("cron/jobs.json")
        states = mapping(self._file("cron/jobs-state.json", optional=True), "jobs")
        return [_job(job, mapping(states.get(str(job.get("id"))), "state")) for job in items(jobs, "jobs")]

    def cron_runs(self, limit: int = 200) -> list[dict[str, Any]]:
        """The newest finished runs in the shape of an entry of `cron.runs`."""
        if self.has_database:
            rows = self._rows(
                "SELECT job_id, status, started_at_ms, finished_at_ms, error_text FROM cron_run_receipts"
                " ORDER BY started_at_ms DESC LIMIT ?",
                "cron runs",
                min(limit, MAX_ROWS),
            )
            return [
                {
                    "jobId": job_id,
                    "status": status,
                    "runAtMs": started,
                    "durationMs": None if finished is None else finished - started,
                    "error": error,
                }
                for job_id, status, started, finished, error in rows
            ]
        runs: list[dict[str, Any]] = []
        for path in sorted((self._dir / "cron" / "runs").glob("*.jsonl"))[:MAX_ROWS]:
            runs.extend(_object(line) for line in self._read(path).splitlines()[-limit:] if line.strip())
        return sorted(runs, key=lambda run: whole(run.get("runAtMs")) or 0, reverse=True)[:limit]

    def subagent_runs(self) -> list[dict[str, Any]]:
        """The runs of sub-agents as OpenClaw writes them (`runId`, `childSessionKey`, `outcome`, …)."""
        if self.has_database:
            rows = self._rows(
                "SELECT payload_json, run_id, child_session_key, requester_session_key, created_at FROM subagent_runs"
                " ORDER BY created_at DESC LIMIT ?",
                "sub-agent runs",
            )
            return [
                {
                    "createdAt": created,
                    **_object(payload),
                    "runId": run_id,
                    "childSessionKey": child,
                    "requesterSessionKey": parent,
                }
                for payload, run_id, child, parent, created in rows
            ]
        runs = mapping(self._file("subagents/runs.json", optional=True), "runs")
        return [run for run in runs.values() if isinstance(run, dict)][:MAX_ROWS]

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions of both stores' indexes in the shape of an item of `sessions.list`, without `hasActiveRun`.

        A status `running` is what a gateway left behind that was killed as well as what one writes that lives: it is
        given as `unknown`.
        """
        with self._using_stores, contextlib.closing(self._stores) as stores:
            state = self._state_of_indexes()
            if self._sessions is not None and self._sessions[0] == state:
                return self._sessions[1]
            now = time.time_ns()
            stores.discover()
            sessions = [
                {
                    "agentId": info.agent,
                    "sessionId": info.session_id,
                    "key": info.session_key,
                    "status": "unknown" if info.status == "running" else info.status,
                    "totalTokens": info.context_tokens,
                    "contextTokens": info.context_limit,
                    "updatedAt": info.updated_ms,
                    # Only the index tells a webhook's run from a job's; `kind` is of ours.
                    "kind": info.kind,
                }
                for info in stores.sessions().values()
            ]
            # A change right after a look may leave the same time behind: what changed just now is read once more.
            settled = all(now - changed > _SETTLED_NS for _, _, _, changed in state)
            self._sessions = (state, sessions) if settled else None
            return sessions

    def _state_of_indexes(self) -> _State:
        """What the answer depends on: the indexes, the databases, and the names of files, not what is in them."""
        found = []
        for agent in sorted((self._dir / "agents").glob("*")):
            for name in ("sessions", "sessions/sessions.json", "sessions/cold", *_DATABASE_FILES):
                with contextlib.suppress(OSError):
                    status = (agent / name).stat()
                    found.append((f"{agent.name}/{name}", status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def agents(self) -> list[dict[str, Any]]:
        """The configured agents in the shape of an item of `agents.list`; where none is named there is `main`."""
        return [{"id": name} for name in (self._config().agents or ("main",))[:MAX_ROWS]]

    def channels(self) -> list[str]:
        """The channels that are configured and not switched off. Whether they are connected only a gateway knows."""
        return list(self._config().channels)

    def _config(self) -> OpenClawConfig:
        config = load_config(self._dir)
        if config.problem is not None:
            raise StateRecordsError(config.problem)
        return config

    def task_counts(self) -> list[dict[str, Any]]:
        """How many background tasks there are by `runtime` and `status`; before 2026.8 from `tasks/runs.sqlite`."""
        database = self._database if self.has_database else self._dir / "tasks" / "runs.sqlite"
        if not database.is_file():
            raise NoRecordsError(f"{database}: not there")
        with self._open(database) as connection:
            rows = connection.execute("SELECT runtime, status, count(*) FROM task_runs GROUP BY 1, 2").fetchall()
        return [{"runtime": runtime, "status": status, "count": count} for runtime, status, count in rows]

    # --- reading ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open(self, database: Path | None = None) -> Iterator[sqlite3.Connection]:
        """With `immutable` only when no `-wal` is there: while a gateway lives it would show an old database, and
        without it a closed database cannot be opened by a user who may not write."""
        path = database or self._database
        mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        try:
            connection = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=BUSY_TIMEOUT)
        except sqlite3.Error as error:
            raise StateRecordsError(f"{path}: {error}") from error
        try:
            connection.execute("PRAGMA query_only = 1")
            yield connection
        except sqlite3.Error as error:
            raise StateRecordsError(f"{path}: {error}") from error
        finally:
            connection.close()

    def _rows(self, query: str, what: str, limit: int = MAX_ROWS) -> list[tuple[Any, ...]]:
        if not self.has_database:
            raise NoRecordsError(f"{self._dir}: this version of OpenClaw keeps no {what} that can be read")
        with self._open() as connection:
            return connection.execute(query, [limit]).fetchall()

    def _file(self, name: str, *, optional: bool = False) -> Any:
        path = self._dir / name
        if optional and not path.exists():
            return {}
        return _object(self._read(path))

    def _read(self, path: Path) -> str:
        try:
            if path.stat().st_size > MAX_FILE:
                raise StateRecordsError(f"{path}: larger than {MAX_FILE >> 20} MiB, not read")
            return path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            raise NoRecordsError(f"{path}: not there") from None
        except OSError as error:
            raise StateRecordsError(f"{path}: {error.strerror}") from error


def _object(raw: Any) -> dict[str, Any]:
    try:
        value = json.loads(raw) if isinstance(raw, str | bytes) else raw
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _job(job: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    return {**job, "id": text(job.get("id")) or "", "state": {**mapping(job, "state"), **state}}
