"""Installs, starts, drives and stops a real OpenClaw gateway with a fake model behind it.

The gateway comes from npm (about 650 MB, kept in `~/.cache/lobservatory-tests`), runs on a throw-away home, listens on
loopback only, and its tokens are fixed and worthless.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import websockets

from tests.servers import PATIENCE_SECONDS, free_port, wait_for

NODE_VERSION = "26.10.0"
DEFAULT_VERSION = "2026.9.6"  # session stores in SQLite, protocol 4
JSONL_VERSION = "2026.4.27"  # session stores in JSONL, protocol 3
TOKEN = "LIVE-TOKEN-not-a-secret-0123456789abcdef"
HOOK_TOKEN = "LIVE-HOOK-TOKEN-not-a-secret-0123456789abcdef"
ALL_SCOPES = ("operator.read", "operator.write", "operator.admin", "operator.approvals", "operator.pairing")
STOP_SECONDS = 20
# OpenClaw runs in an emptied environment, except for where packages come from: 2026.4 installs plugin dependencies.
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")


class GatewayNotInstalledError(Exception):
    """The gateway cannot be installed here; the text says why."""


class GatewayNotStartedError(Exception):
    """The gateway did not become ready; the text has the end of its output."""


@dataclass(frozen=True)
class Installation:
    node: Path
    openclaw: Path
    version: str


def cache_dir():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lobservatory-tests"


def install(version=DEFAULT_VERSION):
    """Node.js and OpenClaw in the given version; kept for the next time. Raises GatewayNotInstalledError."""
    npm = shutil.which("npm")
    if npm is None:
        raise GatewayNotInstalledError("npm is missing: install Node.js with npm")
    root = cache_dir()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two installs at once would tear each other's node_modules
        node_dir = _npm_install(root / f"node-{NODE_VERSION}", f"node@{NODE_VERSION}", npm, None)
        node = node_dir / "node_modules" / "node" / "bin" / "node"
        # Its install scripts must see the node that it will run on.
        app = _npm_install(root / f"openclaw-{version}", f"openclaw@{version}", npm, node.parent)
    return Installation(node=node, openclaw=app / "node_modules" / ".bin" / "openclaw", version=version)


def _npm_install(directory, package, npm, first_on_path):
    complete = directory / ".complete"  # written last: an install that was cut short is repeated
    if complete.exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "package.json").write_text('{"name":"live","private":true}\n')
    path = f"{first_on_path}:{os.environ['PATH']}" if first_on_path else os.environ["PATH"]
    command = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", package]
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise GatewayNotInstalledError(f"npm install {package} failed: {done.stderr.strip()[-500:]}")
    complete.touch()
    return directory


def configuration(state_dir, port, model_port, version, log_file):
    """openclaw.json. Money is US$ per million tokens. Provider `flaky` is apart because some errors disable a provider
    for about a minute; agent `guarded` has to ask before every command."""

    def model(identifier, prices, window):
        names = ("input", "output", "cacheRead", "cacheWrite")
        cost = dict(zip(names, prices, strict=True))
        return {
            "id": identifier,
            "name": identifier,
            "reasoning": False,
            "input": ["text"],
            "cost": cost,
            "contextWindow": window,
            "maxTokens": 4096,
        }

    provider = {"baseUrl": f"http://127.0.0.1:{model_port}/v1", "apiKey": "fake-key", "api": "openai-completions"}
    providers = {
        "fake": {
            **provider,
            "models": [
                model("fake-1", (3, 15, 0.3, 3.75), 200000),
                model("fake-mini", (0.25, 1.25, 0.025, 0.3), 128000),
            ],
        },
        "flaky": {**provider, "models": [model("flaky-1", (1, 2, 0.1, 1.25), 64000)]},
    }
    defaults = {
        "model": {"primary": "fake/fake-1"},
        "skipBootstrap": True,
        "compaction": {"mode": "default", "keepRecentTokens": 100},
        "workspace": f"{state_dir}/workspace",
    }
    guarded = {
        "name": "guarded",
        "workspace": f"{state_dir}/workspace-guarded",
        "tools": {"exec": {"host": "gateway", "security": "full", "ask": "always"}},
    }
    sqlite_era = tuple(int(part) for part in version.split(".")[:2]) >= (2026, 8)
    if sqlite_era:
        defaults.update(systemAgent={"agentId": "main"}, heartbeat={"agentId": "main"})
        agents = {"defaults": defaults, "ownership": "explicit", "entries": {"main": {}, "guarded": guarded}}
    else:
        agents = {"defaults": defaults, "list": [{"id": "main", "default": True}, {"id": "guarded", **guarded}]}
    result = {
        "gateway": {"mode": "local", "port": port, "bind": "loopback", "auth": {"mode": "token", "token": TOKEN}},
        "agents": agents,
        "models": {"mode": "replace", "providers": providers},
        "hooks": {"enabled": True, "token": HOOK_TOKEN, "path": "/hooks"},
        "logging": {"file": str(log_file)},
        "cron": {"enabled": True},
    }
    if not sqlite_era:
        result["diagnostics"] = {"enabled": True}
        # No memory plugin: its missing dependency made every turn of 2026.4.27 take half a minute.
        result["plugins"] = {
            "allow": ["diagnostics-prometheus"],
            "slots": {"memory": "none"},
            "entries": {"diagnostics-prometheus": {"enabled": True}},
        }
    return result


@dataclass
class LiveGateway:
    """A gateway and its model on a throw-away home. `start`, `kill` and `stop` may follow each other at will."""

    home: Path
    version: str = DEFAULT_VERSION
    port: int = field(default_factory=free_port)
    model_port: int = field(default_factory=free_port)
    _model: subprocess.Popen | None = None
    _gateway: subprocess.Popen | None = None

    @property
    def state_dir(self):
        return self.home / ".openclaw"

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self):
        return TOKEN

    @property
    def pid(self):
        return self._gateway.pid if self._gateway else None

    def model_requests(self):
        """Every request that the model answered: the independent count."""
        return [json.loads(line) for line in (self.home / "model.jsonl").read_text().splitlines()]

    def start(self):
        """Returns when the gateway says that it is ready. Raises GatewayNotInstalledError, GatewayNotStartedError."""
        installation = install(self.version)
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self.state_dir / "openclaw.json"
        if not config.exists():
            config.write_text(
                json.dumps(
                    configuration(self.state_dir, self.port, self.model_port, self.version, self.home / "gateway.log")
                )
            )
            config.chmod(0o600)
        if self._model is None:
            with (self.home / "model.out").open("ab") as output:
                argv = [
                    sys.executable,
                    str(Path(__file__).with_name("fake_model.py")),
                    str(self.model_port),
                    str(self.home / "model.jsonl"),
                ]
                self._model = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        environment = self._environment(installation)
        with (self.home / "gateway.out").open("ab") as output:
            argv = [
                str(installation.node),
                str(installation.openclaw),
                "gateway",
                "run",
                "--port",
                str(self.port),
                "--bind",
                "loopback",
            ]
            self._gateway = subprocess.Popen(
                argv,
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._await_ready()
        return self

    def command(self, *arguments, seconds=PATIENCE_SECONDS):
        """`openclaw …` as its owner would type it; the finished process with its output. Starting takes seconds."""
        installation = install(self.version)
        return subprocess.run(
            [str(installation.node), str(installation.openclaw), *arguments],
            cwd=self.home,
            env=self._environment(installation),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def _environment(self, installation):
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ON or name.lower().startswith("npm_config_")
        }
        environment |= {
            "PATH": f"{installation.node.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home), "LANG": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1",
            "OPENCLAW_HOME": str(self.home), "OPENCLAW_STATE_DIR": str(self.state_dir),
            "OPENCLAW_CONFIG_PATH": str(self.state_dir / "openclaw.json"),
            # One process with a stable pid, also over a restart.
            "OPENCLAW_NO_RESPAWN": "1",
        }  # fmt: skip
        environment.setdefault(
            "NPM_CONFIG_USERCONFIG", os.environ.get("NPM_CONFIG_USERCONFIG", str(Path.home() / ".npmrc"))
        )
        return environment

    def _await_ready(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._ready():
            if self._gateway.poll() is not None or time.monotonic() > deadline:
                tail = (self.home / "gateway.out").read_text(errors="replace")[-2000:]
                self.kill()
                raise GatewayNotStartedError(f"the gateway {self.version} did not become ready:\n{tail}")
            time.sleep(0.25)  # the gateway has no event for this: its port opens before it is ready

    def _ready(self):
        # Unknown paths are 200 HTML, so the answer itself has to say it.
        with (
            contextlib.suppress(OSError, ValueError),
            urllib.request.urlopen(f"{self.http}/readyz", timeout=10) as answer,
        ):
            return json.load(answer).get("ready") is True
        return False

    def kill(self):
        """The gateway dies without a word, as with a power cut."""
        self._end(signal.SIGKILL, PATIENCE_SECONDS)

    def stop(self):
        """The gateway stops as `systemctl stop` would stop it; killed when a run holds it for longer than 20 s."""
        try:
            self._end(signal.SIGTERM, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _end(self, with_signal, seconds):
        if self._gateway is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._gateway.pid, with_signal)
        self._gateway.wait(seconds)
        self._gateway = None

    def close(self):
        """End gateway and model. At once: nobody looks at them any more."""
        self.kill()
        if self._model:
            self._model.kill()
            self._model.wait(PATIENCE_SECONDS)
            self._model = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        self.close()

    def driver(self, **options):
        """A connection that may do everything, to drive the gateway."""
        return Driver(self.url, self.token, **options)

    def post(self, path, body, token=HOOK_TOKEN):
        """(status, text) of a POST to the gateway's hooks."""
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        request = urllib.request.Request(self.http + path, json.dumps(body).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def hook(self, **body):
        """Start a run from outside. A busy gateway that has not started it within 15 s answers 503 and forgets it;
        whoever sent it then sends it again."""

        def started():
            status, text = self.post("/hooks/agent", body)
            assert status in {200, 503}, text
            return status == 200

        wait_for(started, "a run from outside")


class Driver:
    """The smallest client that works with protocols 3 and 4; independent of the product's own on purpose."""

    def __init__(self, url, token, scopes=ALL_SCOPES, caps=("tool-events", "exec-approvals")):
        self.url, self.token, self.scopes, self.caps = url, token, scopes, caps
        self.events = []
        self._waiting = {}
        self._arrived = asyncio.Condition()

    async def __aenter__(self):
        # Keep-alive off: a gateway that blocks its event loop for 20 s is slow, not gone.
        self._socket = await websockets.connect(
            self.url, max_size=64 << 20, ping_interval=None, open_timeout=PATIENCE_SECONDS
        )
        await self._receive()
        client = {"id": "gateway-client", "version": "0", "platform": "linux", "mode": "backend"}
        parameters = {
            "minProtocol": 3, "maxProtocol": 4, "client": client, "role": "operator", "scopes": list(self.scopes),
            "caps": list(self.caps), "userAgent": "lobservatory-tests", "auth": {"token": self.token},
        }  # fmt: skip
        await self._socket.send(json.dumps({"type": "req", "id": "connect", "method": "connect", "params": parameters}))
        response = await self._receive()
        assert response.get("ok"), response
        self._reader = asyncio.create_task(self._read())
        await self.call("sessions.subscribe")
        return self

    async def __aexit__(self, *error):
        await self._socket.close()
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError, websockets.ConnectionClosed):
            await self._reader

    async def _receive(self):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return json.loads(await self._socket.recv())

    async def _read(self):
        try:
            async for raw in self._socket:
                frame = json.loads(raw)
                if frame.get("type") == "event":
                    async with self._arrived:
                        self.events.append(frame)
                        self._arrived.notify_all()
                elif frame.get("type") == "res":
                    future, final = self._waiting.get(frame["id"], (None, False))
                    payload = frame.get("payload")
                    accepted = isinstance(payload, dict) and payload.get("status") == "accepted"
                    if future and not future.done() and not (final and accepted):
                        future.set_result(frame)
        finally:
            for future, _ in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError("the gateway closed the connection"))

    async def call(self, method, parameters=None, *, seconds=PATIENCE_SECONDS, final=False):
        """The response frame. `agent` responds twice on one id: final=True waits for the second."""
        request_id = str(uuid.uuid4())
        future = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = (future, final)
        try:
            await self._socket.send(
                json.dumps({"type": "req", "id": request_id, "method": method, "params": parameters or {}})
            )
            async with asyncio.timeout(seconds):
                return await future
        finally:
            del self._waiting[request_id]

    async def event(self, name, matches: Callable = lambda payload: True, *, since=0, seconds=PATIENCE_SECONDS):
        """The payload of the first such event at or after position `since`."""

        def found():
            for frame in self.events[since:]:
                if frame["event"] == name and matches(frame.get("payload") or {}):
                    return frame
            return None

        async with self._arrived:
            async with asyncio.timeout(seconds):
                frame = await self._arrived.wait_for(found)
        return frame["payload"]

    async def turn(self, message, key="agent:main:main", *, seconds=PATIENCE_SECONDS):
        """One finished turn of an agent; its final response frame."""
        parameters = {"message": message, "sessionKey": key, "idempotencyKey": str(uuid.uuid4())}
        return await self.call("agent", parameters, seconds=seconds, final=True)

    async def send(self, message, key="agent:main:main"):
        """Start a turn without waiting for it; unlike `turn`, it may ask for approvals."""
        parameters = {"sessionKey": key, "message": message, "idempotencyKey": str(uuid.uuid4())}
        return await self.call("chat.send", parameters)

    async def cron(self, name, message, *, schedule=None, run=True, **payload):
        """Add a job, run it now and wait for its end; its id."""
        job = {
            "name": name, "schedule": schedule or {"kind": "cron", "expr": "0 3 * * *", "tz": "UTC"},
            "sessionTarget": "isolated", "wakeMode": "now",
            "payload": {"kind": "agentTurn", "message": message, **payload}, "delivery": {"mode": "none"},
        }  # fmt: skip
        added = await self.call("cron.add", job)
        assert added.get("ok"), added
        identifier = added["payload"]["id"]
        if run:
            mark = len(self.events)
            await self.call("cron.run", {"id": identifier, "mode": "force"})
            await self.event(
                "cron", lambda p: p.get("action") == "finished" and p.get("jobId") == identifier, since=mark
            )
        return identifier
