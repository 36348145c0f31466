"""`sessions.json` of the JSONL era, and the first line of a trajectory: which session is whose."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from openclaw.stores.contract import SessionInfo
from openclaw.stores.keys import session_kind, thread_parent

MAX_INDEX = 256 * 1024 * 1024
_MAX_FIRST_LINE = 1024 * 1024


class IndexEntry(msgspec.Struct, gc=False):
    """A member of `sessions.json`, without the prompts and reports that it also holds."""

    sessionId: Any = None  # noqa: N815 - the store's own names
    sessionFile: Any = None  # noqa: N815 - as above
    updatedAt: Any = None  # noqa: N815 - as above
    sessionStartedAt: Any = None  # noqa: N815 - as above
    startedAt: Any = None  # noqa: N815 - as above
    endedAt: Any = None  # noqa: N815 - as above
    archivedAt: Any = None  # noqa: N815 - as above
    createdVia: Any = None  # noqa: N815 - as above
    status: Any = None
    label: Any = None
    channel: Any = None
    lastChannel: Any = None  # noqa: N815 - as above
    model: Any = None
    modelProvider: Any = None  # noqa: N815 - as above
    totalTokens: Any = None  # noqa: N815 - as above
    contextTokens: Any = None  # noqa: N815 - as above
    spawnedBy: Any = None  # noqa: N815 - as above
    parentSessionKey: Any = None  # noqa: N815 - as above


_decode = msgspec.json.Decoder(dict[str, IndexEntry]).decode


def parse_index(text: bytes) -> dict[str, IndexEntry]:
    """Entries by session key; members that are no objects are left out. Raises ValueError for what is no JSON."""
    try:
        return _decode(text)
    except ValueError:
        document = json.loads(text.decode("utf-8", "replace"))
        if not isinstance(document, dict):
            raise ValueError("not a JSON object") from None  # noqa: TRY004 - callers ask for one error of bad content
        names = IndexEntry.__struct_fields__
        return {
            key: IndexEntry(**{name: value[name] for name in names if name in value})
            for key, value in document.items()
            if isinstance(value, dict)
        }


def index_sessions(agent: str, entries: dict[str, IndexEntry]) -> Iterator[SessionInfo]:
    """One per session id, also under the name of its file where that differs (topics have files of their own).

    A cron run has two keys with one session: the one without `:run:` names the job.
    """
    keys: dict[str, str] = {}
    for key, entry in entries.items():
        for session_id in _names(entry):
            if ":run:" not in key or session_id not in keys:
                keys[session_id] = key
    for session_id, key in keys.items():
        yield _info(agent, session_id, key, entries[key])


def _names(entry: IndexEntry) -> set[str]:
    names = {entry.sessionId} if isinstance(entry.sessionId, str) and entry.sessionId else set()
    if isinstance(entry.sessionFile, str) and entry.sessionFile.endswith(".jsonl"):
        stem = entry.sessionFile.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".jsonl")
        if stem and (not names or stem.startswith(f"{entry.sessionId}-")):
            names.add(stem)
    return names


def _info(agent: str, session_id: str, key: str, entry: IndexEntry) -> SessionInfo:
    parent = _text(entry.spawnedBy) or _text(entry.parentSessionKey)
    return SessionInfo(
        agent=agent,
        session_id=session_id,
        session_key=key,
        kind=session_kind(key, created_via=_text(entry.createdVia) or ""),
        channel=_text(entry.channel) or _text(entry.lastChannel),
        parent_session_key=parent or thread_parent(key),
        label=_text(entry.label),
        status=_text(entry.status),
        provider=_text(entry.modelProvider),
        model=_text(entry.model),
        context_tokens=_number(entry.totalTokens),
        context_limit=_number(entry.contextTokens),
        started_ms=_number(entry.sessionStartedAt) or _number(entry.startedAt),
        updated_ms=_number(entry.updatedAt),
        ended_ms=_number(entry.endedAt),
        archived=entry.archivedAt is not None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class _TrajectoryLine(msgspec.Struct, gc=False):
    sessionKey: Any = None  # noqa: N815 - the store's own name


def trajectory_key(path: Path) -> str | None:
    """The session key in the first line of a trajectory: what is left of a session that the index has forgotten."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            line, newline, _ = os.pread(number, _MAX_FIRST_LINE, 0).partition(b"\n")
        finally:
            os.close(number)
    except OSError:
        return None
    if not newline:
        return None
    try:
        return _text(msgspec.json.decode(line, type=_TrajectoryLine).sessionKey)
    except ValueError:
        return None
