"""How well the sources could be read."""

from __future__ import annotations

from lobservatory.metrics.family import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "claw_duplicate_entries_total",
        "counter",
        "Entries met again (fork, archive, both stores, re-read) and counted once.",
        "",
        ("gateway", "source"),
        100,
        accounting=True,
    ),
    Metric(
        "claw_rejected_entries_total",
        "counter",
        "Entries or fields that were refused, by reason.",
        "",
        ("gateway", "source", "reason"),
        200,
        accounting=True,
    ),
    Metric("claw_source_files", "gauge", "Files or databases of a source.", "", ("gateway", "source"), 100),
    Metric(
        "claw_source_entries_total",
        "counter",
        "Entries read.",
        "",
        ("gateway", "source"),
        100,
        accounting=True,
    ),
    Metric(
        "claw_source_bytes_total",
        "counter",
        "Bytes read.",
        "bytes",
        ("gateway", "source"),
        100,
        accounting=True,
    ),
    Metric(
        "claw_source_lag_bytes",
        "gauge",
        "Bytes or rows present and not yet read.",
        "bytes",
        ("gateway", "source"),
        100,
    ),
    Metric(
        "claw_source_last_entry_timestamp_seconds",
        "gauge",
        "Time of the newest entry read.",
        "seconds",
        ("gateway", "source"),
        100,
        merge="max",
    ),
    Metric(
        "claw_source_schema_known",
        "gauge",
        "1 when every database of the source has a schema version that we know, else 0.",
        "",
        ("gateway", "source"),
        100,
    ),
    Metric(
        "claw_source_up",
        "gauge",
        "1 when the source could be read at the last attempt.",
        "",
        ("gateway", "source"),
        100,
    ),
    Metric(
        "claw_ingest_progress_ratio",
        "gauge",
        "Share of the first scan that is done.",
        "ratio",
        ("gateway",),
        10,
        merge="max",
    ),
)
