"""Sixteen bytes that say which thing a row is; both ledgers use the same, so that each counts the same things once."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from store.rows import ModelCall, Reject, SessionEvent, ToolCall, ToolResult

# Flags of times that an entry tells itself, so that every copy of it has the same.
TRUE_TIMES: Final = (None, "message")

# The lengths stand in front of the texts: the end of one can then never pass for the beginning of the next.


def _digest(text: str, more: bytes = b"") -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass") + more, digest_size=16).digest()


def of_model_call(row: ModelCall) -> bytes:
    """(gateway, agent, entry id, fingerprint)."""
    gateway, agent, entry = row.gateway, row.agent, row.entry_id
    return _digest(f"call {len(gateway)} {len(agent)} {len(entry)} {gateway}{agent}{entry}", row.fingerprint)


def of_place(row: ModelCall) -> bytes:
    """(gateway, agent, entry id, time): the same call whatever its usage says, for a store may have rewritten it.

    A time that is only a substitute differs between stores; then the session tells.
    """
    gateway, agent, entry = row.gateway, row.agent, row.entry_id
    place = row.ts.isoformat() if row.ts_flag in TRUE_TIMES else f"in {row.session_id}"
    return _digest(f"place {len(gateway)} {len(agent)} {len(entry)} {gateway}{agent}{entry}{place}")


def of_tool_call(row: ToolCall) -> bytes:
    """(gateway, agent, entry id, fingerprint, position)."""
    gateway, agent, entry = row.gateway, row.agent, row.entry_id
    lengths = f"{len(gateway)} {len(agent)} {len(entry)}"
    return _digest(f"tool {lengths} {row.position} {gateway}{agent}{entry}", row.fingerprint)


def of_tool_result(row: ToolResult) -> bytes:
    """(gateway, agent, entry id, fingerprint)."""
    gateway, agent, entry = row.gateway, row.agent, row.entry_id
    return _digest(f"result {len(gateway)} {len(agent)} {len(entry)} {gateway}{agent}{entry}", row.fingerprint)


def of_session_event(row: SessionEvent) -> bytes:
    """(gateway, agent, entry id, fingerprint, event): one entry may tell of two events."""
    gateway, agent, entry, event = row.gateway, row.agent, row.entry_id, row.event
    lengths = f"{len(gateway)} {len(agent)} {len(entry)} {len(event)}"
    return _digest(f"event {lengths} {gateway}{agent}{entry}{event}", row.fingerprint)


def of_reject(row: Reject) -> bytes:
    """(gateway, agent, source, reason, location)."""
    parts = (row.gateway, row.agent, row.source, row.reason, row.location)
    return _digest(f"reject {' '.join(str(len(part)) for part in parts)} {''.join(parts)}")
