"""The exporter's own use of the database, beside the ledger and the rows of the gateway."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final, NoReturn

import psycopg

from exporter.collectors.windows import Windows
from lobservatory import logging
from lobservatory.errors import one_line
from store import alerts, cost, maintenance
from store.gateway import insert_host_samples
from store.pool import Pool
from store.rows import HostSample

log = logging.get(__name__)

MAINTENANCE: Final = 3600.0  # seconds


class LocalRows:
    """What the collectors of this machine write and ask. Changes with what they need of the database."""

    def __init__(self, gateway: str, pool: Pool, timezone: str) -> None:
        self._gateway = gateway
        self._pool = pool
        self._timezone = timezone

    async def save_host(self, sample: HostSample) -> None:
        """Keep a sample. While the database is away, that of the moment is lost; the metrics of the host are not."""
        try:
            async with self._pool.connection(timeout=2) as connection:
                await insert_host_samples(connection, [sample])
        except psycopg.Error as error:
            log.debug("a sample of the host was not kept", error=one_line(error))

    async def windows(self, at: datetime) -> Windows:
        """What rows cost by time. Raises psycopg.Error."""
        async with self._pool.connection(timeout=5) as connection:
            costs = await cost.windows(connection, self._gateway, self._timezone, at)
            return Windows(costs, await cost.hour_baseline(connection, self._gateway, self._timezone, at))

    async def thresholds(self) -> list[alerts.ThresholdOverride]:
        """The thresholds that were set through the API. Raises psycopg.Error."""
        async with self._pool.connection(timeout=2) as connection:
            return await alerts.thresholds(connection)


async def forget_old_rows(dsn: str) -> NoReturn:
    """Remove what has outlived its time, hourly, until cancelled."""
    while True:
        await asyncio.sleep(MAINTENANCE)
        try:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=10) as connection:
                await maintenance.prune(connection)
        except psycopg.Error as error:
            log.warning("old rows could not be removed", error=one_line(error))
