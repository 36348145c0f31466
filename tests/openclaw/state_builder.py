"""Builds state directories of every era from the same sessions, so that one case can be asked in every layout."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

SAMPLES = Path(__file__).resolve().parents[1] / "fixtures" / "samples"
LAYOUTS = ("jsonl", "archive", "zstd_archive", "sqlite", "zstd_sqlite", "half_migrated")
ARCHIVED_AT = "2026-11-21T01-26-03.604Z"
_NAVIGATION = json.dumps(
    {
        "version": 1,
        "report": {"kind": "canonical"},
        "navigation": {},
        "reset": {},
        "model": {},
        "modelBytes": 0,
        "modelWithoutCheckpointBytes": 0,
        "withoutCustomDataBytes": 0,
    }
)

Line = dict[str, Any] | bytes


@dataclass
class BuiltSession:
    """One session: its lines, as objects or as the very bytes of a line."""

    session_id: str
    lines: list[Line]
    agent: str = "main"
    key: str | None = None
    index: dict[str, Any] = field(default_factory=dict)  # more members of its entry in the index
    window: dict[str, Any] = field(default_factory=dict)  # more columns of its window


def header(session_id: str, *, timestamp: str = "2026-11-20T10:00:00.000Z", **more: Any) -> dict[str, Any]:
    return {"type": "session", "version": 4, "id": session_id, "timestamp": timestamp, "cwd": "/w", **more}


def call(
    entry_id: str,
    *,
    cost: Any = 1,
    timestamp: Any = "2026-11-20T12:00:00.000Z",
    provider: str = "fake",
    model: str = "fake-1",
    usage: Any = None,
    stop: str = "stop",
    content: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    """An assistant entry; `cost` becomes `usage.cost.total`; other members of the message by name."""
    if usage is None:
        usage = {"input": 10, "output": 5, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 15, "cost": {"total": cost}}
    message = {
        "role": "assistant",
        "content": list(content),
        "api": "x",
        "provider": provider,
        "model": model,
        "usage": usage,
        "stopReason": stop,
        "timestamp": 1795176000000,
        **more,
    }
    return without_none(
        {"type": "message", "id": entry_id, "parentId": None, "timestamp": timestamp, "message": without_none(message)}
    )


def tool_call(call_id: str, name: str, arguments: Any = None) -> dict[str, Any]:
    given = {"command": '"role":"assistant"'} if arguments is None else arguments
    return {"type": "toolCall", "id": call_id, "name": name, "arguments": given}


def tool_result(
    entry_id: str,
    call_id: str,
    name: str,
    *,
    error: bool = False,
    exit_code: int | None = 0,
    text: str = "hello",
    timestamp: str = "2026-11-20T12:00:01.000Z",
) -> dict[str, Any]:
    message = {
        "role": "toolResult",
        "toolCallId": call_id,
        "toolName": name,
        "content": [{"type": "text", "text": text}],
        "details": {"status": "completed", "exitCode": exit_code, "durationMs": 44, "aggregated": text},
        "isError": error,
        "timestamp": 1795176001000,
    }
    return {"type": "message", "id": entry_id, "parentId": None, "timestamp": timestamp, "message": message}


def user(entry_id: str, text: str = "hi") -> dict[str, Any]:
    message = {"role": "user", "content": text, "timestamp": 1795176000000}
    return {
        "type": "message",
        "id": entry_id,
        "parentId": None,
        "timestamp": "2026-11-20T11:59:59.000Z",
        "message": message,
    }


def without_none(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value is not None or name == "parentId"}


def encode(line: Line) -> bytes:
    """One line as OpenClaw writes it, without its newline."""
    return line if isinstance(line, bytes) else json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode()


def transcript(lines: Iterable[Line]) -> bytes:
    return b"".join(encode(line) + b"\n" for line in lines)


def build(root: Path, sessions: Sequence[BuiltSession], layout: str) -> Path:
    """Write the sessions in one of LAYOUTS; the state directory."""
    (root / "agents").mkdir(parents=True, exist_ok=True)
    (root / "openclaw.json").write_text("{}")
    if layout == "jsonl":
        write_files(root, sessions)
    elif layout in {"archive", "zstd_archive"}:
        for session in sessions:
            write_archive(root, session, compressed=layout == "zstd_archive")
    elif layout in {"sqlite", "zstd_sqlite"}:
        write_database(root, sessions, compressed=layout == "zstd_sqlite")
    elif layout == "half_migrated":
        write_files(root, sessions)
        write_database(root, sessions[::2])
    else:
        raise AssertionError(layout)
    return root


def sessions_folder(root: Path, agent: str = "main") -> Path:
    folder = root / "agents" / agent / "sessions"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_files(root: Path, sessions: Sequence[BuiltSession]) -> None:
    for session in sessions:
        (sessions_folder(root, session.agent) / f"{session.session_id}.jsonl").write_bytes(transcript(session.lines))
    for agent in {session.agent for session in sessions}:
        index = {
            session.key: {"sessionId": session.session_id, **session.index}
            for session in sessions
            if session.agent == agent and session.key is not None
        }
        (sessions_folder(root, agent) / "sessions.json").write_text(json.dumps(index))


def write_archive(root: Path, session: BuiltSession, *, reason: str = "deleted", compressed: bool = False) -> Path:
    name = f"{session.session_id}.jsonl.{reason}.{ARCHIVED_AT}"
    content = transcript(session.lines)
    if compressed:
        name += ".d72e67948c054cd687fa346c833493da.zst"
        content = zstandard.ZstdCompressor().compress(content)
    path = sessions_folder(root, session.agent) / name
    path.write_bytes(content)
    return path


TABLES = (
    "schema_meta",
    "session_nodes",
    "session_windows",
    "transcript_events",
    "transcript_rewrite_watermarks",
    "session_transcript_archives",
    "session_transcript_cold_archives",
)


def schema() -> Iterator[str]:
    """The gateway's own statements for the tables that matter here."""
    statement = ""
    for line in (SAMPLES / "schema-agent.sql").read_text().splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            if statement.split("(")[0].split()[-1].strip('"') in TABLES and statement.startswith("CREATE TABLE"):
                yield statement
            statement = ""


