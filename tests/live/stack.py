"""Our own two processes beside a real gateway, as `make up` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers import NO_PROMETHEUS, PATIENCE_SECONDS, free_port, wait_for


class OurProcess:
    """`python -P -m <module>` with these settings and no others; its output is kept in a file."""

    def __init__(self, module: str, settings: dict[str, str], folder: Path) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LOBS_", "OPENCLAW_"))}
        self.log = folder / f"{module}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                cwd=folder,
                env={**inherited, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def alive(self) -> None:
        """Raises AssertionError with the end of its output when it has ended."""
        if self._process.poll() is not None:
            raise AssertionError(f"it ended with {self._process.returncode}:\n{self.output()[-4000:]}")

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """As a power cut."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit status. Raises subprocess.TimeoutExpired when it hangs."""
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@contextmanager
def our_process(module: str, settings: dict[str, str], folder: Path) -> Iterator[OurProcess]:
    """Runs while the block runs."""
    process = OurProcess(module, settings, folder)
    try:
        yield process
    finally:
        process.stop()


def gateway_settings(gateway: Any, folder: Path, **more: str) -> dict[str, str]:
    """The settings that point both processes at a gateway, on free ports, polling each second."""
    return {
        "LOBS_STATE_DIR": str(gateway.state_dir),
        "LOBS_GATEWAY_URL": gateway.url,
        "LOBS_GATEWAY_TOKEN": gateway.token,
        "LOBS_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        "LOBS_API_LISTEN": f"127.0.0.1:{free_port()}",
        "LOBS_PROMETHEUS_URL": NO_PROMETHEUS,
        "LOBS_DATA_DIR": str(folder / "data"),
        "LOBS_POLL_INTERVAL": "1",
        "LOBS_HOST_INTERVAL": "1",
        "LOBS_ZERO_HOLD": "0",
        **more,
    }


def token(url: str, password: str) -> str:
    """A person's token, as a login at the API gives it."""
    answer = httpx.post(f"{url}/api/auth/login", json={"password": password}, timeout=PATIENCE_SECONDS)
    given: str = answer.raise_for_status().json()["token"]
    return given


def answers(process: OurProcess, url: str) -> Callable[[], bool]:
    """A probe: the URL answers 200."""

    def probe() -> bool:
        process.alive()
        try:
            return httpx.get(url, timeout=PATIENCE_SECONDS).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    return probe


def wait_ready(process: OurProcess, url: str, what: str) -> None:
    """Wait for a process of ours to answer."""
    wait_for(answers(process, url), what)
