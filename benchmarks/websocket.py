"""Live updates: from the commit of a 5 KB operation to every WebSocket client of one API process, at 10 updates/s.

The clients run in a process of their own and do as little as can be done with a frame; one more of them never reads.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from cli.up import postgres
from store.migrate import migrate

UPDATES = 100
PER_SECOND = 10
PAYLOAD_BYTES = 5_000
GOALS_MS = {200: 100, 1_000: 300}
_SENT_AT = re.compile(rb'"sentAt":([0-9.]+)')
_DEADLINE = 60.0


class _Client(asyncio.Protocol):
    """A WebSocket client that only looks for the time at which a message was sent."""

    def __init__(self, request: bytes, latencies: list[float], opened: asyncio.Event) -> None:
        self._request, self._latencies, self._opened = request, latencies, opened
        self._buffer = bytearray()
        self._upgraded = False
        self.got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._buffer += data
        if not self._upgraded:
            head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise SystemExit(f"refused: {head[:80]!r}")
            self._upgraded, self._buffer = True, bytearray(rest)
            self._opened.set()
        while len(self._buffer) >= 2:  # noqa: PLR2004 - the least header of a frame
            size, start = self._buffer[1], 2
            if size == 126:  # noqa: PLR2004 - RFC 6455: two bytes of length follow
                if len(self._buffer) < 4:  # noqa: PLR2004 - with those two
                    return
                (size,) = struct.unpack_from("!H", self._buffer, 2)
                start = 4
            if len(self._buffer) < start + size:
                return
            found = _SENT_AT.search(self._buffer, start, start + size)
            if found:
                self._latencies.append(now - float(found[1]))
                self.got += 1
            del self._buffer[: start + size]


def _same(client: _Client) -> _Client:
    return client


async def _clients(port: int, token: str, number: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    request = (
        f"GET /ws/operations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()
    latencies: list[float] = []
    clients: list[_Client] = []
    for _ in range(number):
        opened = asyncio.Event()
        client = _Client(request, latencies, opened)
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
        clients.append(client)
        async with asyncio.timeout(_DEADLINE):
            await opened.wait()
    stalled, _ = await loop.create_connection(lambda: _Client(request, [], asyncio.Event()), "127.0.0.1", port)
    stalled.pause_reading()
    print("ready", flush=True)
    deadline = loop.time() + _DEADLINE
    while any(client.got < UPDATES for client in clients) and loop.time() < deadline:  # noqa: ASYNC110 - an event per message would be measured too
        await asyncio.sleep(0.05)
    latencies.sort()
    return {
        "received": len(latencies),
        "p50": latencies[len(latencies) // 2] * 1000,
        "p99": latencies[int(len(latencies) * 0.99)] * 1000,
        "cpu": time.process_time(),
    }


def _publish(dsn: str) -> None:
    begun = time.perf_counter()
    filler = "x" * PAYLOAD_BYTES
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in range(UPDATES):
            time.sleep(max(0.0, begun + number / PER_SECOND - time.perf_counter()))
            document = json.dumps({"id": f"op_{number}", "activity": filler, "sentAt": time.time()})
            connection.execute(
                "SELECT lobs.publish(ARRAY['operations'], ARRAY['operation_updated'], ARRAY[NULL]::text[],"
                " ARRAY[%s]::jsonb[])",
                [document],
            )


def service(dsn: str, data: Path, token: str) -> tuple[subprocess.Popen[str], int]:
    """The API on a database, and its port. Raises SystemExit when it does not start."""
    folder = data / "secrets"
    folder.mkdir(mode=0o700)
    for name, value in (("api_password", secrets.token_urlsafe(32)), ("api_token", token)):
        (folder / name).touch(0o600)
        (folder / name).write_text(value, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOBS_")}
    environment |= {
        "LOBS_DATABASE_URL": dsn,
        "LOBS_DATA_DIR": str(data),
        "LOBS_API_LISTEN": "127.0.0.1:0",
        "LOBS_LOG_FORMAT": "json",
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "api"], env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stderr is not None
    for line in process.stderr:
        if '"listening"' in line:
            return process, int(json.loads(line)["url"].rstrip("/").rpartition(":")[2])
    raise SystemExit("the API did not start")


def measure(number: int) -> list[dict[str, Any]]:
    """One size: percentiles from commit to client, and the CPU of the API process alone."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-bench-ws-"))
    folder.chmod(0o755)
    token = secrets.token_urlsafe(32)
    try:
        cluster = postgres.prepare(folder, durable=False)
        with cluster.run():
            migrate(cluster.dsn(postgres.OWNER))
            data = folder / "data"
            data.mkdir(mode=0o700)
            process, port = service(cluster.dsn(postgres.WRITER), data, token)
            try:
                with subprocess.Popen(
                    [sys.executable, __file__, str(port), token, str(number)], stdout=subprocess.PIPE, text=True
                ) as clients:
                    assert clients.stdout is not None
                    if clients.stdout.readline().strip() != "ready":
                        raise SystemExit("the clients could not connect")
                    before = sum(psutil.Process(process.pid).cpu_times()[:2])
                    _publish(cluster.dsn(postgres.WRITER))
                    found = json.loads(clients.stdout.readline())
                    cpu = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
            finally:
                process.terminate()
                process.wait(15)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    what = f"commit → {number:,} WebSocket clients, 5 KB, {PER_SECOND}/s, one of them stalled"
    complete = found["received"] == number * UPDATES
    goal = GOALS_MS[number]
    return [
        {"name": f"{what}, p50", "value": round(found["p50"], 1), "unit": "ms", "goal": "", "ok": True},
        {
            "name": f"{what}, p99",
            "value": round(found["p99"], 1),
            "unit": "ms",
            "goal": f"< {goal}",
            "ok": found["p99"] < goal,
        },
        {
            "name": f"{what}, messages received",
            "value": found["received"],
            "unit": "",
            "goal": str(number * UPDATES),
            "ok": complete,
        },
        {"name": f"{what}, CPU of the API", "value": round(cpu, 2), "unit": "s", "goal": "", "ok": True},
        {"name": f"{what}, CPU of the clients", "value": round(found["cpu"], 2), "unit": "s", "goal": "", "ok": True},
    ]


def run() -> list[dict[str, Any]]:
    """All measurements of live updates: name, value, unit, goal, ok."""
    return [row for number in GOALS_MS for row in measure(number)]


if __name__ == "__main__":
    if len(sys.argv) == 4:  # noqa: PLR2004 - as measure() starts it
        print(json.dumps(asyncio.run(_clients(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))), flush=True)
    else:
        for row in run():
            print(f"{row['name']}: {row['value']} {row['unit']} (goal {row['goal'] or '-'})")
