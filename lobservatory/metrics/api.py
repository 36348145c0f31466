"""What the API serves about itself. Its routes, streams and methods are its own, so their number is bounded."""

from __future__ import annotations

from lobservatory.metrics import exporter
from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "lobservatory_http_requests_total",
        "counter",
        "Requests that have ended; method WS is a WebSocket.",
        "",
        ("method", "route", "status"),
    ),
    Metric(
        "lobservatory_http_request_duration_seconds",
        "histogram",
        "Time of requests; streams, which last as long as a client stays, are left out.",
        "seconds",
        ("route",),
        buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    ),
    Metric("lobservatory_live_clients", "gauge", "Clients that listen now.", "", ("stream",), 10),
    Metric("lobservatory_live_messages_total", "counter", "Messages put to live clients.", "", ("stream",), 10),
    Metric(
        "lobservatory_live_evictions_total",
        "counter",
        "Clients closed as too slow, because their queue was full.",
        "",
        ("stream",),
        10,
    ),
    Metric(
        "lobservatory_live_dropped_messages_total",
        "counter",
        "Messages that waited in the queue of a client when it was closed as too slow; it gets them when it resumes.",
        "",
        ("stream",),
        10,
    ),
    Metric("lobservatory_live_last_event_id", "gauge", "Id of the newest event given to live clients.", "", (), 1),
    Metric("lobservatory_logins_total", "counter", "Log-ins by outcome.", "", ("outcome",), 10),
    Metric(
        "lobservatory_requested_runs",
        "gauge",
        "Runs that users asked for through commands: waiting for room, running, or ended and to be delivered.",
        "",
        ("status",),
        3,
    ),
    Metric(
        "lobservatory_requested_runs_oldest_timestamp_seconds",
        "gauge",
        "Since when the run waits that waits longest; absent while none does.",
        "seconds",
        (),
        1,
        merge="max",
    ),
    Metric(
        "lobservatory_run_deliveries_total",
        "counter",
        "Attempts to deliver the result of a run, by receiver and outcome.",
        "",
        ("receiver", "outcome"),
        4,
    ),
    Metric(
        "lobservatory_gateway_connected",
        "gauge",
        "1 while a connection of the API to the gateway is there; LOBS_COMMANDS and LOBS_CHAT open one each.",
        "",
        ("connection",),
        5,
    ),
    Metric(
        "lobservatory_gateway_rpc_duration_seconds",
        "histogram",
        "Time of calls to the gateway over a connection of the API, failed ones and those given up included.",
        "seconds",
        ("connection", "method"),
        200,
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0),
    ),
    Metric(
        "lobservatory_gateway_rpc_errors_total",
        "counter",
        "Calls to the gateway that failed, by its code, TIMEOUT, UNAVAILABLE or CANCELLED.",
        "",
        ("connection", "method", "code"),
        500,
    ),
    # As the exporter's, of its own requests.
    *(metric for metric in exporter.METRICS if metric.name.startswith("lobservatory_spans_")),
)
