import asyncio
import contextlib
import itertools

import pytest
import structlog

from cli.demo.gateway import Faults, ReplayGateway
from openclaw.client import GatewayClient, backoff
from openclaw.protocol import (
    AuthFailedError,
    CallTimeoutError,
    GatewayUnavailableError,
    MissingScopeError,
    NotReadyError,
    UnknownMethodError,
)
from tests.servers import PATIENCE_SECONDS

TOKEN = "a-token-that-must-not-be-seen"


async def eventually(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is awaited happens inside the code under test
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def connected(gateway, **settings):
    client = GatewayClient(gateway.url, settings.pop("token", TOKEN), **{"sleep": quickly, **settings})
    async with client:
        await client.wait_connected(PATIENCE_SECONDS)
        yield client


async def quickly(_seconds):
    await asyncio.sleep(0.01)


@pytest.fixture
async def gateway():
    async with ReplayGateway(token=TOKEN) as running:
        yield running


@pytest.mark.req("S4-2", "S4-3")
async def test_it_connects_calls_and_tells_its_state(gateway):
    client = GatewayClient(gateway.url, TOKEN)
    assert client.state == "disconnected"
    with pytest.raises(NotReadyError):
        await client.call("health")
    async with client:
        hello = await client.wait_connected(PATIENCE_SECONDS)
        assert (client.state, hello.protocol, hello.version) == ("connected", 4, "2026.9.6")
        assert hello.scopes == ("operator.read",)
        health = await client.call("health")
        assert health["ok"] is True
        assert isinstance(await client.call("system-presence"), list)
        await eventually(lambda: ("sessions.subscribe", {}) in gateway.calls)
        assert client.stats.rpc_latency["health"] > 0
    assert client.state == "disconnected"


@pytest.mark.req("S4-16")
async def test_missing_methods_and_scopes_are_typed_and_counted(gateway):
    gateway.faults.missing_methods.add("channels.status")
    gateway.faults.missing_scope["cron.list"] = "operator.read"
    async with connected(gateway) as client:
        with pytest.raises(UnknownMethodError):
            await client.call("channels.status")
        with pytest.raises(MissingScopeError) as missing:
            await client.call("cron.list")
        assert missing.value.scope == "operator.read"
        with pytest.raises(MissingScopeError):
            await client.call("cron.run", {"id": "x"})
        assert client.stats.rpc_errors["channels.status", "INVALID_REQUEST"] == 1
        assert client.stats.rpc_errors["cron.list", "FORBIDDEN"] == 1
        assert (await client.call("health"))["ok"] is True


async def test_an_answer_that_is_late_never_comes_or_comes_twice_harms_nothing(gateway):
    gateway.faults.never_answer.add("status")
    gateway.faults.late["system.info"] = 0.15
    gateway.faults.twice.add("health")
    async with connected(gateway) as client:
        with pytest.raises(CallTimeoutError):
            await client.call("status", timeout=0.05)
        with pytest.raises(CallTimeoutError):
            await client.call("system.info", timeout=0.05)
        assert (await client.call("health"))["ok"] is True
        await eventually(lambda: client.stats.frames_dropped["late_reply"] == 1)
        await eventually(lambda: client.stats.frames_dropped["duplicate_reply"] == 1)
        assert client.stats.rpc_errors["status", "TIMEOUT"] == 1
        assert client._calls._connection[0].pending == 0


@pytest.mark.req("S4-4", "S4-5")
async def test_a_drop_fails_calls_at_once_then_it_reconnects_and_subscribes_again(gateway):
    gateway.faults.never_answer.add("status")
    refetches = []
    async with connected(gateway) as client:
        client.on_refetch(refetches.append)
        await eventually(lambda: gateway.calls.count(("sessions.subscribe", {})) == 1)
        waiting = asyncio.create_task(client.call("status", timeout=60))
        await eventually(lambda: ("status", {}) in gateway.calls)
        await gateway.drop_clients()
        with pytest.raises(GatewayUnavailableError):
            await waiting
        await eventually(lambda: gateway.calls.count(("sessions.subscribe", {})) == 2)
        assert client.state == "connected"
        assert client.stats.reconnects == 1
        assert refetches == ["connected"]


async def test_a_gateway_that_goes_and_comes_back_is_one_line_each_way(gateway):
    with structlog.testing.capture_logs() as lines:
        async with connected(gateway) as client:
            port = gateway.port
            await gateway.stop()
            await eventually(lambda: client.stats.connect_failures["unreachable"] >= 5)
            assert client.state == "reconnecting"
            with pytest.raises(NotReadyError):
                await client.call("health")
            await gateway.start(port=port)
            await client.wait_connected(PATIENCE_SECONDS)
    told = [(line["event"], line.get("reason")) for line in lines]
    assert told == [
        ("gateway connected", None),
        ("gateway not connected", "lost"),
        ("gateway not connected", "unreachable"),
        ("gateway connected", None),
    ]
    assert TOKEN not in str(lines)


async def test_a_wrong_token_is_tried_again_every_minute_with_the_token_of_then(gateway):
    waits, tokens = [], itertools.chain(["old", "old"], itertools.repeat(TOKEN))

    async def sleep(seconds):
        waits.append(seconds)
        await asyncio.sleep(0)

    with structlog.testing.capture_logs() as lines:
        async with GatewayClient(gateway.url, lambda: next(tokens), sleep=sleep) as client:
            await client.wait_connected(PATIENCE_SECONDS)
            assert waits == [60.0, 60.0]
            assert client.stats.connect_failures["auth"] == 2
            assert client.last_failure == ""
    assert [line["event"] for line in lines] == ["gateway not connected", "gateway connected"]
    assert not [line for line in lines if TOKEN in str(line)]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (Faults(silent_handshake=True), "timeout"),
        (Faults(protocol=9), "protocol"),
        (Faults(refuse={"code": "UNAVAILABLE", "message": "starting", "retryAfterMs": 100}), "starting"),
        (Faults(refuse={"code": "INVALID_REQUEST", "message": "no"}), "refused"),
    ],
)
async def test_a_failed_connect_is_counted_by_its_reason(faults, reason):
    async with (
        ReplayGateway(token=TOKEN, faults=faults) as gateway,
        GatewayClient(gateway.url, TOKEN, connect_timeout=0.3, sleep=quickly) as client,
    ):
        await eventually(lambda: client.stats.connect_failures[reason] >= 2)
        with pytest.raises(GatewayUnavailableError, match=reason):
            await client.wait_connected(0.01)
        assert client.state in {"reconnecting", "authenticating"}


