"""What the service counts about itself, by Prometheus' client library. The families are those of `API_METRICS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from api.tracing import Tracing
from lobservatory.metrics.catalogue import API_METRICS
from openclaw.client import Called, GatewayClient

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the size of a scrape and nothing here reads them

_FAMILIES = {metric.name: metric for metric in API_METRICS}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
_MOST_LAST = 100  # values of the last label beyond a family's bound
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Kind = TypeVar("Kind", Counter, Histogram)


class _Bounded(Generic[Kind]):
    """A family that has no more series than the catalogue allows. What comes beyond that is one of `other` and keeps
    its last label, a status or a code, while there are few of these."""

    def __init__(self, family: Kind, bound: int) -> None:
        self._family: Kind = family
        self._bound = bound
        self._seen: set[tuple[str, ...]] = set()

    def labels(self, *values: str) -> Kind:
        """The series of these label values."""
        if values not in self._seen and len(self._seen) >= self._bound:
            *others, last = ["other"] * (len(values) - 1) + [values[-1] if len(values) > 1 else "other"]
            values = (*others, last)
            if values not in self._seen and len(self._seen) >= self._bound + _MOST_LAST:
                values = (*others, "other")
        self._seen.add(values)
        return self._family.labels(*values)


class Counts(Collector):
    """Counters and gauges of one process. Routes are templates of our own, so their number is bounded."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = self._bounded("lobservatory_http_requests_total")
        self._request_seconds = self._histogram("lobservatory_http_request_duration_seconds")
        self.clients = self._gauge("lobservatory_live_clients")
        self.messages = self._counter("lobservatory_live_messages_total")
        self.evictions = self._counter("lobservatory_live_evictions_total")
        self.dropped_messages = self._counter("lobservatory_live_dropped_messages_total")
        self.last_event_id = self._gauge("lobservatory_live_last_event_id")
        self.logins = self._counter("lobservatory_logins_total")
        self.runs = self._gauge("lobservatory_requested_runs")  # no series while commands are off
        self.deliveries = self._counter("lobservatory_run_deliveries_total")
        self._connected = self._gauge("lobservatory_gateway_connected")
        self._rpc_seconds = self._histogram("lobservatory_gateway_rpc_duration_seconds")
        self._rpc_errors = self._bounded("lobservatory_gateway_rpc_errors_total")
        self.oldest_waiting: float | None = None  # epoch seconds since when a run that was asked for waits
        self.tracing: Tracing | None = None
        self._connections: dict[str, GatewayClient] = {}
        self._registry.register(self)

    def _counter(self, name: str) -> Counter:
        metric = _FAMILIES[name]
        return Counter(name, metric.help, metric.labels, registry=self._registry)

    def _gauge(self, name: str) -> Gauge:
        metric = _FAMILIES[name]
        return Gauge(name, metric.help, metric.labels, registry=self._registry)

    def _histogram(self, name: str) -> _Bounded[Histogram]:
        metric = _FAMILIES[name]
        family = Histogram(name, metric.help, metric.labels, registry=self._registry, buckets=metric.buckets)
        return _Bounded(family, metric.bound)

    def _bounded(self, name: str) -> _Bounded[Counter]:
        return _Bounded(self._counter(name), _FAMILIES[name].bound)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request has ended."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        if method == "WS" or route == "/api/events/stream":
            return  # they last as long as a client stays: no latency
        self._request_seconds.labels(route).observe(seconds)

    def connection(self, name: str, client: GatewayClient) -> Callable[[], None]:
        """Count the calls of a connection to the gateway from now on; the answer ends that."""

        def count(called: Called) -> None:
            self._rpc_seconds.labels(name, called.method).observe(called.seconds)
            if called.code:
                code = called.code if _CODE.fullmatch(called.code) else "other"
                self._rpc_errors.labels(name, called.method, code).inc()

        self._connections[name] = client
        self._connected.labels(name).set_function(lambda: client.state == "connected")
        return client.on_call(count)

    def connected(self) -> dict[str, bool]:
        """Which connections to the gateway are there, of those that there should be."""
        return {f"gateway_{name}": client.state == "connected" for name, client in self._connections.items()}

    def collect(self) -> Iterator[Family]:
        """The families that have a sample only at times: while a run waits, and where traces are sent."""
        oldest = _FAMILIES["lobservatory_requested_runs_oldest_timestamp_seconds"]
        yield GaugeMetricFamily(oldest.name, oldest.help, value=self.oldest_waiting)
        sent, dropped = _FAMILIES["lobservatory_spans_sent_total"], _FAMILIES["lobservatory_spans_dropped_total"]
        yield CounterMetricFamily(sent.name, sent.help, value=None if self.tracing is None else self.tracing.sent)
        not_sent = CounterMetricFamily(dropped.name, dropped.help, labels=dropped.labels)
        if self.tracing is not None:
            not_sent.add_metric(["not_sent"], self.tracing.not_sent)
        yield not_sent

    def exposition(self) -> str:
        """The Prometheus text format."""
        return generate_latest(self._registry).decode()
