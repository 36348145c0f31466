"""The gateway itself: does it answer, is it ready, which version, and how our connection to it does.

A gateway that is down is knowledge, not a failed refresh: it is `claw_gateway_up 0`. Before the first connect has ended
nothing is known yet, and nothing is said: a restart of the exporter is no downtime of the gateway.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import CONNECTION_STATES
from openclaw.client import FAILURES, GatewayClient, Stats
from openclaw.fields import flag, mapping, number, text
from openclaw.protocol import DROP_REASONS, GatewayUnavailableError

HTTP_TIMEOUT = 3.0
_MAX_BODY = 1 << 20
_START_SLACK = 5.0  # seconds by which the start, told as an uptime, wavers

Record = Callable[[str, Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` says. `uptime` in seconds."""

    ready: bool
    failing: tuple[str, ...] = ()
    uptime: float | None = None


def fetch_readiness(url: str, timeout: float = HTTP_TIMEOUT) -> Readiness | None:
    """Ask `/readyz` beside the WebSocket URL; None when nobody answers or the answer is not the gateway's.

    The content type is checked, because a gateway answers unknown paths, and other servers any path, with a page.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "wss" else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        connection.request("GET", "/readyz", headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(_MAX_BODY)
        if not (response.getheader("Content-Type") or "").startswith("application/json"):
            return None
        answer = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    ready = flag(answer.get("ready")) if isinstance(answer, dict) else None
    if ready is None:
        return None
    failing = answer.get("failing")
    uptime = number(answer.get("uptimeMs"))
    return Readiness(
        ready=ready and response.status == http.HTTPStatus.OK,
        failing=tuple(str(part)[:64] for part in failing[:20]) if isinstance(failing, list) else (),
        uptime=None if uptime is None else uptime / 1000,
    )


class GatewayCollector:
    """Polls `health` and `/readyz`, and renders the client's own counters."""

    name = "gateway"

    def __init__(
        self,
        gateway: str,
        client: GatewayClient,
        *,
        interval: float = 15.0,
        record: Record | None = None,
        readiness: Callable[[str], Readiness | None] = fetch_readiness,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.interval = interval
        self.deadline = 15.0
        self._gateway = gateway
        self._client = client
        self._record = record
        self._fetch = readiness
        self._wall_clock = wall_clock
        self._answers: bool | None = None  # None: never asked
        self._readiness: Readiness | None = None
        self._event_loop_delay: float | None = None
        self._version = ""
        self._boot = ""
        self._started_at: float | None = None
        self._restarts = 0

    async def refresh(self) -> None:
        """Raises RpcError when the gateway refuses `health`, which needs no scope."""
        self._readiness = await asyncio.to_thread(self._fetch, self._client.url)
        try:
            health = await self._client.call("health", timeout=8.0)
        except GatewayUnavailableError:
            self._answers, self._event_loop_delay = False if self._client.tried else None, None
            return
        except Exception:
            self._answers, self._event_loop_delay = False, None
            raise
        self._answers = True
        delay = number(mapping(health, "eventLoop").get("delayP99Ms"))
        self._event_loop_delay = None if delay is None else delay / 1000
        await self._notice_changes()

    async def _notice_changes(self) -> None:
        hello = self._client.hello
        version = hello.version if hello else ""
        restarted = self._restarted(hello.boot_id if hello else "")
        if restarted:
            self._restarts += 1
            await self._tell("restart", {"version": version})
        if version and version != self._version:
            if self._version:
                await self._tell("version", {"from": self._version, "to": version})
            self._version = version

    def _restarted(self, boot: str) -> bool:
        """By the boot id (2026.9), else by an uptime that began anew."""
        uptime = self._readiness.uptime if self._readiness else None
        started_at = None if uptime is None else self._wall_clock() - uptime
        known_boot, known_start = self._boot, self._started_at
        self._boot = boot or self._boot
        self._started_at = started_at if started_at is not None else self._started_at
        if boot and known_boot:
            return boot != known_boot
        return known_start is not None and started_at is not None and started_at > known_start + _START_SLACK

    async def _tell(self, event: str, detail: Mapping[str, Any]) -> None:
        if self._record is not None:
            await self._record(event, detail)

    def render(self) -> Iterable[Sample]:
        """Always the connection; whether it is up and ready, and its event loop, only while they are known."""
        gateway, client = self._gateway, self._client
        up = self._answers if client.connected else client.connected
        if up is not None:
            yield Sample("claw_gateway_up", (gateway,), float(up))
        if self._readiness is not None:
            yield Sample("claw_gateway_ready", (gateway,), float(self._readiness.ready))
        if client.hello is not None:
            version = text(client.hello.version, 64) or "unknown"
            yield Sample("claw_gateway_info", (gateway, version, str(client.hello.protocol)), 1)
        if self._event_loop_delay is not None and client.connected:
            yield Sample("claw_gateway_event_loop_delay_p99_seconds", (gateway,), self._event_loop_delay)
        for state in CONNECTION_STATES:
            yield Sample("claw_gateway_connection_state", (gateway, state), float(client.state == state))
        yield Sample("claw_gateway_restarts_total", (gateway,), self._restarts)
        yield from self._counters(gateway, client.stats)

    def _counters(self, gateway: str, stats: Stats) -> Iterator[Sample]:
        yield Sample("claw_gateway_reconnects_total", (gateway,), stats.reconnects)
        yield Sample("claw_gateway_event_gaps_total", (gateway,), stats.gaps)
        if stats.last_event_at is not None:
            yield Sample("claw_gateway_last_event_timestamp_seconds", (gateway,), stats.last_event_at)
        for reason, count in {**dict.fromkeys(FAILURES, 0), **stats.connect_failures}.items():
            yield Sample("claw_gateway_connect_failures_total", (gateway, reason), count)
        for event, count in stats.events.items():
            yield Sample("claw_gateway_events_total", (gateway, event), count)
        for reason, count in {**dict.fromkeys(DROP_REASONS, 0), **stats.frames_dropped}.items():
            yield Sample("claw_gateway_frames_dropped_total", (gateway, reason), count)
        for method, seconds in stats.rpc_latency.items():
            yield Sample("claw_rpc_latency_seconds", (gateway, method), seconds)
        for (method, code), count in stats.rpc_errors.items():
            yield Sample("claw_rpc_errors_total", (gateway, method, code), count)