def connect(root: Path, agent: str = "main") -> sqlite3.Connection:
    """The writer's connection to an agent's database, made with the gateway's own schema when it is new."""
    path = root / "agents" / agent / "agent" / "openclaw-agent.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_function("octet_length", 1, lambda text: None if text is None else len(str(text).encode()))
    if new:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in schema():
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 23")
    return connection


def add_session(connection: sqlite3.Connection, session: BuiltSession) -> None:
    key = session.key or f"agent:{session.agent}:dashboard:{session.session_id}"
    window = {"session_id": session.session_id, "session_key": key, "created_at": 1, "updated_at": 1, **session.window}
    insert(connection, "session_windows", window)
    node = {"session_key": key, "current_session_id": session.session_id, "entry_json": "{}", "updated_at": 1}
    insert(connection, "session_nodes", node)
    watermark = {"session_id": session.session_id, "generation": "g1", "updated_at": 1}
    insert(connection, "transcript_rewrite_watermarks", watermark)


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    columns = ", ".join(row)
    values = ", ".join("?" * len(row))
    connection.execute(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({values})", tuple(row.values()))


def add_event(
    connection: sqlite3.Connection,
    session_id: str,
    seq: int,
    line: Line,
    *,
    compressed: bool = False,
    created_at: int = 1795176000000,
) -> None:
    text = encode(line)
    row: dict[str, Any] = {"session_id": session_id, "seq": seq, "created_at": created_at}
    if compressed:
        row |= {
            "event_zstd": zstandard.ZstdCompressor().compress(text),
            "event_utf8_bytes": len(text),
            "navigation_json": _NAVIGATION,
        }
    else:
        row |= {"event_json": text.decode(), "event_utf8_bytes": len(text)}
    insert(connection, "transcript_events", row)


def write_database(root: Path, sessions: Sequence[BuiltSession], *, compressed: bool = False) -> None:
    """As a gateway leaves it after a clean stop: checkpointed, without `-wal` and `-shm`."""
    for agent in sorted({session.agent for session in sessions}):
        connection = connect(root, agent)
        connection.execute("BEGIN")
        for session in sessions:
            if session.agent == agent:
                add_session(connection, session)
                for seq, line in enumerate(session.lines):
                    add_event(connection, session.session_id, seq, line, compressed=compressed)
        connection.execute("COMMIT")
        connection.close()
