"""The connection is cut inside COPY, at a chosen byte of its data: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.ledger.postgres import PostgresLedger

CALLS, COST = "claw_model_calls_total", "claw_cost_usd_total"
COPY_DATA, PARSE, QUERY = b"d", b"P", b"Q"


class Cutter:
    """Hands bytes to the server and back, and cuts a connection within the nth byte of the data of a COPY.

    It reads the frontend's messages (a type, a length with itself, the rest), so that it knows where it is.
    """

    def __init__(self, host, port):
        self._server = (host, port)
        self._tasks = set()
        self.cut_at = []  # bytes of COPY data after which to cut, one connection after another
        self.cuts = []  # (table, bytes of data that went through)

    @contextlib.asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        there, back = await asyncio.open_connection(*self._server)
        answers = asyncio.ensure_future(self._answers(there, writer))
        try:
            await self._questions(reader, back)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            answers.cancel()
            for one in (writer, back):
                one.transport.abort()

    async def _answers(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def _questions(self, reader, writer):
        size = await reader.readexactly(4)  # the start has no type
        writer.write(size + await reader.readexactly(int.from_bytes(size) - 4))
        table, copied = "", 0
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            if head[:1] in {PARSE, QUERY}:
                copied = 0
                table = body.split(b'COPY "lobs"."')[1].split(b'"')[0].decode() if b"COPY " in body else ""
            if head[:1] == COPY_DATA:
                if self.cut_at and copied + len(body) > self.cut_at[0]:
                    part = self.cut_at.pop(0) - copied
                    writer.write(head + body[:part])  # the message says that there is more
                    await writer.drain()
                    self.cuts.append((table, copied + part))
                    return
                copied += len(body)
            writer.write(head + body)
            await writer.drain()


@pytest.mark.req("P-2")
async def test_a_connection_cut_inside_copy_is_caught_up_with(files_dir, life, transcript, call, postgres_dsn):
    session = transcript()
    for _ in range(300):
        session.append(call("0.01"))
    there = conninfo_to_dict(postgres_dsn)
    cutter = Cutter(there["host"], int(there["port"]))
    async with cutter.listening() as port:
        dsn = make_conninfo(postgres_dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")

        async def soon(_seconds):
            await asyncio.sleep(0.01)

        places = [1, 19, 5_000, 12_345, 30_001]
        cutter.cut_at = list(places)
        async with life(files_dir, PostgresLedger(dsn, "g"), sleep=soon).running() as running:
            assert cutter.cuts == [("model_calls", at) for at in places], "each was inside the data of a COPY"
            assert running.ingest.status.failures["unavailable"] >= len(places)
            assert (running.exact(CALLS), running.exact(COST)) == (300, Decimal(3))
            assert running.total("claw_duplicate_entries_total") == 0
        # The same to what was written while the exporter was away.
        session.append(b"".join(call("0.01") for _ in range(100)))
        cutter.cut_at = [777]
        async with life(files_dir, PostgresLedger(dsn, "g"), sleep=soon).running() as running:
            await running.until(lambda: running.exact(CALLS) == 400)
            assert cutter.cuts[-1] == ("model_calls", 777)
    with psycopg.connect(postgres_dsn) as connection:
        for query in (
            "SELECT count(*), sum(cost_usd) FROM model_calls",
            "SELECT sum(calls), sum(cost_usd) FROM sessions",
            "SELECT sum(calls), sum(cost_usd) FROM usage_15m",
        ):
            assert connection.execute(query).fetchone() == (400, Decimal(4)), query
