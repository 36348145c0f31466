"""All of /metrics of a busy exporter, with hostile names everywhere: promtool finds nothing, and every cap holds."""

import subprocess
from collections import Counter

import pytest

from exporter.metrics.registry import Registry
from lobservatory.metrics.catalogue import CATALOGUE, TOTAL_SERIES
from lobservatory.metrics.exposition import Sample
from tests.tools import debian_tool

NAMES = 10_000
NASTY = ('"}', "\\", "line\nbreak", "\u202e", "\u0000", "\ud800", "{{x}}", "ü" * 300)


def hostile(label, number):
    return f"{NASTY[number % len(NASTY)]}{label}-{number}"


def busy():
    """Every family of the catalogue has samples; agents, models and tools have 10,000 names each."""
    registry = Registry(zero_hold=0)
    registry.begin()
    for metric in CATALOGUE.values():
        if metric.accounting:
            labels = [label for label in metric.labels if label in {"agent", "model", "tool"}]
            for number in range(NAMES if labels else 1):
                values = tuple(hostile(label, number) if label in labels else "x" for label in metric.labels)
                registry.add(registry.admit({(metric.name, values): 1}))
    present = [metric for metric in CATALOGUE.values() if not metric.accounting and metric.type != "histogram"]

    def render():
        for metric in present:
            if metric.name.startswith("claw_"):
                for number in range(3):
                    yield Sample(metric.name, tuple(hostile(label, number) for label in metric.labels), number)
                    if not metric.labels:
                        break

    registry.register("busy", render)
    return registry.render()


@pytest.mark.req("P-9", "P-10")
def test_promtool_finds_nothing_and_no_hostile_name_breaks_a_cap():
    text = busy()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    series = Counter(line.split("{")[0].split(" ")[0] for line in lines)
    assert len(lines) <= TOTAL_SERIES
    assert series["claw_tool_calls_total"] > 1_000
    assert not {name: count for name, count in series.items() if name in CATALOGUE and count > CATALOGUE[name].bound}
    checked = subprocess.run(
        [debian_tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
