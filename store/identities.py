"""Sixteen bytes that say which thing a row is; both ledgers use the same, so that each counts the same things once."""

from __future__ import annotations

from hashlib import blake2b

from store.rows import ModelCall, Reject, SessionEvent, ToolCall, ToolResult


def _digest(*parts: str) -> bytes:
    # Lengths in front: no content of one part can pass for the end of another.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def of_model_call(row: ModelCall) -> bytes:
    """(gateway, agent, entry id, fingerprint)."""
    return _digest("call", row.gateway, row.agent, row.entry_id, row.fingerprint.hex())


def of_tool_call(row: ToolCall) -> bytes:
    """(gateway, agent, entry id, fingerprint, position)."""
    return _digest("tool", row.gateway, row.agent, row.entry_id, row.fingerprint.hex(), str(row.position))


def of_tool_result(row: ToolResult) -> bytes:
    """(gateway, agent, entry id, fingerprint)."""
    return _digest("result", row.gateway, row.agent, row.entry_id, row.fingerprint.hex())


def of_session_event(row: SessionEvent) -> bytes:
    """(gateway, agent, entry id, fingerprint, event): one entry may tell of two events."""
    return _digest("event", row.gateway, row.agent, row.entry_id, row.fingerprint.hex(), row.event)


def of_reject(row: Reject) -> bytes:
    """(gateway, agent, source, reason, location)."""
    return _digest("reject", row.gateway, row.agent, row.source, row.reason, row.location)
