"""Dead peers, and a database that goes away and comes back."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import AsyncIterator

import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from psycopg import sql

from api.__main__ import configuration
from api.context import of_app
from api.live.protocol import LiveProtocol
from api.security.scopes import Scope
from tests.api.conftest import LOOSE, connected, new_token, started
from tests.servers import PATIENCE_SECONDS


@contextlib.asynccontextmanager
async def serving(app: FastAPI, **changes) -> AsyncIterator[int]:
    """A started application on a real port of this event loop."""
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws=LiveProtocol, **changes)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


def test_pings_go_out_every_30_seconds(app):
    served = configuration(app)
    assert (served.ws_ping_interval, served.ws_ping_timeout, served.ws_per_message_deflate) == (30.0, 30.0, False)
    assert served.ws is LiveProtocol
    assert served.access_log is False


@pytest.mark.req("S0-14")
async def test_a_peer_that_answers_no_ping_is_dropped(app):
    token = await new_token(app, Scope.READ)
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    async with serving(app, ws_ping_interval=0.1, ws_ping_timeout=0.1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /ws/operations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101")
            frames = await reader.read()  # until the service hangs up; this peer never says a word
        assert frames[0] == 0x89  # a ping
        assert b"keepalive ping timeout" in frames
        writer.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            listening = 'lobservatory_live_clients{stream="operations"} 1.0'
            while listening in of_app(app).counts.exposition():  # noqa: ASYNC110 - a figure has no event
                await asyncio.sleep(0.01)


async def test_without_its_database_it_answers_503_and_says_so_and_comes_back(
    settings, postgres_server, postgres_database
):
    name = sql.Identifier(postgres_database)
    async with started(settings, LOOSE) as app:
        token = await new_token(app, Scope.WRITE)
        actor = await of_app(app).auth.authenticate(token)
        async with connected(app, token) as client:
            assert (await client.get("/api/tasks")).status_code == 200
            hub = of_app(app).hub
            with hub.subscribe("channels", lambda event: event.kind, ["tasks"], actor) as subscription:
                with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
                    admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
                    try:
                        admin.execute(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                            [postgres_database],
                        )
                        answer = await client.get("/api/tasks")
                        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
                        ready = await client.get("/readyz")
                        assert (ready.status_code, ready.json()) == (503, {"ok": False, "checks": {"database": False}})
                        assert (await client.get("/healthz")).status_code == 200
                    finally:
                        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - asked over HTTP
                        await asyncio.sleep(0.05)
                    assert (await client.post("/api/tasks", json={"title": "back"})).status_code == 201
                    assert (await subscription.get())[1] == "task_created"
