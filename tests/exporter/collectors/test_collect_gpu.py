"""GPUs through a library in place of NVML and through a script in place of nvidia-smi: some that answer, hang, fail."""

import asyncio
import os
import threading
from pathlib import Path

import pynvml
import pytest

from exporter.collectors import gpu
from exporter.collectors.gpu import ARGUMENTS, GpuCollector, GpuError
from exporter.collectors.programs import ProgramFailedError, ProgramHangsError
from tests.servers import PATIENCE_SECONDS, wait_for


@pytest.fixture(autouse=True)
def no_library(monkeypatch):
    """As on a host without the driver, whatever this one has."""
    monkeypatch.setattr(gpu, "LIBRARY", "libnvidia-ml-that-is-not-there.so.1")


class Library:
    """NVML's functions with NVML's return codes, as the binding calls them through ctypes: two devices, of which the
    second tells neither its load nor its power."""

    def __init__(self):
        self.codes = {}  # function → return code instead of success
        self.hang = None  # an event that every reading waits for
        self.started = threading.Event()
        self.initialised = 0

    def _code(self, name):
        return self.codes.get(name, pynvml.NVML_SUCCESS)

    def nvmlInitWithFlags(self, _flags):  # noqa: N802 - NVML's name, as below
        self.initialised += self._code("init") == pynvml.NVML_SUCCESS
        return self._code("init")

    def nvmlShutdown(self):  # noqa: N802
        self.initialised -= 1
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        self.started.set()
        if self.hang is not None:
            self.hang.wait(PATIENCE_SECONDS)
        count._obj.value = 2
        return self._code("count")

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        handle._obj.contents = pynvml.struct_c_nvmlDevice_t()
        self.device = index.value
        return self._code("handle")

    def nvmlDeviceGetName(self, _handle, name, _size):  # noqa: N802
        name.value = (b"NVIDIA GeForce RTX 4090", b"NVIDIA Orin")[self.device]
        return self._code("name")

    def nvmlDeviceGetUtilizationRates(self, _handle, rates):  # noqa: N802
        rates._obj.gpu = 37
        return pynvml.NVML_ERROR_NOT_SUPPORTED if self.device else self._code("rates")

    def nvmlDeviceGetMemoryInfo(self, _handle, memory):  # noqa: N802
        memory._obj.total, memory._obj.used = 24 << 30, 1 << 30
        return self._code("memory")

    def nvmlDeviceGetTemperature(self, _handle, _sensor, celsius):  # noqa: N802
        celsius._obj.value = 61
        return self._code("temperature")

    def nvmlDeviceGetPowerUsage(self, _handle, milliwatts):  # noqa: N802
        milliwatts._obj.value = 120_500
        return pynvml.NVML_ERROR_NOT_SUPPORTED if self.device else self._code("power")


@pytest.fixture
def library(monkeypatch):
    made = Library()
    monkeypatch.setattr(pynvml, "CDLL", lambda _name: made)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    yield made
    pynvml._nvmlGetFunctionPointer_cache.clear()


def of_library(limit=30):
    return GpuCollector("g", load=lambda: pynvml, limit=limit)


@pytest.mark.req("S1-6")
async def test_the_driver_tells_every_device_in_base_units(library, helpers):
    collector = of_library()
    await collector.refresh()
    await collector.refresh()
    assert library.initialised == 1
    assert helpers.shown(collector) == {
        ("claw_host_gpus", "g"): 2,
        ("claw_host_gpu_info", "g", "0", "NVIDIA GeForce RTX 4090"): 1,
        ("claw_host_gpu_utilization_ratio", "g", "0"): 0.37,
        ("claw_host_gpu_memory_used_bytes", "g", "0"): 1 << 30,
        ("claw_host_gpu_memory_total_bytes", "g", "0"): 24 << 30,
        ("claw_host_gpu_temperature_celsius", "g", "0"): 61,
        ("claw_host_gpu_power_watts", "g", "0"): 120.5,
        ("claw_host_gpu_info", "g", "1", "NVIDIA Orin"): 1,
        ("claw_host_gpu_memory_used_bytes", "g", "1"): 1 << 30,
        ("claw_host_gpu_memory_total_bytes", "g", "1"): 24 << 30,
        ("claw_host_gpu_temperature_celsius", "g", "1"): 61,
    }


