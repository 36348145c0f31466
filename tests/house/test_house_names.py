"""Names of metrics: ours, never the official plugin's, in the form that Prometheus asks for."""

import re
from pathlib import Path

import pytest

from lobservatory.metrics.catalogue import API_METRICS
from lobservatory.metrics.catalogue import METRICS as EXPORTER_METRICS

METRICS = {*EXPORTER_METRICS, *API_METRICS}
SAMPLES = Path(__file__).resolve().parents[1] / "fixtures" / "samples"
FORBIDDEN_LABELS = {
    "session",
    "session_id",
    "session_key",
    "run_id",
    "user",
    "path",
    "error",
    "prompt",
    "job",
    "instance",
}


def exposed(metric):
    if metric.type == "info":
        return {metric.name, f"{metric.name.removesuffix('_info')}_info"}
    if metric.type == "histogram":
        return {metric.name, *(f"{metric.name}_{suffix}" for suffix in ("bucket", "sum", "count"))}
    return {metric.name}


@pytest.mark.req("P-15")
def test_no_name_is_shared_with_the_official_plugin():
    listed = (SAMPLES / "official-metric-names.txt").read_text(encoding="utf-8").split()
    measured = (SAMPLES / "official-metrics-2026.4.27.txt").read_text(encoding="utf-8")
    official = set(listed) | set(re.findall(r"^([a-z_]+)[{ ]", measured, re.MULTILINE))
    assert len(official) > 20
    ours = {name for metric in METRICS for name in exposed(metric)}
    assert ours & official == set()
    assert [name for name in ours if name.startswith("openclaw_")] == []


def test_names_have_our_prefixes_and_the_usual_endings():
    for metric in METRICS:
        assert re.fullmatch(r"(claw|lobservatory)_[a-z0-9_]+", metric.name), metric.name
        assert (metric.type == "counter") == metric.name.endswith("_total"), metric.name
        assert (metric.type == "info") == metric.name.endswith("_info"), metric.name
        assert metric.help.strip().endswith((".", ")")), metric.name
        assert not re.search(r"_(ms|milliseconds|percent|mb|kb)(_|$)", metric.name), f"{metric.name}: base units only"


def test_series_that_do_not_add_up_say_so():
    """An instant, a ratio, a maximum or a 1 is never the sum of two that the label guard folds into one."""
    single = {
        metric.name
        for metric in METRICS
        if metric.type == "info"
        or (metric.type == "gauge" and metric.name.endswith(("_timestamp_seconds", "_ratio", "_max")))
    }
    assert {metric.name for metric in METRICS if metric.merge == "max"} == single


def test_counters_that_others_count_come_with_a_past():
    """The kernel and the gateway's records counted before we looked: their first value is nobody's increase."""
    others = {
        "claw_exec_approval_decisions_total",
        "claw_gateway_cpu_seconds_total",
        "claw_host_cpu_seconds_total",
        "claw_host_disk_read_bytes_total",
        "claw_host_disk_written_bytes_total",
        "claw_host_network_receive_bytes_total",
        "claw_host_network_transmit_bytes_total",
        "lobservatory_cpu_seconds_total",
    }
    assert {metric.name for metric in METRICS if metric.has_past} == others


def test_names_are_declared_once():
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))


def test_labels_never_hold_what_belongs_into_rows():
    for metric in METRICS:
        assert set(metric.labels) & FORBIDDEN_LABELS == set(), metric.name
        assert 1 <= metric.bound <= 2000, metric.name
        assert len(metric.buckets) <= 12, metric.name
