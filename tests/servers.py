"""Real Prometheus and Alertmanager processes for tests: a free port each, data in a temporary directory, a clean stop.

    with prometheus(tmp_path, config_file) as server:
        server.query("up")

The fixtures `prometheus_server` and `alertmanager_server` are factories with the same arguments that stop at the end
of the test session what they started.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.tools import debian_tool

T = TypeVar("T")

# Every deadline of a test that waits for something to come about. It is for what hangs, so it may be long: on a busy
# machine a second's work takes minutes, and how long is for benchmarks to say.
PATIENCE_SECONDS = 600.0
POLL_SECONDS = 0.1
# The API asks Prometheus what fired; one that this machine may have knows other things.
NO_PROMETHEUS = "http://127.0.0.1:9"
ATTEMPTS = 3  # another process may take a free port before our server does


class ServerError(Exception):
    """A server did not start or stop, or refused a request; the text ends with what it said last."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def quiet_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, with the next ones, and that the system gives to nobody by itself: it
    stays free until it is used."""
    while True:
        port = secrets.randbelow(20_000) + 10_000  # below what systems give out: 32,768 and more, or 49,152
        try:
            for one in range(port, port + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
        except OSError:
            continue
        return port


def wait_for(probe: Callable[[], T], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """The first true answer of `probe`, for states that can be asked for but not awaited. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s; last answer: {answer!r}")
        time.sleep(POLL_SECONDS)
    return answer


def get(url: str, *, timeout: float = PATIENCE_SECONDS) -> Any:
    """The JSON that a GET answers with, or its text when it is none. Raises ServerError for any status but 200."""
    return _ask(urllib.request.Request(url), timeout)


def post(url: str, body: Any = None, *, timeout: float = PATIENCE_SECONDS) -> Any:
    """As `get`, with a POST of JSON."""
    data = b"" if body is None else json.dumps(body).encode()
    return _ask(urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST"), timeout)


def _ask(request: urllib.request.Request, timeout: float) -> Any:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            text = response.read().decode()
    except urllib.error.HTTPError as error:
        raise ServerError(f"{request.full_url}: {error.code} {error.read().decode(errors='replace')[:2000]}") from None
    except OSError as error:
        raise ServerError(f"{request.full_url}: {error}") from error
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True, slots=True)
class Server:
    """A running process with an HTTP address."""

    url: str  # http://127.0.0.1:port
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """Its log so far, the end of it."""
        return self.log.read_text(errors="replace")[-4000:]

    def reload(self) -> None:
        """Read the configuration again."""
        post(f"{self.url}/-/reload")


class Prometheus(Server):
    """Prometheus and what tests ask it."""

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The vector of an instant query: `[{"metric": {...}, "value": [time, "1"]}]`."""
        parameters = {"query": expression} | ({} if at is None else {"time": str(at)})
        result: list[dict[str, Any]] = self.api("query", **parameters)["result"]
        return result

    def targets(self) -> list[dict[str, Any]]:
        """The active targets."""
        active: list[dict[str, Any]] = self.api("targets", state="active")["activeTargets"]
        return active

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing alerts."""
        alerts: list[dict[str, Any]] = self.api("alerts")["alerts"]
        return alerts

    def api(self, path: str, **parameters: str) -> Any:
        """The `data` of `/api/v1/path`."""
        return get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")["data"]


class Alertmanager(Server):
    """Alertmanager and what tests ask it."""

    def alerts(self) -> list[dict[str, Any]]:
        """What it knows of, with its state (active, suppressed)."""
        alerts: list[dict[str, Any]] = get(f"{self.url}/api/v2/alerts")
        return alerts

    def send(self, alerts: Sequence[dict[str, Any]]) -> None:
        """Hand it alerts as Prometheus would."""
        post(f"{self.url}/api/v2/alerts", list(alerts))


@contextmanager
def prometheus(directory: Path, config: Path, *arguments: str, port: int | None = None) -> Iterator[Prometheus]:
    """Run Prometheus on the configuration file; its data and log are kept in `directory`."""

    def command(chosen: int) -> list[str]:
        return [
            str(debian_tool("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{chosen}",
            "--web.enable-lifecycle",
            *arguments,
        ]

    with _running(command, directory, "prometheus", port) as (chosen, process, log):
        yield Prometheus(f"http://127.0.0.1:{chosen}", chosen, process, log)


@contextmanager
def alertmanager(directory: Path, config: Path, *arguments: str, port: int | None = None) -> Iterator[Alertmanager]:
    """Run Alertmanager on the configuration file; its data and log are kept in `directory`.

    Its working directory is the configuration's: Alertmanager resolves `api_url_file` against that.
    """

    def command(chosen: int) -> list[str]:
        return [
            str(debian_tool("alertmanager")),
            f"--config.file={config}",
            f"--storage.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{chosen}",
            "--cluster.listen-address=",
            *arguments,
        ]

    with _running(command, directory, "alertmanager", port, config.parent) as (chosen, process, log):
        yield Alertmanager(f"http://127.0.0.1:{chosen}", chosen, process, log)


@contextmanager
def _running(
    command: Callable[[int], list[str]],
    directory: Path,
    name: str,
    port: int | None,
    working_directory: Path | None = None,
) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{name}.log"
    for attempt in range(ATTEMPTS):
        chosen = free_port() if port is None else port
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(chosen),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=working_directory or directory,
            )
        try:
            if _ready(process, f"http://127.0.0.1:{chosen}/-/ready"):
                yield chosen, process, log
                return
        finally:
            _stop(process, name)
        said = log.read_text(errors="replace")[-4000:]
        if port is not None or "address already in use" not in said or attempt == ATTEMPTS - 1:
            raise ServerError(f"{name} did not start:\n{said}")


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    def probe() -> str | None:
        if process.poll() is not None:
            return "ended"
        try:
            get(url, timeout=2.0)
        except ServerError:
            return None
        return "ready"

    try:
        return wait_for(probe, url) == "ready"
    except TimeoutError:
        return False


def _stop(process: subprocess.Popen[bytes], name: str) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServerError(f"{name} did not stop within {PATIENCE_SECONDS:g} s of SIGTERM") from None


PrometheusFactory = Callable[..., Prometheus]
AlertmanagerFactory = Callable[..., Alertmanager]


@pytest.fixture(scope="session")
def prometheus_server() -> Iterator[PrometheusFactory]:
    """Starts Prometheus: `prometheus_server(directory, config_file, *arguments)`."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(prometheus(*args, **options))


@pytest.fixture(scope="session")
def alertmanager_server() -> Iterator[AlertmanagerFactory]:
    """Starts Alertmanager: `alertmanager_server(directory, config_file, *arguments)`."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(alertmanager(*args, **options))
