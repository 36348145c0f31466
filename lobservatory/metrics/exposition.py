"""Samples of the catalogue's families, and their text. Pure: no I/O, no clock, no state.

Two formats: the Prometheus text format 0.0.4 and OpenMetrics 1.0, byte for byte as `prometheus_client` writes them; a
scrape here renders only what has changed since the one before. A line of a sample is the same in both; only the headers
differ (OpenMetrics names a family without `_total` and `_info`, and ends with `# EOF`). `_created` lines are left out:
they double the size of a scrape and nothing here reads them.
"""

from __future__ import annotations

import enum
import math
from typing import Final, NamedTuple

from lobservatory.metrics.family import Metric


class Sample(NamedTuple):
    """One value of a family of the catalogue. `labels` in the catalogue's order; a histogram has one sample with
    `buckets` (cumulative counts, one per bound of the catalogue and +Inf) and its sum in `value`."""

    metric: str
    labels: tuple[str, ...]
    value: float
    buckets: tuple[int, ...] = ()


class Format(enum.Enum):
    """An exposition format; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


EOF = "# EOF\n"  # the last line of OpenMetrics
_EXPONENT_FROM: Final = 7  # digits before the point


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0


def _preferences(header: str) -> list[tuple[float, str, list[str]]]:
    """The entries of an Accept-like header as (quality, value, parameters), best first; ties in their order."""
    entries = []
    for entry in header.split(","):
        value, *parameters = entry.split(";")
        if value.strip():
            entries.append((_quality(parameters), value.strip().lower(), [part.strip() for part in parameters]))
    return sorted(entries, key=lambda item: -item[0])


def negotiate(accept: str) -> Format:
    """The format that an Accept header asks for; the text format when it asks for neither."""
    for quality, media_type, parameters in _preferences(accept):
        if quality <= 0:
            break
        if media_type == "application/openmetrics-text":
            versions = [part.partition("=")[2] for part in parameters if part.lower().startswith("version=")]
            if not versions or versions[0].strip('"').startswith("1."):
                return Format.OPENMETRICS
        elif media_type in {"text/plain", "text/*", "*/*"}:
            return Format.TEXT
    return Format.TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    qualities = {value: quality for quality, value, _ in reversed(_preferences(accept_encoding))}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def family_name(metric: Metric, text_format: Format) -> str:
    """The name in the headers of a family."""
    if text_format is Format.OPENMETRICS:
        if metric.type == "counter":
            return metric.name.removesuffix("_total")
        if metric.type == "info":
            return metric.name.removesuffix("_info")
    return metric.name


def header(metric: Metric, text_format: Format) -> str:
    """The HELP, TYPE and (OpenMetrics) UNIT lines of a family."""
    name = family_name(metric, text_format)
    help_text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    kind: str = metric.type
    unit = ""
    if text_format is Format.OPENMETRICS:
        help_text = help_text.replace('"', '\\"')
        # A unit must end the name of its family; a ratio's maximum does not, and info has none.
        if metric.unit and name.endswith("_" + metric.unit):
            unit = f"# UNIT {name} {metric.unit}\n"
    elif kind == "info":
        kind = "gauge"
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n{unit}"


def _label(name: str, value: str) -> str:
    return f'{name}="' + value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') + '"'


def prefixes(metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Everything of a series' lines that stands before the number. One line; of a histogram one for each bucket,
    then `_count` and `_sum`. Raises ValueError when the number of labels is not the catalogue's."""
    pairs = dict(zip(metric.labels, labels, strict=True))

    def prefix(suffix: str = "", **more: str) -> str:
        text = ",".join(_label(name, value) for name, value in sorted((pairs | more).items()))
        return f"{metric.name}{suffix}{{{text}}} " if text else f"{metric.name}{suffix} "

    if metric.type != "histogram":
        return (prefix(),)
    bounds = [*map(number, metric.buckets), "+Inf"]
    return (*(prefix("_bucket", le=bound) for bound in bounds), prefix("_count"), prefix("_sum"))


def number(value: float) -> str:
    """A value as both formats write it: `1.0`, `0.25`, `1.5e+06`, `NaN`, `+Inf`; as Go does, with an exponent from a
    million on. No digit is lost."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    text = repr(float(value))
    point = text.find(".")
    if value <= 0 or point < _EXPONENT_FROM:
        return text
    digits = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0.")
    return f"{digits}e+{point - 1:02d}"


def sample_lines(series_prefixes: tuple[str, ...], value: float, buckets: tuple[int, ...] = ()) -> str:
    """The lines of one series, each with its newline. Raises ValueError when a histogram's buckets do not fit."""
    if len(series_prefixes) == 1:
        return f"{series_prefixes[0]}{number(value)}\n"
    if len(buckets) != len(series_prefixes) - 2:
        raise ValueError(f"{series_prefixes[-1]}: {len(series_prefixes) - 2} buckets are needed, not {len(buckets)}")
    values = (*buckets, buckets[-1], value)
    return "".join(f"{prefix}{number(of)}\n" for prefix, of in zip(series_prefixes, values, strict=True))
