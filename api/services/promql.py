"""What may be asked of Prometheus in words: a fixed list of questions, each one expression with checked parameters.

As with `store.questions`, a model chooses a name and parameters and nothing else. A text becomes a quoted string of
PromQL, a number a number; the gateways that may be seen are a matcher of every selector. The address is the user's.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from lobservatory.errors import LobservatoryError
from store.questions import MOST_ROWS, Asked, Nothing

SECONDS = 10.0  # from the question to the last byte of its answer
MOST_BYTES = 2_000_000
MOST_POINTS = 12  # of one series over time
_CHUNK = 65_536

Selector = Callable[..., str]


class MetricsError(LobservatoryError):
    """Prometheus did not answer. The text is for people."""


class Hours(Asked):
    """The last so many hours; Prometheus keeps less than the database."""

    hours: Annotated[int, Field(ge=1, le=24 * 31)] = 24


class Course(Hours):
    """What is counted, of one agent or of all."""

    what: Literal["model_calls", "failed_model_calls", "tool_calls", "tokens", "billed_usd"] = "model_calls"
    agent: Annotated[str, Field(max_length=200)] | None = None


@dataclass(frozen=True, slots=True)
class MetricQuestion:
    """`expression` makes PromQL of the checked parameters and of a function that makes a selector's matchers."""

    about: str
    parameters: type[Asked]
    expression: Callable[[Any, Selector], str]
    over_time: bool = False  # points over the hours, instead of the value now


_COUNTED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "model_calls": ("claw_model_calls_total", {}),
    "failed_model_calls": ("claw_model_calls_total", {"outcome": "error"}),
    "tool_calls": ("claw_tool_calls_total", {}),
    "tokens": ("claw_tokens_total", {}),
    "billed_usd": ("claw_cost_usd_total", {}),
}


def _step_minutes(hours: int) -> int:
    return math.ceil(hours * 60 / MOST_POINTS)


def _course(asked: Course, of: Selector) -> str:
    metric, more = _COUNTED[asked.what]
    window = _step_minutes(asked.hours)
    return f"sum by (gateway, agent) (increase({metric}{of(agent=asked.agent, **more)}[{window}m]))"


def _quantiles(metric: str, by: str) -> Callable[[Hours, Selector], str]:
    def made(asked: Hours, of: Selector) -> str:
        buckets = f"sum by ({by}, le) (increase({metric}_bucket{of()}[{asked.hours}h]))"
        return " or ".join(
            f'label_replace(histogram_quantile({q}, {buckets}) >= 0, "quantile", "{q}", "", "")' for q in (0.5, 0.95)
        )

    return made


METRIC_QUESTIONS: dict[str, MetricQuestion] = {
    "course": MetricQuestion(
        f"How calls, tokens or billed US$ went over time, by agent: {MOST_POINTS} points, each the sum of its part.",
        Course,
        _course,
        over_time=True,
    ),
    "model_latency": MetricQuestion(
        "Median and 95th percentile of the duration of model calls, in seconds, by model.",
        Hours,
        _quantiles("claw_model_call_duration_seconds", "gateway, provider, model"),
    ),
    "tool_latency": MetricQuestion(
        "Median and 95th percentile of the duration of tool calls, in seconds, by tool.",
        Hours,
        _quantiles("claw_tool_call_duration_seconds", "gateway, tool"),
    ),
    "gateway_uptime": MetricQuestion(
        "Share of the time in which the gateway was up, 0 to 1.",
        Hours,
        lambda asked, of: f"avg_over_time(claw_gateway_up{of()}[{asked.hours}h])",
    ),
    "gateway_reconnects": MetricQuestion(
        "How often the connection to the gateway was lost and made again.",
        Hours,
        lambda asked, of: f"increase(claw_gateway_reconnects_total{of()}[{asked.hours}h])",
    ),
    "gateway_rpc": MetricQuestion(
        "Duration of the newest call of each method of the gateway, in seconds.",
        Nothing,
        lambda _, of: f"claw_rpc_latency_seconds{of()}",
    ),
    "quota": MetricQuestion(
        "Used share of a provider's allowance, 0 to 1, where the provider tells it.",
        Nothing,
        lambda _, of: f"claw_provider_quota_used_ratio{of()}",
    ),
    "context": MetricQuestion(
        "The fullest context of each agent's sessions now, 0 to 1.",
        Nothing,
        lambda _, of: f"claw_session_context_ratio_max{of()}",
    ),
    "firing_alerts": MetricQuestion(
        "Alerts that fire at this moment, by name and severity.",
        Nothing,
        lambda _, of: f"count by (alertname, severity, gateway, agent) (ALERTS{of(alertstate='firing')})",
    ),
    "failing_collectors": MetricQuestion(
        "Parts of the exporter that cannot read their source now.",
        Nothing,
        lambda _, of: f"lobservatory_collector_success{of()} == 0",
    ),
    "load": MetricQuestion(
        f"Load average of the machine over time: {MOST_POINTS} points.",
        Hours,
        lambda asked, of: f"avg_over_time(claw_host_load1{of()}[{_step_minutes(asked.hours)}m])",
        over_time=True,
    ),
}


