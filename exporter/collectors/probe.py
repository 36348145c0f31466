"""The gateway from outside, as a load balancer sees it: `/healthz` and `/readyz` over HTTP, without a token."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lobservatory.metrics.exposition import Sample
from openclaw.fields import mapping, text

TIMEOUT = 3.0
PATHS = ("healthz", "readyz")
_MAX_BODY = 64 << 10
_MOST_CHECKS = 20


@dataclass(frozen=True, slots=True)
class Probe:
    """One answer. `good`: status 200 and the gateway's own JSON; a gateway answers any other path with a page."""

    path: str
    good: bool
    seconds: float
    failing: tuple[str, ...] = ()


def probe(url: str, path: str, timeout: float = TIMEOUT) -> Probe:
    """Ask one path beside the WebSocket URL. Never raises: no answer is an answer."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "wss" else http.client.HTTPConnection
    started = time.monotonic()
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    status = 0
    answer: Mapping[str, Any] = {}
    try:
        connection.request("GET", f"/{path}", headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(_MAX_BODY)
        if (response.getheader("Content-Type") or "").startswith("application/json"):
            status, answer = response.status, mapping(json.loads(body))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        status = 0
    finally:
        connection.close()
    good = status == http.HTTPStatus.OK and (answer.get("ok") is True or answer.get("ready") is True)
    return Probe(path, good, time.monotonic() - started, tuple(_failing(answer)) if status else ())


def _failing(answer: Any) -> Iterator[str]:
    named = mapping(answer).get("failing")
    for check in named[:_MOST_CHECKS] if isinstance(named, list) else ():
        name = text(check, 64)
        if name:
            yield name


class ProbeCollector:
    """Asks both paths at every interval."""

    name = "probe"

    def __init__(self, gateway: str, url: str, *, interval: float = 15.0) -> None:
        self.interval = interval
        self.deadline = 2 * TIMEOUT + 2
        self._gateway = gateway
        self._url = url
        self._probes: tuple[Probe, ...] = ()

    async def refresh(self) -> None:
        """A gateway that does not answer is knowledge, not a failure."""
        self._probes = tuple([await asyncio.to_thread(probe, self._url, path) for path in PATHS])

    def render(self) -> Iterable[Sample]:
        """Whether each is good, how long it took, and what `/readyz` names as failing."""
        for one in self._probes:
            labels = (self._gateway, one.path)
            yield Sample("claw_gateway_http_up", labels, float(one.good))
            yield Sample("claw_gateway_http_seconds", labels, one.seconds)
            if one.path == "readyz":
                for check in sorted(set(one.failing)):
                    yield Sample("claw_gateway_failing_check", (self._gateway, check), 1)
