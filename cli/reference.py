"""Reference pages that are generated from code, so that they cannot lag behind it."""

from __future__ import annotations

from collections.abc import Callable

from lobservatory.metrics.catalogue import API_METRICS, CATALOGUE, METRICS, TOTAL_SERIES
from lobservatory.metrics.family import Metric
from lobservatory.metrics.labels import COLLECTORS

_ACCOUNTING = """\
What agents used and cost. Absent until the first scan of the session stores has ended, then at the all-time totals;
kept in the ledger, so that a restart changes nothing. They never fall."""

_API = """\
The API serves these at its own `/metrics`, to a token with the scope `read` (docs/operation.md shows the scrape)."""

_HEAD = "| metric | type | unit | labels | bound | meaning |"
_RULE = "| --- | --- | --- | --- | ---: | --- |"

_INTRODUCTION = f"""\
# Metrics

<!-- Generated from lobservatory/metrics/ by `make docs`. Do not edit. -->

The exporter serves these at `/metrics`, in the Prometheus text format and in OpenMetrics. `claw_` is what it observes,
`lobservatory_` is the exporter itself. The official plugin's names begin with `openclaw_`: none is shared.

Units are base units (seconds, bytes, US dollars, ratios from 0 to 1). A state is one series of 0 or 1 for each possible
state. *Bound* is the largest number of series of a family (all families together: {TOTAL_SERIES:,}); what finds no room
is folded into the label value `other` and counted in `lobservatory_label_overflow_total`. Label values are at most 64
printable characters, else `other`.

Collectors, each of which `LOBS_COLLECTORS_OFF` can switch off: {", ".join(f"`{name}`" for name in COLLECTORS)}."""

_SECTIONS: tuple[tuple[str, str, Callable[[Metric], bool]], ...] = (
    ("Accounting", _ACCOUNTING, lambda metric: metric.accounting),
    ("Host", "The machine that the gateway runs on.", lambda metric: metric.name.startswith("claw_host_")),
    (
        "OpenClaw",
        "The gateway, its sessions, agents, jobs and channels, its sources and files.",
        lambda metric: metric.name.startswith("claw_"),
    ),
    ("Ourselves", "The exporter.", lambda metric: metric.name.startswith("lobservatory_")),
)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    unit = metric.unit or "-"
    buckets = f" Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}." if metric.buckets else ""
    return f"| `{metric.name}` | {metric.type} | {unit} | {labels} | {metric.bound:,} | {metric.help}{buckets} |"


def metrics_markdown() -> str:
    """The text of `docs/metrics.md`: every family of both processes, in sections, in the catalogue's order."""
    lines = [_INTRODUCTION]
    shown: set[str] = set()
    for title, text, belongs in _SECTIONS:
        members = [metric for metric in METRICS if metric.name not in shown and belongs(metric)]
        shown.update(metric.name for metric in members)
        lines += ["", f"## {title}", "", text, "", _HEAD, _RULE, *map(_row, members)]
    assert len(shown) == len(CATALOGUE)  # noqa: S101 - a family that no section takes would vanish from the page
    lines += ["", "## The API", "", _API, "", _HEAD, _RULE, *map(_row, API_METRICS)]
    return "\n".join(lines) + "\n"
