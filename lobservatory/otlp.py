"""Whether traces are to be sent, as the variables of OpenTelemetry say; asked before its SDK is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether there is an endpoint, and nothing that switches traces off."""
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    off = off or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return not off and any(environment.get(name, "").strip() for name in _ENDPOINTS)


def secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """The values of the headers that are sent along: tokens, mostly."""
    for name in _HEADERS:
        for part in environment.get(name, "").split(","):
            if value := part.partition("=")[2].strip():
                yield value
