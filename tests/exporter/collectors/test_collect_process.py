"""The gateway's process is found by its title and told from others."""

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from exporter.collectors.process import ProcessCollector, bears_bare_title, gateways, is_local, looks_like_gateway


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["openclaw-gateway"], True),
        (["openclaw-gateway", "", ""], True),
        (["openclaw-gateway    "], True),
        (["/usr/bin/node", "/usr/lib/node_modules/openclaw/openclaw.mjs", "gateway", "run", "--port", "18789"], True),
        (["node", "/home/a/.npm/bin/openclaw", "gateway"], True),
        (["openclaw", "gateway", "--port", "1"], True),
        (["clawdbot", "gateway", "start"], True),
        (["openclaw", "gateway", "status"], False),
        (["openclaw", "gateway", "stop"], False),
        (["openclaw", "tui"], False),
        (["grep", "openclaw-gateway"], False),
        (["vim", "gateway"], False),
        (["python", "-m", "http.server"], False),
        ([], False),
    ],
)
def test_a_gateway_is_known_by_its_command_line(command, expected):
    assert looks_like_gateway(command) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [("ws://127.0.0.1:1", True), ("ws://localhost:1", True), ("ws://[::1]:1", True), ("wss://claw.example:1", False)],
)
def test_only_a_local_gateway_has_a_process_here(url, expected):
    assert is_local(url) is expected


SLEEPER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextlib.asynccontextmanager
async def gateway(environment=None, *, listen=True):
    """A real process with the gateway's title that listens on a port."""
    code = SLEEPER if listen else "import sys; print(0, flush=True); sys.stdin.read()"
    process = await asyncio.create_subprocess_exec(
        "openclaw-gateway",
        "-c",
        code,
        executable=sys.executable,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    port = int(await process.stdout.readline())
    try:
        yield process, port
    finally:
        process.stdin.close()
        await process.wait()


def collector(port, state_dir=None, only=()):
    """Looks at these processes only: others on the machine may be gateways too."""
    return ProcessCollector(
        "g", f"ws://127.0.0.1:{port}", state_dir, processes=lambda: [psutil.Process(process.pid) for process in only]
    )


def shown(found):
    return {sample.metric: sample.value for sample in found.render()}


@pytest.mark.req("S1-6")
async def test_of_two_gateways_the_one_on_our_port_is_ours():
    async with gateway() as (first, first_port), gateway() as (second, second_port):
        for process, port in ((first, first_port), (second, second_port)):
            found = collector(port, only=[first, second])
            await found.refresh()
            assert found.present.pid == process.pid
            values = shown(found)
            assert values["claw_gateway_process_up"] == 1
            assert values["claw_gateway_process_id"] == process.pid
            assert values["claw_gateway_resident_memory_bytes"] > 1_000_000
            assert values["claw_gateway_cpu_seconds_total"] > 0
            assert values["claw_gateway_start_timestamp_seconds"] == psutil.Process(process.pid).create_time()


async def test_before_it_listens_its_state_directory_tells(tmp_path):
    other = {"OPENCLAW_STATE_DIR": str(tmp_path / "other")}
    ours = {"OPENCLAW_STATE_DIR": str(tmp_path)}
    async with gateway(other, listen=False) as (first, _), gateway(ours, listen=False) as (second, _):
        found = collector(1, tmp_path, only=[first, second])
        await found.refresh()
        assert found.present.pid == second.pid


async def test_a_gateway_of_somebody_else_is_not_ours():
    async with gateway() as (process, port):
        found = collector(port + 1, only=[process])
        await found.refresh()
        assert shown(found) == {"claw_gateway_process_up": 0}


async def test_a_process_that_ends_is_down_and_its_successor_is_found():
    async with gateway(listen=False) as (first, _):
        found = collector(1, only=[first])
        await found.refresh()
        assert found.present.pid == first.pid
    found._processes = list
    await found.refresh()
    assert shown(found) == {"claw_gateway_process_up": 0}
    async with gateway(listen=False) as (second, _):
        found._processes = lambda: [psutil.Process(second.pid)]
        await found.refresh()
        assert found.present.pid == second.pid


async def test_of_a_remote_gateway_nothing_is_said():
    found = ProcessCollector("g", "wss://claw.example:443", None, processes=lambda: pytest.fail("looked"))
    await found.refresh()
    assert shown(found) == {}


def test_nothing_is_said_before_the_first_look():
    assert shown(collector(socket.SO_DEBUG)) == {}


def test_every_gateway_of_the_machine_without_its_children():
    def one(pid, parent, command, environment):
        def environ():
            if environment is None:
                raise psutil.AccessDenied(pid)
            return environment

        return SimpleNamespace(pid=pid, ppid=lambda: parent, cmdline=lambda: command, environ=environ)

    processes = [
        one(10, 1, ["openclaw-gateway"], {"OPENCLAW_STATE_DIR": "/srv/a"}),
        one(11, 10, ["openclaw-gateway"], {"OPENCLAW_STATE_DIR": "/srv/a"}),
        one(20, 1, ["node", "/usr/lib/openclaw/openclaw.mjs", "gateway", "run"], {"HOME": "/home/b"}),
        one(30, 1, ["openclaw-gateway"], None),
        one(40, 1, ["vim", "openclaw-gateway.md"], {}),
    ]
    assert gateways(lambda: processes) == [(10, Path("/srv/a")), (20, Path("/home/b/.openclaw")), (30, None)]


def older(pid, port):
    """A process of 2026.4, whose gateway and whose commands all call themselves `openclaw`."""
    listening = [SimpleNamespace(laddr=SimpleNamespace(port=port), status=psutil.CONN_LISTEN)] if port else []
    return SimpleNamespace(
        pid=pid,
        ppid=lambda: 0,
        cmdline=lambda: ["openclaw", "", ""],
        environ=lambda: {"OPENCLAW_STATE_DIR": "/srv/a"},
        net_connections=lambda kind: listening,
        is_running=lambda: True,
        status=lambda: psutil.STATUS_SLEEPING,
        create_time=lambda: 1000.0,
        memory_info=lambda: SimpleNamespace(rss=5),
        cpu_times=lambda: SimpleNamespace(user=1.0, system=1.0),
    )


@pytest.mark.req("S1-6")
@pytest.mark.parametrize(("ports", "found"), [((None, 18789), 2), ((18789, None), 1), ((None, 4), None)])
def test_the_older_gateway_is_known_by_its_port_alone(ports, found):
    """Of the same state directory is a command that runs beside it."""
    processes = [older(number, port) for number, port in enumerate(ports, start=1)]
    collector = ProcessCollector("g", "ws://127.0.0.1:18789", Path("/srv/a"), processes=lambda: processes)
    looked = collector.look()
    assert (looked.pid if looked else None) == found
    listening = [number for number, port in enumerate(ports, start=1) if port]
    assert gateways(lambda: processes) == [(number, Path("/srv/a")) for number in listening]


def test_a_bare_title():
    assert bears_bare_title(["openclaw", "", " "])
    assert not bears_bare_title(["openclaw", "status"])
    assert not bears_bare_title([])