async def test_the_older_protocol_works_too():
    async with ReplayGateway(token=TOKEN, faults=Faults(protocol=3)) as gateway, connected(gateway) as client:
        assert client.hello.protocol == 3


async def test_something_that_is_no_gateway_is_named():
    async def http_only(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(http_only, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, GatewayClient(f"ws://127.0.0.1:{port}", TOKEN, sleep=quickly) as client:
        await eventually(lambda: client.stats.connect_failures["handshake"] >= 1)


async def test_events_reach_every_listener_although_one_fails(gateway):
    seen = []

    def broken(_event):
        raise ValueError("a listener's own mistake")

    async with connected(gateway) as client:
        client.subscribe(broken)
        end = client.subscribe(lambda event: seen.append((event.event, event.seq)))
        await gateway.emit("cron", {"action": "started"})
        await gateway.emit("from.the.future", {"x": 1})
        await eventually(lambda: len(seen) == 2)
        assert client.stats.events == {"cron": 1, "from.the.future": 1}
        assert client.stats.callback_errors == 2
        assert client.stats.last_event_at is not None
        end()
        await gateway.emit("tick", {})
        await eventually(lambda: client.stats.events["tick"] == 1)
        assert len(seen) == 2


@pytest.mark.req("S4-5")
async def test_a_gap_asks_for_a_refetch_and_a_repeated_event_is_not_delivered(gateway):
    seen, refetches = [], []
    async with connected(gateway) as client:
        client.subscribe(lambda event: seen.append(event.seq))
        client.on_refetch(refetches.append)
        await gateway.emit("tick", {})
        await gateway.emit("tick", {}, repeat=True)
        await gateway.emit("tick", {}, skip=3)
        await eventually(lambda: seen == [1, 5])
        assert refetches == ["gap"]
        assert client.stats.gaps == 1
        assert client.stats.frames_dropped["duplicate_event"] == 1


async def test_junk_is_counted_and_a_frame_beyond_all_size_costs_the_connection_only(gateway):
    async with connected(gateway, max_frame_bytes=200_000) as client:
        for junk in (b"\x00\x01", "{", "[]", '{"type":"res","id":"nobody"}'):
            await gateway.emit_raw(junk)
        expected = {"binary": 1, "invalid_json": 1, "invalid_frame": 1, "unknown_reply": 1}
        await eventually(lambda: client.stats.frames_dropped == expected)
        await gateway.emit_raw('"' + "x" * 300_000 + '"')
        await eventually(lambda: client.stats.frames_dropped["too_large"] == 1)
        await eventually(lambda: client.stats.reconnects == 1 and client.state == "connected")


async def test_a_connection_that_fell_silent_is_given_up(gateway):
    async with connected(gateway, silence=0.1, subscribe_sessions=False) as client:
        await eventually(lambda: client.stats.reconnects >= 1)


def test_the_waits_grow_to_ten_seconds_with_jitter():
    assert [round(delay, 3) for delay in itertools.islice(backoff(lambda: 0.5), 8)] == [
        1.0,
        1.5,
        2.25,
        3.375,
        5.062,
        7.594,
        10.0,
        10.0,
    ]
    assert list(itertools.islice(backoff(lambda: 0.0), 2)) == [0.85, 1.275]
    assert max(itertools.islice(backoff(lambda: 1.0), 30)) == 10.0


async def test_a_refused_call_is_not_a_refused_connection(gateway):
    async with connected(gateway) as client:
        with pytest.raises(MissingScopeError):
            await client.call("chat.abort", {"sessionKey": "agent:main:main"})
        assert client.state == "connected"
        assert not issubclass(MissingScopeError, AuthFailedError)
