"""The gateway's WebSocket protocol without I/O: frames in, happenings and frames out.

A `Connection` lives as long as one WebSocket. The server speaks first (`connect.challenge`), the client answers
with the request `connect`, and only after `hello-ok` may other requests be sent. Every frame is JSON text:
`{"type": "req" | "res" | "event", ...}`. Nothing that a peer sends makes this module raise: what cannot be
understood is a `Dropped` with its reason. Time is given from outside, in seconds of any monotonic clock.

Observed: OpenClaw 2026.9.6 speaks protocol 4 and refuses 3..3, 2026.4.27 speaks 3 and refuses 4..4: 3 to 4 is offered.
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

import msgspec

from lobservatory.errors import LobservatoryError

MIN_PROTOCOL = 3
MAX_PROTOCOL = 4
# The one client identity that keeps its scopes from loopback with the shared token and leaves no pairing record.
CLIENT_ID = "gateway-client"
CLIENT_MODE = "backend"
READ_SCOPES = ("operator.read",)
MAX_PENDING = 256
MAX_REMEMBERED = 512
MAX_FRAME_BYTES = 32 << 20  # the gateway's own policy.maxPayload is 25 MiB

Json = Any


class GatewayError(LobservatoryError):
    """Anything that went wrong between us and the gateway."""


class GatewayUnavailableError(GatewayError):
    """There is no connection, it was lost, or no answer came in time. Trying again later is right."""


class NotReadyError(GatewayUnavailableError):
    """A request before hello-ok or after the end of the connection."""


class CallTimeoutError(GatewayUnavailableError):
    """The gateway did not answer within the deadline; `method` is what was called."""

    def __init__(self, method: str) -> None:
        super().__init__(f"{method}: no answer within the deadline")
        self.method = method


class MalformedReplyError(GatewayError):
    """The gateway answered something else than this method gives. What was asked for may have been carried out."""

    def __init__(self, method: str, what: str) -> None:
        super().__init__(f"{method}: {what}")
        self.method = method


class TooManyRequestsError(GatewayUnavailableError):
    """The table of unanswered requests is full."""


class RpcError(GatewayError):
    """The gateway refused a call. `code` and `details` are the gateway's own, `payload` as some errors carry one."""

    def __init__(
        self, method: str, code: str, message: str, details: Mapping[str, Json] | None = None, payload: Json = None
    ) -> None:
        super().__init__(f"{method}: {code}: {message}")
        self.method = method
        self.code = code
        self.message = message
        self.details = dict(details or {})
        self.payload = payload


class MissingScopeError(RpcError):
    """The connection lacks `scope` (2026.9: FORBIDDEN with details; 2026.4: only the text tells)."""

    scope: str = ""


class UnknownMethodError(RpcError):
    """This version of the gateway has no such method."""


class AuthFailedError(GatewayError):
    """The gateway refused the connection because of the token or the pairing. `code` is the gateway's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class RefusedError(GatewayError):
    """The gateway refused the connection for another reason (`code`), for example the protocol version."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Phase(Enum):
    """Where a connection is in its life."""

    CHALLENGE = "challenge"
    AUTHENTICATING = "authenticating"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Hello:
    """What hello-ok tells. `boot_id` changes with every start of the gateway (2026.9; empty before)."""

    protocol: int
    version: str
    boot_id: str
    scopes: tuple[str, ...]
    payload: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Send:
    """A frame that must be written to the socket."""

    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """hello-ok arrived: requests may be sent."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Refused:
    """The connection is refused; it is over."""

    error: AuthFailedError | RefusedError


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer; `payload` is an object, a list or None. `elapsed` is in seconds."""

    request_id: str
    method: str
    payload: Json
    elapsed: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that was refused, timed out or was lost with the connection."""

    request_id: str
    method: str
    error: GatewayError
    elapsed: float


@dataclass(frozen=True, slots=True)
class Pushed:
    """An event of the gateway. `payload` is an object in all events seen so far, but that is not promised."""

    event: str
    payload: Json
    seq: int | None


@dataclass(frozen=True, slots=True)
class Gap:
    """Events were missed: after `last` came `seq`. What polls tell is the truth again."""

    last: int
    seq: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that was not used. The reasons are a fixed set: see `DROP_REASONS`."""

    reason: str


DROP_REASONS = (
    "binary",
    "too_large",
    "invalid_json",
    "invalid_frame",
    "early",
    "late_reply",
    "duplicate_reply",
    "unknown_reply",
    "duplicate_event",
    "after_close",
)

Happening = Send | Ready | Refused | Reply | Failed | Pushed | Gap | Dropped


@dataclass(slots=True)
class _Pending:
    method: str
    sent: float
    deadline: float
    final: bool


