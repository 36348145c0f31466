"""What readers of session stores promise: sources, entries, chunks. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from lobservatory.errors import LobservatoryError

Store = Literal["jsonl", "sqlite", "archive"]
RejectReason = Literal["bad_json", "not_object", "too_long"]


class Part(msgspec.Struct, gc=False):
    """A part of an assistant message's content; its texts are skipped while decoding."""

    type: Any = None
    id: Any = None
    name: Any = None
    arguments: msgspec.Raw = msgspec.Raw()  # not decoded, they may be large (`unpacked`)


class Details(msgspec.Struct, gc=False):
    """`details` of a tool result, a nested tool call or a failed run: names and numbers only."""

    tool: msgspec.Raw = msgspec.Raw()  # which tool a `tool_call` called, of any form (`unpacked`)

    exitCode: Any = None  # noqa: N815 - the store's own names
    exitSignal: Any = None  # noqa: N815 - as above
    timedOut: Any = None  # noqa: N815 - as above
    noOutputTimedOut: Any = None  # noqa: N815 - as above
    status: Any = None
    error: Any = None  # a text; only its kind is kept
    durationMs: Any = None  # noqa: N815 - as above
    toolName: Any = None  # noqa: N815 - as above
    toolCallId: Any = None  # noqa: N815 - as above
    parentToolCallId: Any = None  # noqa: N815 - as above
    childSessionKey: Any = None  # noqa: N815 - as above
    runId: Any = None  # noqa: N815 - as above
    isError: Any = None  # noqa: N815 - as above
    startedAt: Any = None  # noqa: N815 - as above
    timestamp: Any = None
    result: msgspec.Raw = msgspec.Raw()  # of a nested tool call: not decoded, it may be large (`nested_details`)


class Origin(msgspec.Struct, gc=False):
    """`__openclaw` of a message."""

    runId: Any = None  # noqa: N815 - the store's own name


class Message(msgspec.Struct, gc=False):
    """`message` of an entry. Values are as the store wrote them, unchecked; numbers with a fraction are Decimals."""

    role: Any = None
    content: list[Part] | str | None = None
    usage: Any = None
    provider: Any = None
    model: Any = None
    stopReason: Any = None  # noqa: N815 - the store's own names
    timestamp: Any = None
    errorCode: Any = None  # noqa: N815 - as above
    errorType: Any = None  # noqa: N815 - as above
    toolCallId: Any = None  # noqa: N815 - as above
    toolName: Any = None  # noqa: N815 - as above
    isError: Any = None  # noqa: N815 - as above
    details: Details | None = None
    customType: Any = None  # noqa: N815 - as above
    openclaw: Origin | None = msgspec.field(name="__openclaw", default=None)


class Entry(msgspec.Struct, gc=False):
    """One transcript entry, without its texts. Unknown members are skipped."""

    type: Any = None
    id: Any = None
    timestamp: Any = None
    message: Message | None = None
    customType: Any = None  # noqa: N815 - the store's own names
    details: Details | None = None
    data: Details | None = None
    provider: Any = None
    modelId: Any = None  # noqa: N815 - as above
    reason: Any = None
    tokensBefore: Any = None  # noqa: N815 - as above
    tokensAfter: Any = None  # noqa: N815 - as above
    parentSession: Any = None  # noqa: N815 - as above
    size: int = 0  # bytes of the line or row; set by the reader
    written_ms: int = 0  # epoch ms at which a row was written; 0 for lines, whose file has one time
    digest: str = ""  # hash of the bytes, only of an entry without an id; set by the reader


@dataclass(frozen=True, slots=True)
class Source:
    """One thing with a reading position: a transcript file, an archive, or one session in an agent's database.

    `key` is relative to the state directory and stable over restarts. `size` and `mtime_ns` are what discovery saw:
    bytes of a file, the number of the newest row (+1) of a database session.
    """

    key: str
    store: Store
    agent: str
    session_id: str  # "" only for a cold archive, whose header names its session
    path: Path
    size: int
    mtime_ns: int
    fingerprint: str  # "device:inode" of a file; with ":generation" for a database session
    archive_of: tuple[str, str] | None = None  # (session_id, generation) of an archive that lies inside a database


@dataclass(frozen=True, slots=True)
class Position:
    """How far one source has been read.

    `offset` is bytes for a file and the last `seq` for a database session; `fingerprint` and `generation` tell
    whether it is still the same content: device:inode:header for a file, the rewrite generation for a database.
    """

    key: str  # of the source
    offset: int
    generation: int = 0
    fingerprint: str = ""
    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class LineReject:
    """A line or row that is no entry. `location` is the source's key and its byte offset or row number."""

    reason: RejectReason
    location: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one bounded read gave. Save `position` together with what the entries gave, or not at all."""

    source: Source
    session_id: str
    entries: Sequence[Entry]
    rejects: Sequence[LineReject]
    position: Position
    bytes_read: int
    written_ms: int  # newest write to the source, epoch ms: the time of entries that have none
    done: bool  # nothing more can be read now
    lag: int  # bytes (files) or rows (database) present and not yet read
    restarted: bool = False  # the source was truncated, replaced or rewritten and is read from its beginning
    shadowed: frozenset[str] = frozenset()  # ids of entries that the session's rows in the database have: those win


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read. `text` is one line for people; `fatal` means that totals are incomplete."""

    store: Store
    path: Path
    text: str
    fatal: bool = True
    schema: bool = False  # a schema version that we do not know


@dataclass(frozen=True, slots=True)
class Discovery:
    """All sources of a state directory in the order in which they must be read for a deterministic first sight.

    Databases come before files (what lies in both is attributed to the database), live files before archives,
    parents before their forks.
    """

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...] = ()
    files: dict[Store, int] = field(default_factory=dict)  # files or databases by store


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a store's index says about a session. Times are epoch ms, tokens are for context ratios, never for money."""

    agent: str
    session_id: str
    session_key: str | None = None
    kind: str = "unknown"
    channel: str | None = None
    parent_session_key: str | None = None
    label: str | None = None
    status: str | None = None
    provider: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    context_limit: int | None = None
    started_ms: int | None = None
    updated_ms: int | None = None
    ended_ms: int | None = None
    archived: bool | None = None


class SourceError(LobservatoryError):
    """A source cannot be read now. The text is one line: what, why, what to do."""
