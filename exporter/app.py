"""The exporter's process: everything wired, started in order, stopped in reverse.

What is wrong with one part is said in one line and costs that part only: without a gateway, a state directory or a
database, `/metrics` is still there and says so. The process ends by itself only when it cannot go on at all
(`StartError`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from exporter.collectors import Collector
from exporter.collectors.local import local_collectors
from exporter.collectors.local_rows import LocalRows, forget_old_rows
from exporter.collectors.scheduler import Runner
from exporter.gateway import traces
from exporter.gateway.traces import Span
from exporter.gateway.watch import GatewayWatch
from exporter.ingest.sources import Sources
from exporter.metrics.registry import Registry
from exporter.metrics.report import VERSION, Report
from exporter.metrics.server import Application, MetricsServer, PortTakenError, bind
from exporter.surroundings import GatewayToken, Missing, StateDirectory
from lobservatory import logging, otlp
from lobservatory.errors import StartError
from lobservatory.metrics.exposition import Format
from lobservatory.settings import Listen, Settings
from openclaw.state_dir import gateway_url, load_config
from store.pool import Pool, open_pool

log = logging.get(__name__)

WINDOWS_PAUSE: Final = 0.5  # seconds: money by time is looked at that long after a commit, so at most twice a second
TASKS_STOP: Final = 2.0  # seconds, of the 10 that a stop may take


class Exporter:
    """One exporter of one gateway: its parts, made, started in order and stopped in reverse. Changes with which parts
    there are. `reload` gives the settings anew, for a token that has changed in its file."""

    def __init__(self, settings: Settings, *, reload: Callable[[], Settings] | None = None) -> None:
        self.registry = Registry(zero_hold=settings.zero_hold)
        self.port = 0
        self._settings = settings
        self._dsn = settings.database_url.get_secret_value()
        self._started = time.time()
        self._missing = Missing()
        self._state_dir = StateDirectory(settings, self._missing)
        self._url = gateway_url(settings, load_config(self._state_dir.path))
        self._token = GatewayToken(settings, reload, self._state_dir.path, self._missing)
        self.sources = Sources(settings, self.registry, self._state_dir, self._missing, self._committed)
        self._watch: GatewayWatch
        self._collectors: list[Collector]
        self._runner: Runner
        self._report: Report

    def _wire(self, pool: Pool | None) -> None:
        """Make the parts; nothing runs yet."""
        settings = self._settings
        gateway = settings.gateway_name
        self._watch = GatewayWatch(
            gateway,
            self._url,
            self._token,
            state_dir=self._state_dir.path,
            pool=pool,
            interval=settings.poll_interval,
            zone=settings.zone,
            counted=lambda: self.sources.looked,
            send_spans=_span_sender(gateway),
            contents=settings.store_content,
        )
        if self._watch.traces is not None:
            self.registry.register("traces", self._watch.traces.render)
        rows = None if pool is None else LocalRows(gateway, pool, settings.timezone)
        local = local_collectors(settings, self._url, self._state_dir.path, rows, lambda: self.sources.complete)
        self._collectors = [*self._watch.collectors, *local]
        running = [one for one in self._collectors if one.name not in settings.collectors_off]
        self._runner = Runner(self.registry, gateway, running)
        self._report = Report(
            settings,
            self._watch.client,
            self.sources,
            self._missing,
            started=self._started,
            enabled={one.name: one in running for one in self._collectors},
        )
        self.registry.register("silence", self._watch.silence.render)
        self.registry.register("exporter", self._report.samples)

    def _render(self, text_format: Format, prometheus: bool) -> str:  # noqa: FBT001 - the server's contract
        return self.registry.render(text_format, prometheus=prometheus)

    def _committed(self) -> None:
        """Money has changed."""
        self._runner.wake_soon("windows", WINDOWS_PAUSE)

    async def run(self, stop: asyncio.Event, started: Callable[[int], None] = lambda _port: None) -> None:
        """Until `stop` is set. `started` is told the port once `/metrics` answers. Raises StartError."""
        data = self._settings.data_dir
        if data.exists() and not data.is_dir():
            raise StartError(f"LOBS_DATA_DIR: {data} is no directory: name one that may be written to")
        try:
            bound = bind(self._settings.metrics_listen)
        except PortTakenError as error:
            raise StartError(str(error)) from error
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(bound.close)
            self._state_dir.hold_now(stack)
            name = "lobservatory exporter"
            pool = await stack.enter_async_context(open_pool(self._dsn, name=name, max_size=4)) if self._dsn else None
            self._wire(pool)
            server = MetricsServer(Application(self._render, self._report.health), bound)
            await server.start()
            stack.push_async_callback(server.stop)
            self.port = server.port
            address = Listen(host=self._settings.metrics_listen.host, port=server.port)
            log.info("exporter started", metrics=f"http://{address}/metrics", **self._modes())
            started(self.port)
            await self._until_stopped(stop)
        log.info("exporter stopped")

    def _modes(self) -> dict[str, str]:
        books = "rows and totals in the database" if self._dsn else "totals in a checkpoint file, no rows: no database"
        return {"version": VERSION, "gateway": self._settings.gateway_name, "gateway_url": self._url, "books": books}

    async def _until_stopped(self, stop: asyncio.Event) -> None:
        stack = contextlib.AsyncExitStack()
        parts: list[tuple[str, Coroutine[Any, Any, None]]] = [
            ("stop", _wait(stop)),
            ("collectors", self._runner.run()),
            ("gateway", self._watch.run(self._runner.wake)),
            ("sources", self.sources.run(stack)),
        ]
        if self._dsn:
            parts.append(("maintenance", forget_old_rows(self._dsn)))
        tasks = [asyncio.create_task(part, name=name) for name, part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await stack.aclose()  # the ingest first: what it has in hand is committed or rolled back
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=TASKS_STOP)
        for task in done:
            await task  # raises what ended it


def _span_sender(gateway: str) -> Callable[[Sequence[Span]], None] | None:
    """Sends spans where the environment says; None when it says nothing."""
    if not otlp.wanted(os.environ):
        return None
    logging.REDACTOR.learn(*otlp.secrets(os.environ))
    return traces.otlp_sender(gateway, VERSION)


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def run(settings: Settings, reload: Callable[[], Settings] | None = None) -> None:
    """The process: until SIGTERM or SIGINT. Raises StartError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Exporter(settings, reload=reload).run(stop)
