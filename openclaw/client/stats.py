"""What one client counts, and the labels by which it counts failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from openclaw.protocol import AuthFailedError, CallTimeoutError, GatewayError, RefusedError, RpcError

# Why a connect can fail, as `failure_reason` names it.
FAILURES = ("auth", "protocol", "starting", "refused", "timeout", "handshake", "closed", "unreachable", "other")


@dataclass(slots=True)
class Stats:
    """Counters of one client since its start; the collector `gateway` renders them."""

    reconnects: int = 0
    gaps: int = 0
    callback_errors: int = 0
    connect_failures: Counter[str] = field(default_factory=Counter)
    frames_dropped: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    rpc_errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    rpc_latency: dict[str, float] = field(default_factory=dict)  # seconds of the last call by method
    last_event_at: float | None = None  # epoch seconds


def failure_reason(error: BaseException) -> str:  # noqa: PLR0911 - a table in the form of code
    """The label for a failed connect: a small fixed set, so that it can be a metric's label."""
    match error:
        case AuthFailedError():
            return "auth"
        case RefusedError(code="PROTOCOL_MISMATCH"):
            return "protocol"
        case RefusedError(code="UNAVAILABLE"):
            return "starting"
        case RefusedError():
            return "refused"
        case TimeoutError():
            return "timeout"
        case InvalidURI() | InvalidHandshake():
            return "handshake"
        case ConnectionClosed():
            return "closed"
        case OSError():
            return "unreachable"
    return "other"


def error_code(error: GatewayError) -> str:
    """The label for a failed call."""
    if isinstance(error, RpcError):
        return error.code
    return "TIMEOUT" if isinstance(error, CallTimeoutError) else "UNAVAILABLE"
