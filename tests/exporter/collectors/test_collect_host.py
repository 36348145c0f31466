"""The host, from a fixture tree: exact samples, and a missing file costs only its own."""

import platform
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest

from exporter.collectors.host import HostCollector
from lobservatory.metrics.exposition import Sample

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fixture is Linux' /proc")

TREE = {
    "stat": (
        "cpu  1000 200 300 40000 500 0 70 8 100 20\n"
        "cpu0 1000 200 300 40000 500 0 70 8 100 20\n"
        "intr 1 1\nctxt 5\nbtime 1795000000\nprocesses 7\n"
    ),
    "loadavg": "0.50 1.25 2.00 2/345 6789\n",
    "meminfo": (
        "MemTotal:        8000000 kB\nMemFree:         1000000 kB\nMemAvailable:    6000000 kB\n"
        "Buffers:          100000 kB\nCached:          2000000 kB\nSwapTotal:       2000000 kB\n"
        "SwapFree:        1500000 kB\nActive: 1 kB\nInactive: 1 kB\nShmem: 1 kB\nSReclaimable: 1 kB\nSlab: 1 kB\n"
    ),
    "vmstat": "pswpin 1\npswpout 2\n",
    "diskstats": (
        " 259 0 nvme0n1 100 0 2000 10 50 0 4000 20 0 5 30 0 0 0 0 0 0\n   7 0 loop0 9 0 9 9 9 0 9 9 0 9 9 0 0 0 0 0 0\n"
    ),
    "net/dev": (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier c\n"
        "    lo: 111 1 0 0 0 0 0 0 111 1 0 0 0 0 0 0\n"
        "  eth0: 5000 10 0 0 0 0 0 0 7000 12 0 0 0 0 0 0\n"
    ),
    "filesystems": "nodev\tproc\n\text4\n",
    "self/mounts": "",
}


def tree(tmp_path, *, without=(), **changed):
    for name, text in TREE.items():
        if name not in without:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(changed.get(name, text))
    return HostCollector("g", procfs_path=str(tmp_path), wall_clock=lambda: 1.8e9)


def ticks(seconds):
    return pytest.approx(seconds / 100)  # the kernel's user-visible clock runs at 100 Hz


@pytest.mark.req("S1-6")
def test_exact_samples_of_the_fixture(tmp_path):
    shown = {(sample.metric, *sample.labels[1:]): sample.value for sample in tree(tmp_path).read()}
    modes = {key[1]: value for key, value in shown.items() if key[0] == "claw_host_cpu_seconds_total"}
    assert modes["user"] == ticks(900)  # without the guests' 100
    assert modes["nice"] == ticks(180)
    assert modes["system"] == ticks(300)
    assert modes["idle"] == ticks(40000)
    assert modes["iowait"] == ticks(500)
    assert modes["steal"] == ticks(8)
    assert sum(modes.values()) == ticks(1000 + 200 + 300 + 40000 + 500 + 70 + 8)
    assert shown["claw_host_boot_timestamp_seconds",] == 1795000000
    assert [shown[f"claw_host_load{minutes}",] for minutes in (1, 5, 15)] == [0.5, 1.25, 2.0]
    assert shown["claw_host_memory_total_bytes",] == 8_000_000 * 1024
    assert shown["claw_host_memory_available_bytes",] == 6_000_000 * 1024
    assert shown["claw_host_swap_total_bytes",] == 2_000_000 * 1024
    assert shown["claw_host_swap_used_bytes",] == 500_000 * 1024
    assert shown["claw_host_disk_read_bytes_total", "nvme0n1"] == 2000 * 512
    assert shown["claw_host_disk_written_bytes_total", "nvme0n1"] == 4000 * 512
    assert shown["claw_host_network_receive_bytes_total", "eth0"] == 5000
    assert shown["claw_host_network_transmit_bytes_total", "eth0"] == 7000
    devices = {key[1] for key in shown if key[0].startswith(("claw_host_disk", "claw_host_network"))}
    assert devices == {"nvme0n1", "eth0"}


