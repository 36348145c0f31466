"""The machine: processors, load, memory, swap, file systems, disks, network.

Every reading stands alone: what a machine does not tell (a container without /proc/diskstats, macOS without I/O wait)
is missing from the scrape, and the rest is there.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from lobservatory import logging
from lobservatory.metrics.exposition import Sample
from store.rows import HostSample

log = logging.get(__name__)

_IMAGES = frozenset({"squashfs", "iso9660", "erofs"})  # always full: no use in watching them
_MOST_SENSORS = 64
_COLDEST, _HOTTEST = -60.0, 200.0  # degrees Celsius
_MOST_FILE_SYSTEMS = 60
_READING_ERRORS = (OSError, psutil.Error, AttributeError, LookupError, ValueError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor time since boot in seconds, by mode."""

    modes: dict[str, float]

    @property
    def total(self) -> float:
        """All modes."""
        return sum(self.modes.values())

    @property
    def idle(self) -> float:
        """Time in which nothing ran."""
        return self.modes.get("idle", 0.0) + self.modes.get("iowait", 0.0)


@contextmanager
def procfs(path: str) -> Iterator[None]:
    """Let psutil read another tree than /proc (tests; a host's /proc mounted elsewhere)."""
    before = getattr(psutil, "PROCFS_PATH", "/proc")
    psutil.PROCFS_PATH = path
    try:
        yield
    finally:
        psutil.PROCFS_PATH = before


