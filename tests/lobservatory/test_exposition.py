"""The text of a scrape, read back with Prometheus' own parsers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest as generate_text
from prometheus_client.metrics_core import Metric as LibraryMetric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from lobservatory.metrics.catalogue import API_METRICS, CATALOGUE, METRICS
from lobservatory.metrics.exposition import (
    EOF,
    Format,
    accepts_gzip,
    family_name,
    header,
    negotiate,
    number,
    prefixes,
    sample_lines,
)

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Format.TEXT),
        (PROMETHEUS_2, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1", Format.TEXT),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", Format.TEXT),
        ("application/openmetrics-text;q=0", Format.TEXT),
        ("application/openmetrics-text;q=nonsense", Format.TEXT),
        (";;,,", Format.TEXT),
    ],
)
def test_the_format_is_the_one_asked_for(accept, expected):
    assert negotiate(accept) is expected


@pytest.mark.parametrize(
    ("header_value", "expected"),
    [("", False), ("gzip", True), ("gzip;q=0", False), ("deflate, gzip;q=0.5", True), ("*", True), ("br", False)],
)
def test_gzip_only_when_allowed(header_value, expected):
    assert accepts_gzip(header_value) is expected


def everything(text_format: Format, value: str = 'a\\b"c\nd') -> str:
    out = []
    for metric in METRICS:
        buckets = tuple(range(1, len(metric.buckets) + 2)) if metric.buckets else ()
        lines = sample_lines(prefixes(metric, tuple(value for _ in metric.labels)), 1, buckets)
        out += [header(metric, text_format), lines]
    return "".join(out) + (EOF if text_format is Format.OPENMETRICS else "")


def library_family(metric, samples):
    """The same family and samples in the words of Prometheus' client library."""
    unit = metric.unit if metric.name.removesuffix("_total").endswith(f"_{metric.unit}") else ""
    name = family_name(metric, Format.OPENMETRICS)  # the library's, in both formats
    family = LibraryMetric(name, metric.help, metric.type, unit)
    for labels, value, buckets in samples:
        pairs = dict(zip(metric.labels, labels, strict=True))
        for bound, count in zip((*metric.buckets, math.inf), buckets, strict=bool(buckets)):
            family.add_sample(f"{metric.name}_bucket", {**pairs, "le": floatToGoString(bound)}, count)
        if buckets:
            family.add_sample(f"{metric.name}_count", pairs, buckets[-1])
        family.add_sample(f"{metric.name}_sum" if buckets else metric.name, pairs, value)
    return family


@pytest.mark.parametrize(
    ("text_format", "generate"), [(Format.TEXT, generate_text), (Format.OPENMETRICS, generate_openmetrics)]
)
@pytest.mark.parametrize("metrics", [METRICS, API_METRICS], ids=["exporter", "api"])
def test_every_family_is_byte_for_byte_as_the_client_library_writes_it(text_format, generate, metrics):
    values = [
        0,
        1,
        -0.25,
        0.1 + 0.2,
        999_999.5,
        1e6,
        12_345_678,
        1.7e9 + 0.125,
        2**53,
        1e16,
        5e-324,
        math.inf,
        -math.inf,
    ]
    values += [math.nan, 4_503_599_627_370_497.5, 100_000_000.0]
    named = ["main", 'a\\b"c\nd', "größe", ""]

    def samples(metric):
        for index, value in enumerate(values):
            labels = tuple(named[(index + place) % len(named)] + str(index) for place, _ in enumerate(metric.labels))
            buckets = tuple(index * step for step in range(1, len(metric.buckets) + 2)) if metric.buckets else ()
            yield labels, value, buckets
            if not metric.labels:
                return

    class Families(Collector):
        def collect(self):
            return [library_family(metric, samples(metric)) for metric in metrics]

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families())
    ours = "".join(
        header(metric, text_format)
        + "".join(sample_lines(prefixes(metric, labels), value, buckets) for labels, value, buckets in samples(metric))
        for metric in metrics
    )
    ours += EOF if text_format is Format.OPENMETRICS else ""
    assert ours == generate(registry).decode()


@given(st.floats())
def test_a_number_is_written_as_the_client_library_does_and_loses_nothing(value):
    assert number(value) == floatToGoString(value)
    assert float(number(value)) == value or math.isnan(value)


@pytest.mark.parametrize(("text_format", "parse"), [(Format.TEXT, parse_text), (Format.OPENMETRICS, parse_openmetrics)])
def test_every_family_of_the_catalogue_reads_back_with_escaped_labels(text_format, parse):
    families = {family.name: family for family in parse(everything(text_format))}
    for metric in METRICS:
        name = metric.name
        if metric.type == "counter":
            name = name.removesuffix("_total")
        elif metric.type == "info" and text_format is Format.OPENMETRICS:
            name = name.removesuffix("_info")
        family = families.pop(name)
        expected = "gauge" if metric.type == "info" and text_format is Format.TEXT else metric.type
        assert family.type == expected
        assert family.documentation == metric.help
        for sample in family.samples:
            assert {label: sample.labels[label] for label in metric.labels} == dict.fromkeys(metric.labels, 'a\\b"c\nd')
        if metric.type != "histogram":
            assert [sample.name for sample in family.samples] == [metric.name]
    assert not families


def test_the_unit_stands_where_openmetrics_allows_it():
    assert "# UNIT claw_cost_usd usd\n" in header(CATALOGUE["claw_cost_usd_total"], Format.OPENMETRICS)
    assert "UNIT" not in header(CATALOGUE["claw_cost_usd_total"], Format.TEXT)
    assert "UNIT" not in header(CATALOGUE["claw_session_context_ratio_max"], Format.OPENMETRICS)


def test_a_histogram_has_cumulative_buckets_count_and_sum():
    metric = CATALOGUE["claw_tool_call_duration_seconds"]
    buckets = (0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3)
    text = header(metric, Format.OPENMETRICS) + sample_lines(prefixes(metric, ("g", "exec")), 412.5, buckets) + EOF
    (family,) = parse_openmetrics(text)
    values = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert values["claw_tool_call_duration_seconds_bucket", "0.25"] == 1
    assert values["claw_tool_call_duration_seconds_bucket", "1.0"] == 2
    assert values["claw_tool_call_duration_seconds_bucket", "+Inf"] == 3
    assert values["claw_tool_call_duration_seconds_count", None] == 3
    assert values["claw_tool_call_duration_seconds_sum", None] == 412.5
    with pytest.raises(ValueError, match="12 buckets are needed, not 2"):
        sample_lines(prefixes(metric, ("g", "exec")), 1, (1, 2))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (3, "3.0"), (0.1, "0.1"), (1e22, "1e+22"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")],
)
def test_numbers_as_the_formats_write_them(value, text):
    assert number(value) == text


def test_labels_must_be_as_many_as_the_catalogue_says():
    with pytest.raises(ValueError, match="argument"):
        prefixes(CATALOGUE["claw_gateway_up"], ("a", "b"))
