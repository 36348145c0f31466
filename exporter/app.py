"""The exporter's process: everything wired, started in order, stopped in reverse.

What is wrong with one part is said in one line and costs that part only: without a gateway, a state directory or a
database, `/metrics` is still there and says so. The process ends by itself only when it cannot go on at all
(`StartError`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import platform
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from exporter.accounting import Accountant, BillingPolicy, PricesError, price_book
from exporter.collectors import Collector
from exporter.collectors.gpu import GpuCollector
from exporter.collectors.host import HostCollector
from exporter.collectors.process import ProcessCollector
from exporter.collectors.scheduler import Runner
from exporter.collectors.service import ServiceCollector
from exporter.collectors.storage import StorageCollector
from exporter.collectors.thresholds import ThresholdsCollector
from exporter.collectors.windows import Windows, WindowsCollector, compute
from exporter.gateway import traces
from exporter.gateway.traces import Span
from exporter.gateway.watch import GatewayWatch
from exporter.ingest.ingest import Ingest, IngestThread, OnRegistry
from exporter.ingest.watch import Watch
from exporter.metrics.registry import Registry
from exporter.metrics.server import Application, MetricsServer, PortTakenError, bind
from lobservatory import logging, otlp
from lobservatory.metrics.exposition import Format, Sample
from lobservatory.metrics.labels import CALL_OUTCOMES, REJECT_REASONS, SOURCES, TOKEN_TYPES
from lobservatory.settings import Listen, Settings, SettingsError
from openclaw.state_dir import OpenClawConfig, StateDirError, gateway_token, gateway_url, load_config, resolve
from openclaw.stores import Stores
from store import alerts, cost, maintenance
from store.gateway import insert_host_samples
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.contract import Ledger, LedgerHeldError
from store.ledger.postgres import PostgresLedger
from store.ledger.shown import ShownTotals
from store.ledger.spending import SpendingReader
from store.migrate import MigrateError, check_schema, set_timezone
from store.pool import Pool, open_pool
from store.rows import HostSample

log = logging.get(__name__)

RETRY_STATE_DIR: Final = 10.0  # seconds between two looks for a state directory that is not there
RETRY_DATABASE: Final = (1.0, 10.0)  # first and longest wait for a database that is not ready
MAINTENANCE: Final = 3600.0
WINDOWS_PAUSE: Final = 0.5
INGEST_STOP: Final = 5.0  # of the 10 s that a stop may take
TASKS_STOP: Final = 2.0
_OF_SOURCES: Final = ("claw_source_entries_total", "claw_source_bytes_total", "claw_duplicate_entries_total")
_MOST_DECLARED: Final = 200  # series known from configuration; beyond it they come when they come


class StartError(Exception):
    """The exporter cannot go on. One clear line: what, and what to do."""


def state_dir_or_candidate(settings: Settings) -> Path:
    """Where the state directory is, or would be."""
    with contextlib.suppress(StateDirError):
        return resolve(settings.state_dir)
    named = settings.state_dir or os.environ.get("OPENCLAW_STATE_DIR") or Path.home() / ".openclaw"
    return Path(named).expanduser()


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory against a second exporter. The lock is on the directory itself, which is only opened
    for reading, and ends with the process. Raises StartError."""
    descriptor = os.open(state_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another exporter already watches {state_dir}: stop it, or give this one another LOBS_STATE_DIR"
            ) from None
        except OSError as error:
            # A network file system without locks: the ledger's own lock remains.
            log.warning("the state directory cannot be locked", state_dir=str(state_dir), error=error.strerror)
        yield
    finally:
        os.close(descriptor)


def configured_series(gateway: str, config: OpenClawConfig) -> list[tuple[str, tuple[str, ...]]]:
    """Counters that are known beforehand: those of the sources, and of each configured agent with each model that has
    a price."""
    series: list[tuple[str, tuple[str, ...]]] = []
    for source in SOURCES:
        series += [(metric, (gateway, source)) for metric in _OF_SOURCES]
        series += [("claw_rejected_entries_total", (gateway, source, reason)) for reason in REJECT_REASONS]
    models = {(price.provider, price.model) for price in config.prices}
    if len(models) * len(config.agents) > _MOST_DECLARED:
        return series
    series += [("claw_compactions_total", (gateway, name)) for name in config.agents]
    for agent in config.agents:
        for provider, model in sorted(models):
            labels = (gateway, agent, provider, model, "main")
            series += [("claw_cost_usd_total", labels)]
            series += [("claw_tokens_total", (*labels, token_type)) for token_type in TOKEN_TYPES]
            series += [("claw_model_calls_total", (*labels, outcome)) for outcome in CALL_OUTCOMES]
    return series


