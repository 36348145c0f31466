"""A state directory, an ingest over it, and what its /metrics says."""

import asyncio
import contextlib
import tarfile
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from pydantic import SecretStr

from exporter.accounting import Accountant, BillingPolicy, price_book
from exporter.app import Exporter
from exporter.ingest.ingest import Ingest
from exporter.ingest.watch import Watch
from exporter.metrics.registry import Registry
from lobservatory.metrics.catalogue import CATALOGUE
from lobservatory.settings import Listen, Settings
from openclaw.state_dir import load_config
from openclaw.stores import Stores
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.postgres import PostgresLedger
from store.ledger.shown import ShownTotals
from tests.archives import extract
from tests.servers import PATIENCE_SECONDS

SAMPLES = Path(__file__).parent / "fixtures" / "samples"
VERSIONS = ("2026.9.6", "2026.4.27")


@pytest.fixture(params=VERSIONS)
def state_dir(request, tmp_path):
    """A fresh copy of a recorded state directory: one with databases, one with files."""
    with tarfile.open(SAMPLES / f"state-{request.param}.tar.gz") as archive:
        extract(archive, tmp_path / "home")
    return tmp_path / "home" / ".openclaw"


@pytest.fixture
def files_dir(tmp_path):
    """An empty state directory of the JSONL era."""
    folder = tmp_path / "state"
    (folder / "agents" / "main" / "sessions").mkdir(parents=True)
    (folder / "openclaw.json").write_text("{}")
    return folder


@pytest.fixture(params=["postgres", "checkpoint"])
def make_ledger(request, tmp_path):
    """Makes ledgers of one gateway, always of the same books."""
    if request.param == "postgres":
        dsn = request.getfixturevalue("postgres_dsn")
        return lambda: PostgresLedger(dsn, "g")
    return lambda: CheckpointLedger(tmp_path / "data", "g")


def labels_of(sample):
    """The values of a sample's labels without the gateway, in the order of the catalogue."""
    name = sample.name if sample.name in CATALOGUE else sample.name.rpartition("_")[0]  # of a histogram's parts
    order = [*CATALOGUE[name].labels, "le"]
    return tuple(sample.labels[label] for label in sorted(sample.labels, key=order.index) if label != "gateway")


class Life:
    """One life of an exporter's ingest, from start to stop."""

    def __init__(self, state_dir, ledger, *, zero_hold=30.0, mark=None, accountant=None, **options):
        config = load_config(state_dir, environment={})
        self.registry = Registry(zero_hold=zero_hold)
        self.stores = Stores(state_dir)
        self.ledger = ledger
        self.ingest = Ingest(
            gateway="g",
            stores=self.stores,
            accountant=accountant or Accountant("g", price_book(config.prices), BillingPolicy()),
            ledger=ledger,
            watch=Watch(state_dir),
            registry=self.registry,
            shown=ShownTotals(mark) if mark is not None else None,
            **options,
        )
        self.registry.register("ingest", self.ingest.samples)
        self._raised = asyncio.Event()
        add = self.registry.add

        def watched(committed):
            add(committed)
            self._raised.set()

        self.registry.add = watched

    @contextlib.asynccontextmanager
    async def running(self):
        """While it runs; it has ended its first scan (or shown what it had) before the block begins."""
        task = asyncio.create_task(self.ingest.run())
        try:
            await self.until(lambda: self.ingest.status.first_scan == "done" or task.done())
            yield self
            assert not task.done() or task.result() is None
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, condition, seconds=PATIENCE_SECONDS):
        """Until the condition holds, looked at whenever counters rise and a little after."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._raised.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._raised.wait()

    def values(self, metric, *, prometheus=False):
        """The series of a metric: {labels without gateway: value}."""
        return {
            labels_of(sample): sample.value
            for family in parse_text(self.registry.render(prometheus=prometheus))
            for sample in family.samples
            if sample.name == metric
        }

    def total(self, metric):
        """The sum of a metric's series."""
        return sum(self.values(metric).values())

    def exact(self, metric):
        """The sum of a counter of accounting as a Decimal."""
        family = self.registry._families[metric]
        return sum((Decimal(series.value) for series in family.series.values()), Decimal(0))


