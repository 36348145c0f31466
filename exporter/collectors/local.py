"""The collectors that ask no gateway: this machine's, and those of our own rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from exporter.collectors import Collector
from exporter.collectors.gpu import GpuCollector
from exporter.collectors.host import HostCollector
from exporter.collectors.local_rows import LocalRows
from exporter.collectors.process import ProcessCollector
from exporter.collectors.service import ServiceCollector
from exporter.collectors.storage import StorageCollector
from exporter.collectors.thresholds import ThresholdsCollector
from exporter.collectors.windows import Windows, WindowsCollector, compute
from lobservatory.settings import Settings
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.spending import SpendingReader
from store.rows import HostSample


def local_collectors(
    settings: Settings, url: str, state_dir: Path, rows: LocalRows | None, complete: Callable[[], bool]
) -> list[Collector]:
    """Made, not started. `url`: of the gateway, whose process is looked for; `rows` None: there is no database;
    `complete`: whether the first scan has ended."""
    gateway = settings.gateway_name
    process = ProcessCollector(gateway, url, state_dir, interval=settings.host_interval)
    spending = SpendingReader(CheckpointLedger(settings.data_dir, gateway).path)

    async def save_host(sample: HostSample) -> None:
        if rows is None:
            return
        present = process.present
        resident = None if present is None else present.resident_bytes
        await rows.save_host(replace(sample, gateway_resident_bytes=resident, gateway_cpu_ratio=process.cpu_ratio))

    async def windows(at: datetime) -> Windows | None:
        if not complete():
            return None
        if rows is not None:
            return await rows.windows(at)
        return compute(await asyncio.to_thread(spending.read), settings.zone, at)

    return [
        HostCollector(gateway, interval=settings.host_interval, paths=(state_dir, settings.data_dir), save=save_host),
        process,
        GpuCollector(gateway, interval=settings.host_interval),
        ServiceCollector(gateway, interval=2 * settings.host_interval),
        StorageCollector(gateway, state_dir),
        WindowsCollector(gateway, windows),
        ThresholdsCollector(
            gateway,
            settings.alert_thresholds(),
            None if rows is None else rows.thresholds,
            interval=settings.poll_interval,
        ),
    ]
