"""`benchmarks/results.json` as the page docs/performance.md."""

from __future__ import annotations

from typing import Any

_HEAD = """# Performance

Written by `make bench` from `benchmarks/results.json`; do not edit.

Each figure is the median of interleaved rounds on one machine with a warm page cache. Machines and their load differ:
what counts is the ratio within one run. CPU seconds are user and system time of the whole process tree; RSS is the
largest of one process. Corpora are generated, the same bytes everywhere (`benchmarks/corpus.py`): 108 entries a
session, 5.6 KB a line on average, tool results of heavy-tailed size (nearly 90 % of the bytes), UUID ids, cached tokens
and decoys in tool output.

A scan's answer is compared with the corpus' truth before it is measured. In the SQLite store, events of 4 KB and more
are compressed, as the gateway does it: a scan decompresses all of them to count the tools that failed, and a reader
that only sums up tokens need not.

![CPU seconds of a cold scan](images/performance.svg)
"""


def page(document: dict[str, Any]) -> str:
    """The page as Markdown."""
    machine = document["machine"]
    where = (
        f"Measured {document['measured_at'][:10]} on {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}; load average {machine['load_1m']} (above the number of cores, other work was "
        "measured along with it, in all readers alike).\n"
    )
    parts = [_HEAD, where]
    for result in document.get("cold_scan", ()):
        parts += _scan(result)
    for name, rows in document.items():
        if name not in {"cold_scan", "machine", "measured_at"}:
            parts += _measurement(name, rows)
    return "\n".join(parts)


def _scan(result: dict[str, Any]) -> list[str]:
    lines = [
        f"## Cold scan, {result['store']}, {result['bytes'] / 1e6:.0f} MB on disk\n",
        "| reader | wall s | CPU s | RSS MB |",
        "|---|---:|---:|---:|",
    ]
    for name, figures in sorted(result["medians"].items(), key=lambda item: item[1]["cpu_s"]):
        lines.append(f"| {name} | {figures['wall_s']} | {figures['cpu_s']} | {figures['rss_mb']} |")
    lines += [f"| {name} | failed: {reason} | | |" for name, reason in result["failed"].items()]
    lines += ["", "| lobservatory | goal: at most | measured | met |", "|---|---:|---:|---|"]
    for row in result["goals"]:
        measured = row["measured"]
        met = "not measured" if measured is None else "yes" if measured <= row["at_most"] else "no"
        lines.append(f"| {row['goal']} | {row['at_most']} | {'' if measured is None else measured} | {met} |")
    return [*lines, ""]


def _measurement(name: str, rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"## {name}\n", "| measurement | value | unit | goal | met |", "|---|---:|---|---|---|"]
    lines += [
        f"| {row['name']} | {row['value']} | {row['unit']} | {row['goal']} | {'yes' if row['ok'] else 'no'} |"
        for row in rows
    ]
    return [*lines, ""]