def _is_auth(code: str, detail: str) -> bool:
    return detail.startswith(("AUTH_", "DEVICE_", "PAIRING_")) or code in {"NOT_PAIRED", "UNAUTHORIZED", "FORBIDDEN"}


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def rpc_error(method: str, error: Json, payload: Json = None) -> RpcError:
    """The typed error for an error object of a response; never raises whatever the object is."""
    found = error if isinstance(error, dict) else {}
    code = _text(found.get("code")) or "UNKNOWN"
    message = _text(found.get("message")) or "no message"
    raw = found.get("details")
    details = raw if isinstance(raw, dict) else {}
    if details.get("code") == "MISSING_SCOPE" or message.startswith("missing scope:"):
        missing = MissingScopeError(method, code, message, details, payload)
        missing.scope = _text(details.get("missingScope")) or message.removeprefix("missing scope:").strip()
        return missing
    if message.startswith("unknown method"):
        return UnknownMethodError(method, code, message, details, payload)
    return RpcError(method, code, message, details, payload)


class Connection:
    """The state machine of one WebSocket connection.

    `receive` and `expire` answer what happened; the caller writes every `Send` in order. Request ids are unique over
    the life of a connection, the table of unanswered requests is bounded, and each request has a deadline.
    """

    def __init__(
        self,
        *,
        token: str,
        version: str,
        scopes: Sequence[str] = READ_SCOPES,
        capabilities: Sequence[str] = (),
        max_pending: int = MAX_PENDING,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self.phase = Phase.CHALLENGE
        self.hello: Hello | None = None
        self._token = token
        self._version = version
        self._scopes = list(scopes)
        self._capabilities = list(capabilities)
        self._max_pending = max_pending
        self._max_frame_bytes = max_frame_bytes
        self._new_id = new_id
        self._connect_id = ""
        self._pending: dict[str, _Pending] = {}
        self._answered: deque[str] = deque(maxlen=MAX_REMEMBERED)
        self._expired: deque[str] = deque(maxlen=MAX_REMEMBERED)
        self._last_seq: int | None = None

    @property
    def pending(self) -> int:
        """How many requests wait for their answer."""
        return len(self._pending)

    # --- out ----------------------------------------------------------------------------------------------

    def request(
        self, method: str, params: Mapping[str, Json] | None = None, *, now: float, timeout: float, final: bool = False
    ) -> tuple[str, str]:
        """The id and the frame of a new request.

        `final=True` waits for the second answer of a method that answers twice on one id (`agent`: accepted, then
        the result). Raises NotReadyError, TooManyRequestsError.
        """
        if self.phase is not Phase.READY:
            raise NotReadyError(f"{method}: the gateway is not connected")
        if len(self._pending) >= self._max_pending:
            raise TooManyRequestsError(f"{method}: {self._max_pending} requests wait for an answer already")
        request_id = self._new_id()
        self._pending[request_id] = _Pending(method, now, now + timeout, final)
        return request_id, self._frame(request_id, method, dict(params or {}))

    def cancel(self, request_id: str) -> None:
        """Forget a request that nobody waits for any more; its answer will be a late one."""
        if self._pending.pop(request_id, None) is not None:
            self._expired.append(request_id)

    def expire(self, now: float) -> list[Happening]:
        """Requests whose deadline has passed."""
        happened: list[Happening] = []
        for request_id in [key for key, request in self._pending.items() if request.deadline <= now]:
            request = self._pending.pop(request_id)
            self._expired.append(request_id)
            happened.append(Failed(request_id, request.method, CallTimeoutError(request.method), now - request.sent))
        return happened

    def close(self, now: float, reason: str = "the connection was lost") -> list[Happening]:
        """The socket is gone: everything in flight fails at once."""
        self.phase = Phase.CLOSED
        lost: list[Happening] = [
            Failed(key, request.method, GatewayUnavailableError(f"{request.method}: {reason}"), now - request.sent)
            for key, request in self._pending.items()
        ]
        self._pending.clear()
        return lost

    # --- in -----------------------------------------------------------------------------------------------

    def receive(self, data: str | bytes, now: float) -> list[Happening]:
        """What one frame means. Never raises."""
        frame = self._decode(data)
        if isinstance(frame, Dropped):
            return [frame]
        kind = frame.get("type")
        if kind == "event" and isinstance(frame.get("event"), str):
            return self._event(frame)
        if kind == "res" and isinstance(frame.get("id"), str):
            return self._response(frame, now)
        return [Dropped("invalid_frame")]

    def _decode(self, data: str | bytes) -> dict[str, Json] | Dropped:
        if self.phase is Phase.CLOSED:
            return Dropped("after_close")
        if not isinstance(data, str):
            return Dropped("binary")
        if len(data) > self._max_frame_bytes:
            return Dropped("too_large")
        try:
            frame = msgspec.json.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):  # a lone surrogate is a ValueError
            return Dropped("invalid_json")
        return frame if isinstance(frame, dict) else Dropped("invalid_frame")

    def _frame(self, request_id: str, method: str, params: Mapping[str, Json]) -> str:
        return msgspec.json.encode({"type": "req", "id": request_id, "method": method, "params": params}).decode()

    def _event(self, frame: dict[str, Json]) -> list[Happening]:
        name: str = frame["event"]
        if name == "connect.challenge":
            return self._challenge()
        if self.phase is not Phase.READY:
            return [Dropped("early")]
        seq = frame.get("seq")
        if not isinstance(seq, int) or isinstance(seq, bool):
            return [Pushed(name, frame.get("payload"), None)]
        last, self._last_seq = self._last_seq, seq
        if last is None or seq == last + 1:
            return [Pushed(name, frame.get("payload"), seq)]
        if seq == last:
            return [Dropped("duplicate_event")]
        # Forward: events were lost. Backward: the gateway began to count anew, which loses an unknown number too.
        return [Gap(last, seq), Pushed(name, frame.get("payload"), seq)]

    def _challenge(self) -> list[Happening]:
        if self.phase is not Phase.CHALLENGE:
            return [Dropped("early")]
        self.phase = Phase.AUTHENTICATING
        self._connect_id = self._new_id()
        params: dict[str, Json] = {
            "minProtocol": MIN_PROTOCOL,
            "maxProtocol": MAX_PROTOCOL,
            "client": {
                "id": CLIENT_ID,
                "version": self._version,
                "platform": platform.system().lower() or "unknown",
                "mode": CLIENT_MODE,
            },
            "role": "operator",
            "scopes": self._scopes,
            "caps": self._capabilities,
            "userAgent": f"lobservatory/{self._version}",
        }
        if self._token:
            params["auth"] = {"token": self._token}
        return [Send(self._frame(self._connect_id, "connect", params))]

    def _response(self, frame: dict[str, Json], now: float) -> list[Happening]:
        request_id: str = frame["id"]
        if self.phase is Phase.AUTHENTICATING and request_id == self._connect_id:
            return self._connected(frame)
        request = self._pending.get(request_id)
        if request is None:
            if request_id in self._expired:
                return [Dropped("late_reply")]
            return [Dropped("duplicate_reply" if request_id in self._answered else "unknown_reply")]
        payload = frame.get("payload")
        if frame.get("ok") is True:
            if request.final and isinstance(payload, dict) and payload.get("status") == "accepted":
                return []  # the first of two answers; the request stays in the table until the second
            self._settle(request_id)
            return [Reply(request_id, request.method, payload, now - request.sent)]
        self._settle(request_id)
        error = rpc_error(request.method, frame.get("error"), payload)
        return [Failed(request_id, request.method, error, now - request.sent)]

    def _settle(self, request_id: str) -> None:
        del self._pending[request_id]
        self._answered.append(request_id)

    def _connected(self, frame: dict[str, Json]) -> list[Happening]:
        payload = frame.get("payload")
        if frame.get("ok") is not True:
            error = rpc_error("connect", frame.get("error"))
            self.phase = Phase.CLOSED
            detail = _text(error.details.get("code"))
            if _is_auth(error.code, detail):
                return [Refused(AuthFailedError(detail or error.code, error.message))]
            return [Refused(RefusedError(detail or error.code, error.message))]
        if not isinstance(payload, dict) or payload.get("type") != "hello-ok":
            self.phase = Phase.CLOSED
            return [Refused(RefusedError("NO_HELLO", "the answer to connect was not hello-ok"))]
        protocol = payload.get("protocol")
        if not isinstance(protocol, int) or not MIN_PROTOCOL <= protocol <= MAX_PROTOCOL:
            self.phase = Phase.CLOSED
            said = str(protocol)[:20]
            return [Refused(RefusedError("PROTOCOL_MISMATCH", f"the gateway speaks protocol {said}, we speak 3 and 4"))]
        self.phase = Phase.READY
        self.hello = hello_from(payload, protocol)
        return [Ready(self.hello)]


def hello_from(payload: Mapping[str, Json], protocol: int) -> Hello:
    """What a hello-ok payload says, field by field, with empty values for what is missing."""
    raw = payload.get("server")
    server = raw if isinstance(raw, dict) else {}
    auth = payload.get("auth")
    scopes = auth.get("scopes") if isinstance(auth, dict) else None
    return Hello(
        protocol=protocol,
        version=_text(server.get("version")),
        boot_id=_text(server.get("bootId")),
        scopes=tuple(scope for scope in scopes if isinstance(scope, str)) if isinstance(scopes, list) else (),
        payload=payload,
    )
