"""Completes the history of alerts by what Prometheus itself recorded.

Alertmanager drops what another alert inhibits or a silence covers before any receiver hears of it, and forgets what
came and went while this API was away. Prometheus keeps each firing in its series `ALERTS`; what the history lacks of
that is added, marked as untold, and what ended without anybody saying so gets its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
import yaml

from lobservatory.errors import LobservatoryError
from store import alerts as rows
from store.pool import Pool

log = structlog.get_logger(__name__)

STEP = timedelta(seconds=15)  # how often our rules are evaluated
SETTLE = timedelta(minutes=2)  # Alertmanager may tell of a firing that is younger
UNHEARD = timedelta(minutes=5)  # after a told firing is over: its end should have been told by then
OVERLAP = timedelta(minutes=15)  # looked at twice
FURTHEST = timedelta(hours=24)  # the first look of a process
QUERY = 'ALERTS{alertstate="firing",alertname!="Watchdog"}'
_SECONDS = 10.0
_MOST_BYTES = 64 << 20
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PrometheusError(LobservatoryError):
    """It does not answer, or not as Prometheus does."""


@dataclass(frozen=True, slots=True)
class Firing:
    """From the first to the last time at which a rule was seen to fire."""

    labels: Mapping[str, str]
    first: datetime
    last: datetime


def firings(series: Iterable[Mapping[str, Any]], more: Mapping[str, str]) -> Iterator[Firing]:
    """Of a matrix of `ALERTS`. `more`: the external labels that Prometheus adds to what it sends."""
    for one in series:
        own = {name: text for name, text in one["metric"].items() if name not in {"__name__", "alertstate"}}
        labels = {name: text.replace("\0", "") for name, text in {**more, **own}.items()}  # PostgreSQL takes no NUL
        times = [datetime.fromtimestamp(float(at), UTC) for at, _ in one["values"]]
        first = last = times[0]
        for at in times[1:]:
            if at - last > STEP:
                yield Firing(labels, first, last)
                first = at
            last = at
        yield Firing(labels, first, last)


def lacking(
    known: Sequence[rows.Known], seen: Iterable[Firing], end: datetime, *, settle: timedelta = SETTLE
) -> tuple[list[Firing], dict[int, datetime]]:
    """(what the history does not have, the ends that it does not have by id). `end`: of what was looked at."""
    by_labels: dict[tuple[tuple[str, str], ...], list[rows.Known]] = {}
    for row in known:
        by_labels.setdefault(_key(row.labels), []).append(row)
    missing: list[Firing] = []
    ended: dict[int, datetime] = {}
    for firing in seen:
        of_it = [
            row
            for row in by_labels.get(_key(firing.labels), [])
            if row.starts_at <= firing.last + rows.SLACK
            and (row.ends_at is None or row.ends_at >= firing.first - rows.SLACK)
        ]
        if not of_it and firing.first <= end - settle:
            missing.append(firing)
        for row in of_it:
            ended.pop(row.id, None)  # an earlier part of the same firing is not its end
            if row.status == "firing" and firing.last <= end - (UNHEARD if row.told else STEP):
                ended[row.id] = firing.last + STEP
    return missing, ended


def untold(firing: Firing, annotations: Mapping[str, str], end: datetime) -> rows.Alert:
    """The firing as a row of the history."""
    over = firing.last <= end - STEP
    name = json.dumps(sorted(firing.labels.items()))
    return rows.Alert(
        fingerprint=hashlib.sha256(name.encode()).hexdigest()[:16],
        status="resolved" if over else "firing",
        starts_at=firing.first,
        ends_at=firing.last + STEP if over else None,
        labels=firing.labels,
        annotations=annotations,
    )


def _key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


class AlertHistory:
    """Looks at one Prometheus. `url`: its address without a slash at the end."""

    def __init__(self, pool: Pool, url: str, *, settle: timedelta = SETTLE) -> None:
        self._pool = pool
        self._url = url
        self._settle = settle
        self._until: datetime | None = None  # what was looked at so far
        self._answers = True

    async def look(self, now: datetime | None = None) -> None:
        """Once. A Prometheus that is away is said once; the next look covers the time. Raises what the pool raises."""
        if not self._url:
            return  # this installation has none
        seconds = STEP.total_seconds()
        end = datetime.fromtimestamp((now or datetime.now(UTC)).timestamp() // seconds * seconds, UTC)
        start = end - FURTHEST
        if self._until is not None:
            start = max(start, self._until - OVERLAP)
        try:
            seen, notes = await asyncio.to_thread(self._read, start, end)
        except PrometheusError as error:
            if self._answers:
                log.warning("the history of alerts cannot be completed", error=str(error))
            self._answers = False
            return
        self._answers = True
        if seen:
            async with self._pool.connection() as connection:
                known = await rows.known_since(connection, start - rows.SLACK)
                missing, ended = lacking(known, seen, end, settle=self._settle)
                added = [untold(firing, notes.get(_rule(firing.labels), {}), end) for firing in missing]
                await rows.complete(connection, added, ended)
        self._until = end

    def _read(self, start: datetime, end: datetime) -> tuple[list[Firing], dict[tuple[str, str], Mapping[str, str]]]:
        """(what fired, annotations by alert and severity); in a thread. Raises PrometheusError."""
        range_ = {"start": f"{start.timestamp():.0f}", "end": f"{end.timestamp():.0f}"}
        try:
            config = yaml.safe_load(self._ask("status/config")["yaml"]) or {}
            if config.get("alerting", {}).get("alert_relabel_configs"):
                raise PrometheusError("it relabels alerts (alert_relabel_configs): whose they are cannot be told")
            step = f"{STEP.total_seconds():.0f}"
            series = self._ask("query_range", query=QUERY, step=step, **range_)["result"]
            external = (config.get("global") or {}).get("external_labels") or {}
            seen = list(firings(series, {str(k): str(v) for k, v in external.items()}))
            notes: dict[tuple[str, str], Mapping[str, str]] = {}
            for group in self._ask("rules", type="alert")["groups"] if seen else ():
                for rule in group["rules"]:
                    # What is computed was computed for Alertmanager only.
                    constant = {name: text for name, text in rule["annotations"].items() if "{{" not in text}
                    notes[_rule({"alertname": rule["name"], **rule["labels"]})] = constant
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, yaml.YAMLError) as error:
            raise PrometheusError(f"what answers at {self._url} is no Prometheus ({type(error).__name__})") from None
        return seen, notes

    def _ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with _OPENER.open(f"{self._url}/api/v1/{path}?{query}", timeout=_SECONDS) as answer:
                body = answer.read(_MOST_BYTES + 1)
                if len(body) > _MOST_BYTES:
                    raise PrometheusError(f"{self._url} answers with more than {_MOST_BYTES >> 20} MiB")
                return json.loads(body)["data"]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PrometheusError(f"{self._url}: {error}") from None


def _rule(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get("alertname", ""), labels.get("severity", "")
