"""NVIDIA GPUs through `nvidia-smi`. A driver that hangs makes it hang too, so it has 2 seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from exporter.exposition import Sample
from exporter.programs import Program, ProgramMissingError

LIMIT = 2.0
MOST = 32  # devices
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


def parse(gateway: str, output: str) -> Iterator[Sample]:
    """One line for each device; a field that a device does not have (`[N/A]`) has no sample. The name comes last, and
    may hold a comma."""
    for line in output.splitlines()[:MOST]:
        parts = [part.strip() for part in line.split(",", len(_FIELDS) + 1)]
        if len(parts) != len(_FIELDS) + 2 or not parts[0].isdecimal():
            continue
        device, *values, name = parts
        yield Sample("claw_host_gpu_info", (gateway, device, name[:64]), 1)
        for (metric, factor), value in zip(_FIELDS.values(), values, strict=True):
            try:
                number = float(value)
            except ValueError:
                continue
            if math.isfinite(number) and number >= 0:
                yield Sample(metric, (gateway, device), number * factor)


class GpuCollector:
    """Asks at every interval. A host without `nvidia-smi` has nothing to show, which is no failure."""

    name = "gpu"

    def __init__(self, gateway: str, *, interval: float = 15.0, limit: float = LIMIT) -> None:
        self.interval = interval
        self.deadline = limit + 3
        self._gateway = gateway
        self._program = Program("nvidia-smi", limit)
        self._samples: tuple[Sample, ...] = ()

    async def refresh(self) -> None:
        """Raises ProgramError."""
        try:
            self._samples = tuple(parse(self._gateway, await self._program.run(ARGUMENTS)))
        except ProgramMissingError:
            self._samples = ()
        except BaseException:
            self._samples = ()
            raise

    def render(self) -> Iterable[Sample]:
        """The last reading."""
        return self._samples
