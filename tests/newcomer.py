"""The first start as a newcomer has it: start everything, use what is ready, press Ctrl-C, and look what is left.

Only the standard library, and nothing of ours: `.ci/run` calls this in a fresh clone before anything is installed.

    python3 -m tests.newcomer up       # `make up`, beside a recorded state directory
    python3 -m tests.newcomer demo     # `make demo`
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from tests.archives import extract

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDED = REPOSITORY / "tests/fixtures/samples/state-2026.9.6.tar.gz"
# What the recorded state directory holds, from tests/fixtures/samples (an independent count).
CALLS, COST = 32, Decimal("0.2985902")
NANO = Decimal("0.000000001")
READY = "Ctrl-C stops everything."
START_SECONDS = 600.0  # the first `make up` installs the packages
STOP_SECONDS = 90.0
ANSWER_SECONDS = 60.0
LISTENS = ("METRICS", "API", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")
PARTS = ("postgres", "exporter", "api")


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A new directory with OpenClaw's recorded state directory in it, which another user (PostgreSQL's) may enter."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-new-"))
    try:
        folder.chmod(0o755)
        with tarfile.open(RECORDED) as archive:
            extract(archive, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # As root, the database is there where its user cannot enter the data directory.
        for database in Path("/var/lib/lobservatory").glob(f"postgres-*{folder.name}*"):
            shutil.rmtree(database)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A shell that has set nothing of ours, OpenClaw's or Python's, but free ports, this home and an empty file."""
    settings = folder / "no-settings.toml"
    settings.touch()
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LOBS_", "OPENCLAW_", "PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS"))
    }
    ours = {f"LOBS_{name}_LISTEN": "127.0.0.1:0" for name in LISTENS}
    ours |= {"LOBS_DATA_DIR": str(folder / "data"), "LOBS_STATE_DIR": str(folder / ".openclaw")}
    ours["LOBS_CONFIG_FILE"] = str(settings)
    return {**kept, **ours, "LOBS_GATEWAY_URL": "ws://127.0.0.1:1", **more}


def first_start(
    command: Sequence[str], cwd: Path, folder: Path, *, demo: bool = False, parts: Sequence[str] = PARTS, **more: str
) -> str:
    """Run `command`, use what it has started, stop it with Ctrl-C; gives what it printed.

    `folder`: from `home()`. `demo`: it plays recordings back in a data directory below ours. `parts`: what has to run.
    `more`: variables. Raises AssertionError with all that was printed.
    """
    data = folder / "data" / "demo" if demo else folder / "data"
    with _Terminal(command, cwd, environment(folder, **more)) as terminal:
        terminal.wait(READY)
        state = json.loads((data / "run" / "up.json").read_text(encoding="utf-8"))
        states = {row["part"]: row["state"] for row in state["rows"]}
        not_running = {part: states.get(part) for part in parts if states.get(part) != "running"}
        assert not not_running, f"{not_running}\n{terminal.text()}"
        use(data, {name: f"http://{listen}" for name, listen in state["addresses"].items()}, demo=demo)
        terminal.interrupt()
        text = terminal.end()
    assert "Everything is stopped" in text, text
    assert "Traceback" not in text, text
    left = processes(folder)
    assert not left, f"still running: {left}"
    run = data / "run"
    assert not run.exists() or not list(run.iterdir()), f"left in {run}: {list(run.iterdir())}"
    for name, listen in state["addresses"].items():
        host, _, port = listen.rpartition(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))), f"{name} still listens on {listen}"
    return text


def use(data: Path, urls: dict[str, str], *, demo: bool) -> None:
    """The metrics, readiness, the start page, and one query through the API with the generated password."""
    metrics = _until("the first scan", lambda: _after_the_scan(get(f"{urls['exporter']}/metrics")))
    calls, cost = _total(metrics, "claw_model_calls_total"), _total(metrics, "claw_cost_usd_total")
    # A sample is a float: rounded to a billionth of a dollar it is exact.
    seen = [cost.quantize(NANO)]
    assert json.loads(get(f"{urls['api']}/readyz"))["ok"] is True
    assert "<title>Lobservatory" in get(f"{urls['api']}/")
    password = (data / "secrets" / "api_password").read_text(encoding="utf-8").strip()
    token = json.loads(get(f"{urls['api']}/api/auth/login", body={"password": password}))["token"]
    costs = json.loads(get(f"{urls['api']}/api/monitoring/costs?range=all", token=token))
    seen.append(Decimal(str(costs["total"])).quantize(NANO))
    if demo:  # more than one recording
        assert calls > CALLS, calls
        assert min(seen) > COST, seen
    else:
        assert calls == CALLS, calls
        assert seen == [COST, COST], seen


def _after_the_scan(metrics: str) -> str:
    """The metrics, or nothing while the families of accounting are not there yet."""
    return metrics if "\nclaw_cost_usd_total{" in metrics else ""


def _total(metrics: str, name: str) -> Decimal:
    """The sum of a family's samples."""
    values = re.findall(rf"^{name}{{[^\n]*}} ([^ \n]+)", metrics, re.MULTILINE)
    return sum((Decimal(value) for value in values), Decimal(0))


def get(url: str, *, body: Any = None, token: str = "") -> str:
    """The text of a successful answer; a POST of JSON when there is a body."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the shell names
    with opener.open(urllib.request.Request(url, data, headers), timeout=ANSWER_SECONDS) as answer:
        text: str = answer.read().decode()
    return text


def processes(folder: Path) -> list[str]:
    """The command lines of all processes that were started for this home."""
    listed = subprocess.run(["ps", "-axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


def _until(what: str, condition: Callable[[], str]) -> str:
    """The first true answer: another process's state can be asked for and not awaited."""
    end = time.monotonic() + ANSWER_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < end, f"{what}: not within {ANSWER_SECONDS:g} s"
        time.sleep(0.1)
    return answer


class _Terminal:
    """A command in a process group of its own, whose output is read as it comes; what is left of it is killed."""

    def __init__(self, command: Sequence[str], cwd: Path, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._process.stdout or contextlib.nullcontext(()) as output:
            for line in output:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def text(self) -> str:
        return "".join(self._lines)

    def wait(self, words: str) -> None:
        """Until these words have been printed."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._ended or words in self.text(), START_SECONDS)
        assert came, f"not ready within {START_SECONDS:g} s:\n{self.text()}"
        assert words in self.text(), f"it ended by itself:\n{self.text()}"

    def interrupt(self) -> None:
        """As a terminal does at Ctrl-C: the signal goes to every process in the foreground."""
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self) -> str:
        """Wait for the end; all that was printed."""
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not stopped within {STOP_SECONDS:g} s:\n{self.text()}") from None
        self._reader.join(STOP_SECONDS)
        return self.text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join(STOP_SECONDS)


def main(arguments: Sequence[str]) -> None:
    """Do what `make up` or `make demo` says to a newcomer; a failure is a traceback with all that was printed."""
    for target in arguments:
        with home() as folder:
            sys.stdout.write(first_start(["make", target], REPOSITORY, folder, demo=target == "demo"))


if __name__ == "__main__":
    main(sys.argv[1:])
