"""What the service counts about itself, and its Prometheus text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_MOST_SERIES = 2_000
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})


class Counts:
    """Counters and gauges of one process. Routes are templates of our own, so their number is bounded."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.buckets: Counter[tuple[str, float]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.evicted: Counter[str] = Counter()
        self.logins: Counter[str] = Counter()
        self.last_event_id = 0

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request has ended."""
        key = (method if method in _METHODS else "other", route, status)
        if key not in self.requests and len(self.requests) >= _MOST_SERIES:
            key = ("other", "other", status)
        self.requests[key] += 1
        if method == "WS" or route == "/api/events/stream":
            return  # they last as long as a client stays: no latency
        self.seconds[route] += seconds  # type: ignore[assignment]  # a Counter adds floats just as well
        for bound in _BUCKETS:
            if seconds <= bound:
                self.buckets[(route, bound)] += 1
        self.buckets[(route, float("inf"))] += 1

    def exposition(self) -> str:
        """The Prometheus text format."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _head("lobservatory_http_requests_total", "counter", "Requests that have ended.")
        for (method, route, status), number in sorted(self.requests.items()):
            yield (f'lobservatory_http_requests_total{{method="{method}",route="{route}",status="{status}"}} {number}')
        yield from _head("lobservatory_http_request_duration_seconds", "histogram", "Time of requests.")
        name = "lobservatory_http_request_duration_seconds"
        for route in sorted(self.seconds):
            for bound in (*_BUCKETS, float("inf")):
                le = "+Inf" if bound == float("inf") else repr(bound)
                yield f'{name}_bucket{{route="{route}",le="{le}"}} {self.buckets[(route, bound)]}'
            yield f'{name}_count{{route="{route}"}} {self.buckets[(route, float("inf"))]}'
            yield f'{name}_sum{{route="{route}"}} {self.seconds[route]!r}'
        yield from _family("lobservatory_live_clients", "gauge", "Clients that listen now.", "stream", self.clients)
        yield from _family(
            "lobservatory_live_messages_total", "counter", "Messages put to live clients.", "stream", self.messages
        )
        yield from _family(
            "lobservatory_live_evictions_total", "counter", "Clients closed as too slow.", "stream", self.evicted
        )
        yield from _family("lobservatory_logins_total", "counter", "Log-ins by outcome.", "outcome", self.logins)
        yield from _head("lobservatory_live_last_event_id", "gauge", "Id of the newest event given to live clients.")
        yield f"lobservatory_live_last_event_id {self.last_event_id}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _family(name: str, kind: str, text: str, label: str, values: Counter[str]) -> Iterator[str]:
    yield from _head(name, kind, text)
    for value, number in sorted(values.items()):
        yield f'{name}{{{label}="{value}"}} {number}'
