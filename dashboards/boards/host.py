"""Host: is the machine the bottleneck? Use, saturation and errors of CPU, memory, disk and network."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, rows, series

CPU_MODES = {"user": "blue", "system": "purple", "iowait": "orange", "steal": "red", "nice": "green", "irq": "yellow"}


def machine() -> dashboard.Panel:
    """What kind of machine each gateway runs on."""
    return panels.table(
        1,
        "Machine",
        [
            rows(f"max by (gateway, os, release, machine) (claw_host_info{{{GATEWAY}}})"),
            rows(f"max by (gateway) (claw_host_cpus{{{GATEWAY}}})"),
            rows(f"max by (gateway) (claw_host_memory_total_bytes{{{GATEWAY}}})"),
            rows(f"max by (gateway) (claw_host_boot_timestamp_seconds{{{GATEWAY}}}) * 1000"),
        ],
        description="The host of each chosen gateway. A recent boot explains a gap.",
        no_value="No host data",
        sort_by="Gateway",
        descending=False,
        transformations=panels.merged(
            {
                "gateway": "Gateway",
                "os": "System",
                "release": "Release",
                "machine": "Type",
                "Value #B": "CPUs",
                "Value #C": "Memory",
                "Value #D": "Booted",
            },
            hidden=["Value #A"],
        ),
        overrides=[
            panels.override("Memory", unit="bytes"),
            panels.override("CPUs", custom__width=65),
            panels.override("Booted", unit="dateTimeFromNow", custom__width=110),
        ],
        width=12,
        height=5,
    )


def in_use() -> dashboard.Panel:
    """The three that fill up, per gateway."""
    cpu = (
        f'1 - sum by (gateway) (rate(claw_host_cpu_seconds_total{{{GATEWAY}, mode="idle"}}[$__rate_interval])) '
        f"/ max by (gateway) (claw_host_cpus{{{GATEWAY}}})"
    )
    return panels.stat(
        2,
        "In use",
        [
            series(cpu, "CPU {{gateway}}"),
            series(
                f"1 - claw_host_memory_available_bytes{{{GATEWAY}}} / claw_host_memory_total_bytes{{{GATEWAY}}}",
                "memory {{gateway}}",
            ),
            series(
                "1 - min by (gateway) "
                f"(claw_host_filesystem_available_bytes{{{GATEWAY}}} / claw_host_filesystem_size_bytes{{{GATEWAY}}})",
                "fullest disk {{gateway}}",
            ),
        ],
        unit="percentunit",
        decimals=0,
        min_val=0,
        max_val=1,
        description="CPU, memory that is not available, and the fullest file system of each host.",
        no_value="No host data",
        steps=config.FULL,
        sparkline=True,
        width=12,
        height=5,
    )


def cpu_by_mode() -> dashboard.Panel:
    """Where the time goes."""
    return panels.timeseries(
        10,
        "CPU by mode",
        [
            series(
                f'sum by (mode) (rate(claw_host_cpu_seconds_total{{{GATEWAY}, mode!~"idle|guest.*"}}'
                f"[$__rate_interval])) / on () group_left () sum(claw_host_cpus{{{GATEWAY}}})",
                "{{mode}}",
            )
        ],
        unit="percentunit",
        description="Share of all processors by mode. iowait is a slow disk, steal a crowded virtual "
        "machine. What guests use is in user.",
        no_value="No host data",
        stacked=True,
        colours=CPU_MODES,
        max_val=1,
    )


def load() -> dashboard.Panel:
    """Waiting work against processors."""
    return panels.timeseries(
        11,
        "Load",
        [
            series(f"max by (gateway) (claw_host_load1{{{GATEWAY}}})", "1 minute {{gateway}}"),
            series(f"max by (gateway) (claw_host_load5{{{GATEWAY}}})", "5 minutes {{gateway}}"),
            series(f"max by (gateway) (claw_host_load15{{{GATEWAY}}})", "15 minutes {{gateway}}"),
            series(f"max by (gateway) (claw_host_cpus{{{GATEWAY}}})", "processors {{gateway}}"),
        ],
        unit="none",
        description="Processes that run or wait. Above the number of processors they queue.",
        no_value="No load average on this system",
    )


def memory() -> dashboard.Panel:
    """Bytes, with the gateway's own part."""
    return panels.timeseries(
        20,
        "Memory",
        [
            series(
                f"claw_host_memory_total_bytes{{{GATEWAY}}} - claw_host_memory_available_bytes{{{GATEWAY}}}",
                "in use {{gateway}}",
            ),
            series(
                f"max by (gateway) (claw_gateway_resident_memory_bytes{{{GATEWAY}}})", "gateway process {{gateway}}"
            ),
            series(f"claw_host_memory_total_bytes{{{GATEWAY}}}", "memory {{gateway}}"),
        ],
        unit="bytes",
        description="Memory in use, of it the gateway's process, and what there is. A line that only rises is a leak.",
        no_value="No host data",
    )


def swap() -> dashboard.Panel:
    """Any is a warning."""
    return panels.timeseries(
        21,
        "Swap in use",
        [series(f"claw_host_swap_used_bytes{{{GATEWAY}}}", "{{gateway}}")],
        unit="bytes",
        description="Swap space in use. Rising swap makes a gateway slow long before it fails.",
        no_value="No host data",
    )


