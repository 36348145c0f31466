"""The gateway's process: found by its title, told from other gateways by its port or state directory."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from lobservatory.metrics.exposition import Sample

_TITLE = "openclaw-gateway"
_NAMES = ("openclaw", "clawdbot", "moltbot")  # today's name and the former ones
_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess)


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """What is known of the process now."""

    pid: int
    started_at: float  # epoch seconds
    resident_bytes: int | None
    cpu_seconds: float | None


def looks_like_gateway(command: Sequence[str]) -> bool:
    """Whether a command line is a gateway's: its title, or `node …/openclaw… gateway [run …]`."""
    if not command:
        return False
    if command[0].split(" ", 1)[0].rsplit("/", 1)[-1] == _TITLE:
        return True
    words = " ".join(command).split()
    if "gateway" not in words[1:]:
        return False
    place = words.index("gateway", 1)
    verb = next((word for word in words[place + 1 :] if not word.startswith("-")), "run")
    return verb in {"run", "start"} or verb.isdigit() if _is_program(words[:place]) else False


def _is_program(words: Sequence[str]) -> bool:
    return any(
        name in Path(word).as_posix().lower().split("/")[-1] or f"/{name}/" in word for word in words for name in _NAMES
    )


def bears_bare_title(command: Sequence[str]) -> bool:
    """Whether a process calls itself `openclaw` and nothing more: 2026.4's gateway does, and so does every other
    command of that version. Only its listening port tells them apart."""
    return [word.strip() for word in command if word.strip()] == ["openclaw"]


def _listens_on(process: psutil.Process) -> set[int]:
    """Its TCP ports; none where they cannot be seen."""
    try:
        connections = process.net_connections(kind="tcp")
        return {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}
    except (psutil.Error, OSError):
        return set()


def gateways(processes: Callable[[], Iterable[psutil.Process]] = psutil.process_iter) -> list[tuple[int, Path | None]]:
    """Every gateway on this machine: its process id and its state directory (None: another user's, not told). A
    gateway's own children bear its title and are left out. It blocks."""
    found: dict[int, tuple[int, Path | None]] = {}
    for process in processes():
        try:
            command = process.cmdline()
            if looks_like_gateway(command) or (bears_bare_title(command) and _listens_on(process)):
                found[process.pid] = (process.ppid(), _state_dir(process))
        except (psutil.Error, OSError):
            continue  # gone, or not ours to look at
    return [(pid, folder) for pid, (parent, folder) in sorted(found.items()) if parent not in found]


def _state_dir(process: psutil.Process) -> Path | None:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return None
    named, home = environment.get("OPENCLAW_STATE_DIR"), environment.get("OPENCLAW_HOME") or environment.get("HOME")
    if named:
        return Path(named).expanduser()
    return Path(home) / ".openclaw" if home else None


def is_local(url: str) -> bool:
    """Whether the gateway's URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class ProcessCollector:
    """Follows the process of one local gateway. Of a remote one it knows nothing and says nothing."""

    name = "process"
    deadline = 5.0

    def __init__(
        self,
        gateway: str,
        url: str,
        state_dir: Path | None,
        *,
        interval: float = 15.0,
        processes: Callable[[], Iterable[psutil.Process]] = psutil.process_iter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval = interval
        self._gateway = gateway
        self._local = is_local(url)
        self._port = urlsplit(url).port or (443 if url.startswith("wss:") else 80)
        self._state_dir = state_dir
        self._processes = processes
        self._clock = clock
        self._process: psutil.Process | None = None
        self._before: tuple[float, float] | None = None  # clock, CPU seconds
        self._learned = False
        self.present: GatewayProcess | None = None
        self.cpu_ratio: float | None = None

    async def refresh(self) -> None:
        """Find the process, or look again at the one that was found."""
        if self._local:
            try:
                found = await asyncio.to_thread(self.look)
            except BaseException:
                self._learned = False
                raise
            self._measure(found)
            self._learned = True

    def look(self) -> GatewayProcess | None:
        """The process now; None when there is none."""
        for attempt in range(2):
            process = self._process if attempt == 0 else self._find()
            if process is None:
                continue
            try:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                started_at = process.create_time()
                self._process = process
                return GatewayProcess(process.pid, started_at, _resident(process), _cpu(process))
            except _GONE:
                continue
        self._process = None
        return None

    def _find(self) -> psutil.Process | None:
        candidates = []
        for process in self._processes():
            try:
                command = process.cmdline()
                if looks_like_gateway(command):
                    candidates.append(process)
                elif bears_bare_title(command) and self._port in _listens_on(process):
                    return process
            except (psutil.Error, OSError):
                continue  # another user's, or gone
        unknown = []
        for process in candidates:
            ours = self._is_ours(process)
            if ours:
                return process
            if ours is None:
                unknown.append(process)
        # Nothing tells whose it is (another user's process): a single gateway on the machine is ours.
        return unknown[0] if len(unknown) == 1 and len(candidates) == 1 else None

    def _is_ours(self, process: psutil.Process) -> bool | None:
        ports = _listens_on(process)
        if self._port in ports:
            return True
        if ports:
            return False
        try:
            named = process.environ().get("OPENCLAW_STATE_DIR")
        except (psutil.Error, OSError):
            return None
        if named and self._state_dir is not None:
            return Path(named).expanduser().resolve() == self._state_dir.resolve()
        return None

    def _measure(self, found: GatewayProcess | None) -> None:
        before, same = self._before, self.present is not None and found is not None and self.present.pid == found.pid
        self.present = found
        self.cpu_ratio = None
        self._before = None
        if found is not None and found.cpu_seconds is not None:
            now = self._clock()
            if same and before is not None and now > before[0]:
                self.cpu_ratio = max(0.0, (found.cpu_seconds - before[1]) / (now - before[0]))
            self._before = (now, found.cpu_seconds)

    def render(self) -> Iterable[Sample]:
        """The process as it was last seen; only `claw_gateway_process_up` 0 when it was not found."""
        if not self._local or not self._learned:
            return
        labels = (self._gateway,)
        yield Sample("claw_gateway_process_up", labels, 0.0 if self.present is None else 1.0)
        if self.present is None:
            return
        yield Sample("claw_gateway_process_id", labels, self.present.pid)
        yield Sample("claw_gateway_start_timestamp_seconds", labels, self.present.started_at)
        if self.present.resident_bytes is not None:
            yield Sample("claw_gateway_resident_memory_bytes", labels, self.present.resident_bytes)
        if self.present.cpu_seconds is not None:
            yield Sample("claw_gateway_cpu_seconds_total", labels, self.present.cpu_seconds)


def _resident(process: psutil.Process) -> int | None:
    try:
        return int(process.memory_info().rss)
    except psutil.AccessDenied:
        return None


def _cpu(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except psutil.AccessDenied:
        return None
    return float(times.user + times.system)
