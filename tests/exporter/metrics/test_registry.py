"""Counters never fall, newborn series start at 0 for Prometheus, and no label floods it."""

from decimal import Decimal

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.registry import LONGEST_VALUE, Registry, plain
from lobservatory.metrics.catalogue import CATALOGUE, TOTAL_SERIES
from lobservatory.metrics.exposition import Format, Sample
from store.rows import Total

COST = "claw_cost_usd_total"
TOOLS = "claw_tool_calls_total"
LABELS = ("g", "main", "fake", "fake-1", "main")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def values(registry, metric, *, prometheus=False):
    """The series of one metric as {labels: value}, through the official parser."""
    name = CATALOGUE[metric].name
    return {
        tuple(sample.labels[label] for label in CATALOGUE[metric].labels): sample.value
        for family in parse_text(registry.render(prometheus=prometheus))
        for sample in family.samples
        if sample.name == name
    }


def test_accounting_is_absent_until_the_first_scan_has_ended_then_at_its_all_time_totals():
    registry = Registry()
    registry.restore([Total(COST, LABELS, Decimal("1.25"))])
    registry.add(registry.admit({(COST, LABELS): Decimal("0.000000001")}))
    assert values(registry, COST, prometheus=True) == {}
    registry.begin()
    assert values(registry, COST, prometheus=True) == {LABELS: 1.250000001}


def test_a_series_born_live_is_0_for_prometheus_once_and_full_for_people_at_once():
    registry = Registry(zero_hold=30)
    registry.begin()
    registry.add(registry.admit({(COST, LABELS): Decimal("0.5")}))
    assert values(registry, COST) == {LABELS: 0.5}
    assert values(registry, COST, prometheus=True) == {LABELS: 0.0}
    assert values(registry, COST, prometheus=True) == {LABELS: 0.5}


def test_increments_during_the_hold_do_not_end_it():
    registry = Registry(zero_hold=30)
    registry.begin()
    for _ in range(3):
        registry.add(registry.admit({(COST, LABELS): Decimal("0.5")}))
    assert values(registry, COST, prometheus=True) == {LABELS: 0.0}
    assert values(registry, COST, prometheus=True) == {LABELS: 1.5}


def test_the_hold_ends_by_itself_when_nobody_scrapes():
    clock = Clock()
    registry = Registry(zero_hold=30, clock=clock)
    registry.begin()
    registry.add(registry.admit({(COST, LABELS): Decimal("0.5")}))
    clock.now += 30
    assert values(registry, COST, prometheus=True) == {LABELS: 0.5}


def test_a_series_known_from_configuration_starts_at_0_and_is_held_only_when_it_was_never_scraped():
    registry = Registry(zero_hold=30)
    registry.declare(COST, LABELS)
    other = (*LABELS[:4], "cron")
    registry.declare(COST, other)
    registry.begin()
    registry.add(registry.admit({(COST, other): Decimal(1)}))
    assert values(registry, COST, prometheus=True) == {LABELS: 0.0, other: 0.0}
    registry.add(registry.admit({(COST, LABELS): Decimal(2)}))
    assert values(registry, COST, prometheus=True) == {LABELS: 2.0, other: 1.0}


def test_a_series_admitted_but_rolled_back_shows_0_and_is_still_held_when_it_comes():
    registry = Registry(zero_hold=30)
    registry.begin()
    increments = registry.admit({(COST, LABELS): Decimal(1)})
    assert values(registry, COST) == {LABELS: 0.0}
    registry.add(increments)
    assert values(registry, COST, prometheus=True) == {LABELS: 0.0}
    assert values(registry, COST, prometheus=True) == {LABELS: 1.0}


def test_ten_thousand_tool_names_stay_under_the_bound_and_still_add_up():
    registry = Registry()
    registry.begin()
    for number in range(10_000):
        registry.add(registry.admit({(TOOLS, ("g", "main", f"tool-{number}", "ok")): 1}))
    shown = values(registry, TOOLS)
    assert len(shown) <= CATALOGUE[TOOLS].bound
    assert sum(shown.values()) == 10_000
    assert shown["g", "other", "other", "ok"] > 7_000
    assert values(registry, "lobservatory_label_overflow_total")[(TOOLS,)] >= 8_000


def test_after_a_restart_every_overflowed_name_leads_to_the_same_series():
    first = Registry()
    first.begin()
    names = [("g", "main", f"tool-{number}", "ok") for number in range(4_000)]
    committed = {}
    for labels in names:
        for key, value in first.admit({(TOOLS, labels): 1}).items():
            committed[key] = committed.get(key, 0) + value
    second = Registry()
    second.restore(Total(metric, labels, Decimal(value)) for (metric, labels), value in reversed(committed.items()))
    for labels in reversed(names):
        assert second.admit({(TOOLS, labels): 1}) == first.admit({(TOOLS, labels): 1})


def test_all_families_together_stay_under_the_total_bound():
    registry = Registry()
    registry.begin()
    families = [metric for metric in CATALOGUE.values() if metric.accounting and metric.bound == 2_000]
    families += [metric for metric in CATALOGUE.values() if metric.bound == 2_000 and metric.type == "gauge"]
    registry.register(
        "flood",
        lambda: (
            Sample(metric.name, tuple(f"{label}-{n}" for label in metric.labels), 1)
            for metric in families
            if not metric.accounting
            for n in range(2_500)
        ),
    )
    for metric in families:
        if metric.accounting:
            for number in range(2_500):
                labels = tuple(f"{label}-{number}" for label in metric.labels)
                registry.add(registry.admit({(metric.name, labels): 1}))
    text = registry.render()
    assert sum(1 for line in text.splitlines() if not line.startswith("#")) <= TOTAL_SERIES


