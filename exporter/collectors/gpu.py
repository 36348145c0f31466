"""NVIDIA GPUs through NVML, the driver's own library; through `nvidia-smi` where there is no such library.

A driver that hangs makes both hang, and nothing can end a call into it. So NVML is called in a thread of its own that
nobody waits for longer than 2 seconds and that does not keep the process from ending; while one hangs, no other is
started.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from exporter.collectors.programs import Program, ProgramMissingError
from lobservatory import logging
from lobservatory.errors import LobservatoryError
from lobservatory.metrics.exposition import Sample

log = logging.get(__name__)

LIMIT = 2.0
MOST = 32  # devices
LIBRARY = "libnvidia-ml.so.1"
_MIB = 1 << 20
# Field of nvidia-smi → metric and factor to its base unit.
_FIELDS = {
    "utilization.gpu": ("claw_host_gpu_utilization_ratio", 0.01),
    "memory.used": ("claw_host_gpu_memory_used_bytes", _MIB),
    "memory.total": ("claw_host_gpu_memory_total_bytes", _MIB),
    "temperature.gpu": ("claw_host_gpu_temperature_celsius", 1),
    "power.draw": ("claw_host_gpu_power_watts", 1),
}
ARGUMENTS = (f"--query-gpu=index,{','.join(_FIELDS)},name", "--format=csv,noheader,nounits")


class GpuError(LobservatoryError):
    """The driver is of no use now. One line: why."""


class NoLibraryError(GpuError):
    """There is no NVML here."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device; values by metric, in base units. What it does not tell is missing."""

    index: str
    name: str
    values: dict[str, float]


def parse(output: str) -> Iterator[Gpu]:
    """One line of `nvidia-smi` for each device; a field that a device does not have (`[N/A]`) has no value. The name
    comes last, and may hold a comma."""
    for line in output.splitlines()[:MOST]:
        parts = [part.strip() for part in line.split(",", len(_FIELDS) + 1)]
        if len(parts) != len(_FIELDS) + 2 or not parts[0].isdecimal():
            continue
        device, *values, name = parts
        found: dict[str, float] = {}
        for (metric, factor), value in zip(_FIELDS.values(), values, strict=True):
            try:
                number = float(value)
            except ValueError:
                continue
            if math.isfinite(number) and number >= 0:
                found[metric] = number * factor
        yield Gpu(device, name[:64], found)


def binding() -> Any:
    """The module `pynvml`, imported only where the driver's library is. Raises NoLibraryError."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NoLibraryError(f"{LIBRARY} is not there") from error
    import pynvml  # noqa: PLC0415 - of use only to hosts with a GPU

    return pynvml


class Nvml:
    """Reads all devices. It blocks; one thread at a time may use it."""

    def __init__(self, load: Callable[[], Any] = binding) -> None:
        self._load = load
        self._nvml: Any = None

    def read(self) -> list[Gpu]:
        """The devices now. Raises NoLibraryError, GpuError."""
        nvml = self._load() if self._nvml is None else self._nvml
        try:
            if self._nvml is None:
                nvml.nvmlInit()
                self._nvml = nvml
            return [self._device(nvml, index) for index in range(min(nvml.nvmlDeviceGetCount(), MOST))]
        except nvml.NVMLError as error:
            if self._nvml is not None:  # a driver that was reloaded must be met anew
                with contextlib.suppress(nvml.NVMLError):
                    nvml.nvmlShutdown()
                self._nvml = None
            raise GpuError(f"NVML: {error}") from error

    def _device(self, nvml: Any, index: int) -> Gpu:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        values: dict[str, float] = {}
        for read in (_utilization, _memory, _temperature, _power):
            # This device does not tell it: an integrated one has no power meter, a passive one no fan.
            with contextlib.suppress(nvml.NVMLError_NotSupported):
                values |= read(nvml, handle)
        name = nvml.nvmlDeviceGetName(handle)
        return Gpu(str(index), (name.decode(errors="replace") if isinstance(name, bytes) else str(name))[:64], values)


def _utilization(nvml: Any, handle: Any) -> dict[str, float]:
    return {"claw_host_gpu_utilization_ratio": nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100}


def _memory(nvml: Any, handle: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {"claw_host_gpu_memory_used_bytes": memory.used, "claw_host_gpu_memory_total_bytes": memory.total}


def _temperature(nvml: Any, handle: Any) -> dict[str, float]:
    celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    return {"claw_host_gpu_temperature_celsius": celsius}


def _power(nvml: Any, handle: Any) -> dict[str, float]:
    return {"claw_host_gpu_power_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}  # told in milliwatts


class _Apart:
    """Calls a function in a thread that nobody has to wait for; at most one at a time."""

    def __init__(self, function: Callable[[], list[Gpu]], limit: float) -> None:
        self._function = function
        self._limit = limit
        self._hangs = False  # the thread has not come back

    async def call(self) -> list[Gpu]:
        """What the function returns. Raises what it raises, GpuError when it hangs."""
        if self._hangs:
            raise GpuError("NVML: the driver hangs in an earlier call")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Gpu]] = loop.create_future()

        def tell(found: list[Gpu] | None, error: BaseException | None) -> None:
            if answer.done():
                return  # given up meanwhile
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(found or [])

        def work() -> None:
            found, failed = None, None
            try:
                found = self._function()
            except Exception as error:  # noqa: BLE001 - carried over to whoever waits
                failed = error
            self._hangs = False
            with contextlib.suppress(RuntimeError):  # the loop was closed while the driver hung
                loop.call_soon_threadsafe(tell, found, failed)

        self._hangs = True
        threading.Thread(target=work, name="nvml", daemon=True).start()
        try:
            async with asyncio.timeout(self._limit):
                return await answer
        except TimeoutError:
            raise GpuError(f"NVML: the driver did not answer within {self._limit:g} s") from None


class GpuCollector:
    """Asks at every interval. A host with neither NVML nor `nvidia-smi` has no GPU to show (`claw_host_gpus` 0), which
    is no failure."""

    name = "gpu"

    def __init__(
        self, gateway: str, *, interval: float = 15.0, limit: float = LIMIT, load: Callable[[], Any] = binding
    ) -> None:
        self.interval = interval
        self.deadline = 2 * limit + 1
        self._gateway = gateway
        self._nvml = _Apart(Nvml(load).read, limit)
        self._program = Program("nvidia-smi", limit)
        self._gpus: list[Gpu] | None = None
        self._said = False

    async def refresh(self) -> None:
        """Raises GpuError, ProgramError."""
        try:
            self._gpus = await self._read()
        except BaseException:  # the deadline's too: nothing stale is shown
            self._gpus = None
            raise

    async def _read(self) -> list[Gpu]:
        try:
            return await self._nvml.call()
        except NoLibraryError as no_library:
            try:
                return list(parse(await self._program.run(ARGUMENTS)))
            except ProgramMissingError as no_program:
                if not self._said:
                    log.info("no GPU to watch", reason=f"{no_library}; {no_program}")
                    self._said = True
                return []

    def render(self) -> Iterable[Sample]:
        """The last reading."""
        if self._gpus is None:
            return
        yield Sample("claw_host_gpus", (self._gateway,), len(self._gpus))
        for gpu in self._gpus:
            yield Sample("claw_host_gpu_info", (self._gateway, gpu.index, gpu.name), 1)
            for metric, value in gpu.values.items():
                yield Sample(metric, (self._gateway, gpu.index), value)