@pytest.fixture
def life():
    return Life


def entry(cost="0.25", *, model="fake-1", provider="fake", at=None, entry_id=None, tokens=(10, 5, 3, 0)):
    """One line of a transcript: an assistant message with usage."""
    at = at or datetime.now(UTC)
    usage = dict(zip(("input", "output", "cacheRead", "cacheWrite"), tokens, strict=True))
    text = msgspec.json.encode(
        {
            "type": "message",
            "id": entry_id or str(uuid.uuid4()),
            "timestamp": at.isoformat().replace("+00:00", "Z"),
            "message": {
                "role": "assistant",
                "content": [{"type": "text", "text": "hello"}],
                "provider": provider,
                "model": model,
                "usage": {**usage, "totalTokens": sum(tokens), "cost": {"total": "@"}},
                "stopReason": "stop",
            },
        }
    )
    return text.replace(b'"@"', str(cost).encode()) + b"\n"


def header(session_id):
    """The first line of a transcript."""
    return (
        msgspec.json.encode(
            {"type": "session", "version": 3, "id": session_id, "timestamp": "2026-11-20T10:00:00.000Z", "cwd": "/"}
        )
        + b"\n"
    )


class Transcript:
    """A transcript file of the JSONL era that grows."""

    def __init__(self, state_dir, agent="main", session_id=None):
        self.session_id = session_id or str(uuid.uuid4())
        self.path = state_dir / "agents" / agent / "sessions" / f"{self.session_id}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(header(self.session_id))

    def append(self, data):
        with self.path.open("ab") as file:
            file.write(data)


@pytest.fixture
def transcript(files_dir):
    """Makes transcripts in the state directory of files."""
    return lambda agent="main", **options: Transcript(files_dir, agent, **options)


@pytest.fixture
def call():
    return entry


NOBODY = "ws://127.0.0.1:9"  # the discard port: nothing listens there
FREE = Listen(host="127.0.0.1", port=0)


def settings(state_dir, data_dir, *, dsn="", gateway_name="g", **values):
    return Settings(
        state_dir=state_dir,
        data_dir=data_dir,
        metrics_listen=FREE,
        gateway_url=NOBODY,
        gateway_name=gateway_name,
        database_url=SecretStr(dsn),
        **values,
    )


class Running:
    def __init__(self, exporter, client):
        self.exporter, self.client = exporter, client

    async def values(self, metric, **headers):
        text = (await self.client.get("/metrics", headers=headers)).text
        return {
            labels_of(sample): sample.value
            for family in parse_text(text)
            for sample in family.samples
            if sample.name == metric
        }

    async def until(self, metric, condition, seconds=PATIENCE_SECONDS):
        async with asyncio.timeout(seconds):
            while not condition(shown := await self.values(metric)):  # noqa: ASYNC110 - over HTTP, as users look
                await asyncio.sleep(0.01)
            return shown


@contextlib.asynccontextmanager
async def running(configured, *, scanned=True):
    exporter = Exporter(configured)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(exporter.run(stop, port.set_result))
    await asyncio.wait([task, port], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port.result()}", timeout=PATIENCE_SECONDS) as client:
        alive = Running(exporter, client)
        try:
            if scanned:
                await alive.until("claw_ingest_progress_ratio", lambda shown: shown == {(): 1.0})
            yield alive
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await task


class Lab:
    """What tests of the whole process need."""

    def __init__(self, state_dir):
        self.state_dir = state_dir
        self.call = entry
        self.settings = settings
        self.running = running

    def transcript(self, agent="main"):
        return Transcript(self.state_dir, agent)


@pytest.fixture
def lab(files_dir):
    return Lab(files_dir)
