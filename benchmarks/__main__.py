"""`make bench`: measures, prints tables beside the goals, writes `benchmarks/results.json` and docs/performance.md.

`python -m benchmarks [names]`: all of it by default, or any of scan, writer, ingest, database,
dashboards, exporter, gateway, process, websocket, live.
Options: `--full` for 1.2 GB of JSONL, too, `--mb` for another size (default 200), `--no-peers` to leave npm alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import (
    cold_scan,
    dashboards,
    database,
    exporter,
    gateway,
    ingest,
    live,
    plot,
    process,
    report,
    sqlite_writer,
    websocket,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "performance.svg"
FULL = 1_200_000_000  # bytes
# Ratio of CPU, wall or MB: what is measured against whom, and the largest that meets the goal.
GOALS = {
    "jsonl": (
        ("cpu_s", "wc -l", 3.5),
        ("wall_s", "wc -l", 2.0),
        ("cpu_s", "tokscale", 1 / 4),
        ("cpu_s", "ccusage", 1 / 2.5),
        ("rss_mb", None, 80.0),
    ),
    "sqlite": (("cpu_s", "tokscale", 1 / 6), ("rss_mb", None, 80.0)),
}


MEASUREMENTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "writer": sqlite_writer.run,
    "ingest": ingest.run,
    "database": database.run,
    "dashboards": dashboards.run,
    "exporter": exporter.run,
    "gateway": gateway.run,
    "process": process.run,
    "websocket": websocket.run,
    "live": live.run,
}
DEFAULT = ("scan", *MEASUREMENTS)  # about ten minutes


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def judged(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The goals of one store beside what was measured."""
    medians = result["medians"]
    rows = []
    for figure, peer, goal in GOALS[result["store"]]:
        measured = None
        if peer is None:
            measured = medians["lobservatory"][figure]
        elif peer in medians and medians[peer][figure]:
            measured = medians["lobservatory"][figure] / medians[peer][figure]
        rows.append(
            {
                "goal": figure if peer is None else f"{figure} / {peer}",
                "at_most": round(goal, 3),
                "measured": None if measured is None else round(measured, 3),
            }
        )
    return rows


def main() -> int:
    """Measure and report; always 0: a slow machine is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", help=f"what to measure: scan, {', '.join(MEASUREMENTS)}")
    parser.add_argument("--mb", type=int, default=200, help="size of each corpus in MB (default 200)")
    parser.add_argument("--full", action="store_true", help="scan 1.2 GB of JSONL, too")
    parser.add_argument("--no-peers", action="store_true", help="do not install and run ccusage and tokscale")
    options = parser.parse_args()
    names = options.names or DEFAULT
    unknown = sorted(set(names) - {"scan", *MEASUREMENTS})
    if unknown:
        parser.error(f"{unknown[0]!r} is no measurement: scan, {', '.join(MEASUREMENTS)}")
    console = Console()
    document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}  # others stay as they were
    if "scan" in names:
        document["cold_scan"] = scans(console, options.mb * 1_000_000, full=options.full, peers=not options.no_peers)
    for name, measure in MEASUREMENTS.items():
        if name in names:
            document[name] = measure()
            table = Table("measurement", "value", "unit", "goal", "met", title=name, title_justify="left")
            for row in document[name]:
                table.add_row(row["name"], str(row["value"]), row["unit"], row["goal"], "yes" if row["ok"] else "no")
            console.print(table)
    document |= {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(report.page(document), encoding="utf-8")
    PLOT.write_text(plot.bars(document["cold_scan"]), encoding="utf-8")
    console.print(f"written: {RESULTS.relative_to(ROOT)}")
    return 0


def scans(console: Console, size: int, *, full: bool, peers: bool) -> list[dict[str, Any]]:
    """The cold scan of both stores, beside the goals."""
    corpora = [*((store, size) for store in GOALS), *([("jsonl", FULL)] if full else [])]
    results = [cold_scan.run(ROOT / ".cache" / "bench", store, number, peers=peers) for store, number in corpora]
    for result in results:
        table = Table(title=f"cold scan, {result['store']}, {result['bytes'] / 1e6:.0f} MB", title_justify="left")
        for heading in ("reader", "wall s", "CPU s", "RSS MB"):
            table.add_column(heading, justify="left" if heading == "reader" else "right")
        for name, figures in sorted(result["medians"].items(), key=lambda item: item[1]["cpu_s"]):
            table.add_row(name, *(str(figures[key]) for key in ("wall_s", "cpu_s", "rss_mb")))
        for name, reason in result["failed"].items():
            table.add_row(name, reason, "", "")
        console.print(table)
        result["goals"] = judged(result)
        goals = Table("goal", "at most", "measured", "met")
        for row in result["goals"]:
            met = "-" if row["measured"] is None else "yes" if row["measured"] <= row["at_most"] else "no"
            goals.add_row(row["goal"], str(row["at_most"]), str(row["measured"] or "not measured"), met)
        console.print(goals)
    return results


if __name__ == "__main__":
    sys.exit(main())
