"""Asks Prometheus and PostgreSQL what a board would ask them, with the variables that the board would find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg

from tests.dashboards.grafana_macros import PanelQuery, TimeRange, boards, expand_promql, expand_sql
from tests.servers import Prometheus


@dataclass(frozen=True, slots=True)
class Sources:
    """The two data sources of the boards."""

    prometheus: Prometheus
    reader_dsn: str = field(repr=False)

    def rows(self, text: str) -> list[tuple[Any, ...]]:
        """Of one query, as the role that Grafana has."""
        with psycopg.connect(self.reader_dsn) as connection:
            return connection.execute(text).fetchall()

    def variables(self, span: TimeRange) -> dict[str, list[str]]:
        """What All stands for, found as the boards' variables find it. A session is nobody's All."""
        found = {"by": ["model"]}
        for board in boards().values():
            for variable in board["templating"]["list"]:
                name = variable["name"]
                if name in found or variable["type"] != "query" or name == "session":
                    continue
                if isinstance(variable["query"], str):
                    found[name] = [value for (value,) in self.rows(expand_sql(variable["query"], span, found))]
                    continue
                series, _, label = (
                    variable["definition"].removeprefix("label_values(").removesuffix(")").rpartition(", ")
                )
                parameters = {"match[]": expand_promql(series, span, found)}
                parameters |= {"start": str(span.start.timestamp()), "end": str(span.end.timestamp())}
                found[name] = self.prometheus.api(f"label/{label}/values", **parameters)
        return found

    def answer(self, query: PanelQuery, span: TimeRange, chosen: Mapping[str, list[str]]) -> list[Any]:
        """The rows or samples; raises what the server says against the query."""
        span = span.of(query)
        if query.is_sql:
            return self.rows(expand_sql(query.text, span, chosen))
        expression = expand_promql(query.text, span, chosen)
        if query.target["instant"]:
            return self.prometheus.query(expression, span.end.timestamp())
        end = span.end.timestamp()
        start = end - span.seconds // span.interval * span.interval  # the last step is the end, whatever the range
        parameters = {"query": expression, "start": str(start), "end": str(end), "step": str(span.interval)}
        result: list[Any] = self.prometheus.api("query_range", **parameters)["result"]
        return result

    def busiest_session(self, gateway: str) -> str:
        """The one of the variable's choices that started a sub-agent: it has something for every panel."""
        variable = next(item for item in boards()["lobs-session"]["templating"]["list"] if item["name"] == "session")
        text = expand_sql(variable["query"], TimeRange.last(timedelta(hours=1)), {"gateway": [gateway]})
        choices = {value for value, _ in self.rows(text)}
        parents = self.rows(
            "SELECT s.session_id FROM sessions s JOIN subagent_runs r ON r.parent_session_key = s.session_key "
            "GROUP BY 1 ORDER BY max(s.calls) DESC"
        )
        return str(next(value for (value,) in parents if value in choices))