def quoted(text: str) -> str:
    """A string of PromQL; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def selector(gateways: Collection[str] | None) -> Selector:
    """Makes `{…}` of labels and values (None: any) and of the gateways that may be seen (None: all)."""

    def made(**labels: str | None) -> str:
        matchers = [f"{name}={quoted(value)}" for name, value in labels.items() if value is not None]
        if gateways is not None:
            seen = "|".join(re.escape(gateway) for gateway in sorted(gateways))
            # Without any gateway, what contradicts itself: an empty pattern would fit series that have no gateway.
            matchers.append(f"gateway=~{quoted(seen)}" if seen else 'gateway="",gateway!=""')
        return f"{{{','.join(matchers)}}}" if matchers else ""

    return made


class Prometheus:
    """Asks one Prometheus. `url`: its address without a slash at the end; empty: there is none."""

    def __init__(self, url: str, *, seconds: float = SECONDS, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._seconds = seconds
        self._clock = clock

    async def answer(
        self, name: str, parameters: Mapping[str, Any], gateways: Collection[str] | None
    ) -> list[dict[str, Any]]:
        """The rows of a question, at most `MOST_ROWS`: labels and `value`, or `points` of time and value.

        Raises MetricsError.
        """
        if not self._url:
            raise MetricsError("there is no Prometheus here: `lobservatory up` says how to get it")
        question = METRIC_QUESTIONS[name]
        asked = question.parameters.model_validate(parameters)
        query = {"query": question.expression(asked, selector(gateways)), "timeout": f"{self._seconds:g}s"}
        path = "query"
        if isinstance(asked, Hours) and question.over_time:
            path, step, now = "query_range", 60 * _step_minutes(asked.hours), self._clock()
            query |= {"start": str(now - (MOST_POINTS - 1) * step), "end": str(now), "step": str(step)}
        try:
            async with asyncio.timeout(self._seconds + 1):
                found = await asyncio.to_thread(self._fetch, path, query)
        except TimeoutError:
            raise MetricsError(f"Prometheus at {self._url} did not answer within {self._seconds:g} s") from None
        return [_row(one) for one in found[:MOST_ROWS]]

    def _fetch(self, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """In a thread. Raises MetricsError."""
        until = time.monotonic() + self._seconds
        body = urllib.parse.urlencode(query).encode()
        request = urllib.request.Request(f"{self._url}/api/v1/{path}", body)  # noqa: S310 - the user's own address
        try:
            with _OPENER.open(request, timeout=self._seconds) as response:
                found = json.loads(_read(response, until))["data"]["result"]
        except urllib.error.HTTPError as error:
            error.close()
            raise MetricsError(f"Prometheus at {self._url} refused the question (HTTP {error.code})") from None
        except (TimeoutError, http.client.HTTPException, OSError) as error:
            slow = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            why = f"did not answer within {self._seconds:g} s" if slow else "does not answer"
            raise MetricsError(f"Prometheus at {self._url} {why}: see LOBS_PROMETHEUS_URL") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise MetricsError(f"what answers at {self._url} is no Prometheus: see LOBS_PROMETHEUS_URL") from None
        if not isinstance(found, list):
            raise MetricsError(f"what answers at {self._url} is no Prometheus: see LOBS_PROMETHEUS_URL")
        return found


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    """The whole body, up to a size and a monotonic instant. Raises MetricsError, TimeoutError."""
    body = bytearray()
    while chunk := response.read1(_CHUNK):
        body += chunk
        if len(body) > MOST_BYTES:
            raise MetricsError("Prometheus' answer is too large: ask for fewer hours")
        if time.monotonic() > until:
            raise TimeoutError
    return bytes(body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would lead to an address that nobody configured: it is an error."""

    def redirect_request(self, *_: object) -> None:
        """None: not followed."""


_OPENER = urllib.request.build_opener(_NoRedirect(), urllib.request.ProxyHandler({}))


def _row(series: Mapping[str, Any]) -> dict[str, Any]:
    labels = {str(name): str(value) for name, value in series.get("metric", {}).items() if name != "__name__"}
    if "values" in series:
        points = [[datetime.fromtimestamp(at, UTC).isoformat(), _number(value)] for at, value in series["values"]]
        return {**labels, "points": points}
    return {**labels, "value": _number(series["value"][1])}


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
