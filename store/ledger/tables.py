"""The tables of PostgreSQL's ledger, each declared once: by the class of its rows.

Columns, their types, the COPY and the INSERT follow from the fields of that class. To add a column: a migration and a
field.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from psycopg.types.json import Jsonb

from store.rows import ModelCall, Position, Reject, Session, SessionEvent, ToolCall, ToolResult

Record = tuple[Any, ...]
Row = TypeVar("Row")

_TYPES: Final = {
    str: "text", int: "int8", bool: "bool", bytes: "bytea", Decimal: "numeric", datetime: "timestamptz",
    Mapping: "jsonb", Literal: "text",
}  # fmt: skip
# An identity is sent as its 16 bytes, which binary COPY takes as a uuid and a statement has to be told about.
_IDENTITY: Final = ("identity", "bytea")
_VALUES: Final = {"identity": "encode(%s::bytea, 'hex')::uuid"}


def postgres_types(row: type) -> dict[str, str]:
    """The PostgreSQL type of each field of a dataclass, in their order. `Annotated[int, "int4"]` names another one."""
    hints = get_type_hints(row, include_extras=True)
    return {one.name: _postgres_type(hints[one.name]) for one in fields(row)}


def _postgres_type(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        return str(hint.__metadata__[0])
    if origin in (Union, types.UnionType):
        return _postgres_type(next(one for one in get_args(hint) if one is not type(None)))
    if getattr(origin, "__name__", "") == "Mapping":
        return _TYPES[Mapping]
    return _TYPES[origin or hint]


def values_of(names: Collection[str]) -> Callable[[Any], Record]:
    """A function that gives these attributes of an object as a tuple."""
    if len(names) == 1:
        (name,) = names
        return lambda row: (getattr(row, name),)
    return attrgetter(*names)


class Table(Generic[Row]):
    """A table of the schema `lobs` whose columns are the fields of a dataclass, in their order.

    `without`: fields that the table does not have. `names`: columns that are not called as their fields.
    `identified`: after the fields comes the identity of the row, which is no field.
    """

    def __init__(
        self,
        name: str,
        row: type[Row],
        *,
        without: Collection[str] = (),
        names: Mapping[str, str] | None = None,
        identified: bool = False,
    ) -> None:
        kept = {field: kind for field, kind in postgres_types(row).items() if field not in without}
        columns = {(names or {}).get(field, field): kind for field, kind in kept.items()}
        self.name = name
        self.columns: dict[str, str] = {**columns, **dict([_IDENTITY] if identified else [])}
        self._values = values_of(kept)
        self._has_documents = "jsonb" in kept.values()
        listed = ", ".join(self.columns)
        named = ", ".join(f'{column} AS "{field}"' for field, column in zip(kept, columns, strict=True))
        values = ", ".join(_VALUES.get(column, f"%s::{kind}") for column, kind in self.columns.items())
        place = f'"lobs"."{name}"'
        self.copy = f"COPY {place} ({listed}) FROM STDIN (FORMAT binary)"
        self.insert = f"INSERT INTO {place} ({listed}) VALUES ({values})"  # noqa: S608 - names of ours
        self.select = f"SELECT {named} FROM {place}"  # noqa: S608 - as above

    def record(self, row: Row, *identity: bytes) -> Record:
        """The values of a row in the order of the columns; with its identity for a table that has one."""
        values = self._values(row)
        if self._has_documents:
            values = tuple(Jsonb(dict(value)) if isinstance(value, Mapping) else value for value in values)
        return (*values, *identity)


@dataclass(slots=True)
class ToolCallRow:
    """A tool call as it is kept: it may wait for its result, and a result without its call stands for itself."""

    gateway: str
    agent: str
    session_id: str
    entry_id: str
    position: Annotated[int, "int4"]
    call_id: str
    tool: str
    kind: str
    ts: datetime
    run_id: str | None = None
    outcome: str | None = None
    exit_code: int | None = None
    duration_ms: int | None = None
    output_bytes: int | None = None
    finished_at: datetime | None = None
    error_class: str | None = None

    @classmethod
    def of_call(cls, call: ToolCall) -> ToolCallRow:
        """A call without its result."""
        return cls(
            call.gateway, call.agent, call.session_id, call.entry_id, call.position, call.call_id, call.tool, call.kind,
            call.ts, call.run_id,
        )  # fmt: skip

    @classmethod
    def of_result(cls, result: ToolResult) -> ToolCallRow:
        """A result whose call was never seen: that it happened is known, when it began is not."""
        row = cls(
            result.gateway, result.agent, result.session_id, result.entry_id, -1, result.call_id, result.tool,
            "unknown", result.ts,
        )  # fmt: skip
        row.complete(result)
        row.duration_ms = result.duration_ms
        return row

    def complete(self, result: ToolResult) -> None:
        """Take what the result tells; where that is no duration, the time between the two is one."""
        self.outcome = result.outcome
        self.exit_code = result.exit_code
        self.output_bytes = result.output_bytes
        self.error_class = result.error_class
        self.finished_at = result.ts
        self.duration_ms = result.duration_ms
        if result.duration_ms is None:
            self.duration_ms = max(0, (result.ts - self.ts) // timedelta(milliseconds=1))


MODEL_CALLS: Final = Table("model_calls", ModelCall, without=["fingerprint"], identified=True)
TOOL_CALLS: Final = Table("tool_calls", ToolCallRow, identified=True)
SESSION_EVENTS: Final = Table("session_events", SessionEvent, without=["fingerprint"], identified=True)
REJECTS: Final = Table("rejects", Reject, identified=True)
SESSIONS: Final = Table("sessions", Session)
POSITIONS: Final = Table("positions", Position, names={"offset": "read_offset"})

MERGE_SESSION: Final = f"""{SESSIONS.insert}
ON CONFLICT (gateway, agent, session_id) DO UPDATE SET
    session_key = coalesce(excluded.session_key, sessions.session_key),
    kind = CASE WHEN excluded.kind IS NULL OR (excluded.kind = 'unknown' AND sessions.kind IS NOT NULL)
        THEN sessions.kind ELSE excluded.kind END,
    channel = coalesce(excluded.channel, sessions.channel),
    parent_session_key = coalesce(excluded.parent_session_key, sessions.parent_session_key),
    label = coalesce(excluded.label, sessions.label),
    status = coalesce(excluded.status, sessions.status),
    provider = coalesce(excluded.provider, sessions.provider),
    model = coalesce(excluded.model, sessions.model),
    context_tokens = coalesce(excluded.context_tokens, sessions.context_tokens),
    context_limit = coalesce(excluded.context_limit, sessions.context_limit),
    started_at = least(sessions.started_at, excluded.started_at),
    updated_at = greatest(sessions.updated_at, excluded.updated_at),
    ended_at = coalesce(excluded.ended_at, sessions.ended_at),
    archived = coalesce(excluded.archived, sessions.archived)
"""
SAVE_POSITION: Final = f"""{POSITIONS.insert}
ON CONFLICT (gateway, source_key) DO UPDATE SET
    read_offset = excluded.read_offset, generation = excluded.generation, fingerprint = excluded.fingerprint,
    size = excluded.size, mtime_ns = excluded.mtime_ns, saved_at = now()
"""