def file_systems() -> dashboard.Panel:
    """One row a file system."""
    return panels.table(
        30,
        "File systems",
        [
            rows(f"max by (gateway, device, mountpoint) (claw_host_filesystem_size_bytes{{{GATEWAY}}})"),
            rows(f"max by (gateway, device, mountpoint) (claw_host_filesystem_available_bytes{{{GATEWAY}}})"),
            rows(
                "1 - min by (gateway, device, mountpoint) "
                f"(claw_host_filesystem_available_bytes{{{GATEWAY}}} / claw_host_filesystem_size_bytes{{{GATEWAY}}})"
            ),
        ],
        description="Every real file system, the fullest first. PostgreSQL, Prometheus and OpenClaw all stop on a full "
        "one.",
        no_value="No host data",
        sort_by="In use",
        transformations=panels.merged(
            {
                "mountpoint": "Mounted at",
                "device": "Device",
                "Value #A": "Size",
                "Value #B": "Available",
                "Value #C": "In use",
                "gateway": "Gateway",
            }
        ),
        overrides=[
            panels.override("Device", custom__minWidth=145),
            panels.override("Size", unit="bytes", custom__width=80),
            panels.override("Available", unit="bytes", custom__width=85),
            panels.ratio_gauge("In use", config.FULL, width=115),
            panels.override("Gateway", custom__width=75),
        ],
        height=8,
    )


def state_directory() -> dashboard.Panel:
    """What OpenClaw itself keeps."""
    return panels.timeseries(
        31,
        "OpenClaw's state directory",
        [series(f"sum by (part) (claw_state_dir_bytes{{{GATEWAY}}})", "{{part}}")],
        unit="bytes",
        description="Size of the state directory by part. A write-ahead log that only grows is one that nothing "
        "checkpoints.",
        no_value="State directory not read yet",
        stacked=True,
    )


def disk_traffic() -> dashboard.Panel:
    """Reads below, writes above."""
    return panels.timeseries(
        40,
        "Disk traffic",
        [
            series(
                f"sum by (device) (rate(claw_host_disk_read_bytes_total{{{GATEWAY}}}[$__rate_interval]))",
                "read {{device}}",
            ),
            series(
                f"sum by (device) (rate(claw_host_disk_written_bytes_total{{{GATEWAY}}}[$__rate_interval]))",
                "written {{device}}",
            ),
        ],
        unit="Bps",
        description="Bytes read and written a second by disk.",
        no_value="No disk counters on this system",
    )


def network_traffic() -> dashboard.Panel:
    """Both directions."""
    return panels.timeseries(
        41,
        "Network traffic",
        [
            series(
                f"sum by (device) (rate(claw_host_network_receive_bytes_total{{{GATEWAY}}}[$__rate_interval]))",
                "received {{device}}",
            ),
            series(
                f"sum by (device) (rate(claw_host_network_transmit_bytes_total{{{GATEWAY}}}[$__rate_interval]))",
                "sent {{device}}",
            ),
        ],
        unit="Bps",
        description="Bytes received and sent a second by interface.",
        no_value="No network counters on this system",
    )


def gpu_use() -> dashboard.Panel:
    """Share of time and of memory."""
    used = f"claw_host_gpu_memory_used_bytes{{{GATEWAY}}} / claw_host_gpu_memory_total_bytes{{{GATEWAY}}}"
    return panels.timeseries(
        50,
        "GPU in use",
        [
            series(f"max by (gateway, gpu) (claw_host_gpu_utilization_ratio{{{GATEWAY}}})", "GPU {{gpu}} {{gateway}}"),
            series(f"max by (gateway, gpu) ({used})", "memory of GPU {{gpu}} {{gateway}}"),
        ],
        unit="percentunit",
        description="Share of time that each GPU works, and share of its memory in use (claw_host_gpu_*). Memory that "
        "is full makes local models fall back to the processor.",
        no_value="No GPU was found: nvidia-smi is not there, or tells of none",
        max_val=1,
        width=8,
    )


def gpu_heat() -> dashboard.Panel:
    """Degrees and watts."""
    return panels.timeseries(
        51,
        "GPU temperature and power",
        [
            series(
                f"max by (gateway, gpu) (claw_host_gpu_temperature_celsius{{{GATEWAY}}})", "GPU {{gpu}} {{gateway}}"
            ),
            series(
                f"max by (gateway, gpu) (claw_host_gpu_power_watts{{{GATEWAY}}})", "power of GPU {{gpu}} {{gateway}}"
            ),
        ],
        unit="celsius",
        description="Temperature of each GPU, and the power that it draws (right). Above 85 degrees it slows down.",
        no_value="No GPU was found: nvidia-smi is not there, or tells of none",
        overrides=[panels.override_like("/^power/", unit="watt", custom__axisPlacement="right")],
        width=8,
    )


def temperatures() -> dashboard.Panel:
    """Sensors."""
    return panels.timeseries(
        52,
        "Temperatures",
        [
            series(
                f"max by (gateway, chip, sensor) (claw_host_temperature_celsius{{{GATEWAY}}})",
                "{{chip}} {{sensor}} {{gateway}}",
            )
        ],
        unit="celsius",
        description="Sensors of the machine (claw_host_temperature_celsius). A rise without a rise of load is dust or "
        "a fan that stands.",
        no_value="No sensor on this system",
        width=8,
    )


def board() -> Board:
    """The machine under the gateway."""
    return Board(
        ref=config.HOST,
        description="Is the machine the bottleneck? CPU, memory, disks and network of each gateway's host.",
        rows=[
            Row(100, "", [machine(), in_use()]),
            Row(101, "CPU", [cpu_by_mode(), load()]),
            Row(102, "Memory", [memory(), swap()]),
            Row(103, "Disks", [file_systems(), state_directory()]),
            Row(104, "Traffic", [disk_traffic(), network_traffic()]),
            Row(105, "GPU and temperatures", [gpu_use(), gpu_heat(), temperatures()]),
        ],
    )
