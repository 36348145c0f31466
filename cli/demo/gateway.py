"""A replay gateway: the real handshake and real replies, from recordings, without OpenClaw.

The demo shows boards with it, and tests use it for what a real gateway will not do on demand (`Faults`). It speaks
what 2026.9.6 speaks (or 2026.4.27, with its recordings and `protocol=3`): challenge, `connect`, `hello-ok`, RPC with
scopes, numbered events, `/readyz` and `/healthz`. Instants in recordings are moved so that they end now.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any
from uuid import uuid4

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from cli.demo.log import GatewayLog
from openclaw.schedule import next_run

RECORDINGS = files("cli.demo") / "recordings"
# Epoch milliseconds of 2020 to 2033: any integer in between is an instant, anything else is not.
_EPOCH_MS = (1_577_836_800_000, 1_988_150_400_000)
_SEND_SECONDS = 5.0
_SCOPES = ("operator.admin", "operator.approvals", "operator.pairing", "operator.read", "operator.write")

Answer = Callable[[Mapping[str, Any]], Any]


@dataclass(slots=True)
class Faults:
    """What the gateway does wrong; a test may change it at any time."""

    silent_handshake: bool = False  # accepts TCP and the upgrade, never sends the challenge
    refuse: Mapping[str, Any] | None = None  # the error object of every connect
    protocol: int | None = None  # speaks this version instead, whatever the client offers
    never_answer: set[str] = field(default_factory=set)
    late: dict[str, float] = field(default_factory=dict)  # method → seconds
    twice: set[str] = field(default_factory=set)
    missing_methods: set[str] = field(default_factory=set)
    missing_scope: dict[str, str] = field(default_factory=dict)  # method → scope
    drop_on: set[str] = field(default_factory=set)  # closes the socket instead of an answer
    not_ready: bool = False  # /readyz says 503
    html_readyz: bool = False  # something else listens there and answers every path with a page


@dataclass(slots=True, eq=False)
class _Peer:
    socket: ServerConnection
    scopes: tuple[str, ...] = ()
    seq: int = 0


def moved(value: Any, by_ms: int) -> Any:
    """The same JSON with every instant (epoch milliseconds) moved."""
    if isinstance(value, dict):
        return {key: moved(item, by_ms) for key, item in value.items()}
    if isinstance(value, list):
        return [moved(item, by_ms) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and _EPOCH_MS[0] <= value <= _EPOCH_MS[1]:
        return value + by_ms
    return value


def load_replies(folder: Traversable) -> dict[str, dict[str, Any]]:
    """The recorded response of each method: `<method>.json` with `{method, params, response}`."""
    replies: dict[str, dict[str, Any]] = {}
    for entry in folder.iterdir():
        name = entry.name.removesuffix(".json")
        if entry.name.endswith(".json") and not name.startswith("_"):
            recorded = json.loads(entry.read_text(encoding="utf-8"))
            if recorded.get("method") == name:
                replies[name] = recorded["response"]
    return replies


def load_scopes(recordings: Traversable) -> dict[str, str]:
    """The scope that each method needs, from `methods.tsv`."""
    lines = (recordings / "methods.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {columns[0]: columns[2] for columns in (line.split("\t") for line in lines)}


class ReplayGateway:
    """`async with ReplayGateway(token="t") as gateway:` serves on 127.0.0.1 until the end of the block.

    `answers` replace recordings by functions of the parameters; `emit` sends an event to every connected client.
    """

    def __init__(
        self,
        *,
        token: str,
        replies: Mapping[str, Mapping[str, Any]] | None = None,
        hello: Mapping[str, Any] | None = None,
        faults: Faults | None = None,
        tick_seconds: float = 30.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.token = token
        self.faults = faults or Faults()
        self.answers: dict[str, Answer] = {}
        self.calls: list[tuple[str, Any]] = []  # what was asked, for tests; bounded
        self.connects = 0
        self.port = 0
        self._replies = dict(replies) if replies is not None else load_replies(RECORDINGS / "rpc")
        self._hello = dict(hello or json.loads((RECORDINGS / "hello-ok.json").read_text(encoding="utf-8")))
        self._needed = load_scopes(RECORDINGS)
        self._tick_seconds = tick_seconds
        self._now = now
        self._started = now()
        self._boot_id = str(uuid4())
        self._peers: set[_Peer] = set()
        self._server: Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        recorded_ms = max(
            (
                payload["ts"]
                for payload in (reply.get("payload") for reply in self._replies.values())
                if isinstance(payload, dict) and isinstance(payload.get("ts"), int)
            ),
            default=int(self._started * 1000),
        )
        # Fixed at the start: what is past stays where it is, however often it is asked for.
        self.moved_by_ms = int(self._started * 1000) - recorded_ms
        tail = self._replies.get("logs.tail", {}).get("payload")
        self.log = GatewayLog(tail, timedelta(milliseconds=self.moved_by_ms)) if isinstance(tail, dict) else None
        if self.log is not None:
            self.answers["logs.tail"] = self.log.tail

    # --- life ---------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; port 0 takes a free one. The answer is the port. Raises OSError when it is taken."""
        self._server = await serve(
            self._serve, host, port, process_request=self._http, ping_interval=None, max_size=32 << 20, compression=None
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self._ticker = asyncio.create_task(self._tick(), name="replay-gateway-tick")
        return self.port

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._server = self._ticker = None

    async def __aenter__(self) -> ReplayGateway:  # noqa: PYI034 - not made for subclasses
        """Start on a free port."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._peers)

    def recorded(self, method: str) -> Any:
        """The recorded payload of a method, moved to the time of our start."""
        return self._replayed(method)["payload"]

    # --- events -------------------------------------------------------------------------------------------

    async def emit(self, event: str, payload: Any, *, skip: int = 0, repeat: bool = False) -> None:
        """Send an event to every client; `skip` leaves out sequence numbers, `repeat` uses the last one again."""
        for peer in tuple(self._peers):
            if not repeat:
                peer.seq += 1 + skip
            frame = {"type": "event", "event": event, "payload": payload, "seq": peer.seq}
            try:
                async with asyncio.timeout(_SEND_SECONDS):
                    await peer.socket.send(json.dumps(frame))
            except TimeoutError:
                peer.socket.transport.abort()  # it does not read; the others must not wait for it
            except ConnectionClosed:
                pass

    async def emit_raw(self, data: str | bytes) -> None:
        """Send anything to every client: junk, binary, a huge frame."""
        for peer in tuple(self._peers):
            with contextlib.suppress(ConnectionClosed):
                await peer.socket.send(data)

    async def drop_clients(self) -> None:
        """Cut every connection, as a crash does."""
        for peer in tuple(self._peers):
            peer.socket.transport.abort()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            await self.emit("tick", {"ts": int(self._now() * 1000)})

    # --- HTTP ---------------------------------------------------------------------------------------------

    def _http(self, _: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        path = request.path.split("?")[0]
        if path in {"/readyz", "/ready"} and not self.faults.html_readyz:
            uptime = int((self._now() - self._started) * 1000)
            body: dict[str, Any] = {"ready": not self.faults.not_ready, "failing": [], "uptimeMs": uptime}
            if self.faults.not_ready:
                body["failing"] = ["channels"]
            status = HTTPStatus.SERVICE_UNAVAILABLE if self.faults.not_ready else HTTPStatus.OK
            return _response(status, "application/json; charset=utf-8", json.dumps(body))
        if path in {"/healthz", "/health"} and not self.faults.html_readyz:
            return _response(HTTPStatus.OK, "application/json; charset=utf-8", '{"ok":true,"status":"live"}')
        # As the real one: every other path is the web UI.
        return _response(HTTPStatus.OK, "text/html; charset=utf-8", "<!doctype html><title>Replay gateway</title>")

    # --- WebSocket ----------------------------------------------------------------------------------------

    async def _serve(self, socket: ServerConnection) -> None:
        self.connects += 1
        peer = _Peer(socket)
        tasks: set[asyncio.Task[None]] = set()
        try:
            if self.faults.silent_handshake:
                await socket.wait_closed()
                return
            challenge = {"nonce": str(uuid4()), "ts": int(self._now() * 1000)}
            await socket.send(json.dumps({"type": "event", "event": "connect.challenge", "payload": challenge}))
            if not await self._handshake(peer):
                return
            self._peers.add(peer)
            async for data in socket:
                task = asyncio.create_task(self._respond(peer, data))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except ConnectionClosed:
            pass
        finally:
            self._peers.discard(peer)
            for task in tasks:
                task.cancel()

    async def _handshake(self, peer: _Peer) -> bool:
        frame = json.loads(await peer.socket.recv())
        params = frame.get("params") or {}
        error = self._refusal(params)
        if error is not None:
            await peer.socket.send(json.dumps({"type": "res", "id": frame.get("id"), "ok": False, "error": error}))
            await peer.socket.close(1008, str(error["message"])[:100])
            return False
        peer.scopes = tuple(params.get("scopes") or ())
        hello = moved(self._hello, self.moved_by_ms)
        hello["protocol"] = self.faults.protocol or hello["protocol"]
        hello["server"] = {**hello["server"], "bootId": self._boot_id, "connId": str(uuid4())}
        hello["auth"] = {"method": "token", "role": "operator", "scopes": list(peer.scopes)}
        await peer.socket.send(json.dumps({"type": "res", "id": frame.get("id"), "ok": True, "payload": hello}))
        return True

    def _refusal(self, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if self.faults.refuse is not None:
            return self.faults.refuse
        speaks = self.faults.protocol or self._hello["protocol"]
        if not params.get("minProtocol", 0) <= speaks <= params.get("maxProtocol", 0):
            details = {"code": "PROTOCOL_MISMATCH", "expectedProtocol": speaks}
            return {"code": "INVALID_REQUEST", "message": "protocol mismatch", "details": details}
        token = (params.get("auth") or {}).get("token")
        if not token:
            details = {"code": "DEVICE_IDENTITY_REQUIRED"}
            return {"code": "NOT_PAIRED", "message": "device identity required", "details": details}
        if not hmac.compare_digest(str(token), self.token):
            details = {"code": "AUTH_TOKEN_MISMATCH", "authReason": "token_mismatch"}
            return {"code": "INVALID_REQUEST", "message": "unauthorized: gateway token mismatch", "details": details}
        return None

    async def _respond(self, peer: _Peer, data: str | bytes) -> None:
        frame = json.loads(data)
        method, params = frame.get("method"), frame.get("params") or {}
        self.calls = [*self.calls[-999:], (method, params)]
        if method in self.faults.never_answer:
            return
        if method in self.faults.drop_on:
            peer.socket.transport.abort()
            return
        await asyncio.sleep(self.faults.late.get(method, 0.0))
        response = {"type": "res", "id": frame.get("id"), **self._answer(peer, method, params)}
        with contextlib.suppress(ConnectionClosed):
            await peer.socket.send(json.dumps(response))
            if method in self.faults.twice:
                await peer.socket.send(json.dumps(response))

    def _answer(self, peer: _Peer, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        needed = self.faults.missing_scope.get(method) or self._needed.get(method, "")
        known = method in self._needed or method in self._replies or method in self.answers
        if method in self.faults.missing_methods or not known:
            return _error("INVALID_REQUEST", f"unknown method: {method}")
        if method in self.faults.missing_scope or (needed in _SCOPES and needed not in peer.scopes):
            details = {"code": "MISSING_SCOPE", "missingScope": needed, "requiredScopes": [needed]}
            return _error("FORBIDDEN", f"missing scope: {needed}", details)
        if method in self.answers:
            return {"ok": True, "payload": self.answers[method](params)}
        if method == "sessions.subscribe":
            return {"ok": True, "payload": {"subscribed": True}}
        if method not in self._replies:
            return _error("UNAVAILABLE", f"{method} is not part of the recordings")
        return self._replayed(method)

    def _replayed(self, method: str) -> dict[str, Any]:
        recorded = self._replies[method]
        now = self._now()
        kept = {key: recorded[key] for key in ("ok", "payload", "error") if key in recorded}
        answer: dict[str, Any] = moved(kept, self.moved_by_ms)
        payload = answer.get("payload")
        if isinstance(payload, dict):
            if method == "cron.list":
                payload["jobs"] = [_planned(job, now) for job in payload.get("jobs", ())]
            if "uptimeMs" in payload:
                payload["uptimeMs"] = int((now - self._started) * 1000)
            if method == "usage.cost":
                today = datetime.fromtimestamp(now, UTC).date()
                for age, day in enumerate(reversed(payload.get("daily", ()))):
                    day["date"] = (today - timedelta(days=age)).isoformat()
        return answer


def _planned(job: dict[str, Any], now: float) -> dict[str, Any]:
    """A job whose next run lies ahead, as a living scheduler has it."""
    following = next_run(job.get("schedule", {}), datetime.fromtimestamp(now, UTC))
    if following is None:
        return job
    next_ms = int(following.timestamp() * 1000)
    planned = {**job, "state": {**job.get("state", {}), "nextRunAtMs": next_ms}}
    return {**planned, "nextRunAtMs": next_ms} if "nextRunAtMs" in job else planned


def _error(code: str, message: str, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if details:
        error["details"] = details
    return {"ok": False, "error": error}


def _response(status: HTTPStatus, content_type: str, body: str) -> Response:
    data = body.encode()
    headers = Headers([("Content-Type", content_type), ("Content-Length", str(len(data))), ("Connection", "close")])
    return Response(status.value, status.phrase, headers, data)
