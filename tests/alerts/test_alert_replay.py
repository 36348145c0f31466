"""Days through all rules: one that is made of what an idle real gateway was recorded to say, and a bad one.

`tests/fixtures/replay/idle.jsonl.gz` is what `python -m tests.live.record_idle` recorded, which also says how.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from lobservatory.metrics.catalogue import CATALOGUE
from tests.tools import REPOSITORY, debian_tool

RECORDING = REPOSITORY / "tests" / "fixtures" / "replay" / "idle.jsonl.gz"
RULES = [path for path in sorted((REPOSITORY / "alerts" / "rules").glob("*.yml")) if "- alert:" in path.read_text()]
STEP = 60  # seconds between two samples of the day; the recording has four times as many
MINUTES = 24 * 60
FIRED = 'group by (alertname, severity) (count_over_time(ALERTS{alertstate="firing",alertname!="Watchdog"}[1d]))'


def recording():
    """(what was recorded, [(name, labels, values by minute)])."""
    with gzip.open(RECORDING, "rt", encoding="utf-8") as lines:
        about, *series = (json.loads(line) for line in lines)
    found = []
    for one in series:
        values = [value for value, times in one["values"] for _ in range(times)]
        labels = dict(one["metric"])
        found.append((labels.pop("__name__"), labels, values[:: STEP // about["step"]]))
    return about, found


def used():
    """The families that rules look at."""
    return set(re.findall(r"\b(?:claw|lobservatory)_\w+|\bup\b", "".join(path.read_text() for path in RULES)))


def day(name, values, start):
    """A recording again and again for a day: instants move with the clock, counters go on."""
    period = len(values)
    counter = name.endswith(("_total", "_count", "_sum", "_bucket"))
    known = [float(value) for value in values if value is not None]
    rise = known[-1] - known[0] if counter and known else 0.0
    result = []
    for minute in range(MINUTES):
        value, turn = values[minute % period], minute // period
        if value is None:
            result.append(None)
        elif name.endswith("_timestamp_seconds"):
            result.append(float(value) and float(value) - start + turn * period * STEP)
        else:
            result.append(float(value) + turn * rise)
    return result


def notation(values):
    """As promtool wants it."""
    parts = []
    for value in values:
        if parts and parts[-1][0] == value:
            parts[-1][1] += 1
        else:
            parts.append([value, 0])
    return " ".join(f"{'_' if value is None else repr(value)}x{times}" if value is not None else f"_x{times + 1}"
                    for value, times in parts)  # fmt: skip


def replay(folder, changes=()):
    """(alert, severity) of all that fired within the day. `changes`: (name, labels, minutes from, to, value)."""
    about, series = recording()
    days = {
        (name, tuple(sorted(labels.items()))): day(name, values, about["start"])
        for name, labels, values in series
        if name in used()
    }
    for name, labels, first, last, value in changes:
        matching = [key for key in days if key[0] == name and set(labels.items()) <= set(key[1])]
        if not matching:
            matching = [(name, tuple(sorted(({"gateway": "default"} | labels).items())))]
            days[matching[0]] = [None] * MINUTES
        for key in matching:
            days[key][first:last] = [value] * (last - first)
    inputs = []
    for (name, labels), values in days.items():
        text = ",".join(f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in labels)
        inputs.append({"series": f"{name}{{{text}}}", "values": notation(values)})
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": inputs,
                "promql_expr_test": [{"expr": FIRED, "eval_time": f"{MINUTES - 1}m", "exp_samples": []}],
            }
        ],
    }
    path = Path(folder) / "day.yml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    done = subprocess.run([debian_tool("promtool"), "test", "rules", path], check=False,
                          capture_output=True, text=True)  # fmt: skip
    said = done.stdout + done.stderr
    got = said.partition("got:")[2]
    assert done.returncode == 0 or got, said[-3000:]
    return set(re.findall(r'alertname="(\w+)", severity="(\w+)"', got))


# Families of rules that an idle gateway without channels does not have.
NOT_RECORDED = {
    "claw_channel_configured",
    "claw_channel_connected",
    "claw_channel_last_message_timestamp_seconds",
    "claw_cost_hour_baseline_usd",  # after the first day
    "claw_exec_approval_next_expiry_timestamp_seconds",
    "claw_exec_approval_oldest_timestamp_seconds",
    "claw_provider_quota_used_ratio",
    "claw_tool_calls_total",
    "claw_unpriced_tokens_total",
    "lobservatory_label_overflow_total",
}


def test_recording_is_half_an_hour_of_a_healthy_gateway_and_has_what_rules_look_at():
    about, series = recording()
    assert (about["samples"] - 1) * about["step"] >= 30 * 60
    up = next(values for name, _, values in series if name == "claw_gateway_up")
    assert set(up) == {"1"}
    assert used() - {name for name, _, _ in series} == NOT_RECORDED
    assert {name.removesuffix("_bucket").removesuffix("_count") for name in used()} <= {*CATALOGUE, "up"}


@pytest.mark.req("P-14")
def test_a_day_of_an_idle_gateway_gives_no_alert(tmp_path):
    """In which the gateway and the exporter were restarted, too."""
    restarts = [
        ("claw_gateway_up", {}, 300, 301, 0.0),
        ("claw_gateway_ready", {}, 300, 302, 0.0),
        ("up", {"job": "lobservatory"}, 900, 901, 0.0),
        ("claw_gateway_up", {}, 900, 901, None),
        ("lobservatory_database_up", {}, 900, 901, None),
    ]
    assert replay(tmp_path, restarts) == set()


@pytest.mark.req("P-14")
def test_a_bad_day_gives_exactly_what_is_expected(tmp_path):
    job = {"cron_job": "j1"}
    disk = {"mountpoint": "/data", "device": "sdz"}
    fired = replay(
        tmp_path,
        [
            ("claw_gateway_up", {}, 600, 630, 0.0),
            ("claw_cost_window_usd", {"agent": "main", "window": "today"}, 840, 1440, 30.0),
            ("claw_host_filesystem_size_bytes", disk, 0, 1440, 1e12),
            ("claw_host_filesystem_available_bytes", disk, 0, 900, 5e11),
            ("claw_host_filesystem_available_bytes", disk, 900, 960, 9e10),
            ("claw_host_filesystem_available_bytes", disk, 960, 1440, 4e11),
            ("claw_cron_job_consecutive_errors", job, 0, 300, 0.0),
            ("claw_cron_job_consecutive_errors", job, 300, 400, 3.0),
            ("claw_cron_job_consecutive_errors", job, 400, 1440, 0.0),
            ("claw_tool_call_repeats_max", {"agent": "main"}, 700, 720, 45.0),
            ("up", {"job": "lobservatory"}, 650, 660, 0.0),
            ("claw_source_schema_known", {"source": "sqlite"}, 100, 130, 0.0),
            ("lobservatory_database_up", {}, 200, 215, 0.0),
            ("claw_exec_approvals_pending", {}, 1000, 1010, 1.0),
            ("claw_exec_approval_oldest_timestamp_seconds", {}, 1000, 1010, 60000.0),
            ("claw_event_stream_lag_seconds", {}, 1100, 1120, 1200.0),
            ("claw_session_context_ratio_max", {"agent": "main"}, 1200, 1260, 0.96),
            ("claw_agent_last_activity_timestamp_seconds", {"agent": "main"}, 1200, 1260, 75000.0),
        ],
    )
    assert fired == {
        ("GatewayDown", "critical"),
        ("DailyCostHigh", "warning"),
        ("HostDiskFull", "warning"),
        ("CronJobFailing", "warning"),
        ("RepeatingAgent", "warning"),
        ("ExporterDown", "critical"),
        ("SchemaUnknown", "critical"),
        ("DatabaseDown", "critical"),
        ("ApprovalPending", "warning"),
        ("EventStreamQuiet", "warning"),
        ("ContextNearLimit", "warning"),
    }
