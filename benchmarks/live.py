"""Live updates from end to end: from a gateway's event to a WebSocket client of the API.

A gateway (the replay, over the real protocol) pushes the starts of tool calls of many runs at once; the exporter makes
steps of operations of them and commits them with their messages; the API tells a client. Exporter and API are the
product's own processes, the database is durable (fsync on).
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.websocket import service
from cli.demo.gateway import ReplayGateway
from cli.up import postgres
from store.migrate import migrate

RUNS = 20
EVENTS = 400
PER_SECOND = 20
GOAL_MS = 100
_DEADLINE = 60.0
_TOKEN = "of-the-benchmark"
_SHARES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


def _frame(run: str, stream: str, data: dict[str, Any]) -> dict[str, Any]:
    key = f"agent:main:dashboard:{run}"
    common = {"runId": run, "sessionKey": key, "sessionId": run, "agentId": "main", "ts": int(time.time() * 1000)}
    return {**common, "stream": stream, "data": data}


@contextmanager
def _exporter(dsn: str, folder: Path, url: str) -> Iterator[None]:
    state = folder / "state"
    state.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OTEL_"))}
    environment |= {
        "LOBS_DATABASE_URL": dsn,
        "LOBS_DATA_DIR": str(folder / "exporter"),
        "LOBS_STATE_DIR": str(state),
        "LOBS_GATEWAY_URL": url,
        "LOBS_GATEWAY_TOKEN": _TOKEN,
        "LOBS_METRICS_LISTEN": "127.0.0.1:0",
    }
    process = subprocess.Popen([sys.executable, "-P", "-m", "exporter"], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(15)


async def _follow(socket: ClientConnection, sent: dict[str, float], seen: dict[str, float]) -> None:
    """Note when each step was told first."""
    async for raw in socket:
        now = time.perf_counter()
        for step in json.loads(raw).get("steps", ()):
            if step["id"] in sent:
                seen.setdefault(step["id"], now - sent[step["id"]])


async def _measure(dsn: str, folder: Path, port: int, token: str) -> list[float]:
    """Seconds from each event to its message, sorted."""
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    async with (
        ReplayGateway(token=_TOKEN) as gateway,
        connect(
            f"ws://127.0.0.1:{port}/ws/operations",
            additional_headers={"authorization": f"Bearer {token}"},
            max_size=None,
        ) as socket,
    ):
        with _exporter(dsn, folder, gateway.url):
            following = asyncio.create_task(_follow(socket, sent, seen))
            runs = [str(uuid.uuid4()) for _ in range(RUNS)]

            async def push(run: str, call: str) -> None:
                sent[call] = time.perf_counter()
                data = {"phase": "start", "name": "exec", "toolCallId": call, "args": {"command": "true"}}
                await gateway.emit("agent", _frame(run, "tool", data))

            async with asyncio.timeout(_DEADLINE):
                number = 0
                while not seen:  # until everything is connected and the first update has come
                    await push(runs[0], f"warm-{number}")
                    number += 1
                    await asyncio.sleep(0.25)
            await asyncio.sleep(3)  # the first polls of the collectors are over
            begun = time.perf_counter()
            for number in range(EVENTS):
                await asyncio.sleep(max(0.0, begun + number / PER_SECOND - time.perf_counter()))
                await push(runs[number % RUNS], f"call-{number}")
            wanted = [f"call-{number}" for number in range(EVENTS)]
            async with asyncio.timeout(_DEADLINE):
                while any(call not in seen for call in wanted):  # noqa: ASYNC110 - an event per message would be measured too
                    await asyncio.sleep(0.05)
            following.cancel()
            await asyncio.wait([following])
    return sorted(seen[call] for call in wanted)


def run() -> list[dict[str, Any]]:
    """The rows of the report."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-bench-live-"))
    folder.chmod(0o755)
    token = secrets.token_urlsafe(32)
    try:
        cluster = postgres.prepare(folder)
        with cluster.run():
            migrate(cluster.dsn(postgres.OWNER))
            data = folder / "data"
            data.mkdir(mode=0o700)
            api, port = service(cluster.dsn(postgres.WRITER), data, token)
            try:
                latencies = asyncio.run(_measure(cluster.dsn(postgres.WRITER), folder, port, token))
            finally:
                api.terminate()
                api.wait(15)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for name, share in _SHARES:
        value = latencies[int((len(latencies) - 1) * share)] * 1000
        rows.append(
            {
                "name": f"gateway's event → exporter → database → WebSocket, {RUNS} runs, {PER_SECOND}/s, {name}",
                "value": round(value, 1),
                "unit": "ms",
                "goal": f"< {GOAL_MS}",
                "ok": value < GOAL_MS,
            }
        )
    return rows
