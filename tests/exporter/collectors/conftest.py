import asyncio
import contextlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from cli.demo.gateway import ReplayGateway
from lobservatory.metrics.catalogue import CATALOGUE
from openclaw.client import GatewayClient
from tests.archives import extract
from tests.servers import PATIENCE_SECONDS

SAMPLES = Path(__file__).parents[2] / "fixtures" / "samples"
TOKEN = "a-token"


def recorded(version, method):
    return json.loads((SAMPLES / f"rpc-{version}" / f"{method}.json").read_text(encoding="utf-8"))["response"]


def recordings(version):
    """Every recorded reply of a version; the times are left as they are by a clock that stands still."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["response"]
        for path in sorted((SAMPLES / f"rpc-{version}").glob("*.json"))
        if not path.name.startswith("_") and json.loads(path.read_text(encoding="utf-8")).get("method") == path.stem
    }


def shown(collector):
    """What it renders, after a check against the catalogue."""
    samples = {}
    for sample in collector.render():
        metric = CATALOGUE[sample.metric]
        assert len(sample.labels) == len(metric.labels), sample
        assert all(isinstance(value, str) for value in sample.labels), sample
        assert (sample.metric, *sample.labels) not in samples, f"twice: {sample}"
        samples[(sample.metric, *sample.labels)] = sample.value
    return samples


@contextlib.asynccontextmanager
async def watched(gateway, **settings):
    async def soon(_seconds):
        await asyncio.sleep(0.01)

    async with GatewayClient(gateway.url, TOKEN, **{"sleep": soon, **settings}) as client:
        await client.wait_connected(PATIENCE_SECONDS)
        yield client


@pytest.fixture
def helpers():
    class Helpers:
        token = TOKEN
        shown = staticmethod(shown)
        watched = staticmethod(watched)
        recorded = staticmethod(recorded)
        recordings = staticmethod(recordings)

    return Helpers


@pytest.fixture
async def gateway():
    async with ReplayGateway(token=TOKEN, replies=recordings("2026.9.6")) as running:
        yield running


@pytest.fixture
async def older_gateway():
    async with ReplayGateway(token=TOKEN, replies=recordings("2026.4.27")) as running:
        running.faults.protocol = 3
        running.faults.missing_methods |= {"tasks.list", "system.info", "approval.history"}
        yield running


@pytest.fixture(params=["2026.9.6", "2026.4.27"])
def state_dir(request, tmp_path):
    with tarfile.open(SAMPLES / f"state-{request.param}.tar.gz") as archive:
        extract(archive, tmp_path)
    shutil.copymode(tmp_path, tmp_path / ".openclaw")
    return tmp_path / ".openclaw"


@pytest.fixture
def newer_state_dir(tmp_path):
    with tarfile.open(SAMPLES / "state-2026.9.6.tar.gz") as archive:
        extract(archive, tmp_path)
    return tmp_path / ".openclaw"


@pytest.fixture(params=["2026.9.6", "2026.4.27"])
async def connected(request, helpers):
    """A client of a gateway that answers as recorded, and its version."""
    replies = helpers.recordings(request.param)
    async with ReplayGateway(token=helpers.token, replies=replies) as replay, helpers.watched(replay) as client:
        yield client, request.param