HOSTILE = ["x" * 10_000, "line\nbreak", '"}', "back\\slash", "\u202eright-to-left", "\u0000", "\ud800", "a\u200bb"]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(("text_format", "parse"), [(Format.TEXT, parse_text), (Format.OPENMETRICS, parse_openmetrics)])
def test_a_hostile_label_value_becomes_other_and_the_scrape_still_parses(value, text_format, parse):
    registry = Registry()
    registry.begin()
    registry.add(registry.admit({(TOOLS, ("g", value, "exec", "ok")): 2}))
    registry.register("agents", lambda: [Sample("claw_active_runs", ("g", value), 3)])
    text = registry.render(text_format)
    text.encode()
    samples = {sample.name: sample for family in parse(text) for sample in family.samples}
    assert samples[TOOLS].labels["agent"] == "other"
    assert samples["claw_active_runs"].labels["agent"] == "other"
    assert samples["claw_active_runs"].value == 3


@pytest.mark.parametrize("value", ["anthropic/claude-opus-4.5:beta", "ops (night) 🦞", "研究", "a" * LONGEST_VALUE])
def test_ordinary_names_of_any_script_pass(value):
    assert plain(value)


def test_folded_gauges_are_added_except_instants_and_ratios():
    registry = Registry()
    registry.register(
        "c",
        lambda: [
            Sample("claw_active_runs", ("g", "\n1"), 2),
            Sample("claw_active_runs", ("g", "\n2"), 3),
            Sample("claw_session_context_ratio_max", ("g", "\n1"), 0.9),
            Sample("claw_session_context_ratio_max", ("g", "\n2"), 0.4),
        ],
    )
    assert values(registry, "claw_active_runs") == {("g", "other"): 5}
    assert values(registry, "claw_session_context_ratio_max") == {("g", "other"): 0.9}


def test_a_gauge_that_is_gone_is_gone_and_leaves_its_place():
    registry = Registry()
    names = iter(range(10_000))
    registry.register("c", lambda: [Sample("claw_active_runs", ("g", f"agent-{next(names)}"), 1) for _ in range(900)])
    for _ in range(8):
        shown = values(registry, "claw_active_runs")
        assert len(shown) == 900
        assert ("g", "other") not in shown


def test_one_broken_collector_costs_its_own_samples_only():
    registry = Registry()

    def broken():
        raise RuntimeError("boom")

    registry.register("broken", broken)
    registry.register("good", lambda: [Sample("claw_gateway_up", ("g",), 1)])
    assert values(registry, "claw_gateway_up") == {("g",): 1}


def test_a_stored_total_that_this_version_does_not_know_is_left_out():
    registry = Registry()
    registry.restore([Total("claw_gone_total", ("g",), Decimal(1)), Total(COST, ("g",), Decimal(1))])
    registry.begin()
    assert values(registry, COST) == {}


def test_counts_and_histograms_of_this_process():
    registry = Registry()
    registry.count("lobservatory_commit_failures_total", ("unavailable",))
    registry.count("lobservatory_commit_failures_total", ("unavailable",), 2)
    for seconds in (0.05, 0.25, 400):
        registry.observe("claw_tool_call_duration_seconds", ("g", "exec"), seconds)
    assert values(registry, "lobservatory_commit_failures_total") == {("unavailable",): 3}
    text = registry.render()
    assert 'claw_tool_call_duration_seconds_bucket{gateway="g",le="0.25",tool="exec"} 2.0\n' in text
    assert 'claw_tool_call_duration_seconds_count{gateway="g",tool="exec"} 3.0\n' in text
    assert 'claw_tool_call_duration_seconds_sum{gateway="g",tool="exec"} 400.3\n' in text


def test_no_total_ever_falls_over_any_order_of_exact_increments():
    registry = Registry()
    registry.begin()
    before = 0.0
    for cents in ("0.1", "0.2", "0.000000001", "1234567.123456789", "0.3") * 50:
        registry.add(registry.admit({(COST, LABELS): Decimal(cents)}))
        (now,) = values(registry, COST).values()
        assert now >= before
        before = now


def test_a_counter_of_this_process_that_comes_later_is_0_for_prometheus_first_but_the_kernels_are_not():
    registry = Registry()
    registry.count("claw_gateway_reconnects_total", ("g",), 2)
    assert values(registry, "claw_gateway_reconnects_total", prometheus=True) == {("g",): 2}  # the first scrape at all
    registry.count("claw_rpc_errors_total", ("g", "health", "TIMEOUT"))
    registry.register("disk", lambda: [Sample("claw_host_disk_read_bytes_total", ("g", "sdb"), 7e9)])
    decided = "claw_exec_approval_decisions_total"  # rows that were there before this process
    registry.register("approvals", lambda: [Sample(decided, ("g", "denied"), 57)])
    assert values(registry, "claw_rpc_errors_total") == {("g", "health", "TIMEOUT"): 1}
    text = registry.render(prometheus=True)
    assert 'claw_rpc_errors_total{code="TIMEOUT",gateway="g",method="health"} 0.0\n' in text
    assert 'claw_host_disk_read_bytes_total{device="sdb",gateway="g"} 7e+09\n' in text
    assert 'claw_exec_approval_decisions_total{decision="denied",gateway="g"} 57.0\n' in text
    assert values(registry, "claw_rpc_errors_total", prometheus=True) == {("g", "health", "TIMEOUT"): 1}
