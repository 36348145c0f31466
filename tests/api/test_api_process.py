"""The service as a process: its start, its refusals, its end, and live streams over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.api.conftest import PASSWORD
from tests.servers import PATIENCE_SECONDS

SERVICE = "s" * 43  # the generated service token of the fixture: read and write


@dataclass
class Service:
    process: asyncio.subprocess.Process
    url: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def client(self, token: str = SERVICE) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_SECONDS
        )

    def websocket(self, path: str, token: str | None = SERVICE, **arguments) -> connect:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return connect(f"ws://{self.host}{path}", additional_headers=headers, proxy=None, **arguments)


@contextlib.asynccontextmanager
async def running(environment: dict[str, str]) -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "api", env=environment, stderr=asyncio.subprocess.PIPE
    )
    service = Service(process)
    stderr = process.stderr
    assert stderr is not None

    async def read() -> None:
        async for line in stderr:
            service.log.append(line.decode())

    reader = asyncio.create_task(read())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not service.url:
                assert process.returncode is None, "".join(service.log)
                for line in service.log:
                    if '"listening"' in line:
                        service.url = json.loads(line)["url"].rstrip("/")
                await asyncio.sleep(0.02)
            async with service.client() as client:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get("/readyz")).status_code == 200:
                            break
                    await asyncio.sleep(0.02)
        yield service
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await reader


@pytest.fixture
async def service(process_environment) -> AsyncIterator[Service]:
    async with running(process_environment) as made:
        yield made


async def receive(websocket: ClientConnection) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return json.loads(await websocket.recv())


async def post(client: httpx.AsyncClient, **changes) -> Any:
    answer = await client.post("/api/operations", json={"type": "skill", "name": "n", **changes})
    assert answer.status_code == 201
    return answer.json()


async def refused(environment) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "api", env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


# --- start and end ------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_one_clear_line(process_environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        status, text = await refused({**process_environment, "LOBS_API_LISTEN": listen})
    assert status == 1
    assert text.count("\n") == 1
    assert "LOBS_API_LISTEN" in text
    assert listen in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"LOBS_DATABASE_URL": ""}, "LOBS_DATABASE_URL"),
        ({"LOBS_DATABASE_URL": "postgresql://x:hunter22@127.0.0.1:1/none"}, "LOBS_DATABASE_URL"),
        ({"LOBS_DATA_DIR": "/nonexistent"}, "api_password"),
        ({"LOBS_API_PASSWORD_FILE": "/nonexistent/password"}, "/nonexistent/password"),
        ({"LOBS_COMMANDZ": "1"}, "LOBS_COMMANDS"),
    ],
)
async def test_a_mistake_is_one_clear_line(process_environment, change, word):
    status, text = await refused({**process_environment, **change})
    assert status != 0
    assert text.count("\n") == 1, text
    assert word in text
    assert "hunter22" not in text


@pytest.mark.req("S2-1")
@pytest.mark.parametrize("password", ["", "admin", "short"])
async def test_it_does_not_start_with_a_bad_password(process_environment, data_dir, password):
    (data_dir / "secrets" / "api_password").write_text(password)
    status, text = await refused(process_environment)
    assert status != 0
    assert text.count("\n") == 1
    assert "api_password" in text


async def test_it_refuses_a_schema_that_is_not_ours(process_environment, postgres_owner_dsn):
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM lobs_migrations._yoyo_migration WHERE migration_id LIKE '0006%'")
    status, text = await refused(process_environment)
    assert status != 0
    assert text.count("\n") == 1
    assert "lobservatory migrate" in text


async def test_sigterm_ends_it_with_live_clients_and_status_0(service):
    async with (
        service.websocket("/ws/operations") as websocket,
        service.client() as client,
        client.stream("GET", "/api/events/stream") as stream,
    ):
        assert stream.status_code == 200
        service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await service.process.wait() == 0
        with pytest.raises(ConnectionClosed):
            await receive(websocket)
    assert websocket.close_code == 1012
    assert "Traceback" not in "".join(service.log)


# --- WebSockets: who may ------------------------------------------------------------------------------------


@pytest.mark.req("S0-12")
@pytest.mark.parametrize("path", ["/ws", "/ws/operations", "/ws/agents"])
async def test_without_a_valid_token_there_is_no_upgrade(service, path):
    for arguments in (
        {"token": None},
        {"token": "lobs_wrong"},
        {"token": None, "subprotocols": ["lobservatory", "bearer.lobs_wrong"]},
    ):
        with pytest.raises(InvalidStatus) as caught:
            async with service.websocket(path, **arguments):
                pass
        assert caught.value.response.status_code == 401
    for query in (f"?token={SERVICE}", f"?ticket={SERVICE}", "?token=", "?token=x"):
        with pytest.raises(InvalidStatus) as caught:
            async with service.websocket(path + query, token=None):
                pass
        assert caught.value.response.status_code == 401
    assert SERVICE not in "".join(service.log)


@pytest.mark.req("S0-12")
async def test_header_subprotocol_and_ticket_open_a_socket_and_leave_no_trace(service):
    async with service.websocket("/ws/operations"):
        pass
    async with service.websocket(
        "/ws/operations", token=None, subprotocols=["lobservatory", f"bearer.{SERVICE}"]
    ) as websocket:
        assert websocket.subprotocol == "lobservatory"
    async with service.client() as client:
        for name in ("ticket", "token"):
            ticket = (await client.post("/api/auth/ticket")).json()["ticket"]
            async with service.websocket(f"/ws/operations?{name}={ticket}", token=None):
                pass
            with pytest.raises(InvalidStatus):
                async with service.websocket(f"/ws/operations?{name}={ticket}", token=None):
                    pass
            assert ticket not in "".join(service.log)
    assert SERVICE not in "".join(service.log)


@pytest.mark.req("S0-12")
async def test_a_whole_token_in_the_url_only_where_it_is_allowed(process_environment):
    async with (
        running({**process_environment, "LOBS_ALLOW_QUERY_TOKEN": "1"}) as service,
        service.websocket(f"/ws/operations?token={SERVICE}", token=None),
    ):
        pass
    assert SERVICE not in "".join(service.log)


@pytest.mark.req("S0-12")
async def test_a_foreign_origin_is_refused_before_the_upgrade(service):
    for origin, status in ((f"http://{service.host}", 101), ("https://evil.example", 403), ("null", 403)):
        if status == 101:
            async with service.websocket("/ws/operations", origin=origin):
                continue
        with pytest.raises(InvalidStatus) as caught:
            async with service.websocket("/ws/operations", origin=origin):
                pass
        assert caught.value.response.status_code == status


async def test_the_password_itself_never_reaches_the_log(service):
    async with service.client() as client:
        await client.post("/api/auth/login", json={"password": PASSWORD})
        token = (await client.post("/api/auth/login", json={"password": PASSWORD})).json()["token"]
        await client.get("/api/auth/verify", headers={"Authorization": f"Bearer {token}"})
    log = "".join(service.log)
    assert PASSWORD not in log
    assert token not in log


# --- WebSockets: what they get ------------------------------------------------------------------------------


@pytest.mark.req("S0-7", "S0-13")
async def test_every_update_reaches_every_subscriber_in_order(service):
    async with (
        service.websocket("/ws/operations") as first,
        service.websocket("/ws/operations") as second,
        service.client() as client,
    ):
        operation = await post(client, steps=[{"id": f"s{number}", "name": "x"} for number in range(5)])
        for number in range(5):
            await client.patch(f"/api/operations/{operation['id']}/steps/s{number}", json={"status": "completed"})
        await client.patch(
            f"/api/operations/{operation['id']}",
            json={"status": "completed", "currentStep": "end", "activity": "Done"},
        )
        for websocket in (first, second):
            got = [await receive(websocket) for _ in range(7)]
            assert {message["id"] for message in got} == {operation["id"]}
            assert [message["metrics"]["progress"] for message in got] == [0, 20, 40, 60, 80, 100, 100]
            assert [message["seq"] for message in got] == sorted({message["seq"] for message in got})
            assert (got[-1]["status"], got[-1]["currentStep"], got[-1]["activity"]) == ("completed", "end", "Done")


@pytest.mark.req("S0-17")
async def test_a_client_that_was_away_resumes_without_loss(service):
    async with service.client() as client:
        async with service.websocket("/ws/operations") as websocket:
            first = await post(client)
            seq = (await receive(websocket))["seq"]
        missed = [await post(client) for _ in range(3)]
        async with service.websocket(f"/ws/operations?after={seq}") as websocket:
            live = await post(client)
            got = [(await receive(websocket))["id"] for _ in range(4)]
            assert got == [*(one["id"] for one in missed), live["id"]]
        polled = (await client.get("/api/operations", params={"since": first["updatedAt"]})).json()
        assert {one["id"] for one in polled} >= {one["id"] for one in missed}


async def test_a_place_that_is_no_longer_known_is_told(service):
    async with service.websocket("/ws/operations?after=999999999") as websocket:
        assert (await receive(websocket))["type"] == "reset"


@pytest.mark.req("S2-11")
async def test_ping_is_answered_and_channels_are_subscribed(service):
    async with service.websocket("/ws") as websocket, service.client() as client:
        await websocket.send('{"type":"ping"}')
        assert await receive(websocket) == {"type": "pong"}
        await websocket.send('{"type":"subscribe","channels":["operations","feed:activity"]}')
        assert await receive(websocket) == {"type": "subscribed", "channels": ["feed", "operations"]}
        operation = await post(client)
        got = [await receive(websocket), await receive(websocket)]
        assert {message["type"] for message in got} == {"operation:update", "feed:activity"}
        by_type = {message["type"]: message for message in got}
        assert by_type["operation:update"]["data"]["id"] == operation["id"]
        assert by_type["feed:activity"]["data"]["targetId"] == operation["id"]
        assert by_type["feed:activity"]["seq"] > by_type["operation:update"]["seq"]
        for wrong in ("nonsense", "[]", '{"type":"subscribe","channels":["nope"]}', "[" * 4000):
            await websocket.send(wrong)
            assert (await receive(websocket))["type"] == "error"


@pytest.mark.req("S2-11")
async def test_agent_status_comes_to_those_who_subscribe(service, database):
    await database.execute(
        "INSERT INTO lobs.agents (gateway, agent, state, activity) VALUES ('home', 'main', 'tool', 'Reading notes.md')"
    )
    async with service.websocket("/ws?channels=agents") as websocket:
        message = await receive(websocket)
        assert message["type"] == "agent:status"
        (agent,) = message["data"]
        assert (agent["id"], agent["status"], agent["activity"]) == ("main", "tool", "Reading notes.md")


@pytest.mark.req("S1-11")
async def test_agent_events_reach_their_socket(service, database):
    async with service.websocket("/ws/agents") as websocket:
        await database.execute(
            "SELECT lobs.publish(ARRAY['agents'], ARRAY['tool_start'], ARRAY['home'], ARRAY[%s]::jsonb[])",
            [json.dumps({"agent": "main", "event": "tool_start", "activity": "Reading notes.md", "tool": "read"})],
        )
        message = await receive(websocket)
    assert (message["type"], message["agent"], message["event"]) == ("agent_event", "main", "tool_start")
    assert (message["activity"], message["tool"], message["gateway"]) == ("Reading notes.md", "read", "home")
    assert message["seq"] > 0


async def test_a_socket_ends_soon_after_its_token_was_revoked(service, database):
    async with service.websocket("/ws/operations") as websocket:
        await database.execute("UPDATE lobs.tokens SET revoked_at = now() WHERE id = 'service'")
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await websocket.recv()
        assert websocket.close_code == 1008


@pytest.mark.req("S0-15")
async def test_a_stalled_client_is_closed_and_the_others_get_everything(service):
    """The stalled one stops reading; updates of 400 KB soon fill every buffer between it and the service."""
    big = {"text": "x" * 400_000}
    async with service.client() as client, service.websocket("/ws/operations", max_queue=1) as stalled:
        stalled.transport.pause_reading()
        async with service.websocket("/ws/operations", max_size=None) as healthy:
            operation = await post(client, metadata=big)
            got = [await receive(healthy)]

            async def listen() -> None:
                while len(got) < 61:
                    got.append(await receive(healthy))

            listening = asyncio.create_task(listen())
            for number in range(60):
                await client.patch(f"/api/operations/{operation['id']}", json={"activity": str(number)})
            async with asyncio.timeout(PATIENCE_SECONDS):
                await listening
            assert [one["activity"] for one in got] == [None, *map(str, range(60))]
            metrics = (await client.get("/metrics")).text
            assert 'lobservatory_live_evictions_total{stream="operations"} 1' in metrics
            assert 'lobservatory_live_clients{stream="operations"} 1' in metrics


# --- event stream and several processes ---------------------------------------------------------------------


async def events(response: httpx.Response, number: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    current: dict[str, str] = {}
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name in {"id", "event", "data"}:
                current[name] = value
            elif not line and current:
                found.append(current)
                current = {}
                if len(found) == number:
                    return found
    return found


@pytest.mark.req("S3-1")
async def test_the_event_stream_has_its_headers_and_a_first_byte(service):
    async with service.client() as client, client.stream("GET", "/api/events/stream") as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["x-accel-buffering"] == "no"
        assert "no-transform" in stream.headers["cache-control"]
        async with asyncio.timeout(PATIENCE_SECONDS):  # before anything has happened
            async for chunk in stream.aiter_text():
                assert "connected" in chunk
                break


async def publish(database, number: int) -> None:
    await database.execute(
        "SELECT lobs.publish(ARRAY['tasks'], ARRAY['task_updated'], ARRAY[NULL]::text[], ARRAY[%s]::jsonb[])",
        [json.dumps({"id": f"task_{number}"})],
    )


@pytest.mark.req("S3-2")
async def test_a_cut_stream_resumes_with_its_last_id_and_loses_nothing(service, database):
    async with service.client() as client:
        async with client.stream("GET", "/api/events/stream") as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            await publish(database, 1)
            last = None
            async with asyncio.timeout(PATIENCE_SECONDS):
                while last is None:
                    line = await anext(lines)
                    last = line.removeprefix("id: ") if line.startswith("id: ") else None
        for number in (2, 3):
            await publish(database, number)
        headers = {"Last-Event-ID": last}
        async with client.stream("GET", "/api/events/stream", headers=headers) as stream:
            await publish(database, 4)
            got = await events(stream, 3)
    payloads = [json.loads(one["data"])["payload"]["id"] for one in got]
    assert payloads == ["task_2", "task_3", "task_4"]
    assert {one["event"] for one in got} == {"task_updated"}
    assert [int(one["id"]) for one in got] == sorted(int(one["id"]) for one in got)


@pytest.mark.req("S0-13")
async def test_two_processes_on_one_database_deliver_the_same_stream(process_environment):
    async with (
        running(process_environment) as one,
        running(process_environment) as other,
        one.websocket("/ws/operations") as first,
        other.websocket("/ws/operations") as second,
        one.client() as client,
        other.client() as other_client,
    ):
        operation = await post(client)
        await other_client.patch(f"/api/operations/{operation['id']}", json={"status": "in_progress"})
        await client.patch(f"/api/operations/{operation['id']}", json={"status": "completed"})
        streams = [[await receive(websocket) for _ in range(3)] for websocket in (first, second)]
    assert streams[0] == streams[1]
    assert [message["status"] for message in streams[0]] == ["pending", "in_progress", "completed"]