@pytest.mark.req("S1-6")
async def test_a_driver_that_hangs_is_not_waited_for_and_not_asked_again(library, helpers):
    collector = of_library(limit=0.2)
    assert GpuCollector("g")._program._limit == gpu.LIMIT == 2
    library.hang = threading.Event()
    with pytest.raises(GpuError, match=r"did not answer within 0\.2 s"):
        await collector.refresh()
    assert await asyncio.to_thread(library.started.wait, PATIENCE_SECONDS)
    library.started.clear()
    with pytest.raises(GpuError, match="hangs in an earlier call"):
        await collector.refresh()
    assert not library.started.is_set()
    assert helpers.shown(collector) == {}
    (thread,) = (one for one in threading.enumerate() if one.name == "nvml")
    assert thread.daemon, "a driver that hangs must not keep the exporter from ending"
    library.hang.set()
    thread.join(PATIENCE_SECONDS)
    collector._nvml._limit = PATIENCE_SECONDS
    await collector.refresh()
    assert helpers.shown(collector)["claw_host_gpus", "g"] == 2


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("init", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"),
        ("count", pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
        ("memory", pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
async def test_a_driver_that_fails_is_told_and_met_anew(library, helpers, what, code, message):
    collector = of_library()
    library.codes[what] = code
    with pytest.raises(GpuError, match=message):
        await collector.refresh()
    assert helpers.shown(collector) == {}
    assert library.initialised == 0
    library.codes.clear()
    await collector.refresh()
    assert helpers.shown(collector)["claw_host_gpus", "g"] == 2


@pytest.fixture
def program(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(name, body):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.mark.req("S1-6")
async def test_every_device_in_base_units(program, tmp_path, helpers):
    program(
        "nvidia-smi",
        f"""printf '%s\\n' "$@" > {tmp_path}/argv
echo '0, 37, 1024, 24564, 61, 120.50, NVIDIA GeForce RTX 4090'
echo '1, [N/A], 0, 8192, 40, [Not Supported], NVIDIA A2, passive'
echo 'junk'""",
    )
    collector = GpuCollector("g", limit=30)
    await collector.refresh()
    assert helpers.shown(collector) == {
        ("claw_host_gpus", "g"): 2,
        ("claw_host_gpu_info", "g", "0", "NVIDIA GeForce RTX 4090"): 1,
        ("claw_host_gpu_utilization_ratio", "g", "0"): 0.37,
        ("claw_host_gpu_memory_used_bytes", "g", "0"): 1024 * 2**20,
        ("claw_host_gpu_memory_total_bytes", "g", "0"): 24564 * 2**20,
        ("claw_host_gpu_temperature_celsius", "g", "0"): 61,
        ("claw_host_gpu_power_watts", "g", "0"): 120.5,
        ("claw_host_gpu_info", "g", "1", "NVIDIA A2, passive"): 1,
        ("claw_host_gpu_memory_used_bytes", "g", "1"): 0,
        ("claw_host_gpu_memory_total_bytes", "g", "1"): 8192 * 2**20,
        ("claw_host_gpu_temperature_celsius", "g", "1"): 40,
    }
    assert (tmp_path / "argv").read_text().splitlines() == list(ARGUMENTS)


async def test_one_that_hangs_is_killed_with_its_children_and_shows_nothing(program, tmp_path, helpers):
    program("nvidia-smi", f"sleep 300 & echo $! > {tmp_path}/child; wait")
    assert GpuCollector("g").deadline == 5
    limit = 0.25
    while not (tmp_path / "child").exists():  # on a busy machine the limit passes before the program has begun
        limit *= 2
        collector = GpuCollector("g", limit=limit)
        with pytest.raises(ProgramHangsError, match=rf"nvidia-smi did not end within {limit:g} s and was killed"):
            await collector.refresh()
        assert helpers.shown(collector) == {}
    child = int((tmp_path / "child").read_text())
    await asyncio.to_thread(wait_for, lambda: not _alive(child), "the end of the child")


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("body", "message"),
    [("exit 9", "status 9"), ("yes | head -c 1000000", "more than 256 KiB")],
)
async def test_one_that_fails_or_floods_is_a_failure(program, body, message):
    program("nvidia-smi", body)
    with pytest.raises(ProgramFailedError, match=message):
        await GpuCollector("g", limit=30).refresh()


async def test_a_host_without_gpu_is_no_failure(tmp_path, monkeypatch, helpers):
    monkeypatch.setenv("PATH", str(tmp_path))
    collector = GpuCollector("g", limit=30)
    await collector.refresh()
    assert helpers.shown(collector) == {("claw_host_gpus", "g"): 0}


async def test_it_gets_no_secret_of_ours(program, tmp_path, monkeypatch):
    monkeypatch.setenv("LOBS_GATEWAY_TOKEN", "a-secret")
    program("nvidia-smi", f"env > {tmp_path}/env")
    await GpuCollector("g", limit=30).refresh()
    assert "LOBS" not in (tmp_path / "env").read_text()
    assert os.environ["LOBS_GATEWAY_TOKEN"] == "a-secret"
