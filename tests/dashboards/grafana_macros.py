"""Expands a panel's query as Grafana does before it reaches Prometheus or PostgreSQL, without a browser."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

BOARDS = Path(__file__).resolve().parents[2] / "dashboards" / "json"
SCRAPE_INTERVAL = 15  # seconds; provisioning/grafana/datasources
MAX_DATA_POINTS = 600  # a panel of half a screen


@dataclass(frozen=True, slots=True)
class TimeRange:
    start: datetime
    end: datetime
    points: int = MAX_DATA_POINTS
    least_interval: int = SCRAPE_INTERVAL

    @classmethod
    def last(cls, span: timedelta, end: datetime | None = None) -> TimeRange:
        end = end or datetime.now(UTC)
        return cls(end - span, end)

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    @property
    def interval(self) -> int:
        """`$__interval` in seconds: the range over the panel's points, not below the scrape interval."""
        return max(self.least_interval, round(self.seconds / self.points))

    def of(self, query: PanelQuery) -> TimeRange:
        """The same range in the steps of the query's panel."""
        return replace(self, points=query.points, least_interval=query.least_interval)

    @property
    def rate_interval(self) -> int:
        """`$__rate_interval` in seconds."""
        return max(self.interval + SCRAPE_INTERVAL, 4 * SCRAPE_INTERVAL)


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One target of one panel."""

    board: str
    panel: str
    panel_id: int
    panel_type: str
    ref_id: str
    target: Mapping[str, Any]
    points: int = MAX_DATA_POINTS
    least_interval: int = SCRAPE_INTERVAL

    @property
    def is_sql(self) -> bool:
        return "rawSql" in self.target

    @property
    def text(self) -> str:
        return str(self.target["rawSql"] if self.is_sql else self.target["expr"])

    @property
    def name(self) -> str:
        return f"{self.board}/{self.panel}/{self.ref_id}"


def boards() -> dict[str, dict[str, Any]]:
    """The committed boards by uid."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(BOARDS.glob("*.json"))}


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those of collapsed rows too; rows themselves are none."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def panel_queries() -> list[PanelQuery]:
    return [
        PanelQuery(
            uid,
            panel["title"],
            panel["id"],
            panel["type"],
            target["refId"],
            target,
            panel.get("maxDataPoints", MAX_DATA_POINTS),
            max(SCRAPE_INTERVAL, _seconds(panel.get("interval", "15s"))),
        )
        for uid, board in boards().items()
        for panel in panels(board)
        for target in panel["targets"]
    ]


def questions() -> list[tuple[str, str]]:
    """Every question of docs/promql.md with its query; one without a number belongs to the one before."""
    text = (BOARDS.parents[1] / "docs" / "promql.md").read_text(encoding="utf-8")
    found = re.findall(r"^ *(\S[^\n]*)\n\n +```promql\n(.*?)\n +```", text, flags=re.MULTILINE | re.DOTALL)
    return [(question, textwrap.dedent(query).strip()) for question, query in found]


def duration(seconds: float) -> str:
    return f"{round(seconds)}s"


def _prometheus_value(values: list[str]) -> str:
    """A multi-value variable in PromQL: a group of alternatives, each escaped for a regular expression in quotes."""
    escaped = [re.sub(r"([\\^$*+?.()|{}\[\]])", r"\\\\\1", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _sqlstring(values: list[str]) -> str:
    return ",".join("'" + value.replace("'", "''") + "'" for value in values)


def expand_promql(text: str, span: TimeRange, variables: Mapping[str, list[str]]) -> str:
    for macro, value in (
        ("$__rate_interval", duration(span.rate_interval)),
        ("$__interval", duration(span.interval)),
        ("$__range", duration(span.seconds)),
        ("$__from", str(round(span.start.timestamp() * 1000))),
        ("$__to", str(round(span.end.timestamp() * 1000))),
    ):
        text = text.replace(macro, value)
    return _variables(text, variables, _prometheus_value)


def expand_sql(text: str, span: TimeRange, variables: Mapping[str, list[str]]) -> str:
    """Macros as pkg/tsdb/grafana-postgresql-datasource of Grafana expands them (timescaledb: false)."""
    start, end = (moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for moment in (span.start, span.end))
    text = re.sub(r"\$__timeFilter\(([^)]+)\)", rf"\1 BETWEEN '{start}' AND '{end}'", text)
    text = text.replace("$__timeFrom()", f"'{start}'").replace("$__timeTo()", f"'{end}'")

    def group(match: re.Match[str]) -> str:
        column, interval = (part.strip().strip("'") for part in match[2].split(",")[:2])
        seconds = span.interval if interval == "$__interval" else _seconds(interval)
        grouped = f"floor(extract(epoch from {column})/{seconds})*{seconds}"
        return f'{grouped} AS "time"' if match[1] == "Alias" else grouped

    text = re.sub(r"\$__timeGroup(Alias)?\(([^)]+)\)", group, text)
    text = text.replace("$__interval", duration(span.interval))
    return _variables(text, variables, ",".join)


def _seconds(interval: str) -> int:
    return int(interval[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[interval[-1]]


def _variables(text: str, variables: Mapping[str, list[str]], plain: Any) -> str:
    def value(match: re.Match[str]) -> str:
        name, form = match[1] or match[3], match[2]
        if name not in variables:
            raise KeyError(f"unknown variable {match[0]}")
        values = variables[name]
        return _sqlstring(values) if form == "sqlstring" else str(plain(values))

    return re.sub(r"\$\{(\w+)(?::(\w+))?\}|\$(\w+)", value, text)
