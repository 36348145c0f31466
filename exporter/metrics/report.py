"""What the exporter says of itself."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import psutil

from exporter.ingest.sources import Sources
from exporter.surroundings import Missing
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import SOURCES
from lobservatory.settings import Settings
from openclaw.client import GatewayClient

VERSION = version("lobservatory")


class Report:
    """The exporter's own health: on `/healthz`, on the landing page and as metrics. Changes with what is told of it.
    `started`: epoch seconds; `enabled`: collectors by name."""

    def __init__(
        self,
        settings: Settings,
        client: GatewayClient,
        sources: Sources,
        missing: Missing,
        *,
        started: float,
        enabled: Mapping[str, bool],
    ) -> None:
        self._gateway = settings.gateway_name
        self._has_database = bool(settings.database_url.get_secret_value())
        self._client = client
        self._sources = sources
        self._missing = missing
        self._started = started
        self._enabled = enabled
        self._process = psutil.Process()

    def health(self) -> Mapping[str, Any]:
        """Plain facts for `/healthz` and the landing page."""
        status = self._sources.ingest.status if self._sources.ingest is not None else None
        database = {True: "up", False: "down", None: "unknown"}[self._database_up]
        return {
            "version": VERSION,
            "gateway": self._gateway,
            "gateway_url": self._client.url,
            "gateway_connection": self._client.state,
            "gateway_failure": self._client.last_failure,
            "database": database if self._has_database else "none",
            "first_scan": status.first_scan if status is not None else "waiting",
            "progress": round(status.progress, 3) if status is not None else 0.0,
            "uptime_seconds": round(time.time() - self._started),
        }

    def samples(self) -> Iterable[Sample]:
        """Its metrics, with those of the ingest."""
        yield Sample("lobservatory_build_info", (VERSION, platform.python_version()), 1)
        yield Sample("lobservatory_ledger_info", ("postgresql" if self._has_database else "checkpoint",), 1)
        yield Sample("lobservatory_start_timestamp_seconds", (), self._started)
        for name, enabled in self._enabled.items():
            yield Sample("lobservatory_collector_enabled", (self._gateway, name), float(enabled))
        with self._process.oneshot():
            times = self._process.cpu_times()
            yield Sample("lobservatory_resident_memory_bytes", (), self._process.memory_info().rss)
            yield Sample("lobservatory_cpu_seconds_total", (), times.user + times.system)
        if self._has_database and self._database_up is not None:
            yield Sample("lobservatory_database_up", (), float(self._database_up))
        if self._sources.ingest is not None:
            yield from self._sources.ingest.samples()
            return
        yield Sample("claw_ingest_progress_ratio", (self._gateway,), 0.0)
        if "state directory" in self._missing:
            for source in SOURCES:
                yield Sample("claw_source_up", (self._gateway, source), 0.0)

    @property
    def _database_up(self) -> bool | None:
        """None before it was tried."""
        if self._sources.ingest is not None:
            return self._sources.ingest.status.ledger_up
        return False if "database" in self._missing else None