class HostCollector:
    """Reads the host through psutil, in a thread. `sample()` is the same as a row."""

    name = "host"
    deadline = 5.0

    def __init__(
        self,
        gateway: str,
        *,
        interval: float = 15.0,
        paths: Iterable[Path] = (),
        procfs_path: str = "/proc",
        wall_clock: Callable[[], float] = time.time,
        save: Callable[[HostSample], Awaitable[None]] | None = None,
    ) -> None:
        self.interval = interval
        self._gateway = gateway
        self._paths = tuple(paths)  # their file systems are shown whatever their type
        self._procfs = procfs_path
        self._wall_clock = wall_clock
        self._save = save
        self._samples: list[Sample] = []
        self._failing: set[str] = set()
        self._cpu: Cpu | None = None
        self._cpu_ratio: float | None = None
        self._busy = False

    async def refresh(self) -> None:
        """Read everything anew. Raises OSError when nothing at all could be read."""
        if self._busy:  # an earlier reading hangs (a dead network mount): one waiting thread is enough
            raise OSError("the last reading of the host has not ended")
        self._busy = True

        def read() -> list[Sample]:
            try:
                return self.read()
            finally:
                self._busy = False

        try:
            self._samples = await asyncio.to_thread(read)
        except BaseException:
            self._samples = []
            raise
        if self._save is not None:
            await self._save(self.sample())

    def render(self) -> Iterable[Sample]:
        """The last reading."""
        return self._samples

    def read(self) -> list[Sample]:
        """One reading, at once. Raises OSError when every part of it failed."""
        parts: dict[str, Callable[[], Iterable[Sample]]] = {
            "info": self._info,
            "boot": self._boot,
            "cpu": self._cpu_times,
            "load": self._load,
            "memory": self._memory,
            "swap": self._swap,
            "filesystem": self._file_systems,
            "disk": self._disks,
            "network": self._network,
            "temperatures": self._temperatures,
        }
        samples: list[Sample] = []
        failing: set[str] = set()
        with procfs(self._procfs):
            for name, part in parts.items():
                try:
                    samples += list(part())
                except _READING_ERRORS as error:
                    failing.add(name)
                    if name not in self._failing:
                        log.warning("a part of the host cannot be read", part=name, error=str(error))
        self._failing = failing
        if len(failing) == len(parts):
            raise OSError("nothing of the host can be read")
        return samples

    def sample(self) -> HostSample:
        """The last reading as a row; the gateway's process is filled in by who knows it."""

        def first(metric: str) -> float | None:
            return next((sample.value for sample in self._samples if sample.metric == metric), None)

        def added(metric: str) -> int | None:
            values = [sample.value for sample in self._samples if sample.metric == metric]
            return int(sum(values)) if values else None

        def whole(value: float | None) -> int | None:
            return None if value is None else int(value)

        total, available = first("claw_host_memory_total_bytes"), first("claw_host_memory_available_bytes")
        size, free = added("claw_host_filesystem_size_bytes"), added("claw_host_filesystem_available_bytes")
        return HostSample(
            gateway=self._gateway,
            ts=datetime.fromtimestamp(self._wall_clock(), UTC),
            cpu_ratio=self._cpu_ratio,
            load1=first("claw_host_load1"),
            memory_used_bytes=None if total is None or available is None else int(total - available),
            memory_total_bytes=whole(total),
            swap_used_bytes=whole(first("claw_host_swap_used_bytes")),
            disk_used_bytes=None if size is None or free is None else size - free,
            disk_total_bytes=size,
            network_receive_bytes=added("claw_host_network_receive_bytes_total"),
            network_transmit_bytes=added("claw_host_network_transmit_bytes_total"),
            gateway_resident_bytes=None,
            gateway_cpu_ratio=None,
        )

    # --- the parts ----------------------------------------------------------------------------------------

    def _one(self, metric: str, value: float, *labels: str) -> Sample:
        return Sample(metric, (self._gateway, *labels), value)

    def _info(self) -> Iterator[Sample]:
        system = platform.uname()
        yield self._one("claw_host_info", 1, system.system, system.release, system.machine)
        processors = psutil.cpu_count()
        if processors:
            yield self._one("claw_host_cpus", processors)

    def _boot(self) -> Iterator[Sample]:
        yield self._one("claw_host_boot_timestamp_seconds", psutil.boot_time())

    def _cpu_times(self) -> Iterator[Sample]:
        times = psutil.cpu_times()._asdict()
        # The kernel counts guests' time in user and nice too: taken out, so that the modes add up.
        times["user"] = max(0.0, times["user"] - times.get("guest", 0.0))
        if "nice" in times:
            times["nice"] = max(0.0, times["nice"] - times.get("guest_nice", 0.0))
        cpu = Cpu(times)
        before, self._cpu = self._cpu, cpu
        if before is not None and cpu.total > before.total:
            idle = (cpu.idle - before.idle) / (cpu.total - before.total)
            self._cpu_ratio = min(1.0, max(0.0, 1.0 - idle))
        for mode, seconds in times.items():
            yield self._one("claw_host_cpu_seconds_total", seconds, mode)

    def _load(self) -> Iterator[Sample]:
        # Not os.getloadavg(): it asks the kernel and knows nothing of another procfs.
        path = Path(self._procfs) / "loadavg"
        values = path.read_text().split()[:3] if path.exists() else [str(load) for load in os.getloadavg()]
        for minutes, value in zip((1, 5, 15), values, strict=True):
            yield self._one(f"claw_host_load{minutes}", float(value))

    def _memory(self) -> Iterator[Sample]:
        memory = psutil.virtual_memory()
        yield self._one("claw_host_memory_total_bytes", memory.total)
        yield self._one("claw_host_memory_available_bytes", memory.available)

    def _swap(self) -> Iterator[Sample]:
        swap = psutil.swap_memory()
        yield self._one("claw_host_swap_total_bytes", swap.total)
        yield self._one("claw_host_swap_used_bytes", swap.used)

    def _file_systems(self) -> Iterator[Sample]:
        seen: set[int] = set()
        places = [(part.mountpoint, part.device, part.fstype) for part in psutil.disk_partitions(all=False)]
        places += [(str(mount), str(mount), "") for mount in (Path("/"), *map(_mount_point, self._paths))]
        for mountpoint, device, kind in places:
            if kind in _IMAGES or len(seen) >= _MOST_FILE_SYSTEMS:
                continue
            try:
                number = os.stat(mountpoint).st_dev  # noqa: PTH116 - of a mount point, by its name
                usage = os.statvfs(mountpoint)
            except OSError:
                continue  # not ours to read, or gone meanwhile: this file system only
            if number in seen or not usage.f_blocks:
                continue
            seen.add(number)
            yield self._one("claw_host_filesystem_size_bytes", usage.f_blocks * usage.f_frsize, device, mountpoint)
            yield self._one("claw_host_filesystem_available_bytes", usage.f_bavail * usage.f_frsize, device, mountpoint)

    def _disks(self) -> Iterator[Sample]:
        for device, counters in (psutil.disk_io_counters(perdisk=True, nowrap=False) or {}).items():
            if device.startswith(("loop", "ram", "zram")):
                continue
            yield self._one("claw_host_disk_read_bytes_total", counters.read_bytes, device)
            yield self._one("claw_host_disk_written_bytes_total", counters.write_bytes, device)

    def _network(self) -> Iterator[Sample]:
        # nowrap=False here and above: a counter that falls is a reset to Prometheus, which needs no memory of ours.
        for device, counters in psutil.net_io_counters(pernic=True, nowrap=False).items():
            if device.startswith(("lo", "veth")):
                continue
            yield self._one("claw_host_network_receive_bytes_total", counters.bytes_recv, device)
            yield self._one("claw_host_network_transmit_bytes_total", counters.bytes_sent, device)

    def _temperatures(self) -> Iterator[Sample]:
        # macOS has no such function, and virtual machines have no sensors.
        read = getattr(psutil, "sensors_temperatures", None)
        seen: set[tuple[str, str]] = set()
        for chip, sensors in (read() if read is not None else {}).items():
            for number, sensor in enumerate(sensors):
                name = sensor.label or str(number)
                while (chip, name) in seen:  # two disks have two chips of one name
                    name += "+"
                seen.add((chip, name))
                if len(seen) > _MOST_SENSORS:
                    return
                if _COLDEST < sensor.current < _HOTTEST:  # a sensor that is not wired says -128 or 255
                    yield self._one("claw_host_temperature_celsius", sensor.current, chip, name)


def _mount_point(path: Path) -> Path:
    """The mount point of the nearest part of the path that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path
