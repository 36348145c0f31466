"""What the service counts about itself, and its Prometheus text. The families are the catalogue's `API_METRICS`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from api.tracing import Tracing
from lobservatory.metrics.catalogue import API_METRICS
from lobservatory.metrics.family import Metric
from openclaw.client import Called, GatewayClient

_FAMILIES = {metric.name: metric for metric in API_METRICS}
_REQUESTS = _FAMILIES["lobservatory_http_requests_total"]
_REQUEST_SECONDS = _FAMILIES["lobservatory_http_request_duration_seconds"]
_RPC_SECONDS = _FAMILIES["lobservatory_gateway_rpc_duration_seconds"]
_RPC_ERRORS = _FAMILIES["lobservatory_gateway_rpc_errors_total"]
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Labels = tuple[str, ...]


class Histogram:
    """Times in seconds of one family, by label values."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, labels: Labels, seconds: float) -> None:
        """One more. Beyond the family's bound it is one of `other`."""
        if labels not in self._counts and len(self._counts) >= self.metric.bound:
            labels = ("other",) * len(labels)
        counts = self._counts.setdefault(labels, [0] * (len(self.metric.buckets) + 1))
        counts[bisect_left(self.metric.buckets, seconds)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        """Its Prometheus text."""
        yield from _head(self.metric)
        name = self.metric.name
        for labels, counts in sorted(self._counts.items()):
            text = _text(self.metric.labels, labels)
            total = 0
            for bound, number in zip((*map(repr, self.metric.buckets), "+Inf"), counts, strict=True):
                total += number
                yield f'{name}_bucket{{{text},le="{bound}"}} {total}'
            yield f"{name}_count{{{text}}} {total}"
            yield f"{name}_sum{{{text}}} {self._sums[labels]!r}"


class Counts:
    """Counters and gauges of one process. Routes are templates of our own, so their number is bounded."""

    def __init__(self) -> None:
        self.requests: Counter[Labels] = Counter()
        self.request_seconds = Histogram(_REQUEST_SECONDS)
        self.clients: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.evicted: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.logins: Counter[str] = Counter()
        self.last_event_id = 0
        self.runs: dict[str, int] = {}  # that users asked for, by status; none while commands are off
        self.oldest_waiting: float | None = None
        self.deliveries: Counter[Labels] = Counter()
        self.rpc_seconds = Histogram(_RPC_SECONDS)
        self.rpc_errors: Counter[Labels] = Counter()
        self.tracing: Tracing | None = None
        self._connections: dict[str, GatewayClient] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request has ended."""
        _add(_REQUESTS, self.requests, (method if method in _METHODS else "other", route, str(status)))
        if method == "WS" or route == "/api/events/stream":
            return  # they last as long as a client stays: no latency
        self.request_seconds.observe((route,), seconds)

    def connection(self, name: str, client: GatewayClient) -> Callable[[], None]:
        """Count the calls of a connection to the gateway from now on; the answer ends that."""

        def count(called: Called) -> None:
            self.rpc_seconds.observe((name, called.method), called.seconds)
            if called.code:
                code = called.code if _CODE.fullmatch(called.code) else "other"
                _add(_RPC_ERRORS, self.rpc_errors, (name, called.method, code))

        self._connections[name] = client
        return client.on_call(count)

    def connected(self) -> dict[str, bool]:
        """Which connections to the gateway are there, of those that there should be."""
        return {f"gateway_{name}": client.state == "connected" for name, client in self._connections.items()}

    def exposition(self) -> str:
        """The Prometheus text format."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _family("lobservatory_http_requests_total", self.requests)
        yield from self.request_seconds.lines()
        for name, by_stream in (
            ("lobservatory_live_clients", self.clients),
            ("lobservatory_live_messages_total", self.messages),
            ("lobservatory_live_evictions_total", self.evicted),
            ("lobservatory_live_dropped_messages_total", self.dropped),
        ):
            yield from _family(name, {(stream,): number for stream, number in by_stream.items()})
        yield from _family("lobservatory_live_last_event_id", {(): self.last_event_id})
        yield from _family("lobservatory_logins_total", {(outcome,): n for outcome, n in self.logins.items()})
        yield from _family("lobservatory_requested_runs", {(status,): n for status, n in self.runs.items()})
        oldest: dict[Labels, float] = {} if self.oldest_waiting is None else {(): self.oldest_waiting}
        yield from _family("lobservatory_requested_runs_oldest_timestamp_seconds", oldest)
        yield from _family("lobservatory_run_deliveries_total", self.deliveries)
        connected: dict[Labels, int] = {
            (name,): int(client.state == "connected") for name, client in self._connections.items()
        }
        yield from _family("lobservatory_gateway_connected", connected)
        yield from self.rpc_seconds.lines()
        yield from _family("lobservatory_gateway_rpc_errors_total", self.rpc_errors)
        tracing = self.tracing
        yield from _family("lobservatory_spans_sent_total", {} if tracing is None else {(): tracing.sent})
        dropped: dict[Labels, int] = {} if tracing is None else {("not_sent",): tracing.not_sent}
        yield from _family("lobservatory_spans_dropped_total", dropped)


def _add(metric: Metric, values: Counter[Labels], labels: Labels) -> None:
    """One more of a series; beyond the family's bound, of one that has `other` for all but its last label."""
    if labels not in values and len(values) >= metric.bound:
        labels = (*["other"] * (len(labels) - 1), labels[-1])
    values[labels] += 1


def _head(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.type}"


def _text(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{value}"' for name, value in zip(names, values, strict=True))


def _family(name: str, values: Mapping[Labels, float]) -> Iterator[str]:
    metric = _FAMILIES[name]
    yield from _head(metric)
    for labels, number in sorted(values.items()):
        text = _text(metric.labels, labels)
        yield f"{name}{{{text}}} {number}" if text else f"{name} {number}"