class Exporter:
    """One exporter of one gateway. `reload` gives the settings anew, for a token that has changed in its file."""

    def __init__(self, settings: Settings, *, reload: Callable[[], Settings] | None = None) -> None:
        self.registry = Registry(zero_hold=settings.zero_hold)
        self.ingest: Ingest | None = None
        self.port = 0
        self._settings = settings
        self._reload = reload or (lambda: settings)
        self._gateway = settings.gateway_name
        self._dsn = settings.database_url.get_secret_value()
        self._started = time.time()
        self._process = psutil.Process()
        self._version = version("lobservatory")
        self._state_dir = state_dir_or_candidate(settings)
        self._config = load_config(self._state_dir)
        self._url = gateway_url(settings, self._config)
        self._pool: Pool | None = None
        self._complaints: dict[str, str] = {}
        self._waking = False
        self._locked: Path | None = None
        self._enabled: dict[str, bool] = {}
        self._watch: GatewayWatch
        self._process_collector: ProcessCollector
        self._runner: Runner

    def _wire(self, pool: Pool | None) -> None:
        """Make the parts; nothing runs yet."""
        settings = self._settings
        self._pool = pool
        self._spending = SpendingReader(CheckpointLedger(settings.data_dir, self._gateway).path)
        self._watch = GatewayWatch(
            self._gateway,
            self._url,
            self._token,
            state_dir=self._state_dir,
            pool=pool,
            interval=settings.poll_interval,
            zone=settings.zone,
            counted=lambda: self.ingest is not None and self.ingest.status.looked,
            send_spans=self._send_spans(),
            contents=settings.store_content,
        )
        if self._watch.traces is not None:
            self.registry.register("traces", self._watch.traces.render)
        self._process_collector = ProcessCollector(
            self._gateway, self._url, self._state_dir, interval=settings.host_interval
        )
        collectors = self._collectors()
        running = [one for one in collectors if one.name not in settings.collectors_off]
        self._enabled = {one.name: one in running for one in collectors}
        self._runner = Runner(self.registry, self._gateway, running)
        self.registry.register("silence", self._watch.silence.render)
        self.registry.register("exporter", self._samples)

    def _send_spans(self) -> Callable[[Sequence[Span]], None] | None:
        if not otlp.wanted(os.environ):
            return None
        logging.REDACTOR.learn(*otlp.secrets(os.environ))
        return traces.otlp_sender(self._gateway, self._version)

    def _collectors(self) -> list[Collector]:
        settings = self._settings
        ask = self._windows_of_database if self._dsn else self._windows_of_checkpoint
        return [
            *self._watch.collectors,
            HostCollector(
                self._gateway,
                interval=settings.host_interval,
                paths=(self._state_dir, settings.data_dir),
                save=self._save_host,
            ),
            self._process_collector,
            GpuCollector(self._gateway, interval=settings.host_interval),
            ServiceCollector(self._gateway, interval=2 * settings.host_interval),
            StorageCollector(self._gateway, self._state_dir),
            WindowsCollector(self._gateway, ask),
            ThresholdsCollector(
                self._gateway,
                settings.alert_thresholds(),
                None if self._pool is None else self._thresholds_of_database,
                interval=settings.poll_interval,
            ),
        ]

    # --- life -----------------------------------------------------------------------------------------------

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
            if self._state_dir.is_dir():
                self._lock(self._state_dir, stack)
            name = "lobservatory exporter"
            pool = await stack.enter_async_context(open_pool(self._dsn, name=name, max_size=4)) if self._dsn else None
            self._wire(pool)
            server = MetricsServer(Application(self._render, self.health), bound)
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
        return {"version": self._version, "gateway": self._gateway, "gateway_url": self._url, "books": books}

    async def _until_stopped(self, stop: asyncio.Event) -> None:
        stack = contextlib.AsyncExitStack()
        parts: list[tuple[str, Coroutine[Any, Any, None]]] = [
            ("stop", _wait(stop)),
            ("collectors", self._runner.run()),
            ("gateway", self._watch.run(self._runner.wake)),
            ("sources", self._sources(stack)),
        ]
        if self._dsn:
            parts.append(("maintenance", self._maintenance()))
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

    # --- sources --------------------------------------------------------------------------------------------

    async def _sources(self, stack: contextlib.AsyncExitStack) -> None:
        """Wait for the state directory and for the database, then ingest for ever. Raises StartError."""
        state_dir = await self._find_state_dir()
        if self._locked != state_dir:
            self._lock(state_dir, stack)
        ledger = await self._ledger()
        config = load_config(state_dir)
        if config.problem:
            log.warning("prices and subscriptions of the gateway are not known", error=config.problem)
        try:
            accountant = Accountant(
                self._gateway,
                price_book(config.prices, self._settings.prices_file),
                BillingPolicy(self._settings.billing, config.subscription_providers),
            )
        except PricesError as error:
            raise StartError(str(error)) from error

        def make(on_registry: OnRegistry) -> Ingest:
            return Ingest(
                gateway=self._gateway,
                stores=Stores(state_dir),
                accountant=accountant,
                ledger=ledger,
                watch=Watch(state_dir),
                registry=self.registry,
                on_registry=on_registry,
                declare=configured_series(self._gateway, config),
                committed=self._committed,
                shown=ShownTotals(
                    self._settings.data_dir / f"shown-{sha256(self._gateway.encode()).hexdigest()[:12]}.sqlite"
                ),
            )

        thread = IngestThread(make)
        self.ingest = thread.ingest
        stack.push_async_callback(thread.stop, INGEST_STOP)
        thread.start()
        try:
            await asyncio.shield(thread.ended)
        except LedgerHeldError as error:
            raise StartError(str(error)) from error

    def _committed(self) -> None:
        """Money has changed: look at its windows, at most twice a second."""
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_later(WINDOWS_PAUSE, self._wake_windows)

    def _wake_windows(self) -> None:
        self._waking = False
        self._runner.wake("windows")

    def _lock(self, state_dir: Path, stack: contextlib.AsyncExitStack) -> None:
        stack.enter_context(only_one(state_dir))
        self._locked = state_dir

    async def _find_state_dir(self) -> Path:
        while True:
            try:
                found = resolve(self._settings.state_dir)
            except StateDirError as error:
                self._complain("state directory", str(error))
                await asyncio.sleep(RETRY_STATE_DIR)
            else:
                self._content("state directory")
                return found

    async def _ledger(self) -> Ledger:
        if not self._dsn:
            return CheckpointLedger(self._settings.data_dir, self._gateway)
        delay = RETRY_DATABASE[0]
        while True:
            try:
                await asyncio.to_thread(self._prepare_database)
            except (MigrateError, psycopg.Error) as error:
                self._complain("database", str(error).strip())
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_DATABASE[1])
            else:
                self._content("database")
                return PostgresLedger(self._dsn, self._gateway)

    def _prepare_database(self) -> None:
        check_schema(self._dsn)
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=10) as connection:
            set_timezone(connection, self._settings.timezone)

    def _complain(self, part: str, text: str) -> None:
        """Say what is missing, once; metrics go on."""
        if self._complaints.get(part) != text:
            log.error(text, part=part)
            self._complaints[part] = text

    def _content(self, part: str) -> None:
        if self._complaints.pop(part, None) is not None:
            log.info("found", part=part)

    def _token(self) -> str:
        """The gateway's token as it is now: asked for at every connect."""
        try:
            settings = self._reload()
        except SettingsError as error:
            self._complain("settings", str(error))
            settings = self._settings
        token = gateway_token(settings, load_config(self._state_dir)).get_secret_value()
        logging.REDACTOR.learn(token)
        return token

    # --- rows -----------------------------------------------------------------------------------------------

    async def _save_host(self, sample: HostSample) -> None:
        if self._pool is None:
            return
        process = self._process_collector.present
        row = HostSample(
            **{
                **{name: getattr(sample, name) for name in HostSample.__slots__},
                "gateway_resident_bytes": None if process is None else process.resident_bytes,
                "gateway_cpu_ratio": self._process_collector.cpu_ratio,
            }
        )
        try:
            async with self._pool.connection(timeout=2) as connection:
                await insert_host_samples(connection, [row])
        except psycopg.Error as error:
            # The sample of this moment is lost; the metrics of the host are not.
            log.debug("a sample of the host was not kept", error=str(error).strip())

    async def _maintenance(self) -> None:
        """Forget old rows, hourly."""
        while True:
            await asyncio.sleep(MAINTENANCE)
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True, connect_timeout=10
                ) as connection:
                    await maintenance.prune(connection)
            except psycopg.Error as error:
                log.warning("old rows could not be removed", error=str(error).strip())

    @property
    def _complete(self) -> bool:
        return self.ingest is not None and self.ingest.status.first_scan == "done"

    async def _windows_of_database(self, at: datetime) -> Windows | None:
        if not self._complete or self._pool is None:
            return None
        zone = self._settings.timezone
        async with self._pool.connection(timeout=5) as connection:
            costs = await cost.windows(connection, self._gateway, zone, at)
            return Windows(costs, await cost.hour_baseline(connection, self._gateway, zone, at))

    async def _thresholds_of_database(self) -> list[alerts.ThresholdOverride]:
        if self._pool is None:
            return []
        async with self._pool.connection(timeout=2) as connection:
            return await alerts.thresholds(connection)

    async def _windows_of_checkpoint(self, at: datetime) -> Windows | None:
        if not self._complete:
            return None
        return compute(await asyncio.to_thread(self._spending.read), self._settings.zone, at)

    # --- what is shown --------------------------------------------------------------------------------------

    def _render(self, text_format: Format, prometheus: bool) -> str:  # noqa: FBT001 - the server's contract
        return self.registry.render(text_format, prometheus=prometheus)

    @property
    def _database_up(self) -> bool | None:
        """None before it was tried."""
        if self.ingest is not None:
            return self.ingest.status.ledger_up
        return False if "database" in self._complaints else None

    def health(self) -> Mapping[str, Any]:
        """Plain facts for `/healthz` and the landing page."""
        status = self.ingest.status if self.ingest is not None else None
        database = {True: "up", False: "down", None: "unknown"}[self._database_up]
        return {
            "version": self._version,
            "gateway": self._gateway,
            "gateway_url": self._url,
            "gateway_connection": self._watch.client.state,
            "gateway_failure": self._watch.client.last_failure,
            "database": database if self._dsn else "none",
            "first_scan": status.first_scan if status is not None else "waiting",
            "progress": round(status.progress, 3) if status is not None else 0.0,
            "uptime_seconds": round(time.time() - self._started),
        }

    def _samples(self) -> Iterable[Sample]:
        yield Sample("lobservatory_build_info", (self._version, platform.python_version()), 1)
        yield Sample("lobservatory_ledger_info", ("postgresql" if self._dsn else "checkpoint",), 1)
        yield Sample("lobservatory_start_timestamp_seconds", (), self._started)
        for name, enabled in self._enabled.items():
            yield Sample("lobservatory_collector_enabled", (self._gateway, name), float(enabled))
        with self._process.oneshot():
            times = self._process.cpu_times()
            yield Sample("lobservatory_resident_memory_bytes", (), self._process.memory_info().rss)
            yield Sample("lobservatory_cpu_seconds_total", (), times.user + times.system)
        if self._dsn and self._database_up is not None:
            yield Sample("lobservatory_database_up", (), float(self._database_up))
        if self.ingest is not None:
            yield from self.ingest.samples()
            return
        yield Sample("claw_ingest_progress_ratio", (self._gateway,), 0.0)
        if "state directory" in self._complaints:
            for source in SOURCES:
                yield Sample("claw_source_up", (self._gateway, source), 0.0)


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def run(settings: Settings, reload: Callable[[], Settings] | None = None) -> None:
    """The process: until SIGTERM or SIGINT. Raises StartError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Exporter(settings, reload=reload).run(stop)