FAMILIES = {
    "stat": {"claw_host_cpu_seconds_total", "claw_host_boot_timestamp_seconds"},
    "meminfo": {
        "claw_host_memory_total_bytes",
        "claw_host_memory_available_bytes",
        "claw_host_swap_total_bytes",
        "claw_host_swap_used_bytes",
    },
    "net/dev": {"claw_host_network_receive_bytes_total", "claw_host_network_transmit_bytes_total"},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_file_costs_only_its_own_samples(tmp_path, name):
    for folder in ("whole", "part"):
        (tmp_path / folder).mkdir()
    every = {sample.metric for sample in tree(tmp_path / "whole").read()}
    some = {sample.metric for sample in tree(tmp_path / "part", without=[name]).read()}
    assert every - some == FAMILIES[name]


def test_a_broken_line_costs_only_its_own_samples(tmp_path):
    shown = {sample.metric for sample in tree(tmp_path, loadavg="not a number at all\n").read()}
    assert "claw_host_load1" not in shown
    assert "claw_host_memory_total_bytes" in shown


def test_the_row_holds_the_share_of_time_between_two_readings(tmp_path):
    collector = tree(tmp_path)
    collector._samples = collector.read()
    assert collector.sample().cpu_ratio is None
    (tmp_path / "stat").write_text(TREE["stat"].replace("cpu  1000 200 300 40000 500", "cpu  1030 200 300 40060 510"))
    collector._samples = collector.read()
    row = collector.sample()
    assert row.cpu_ratio == pytest.approx(0.3)
    assert row.load1 == 0.5
    assert row.memory_used_bytes == 2_000_000 * 1024
    assert row.swap_used_bytes == 500_000 * 1024
    assert row.network_receive_bytes == 5000
    assert row.disk_total_bytes > row.disk_used_bytes >= 0
    assert row.ts.timestamp() == 1.8e9


async def test_the_real_machine_is_read_in_a_thread(tmp_path):
    collector = HostCollector("g", paths=[tmp_path])
    threads = []
    read = collector.read
    collector.read = lambda: threads.append(threading.current_thread()) or read()
    await collector.refresh()
    assert threads != [threading.main_thread()]
    shown = list(collector.render())
    system = platform.uname()
    assert Sample("claw_host_info", ("g", system.system, system.release, system.machine), 1) in shown
    assert any(s.metric == "claw_host_filesystem_size_bytes" and s.value > 0 for s in shown)
    assert len({(s.metric, s.labels) for s in shown}) == len(shown)


@pytest.mark.req("S1-6")
def test_temperatures_by_chip_and_sensor(tmp_path, monkeypatch):
    def sensor(label, current):
        return SimpleNamespace(label=label, current=current, high=None, critical=None)

    found = {
        "coretemp": [sensor("Package id 0", 61.0), sensor("Core 0", 58.5)],
        "nvme": [sensor("Composite", 40.0), sensor("Composite", 44.0), sensor("", -128.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: found)
    shown = {(s.labels[1], s.labels[2]): s.value for s in tree(tmp_path).read() if "temperature" in s.metric}
    assert shown == {
        ("coretemp", "Package id 0"): 61.0,
        ("coretemp", "Core 0"): 58.5,
        ("nvme", "Composite"): 40.0,
        ("nvme", "Composite+"): 44.0,
    }


def test_a_sensor_that_cannot_be_read_costs_only_temperatures(tmp_path, monkeypatch):
    def broken():
        raise OSError("Input/output error")

    monkeypatch.setattr(psutil, "sensors_temperatures", broken)
    shown = {sample.metric for sample in tree(tmp_path).read()}
    assert "claw_host_memory_total_bytes" in shown
    assert "claw_host_temperature_celsius" not in shown
