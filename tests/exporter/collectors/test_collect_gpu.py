"""GPUs through a fixture in place of nvidia-smi: one that answers, one that hangs, one that fails."""

import os
import time
from pathlib import Path

import pytest

from exporter.collectors.gpu import ARGUMENTS, GpuCollector
from exporter.programs import ProgramFailedError, ProgramHangsError


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
    collector = GpuCollector("g")
    await collector.refresh()
    assert helpers.shown(collector) == {
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
    collector = GpuCollector("g", limit=0.5)
    assert GpuCollector("g").deadline == 5
    with pytest.raises(ProgramHangsError, match=r"nvidia-smi did not end within 0\.5 s and was killed"):
        await collector.refresh()
    assert helpers.shown(collector) == {}
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 10
    while time.monotonic() < until and _alive(child):
        time.sleep(0.01)  # noqa: ASYNC251 - the kernel ends it; there is no event for a process that is not ours
    assert not _alive(child)


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
        await GpuCollector("g").refresh()


async def test_a_host_without_gpu_is_no_failure(tmp_path, monkeypatch, helpers):
    monkeypatch.setenv("PATH", str(tmp_path))
    collector = GpuCollector("g")
    await collector.refresh()
    assert helpers.shown(collector) == {}


async def test_it_gets_no_secret_of_ours(program, tmp_path, monkeypatch):
    monkeypatch.setenv("LOBS_GATEWAY_TOKEN", "a-secret")
    program("nvidia-smi", f"env > {tmp_path}/env")
    await GpuCollector("g").refresh()
    assert "LOBS" not in (tmp_path / "env").read_text()
    assert os.environ["LOBS_GATEWAY_TOKEN"] == "a-secret"
