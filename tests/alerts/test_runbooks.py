"""What runbooks tell people to type is typed here: PromQL into a real Prometheus, commands into a shell's place.

Prometheus holds what an idle gateway was recorded to say and, a gateway each, what every alert was tried with
(`alerts/cases.yml`) until the moment at which it fires: a question about an alert must have an answer while it fires.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from tests.alerts import cases
from tests.alerts.stack import fast_alertmanager
from tests.alerts.test_alert_replay import recording
from tests.alerts.test_alert_rules import NAMES, blocks
from tests.archives import extract
from tests.fakes.exporter import fake_exporter
from tests.fakes.slack import fake_slack
from tests.servers import PATIENCE_SECONDS, prometheus, wait_for
from tests.tools import REPOSITORY, debian_tool

LONGEST = 30 * 3600  # seconds of a trial that are kept
# Questions that a gateway which is well, and a trial, need not answer.
NO_ANSWER = {
    'changes(claw_channel_last_message_timestamp_seconds{direction="in"}[1d] offset 1w)': "a week of history",
    "sum by (method, code) (increase(claw_rpc_errors_total[15m])) > 0": "no call fails there",
}


def openmetrics(now):
    """What is known at `now`, one line a sample."""
    about, series = recording()
    begin = about["start"] + 60 * (len(series[0][2]) - 1)
    for name, labels, values in series:
        for index, value in enumerate(values):
            if value is not None:
                at = now - 60 * (len(values) - 1 - index)
                moved = name.endswith("_timestamp_seconds") and float(value) > 0
                yield line(name, labels, float(value) + (now - begin if moved else 0), at)
    for trial in cases.trials():
        start = now - trial.looked * trial.seconds
        for name in trial.series:
            values = cases.samples(trial, name, cases.BAD)
            for index in range(trial.looked + 1):
                at = start + index * trial.seconds
                value = values[index]
                assert isinstance(value, Decimal)
                if at >= now - LONGEST:
                    moved = "_timestamp_seconds{" in name
                    yield f"{cases.selector(name, trial.title)} {float(value) + (start if moved else 0)} {at}"
    yield line("ALERTS", {"alertname": "Watchdog", "alertstate": "firing", "severity": "none"}, 1, now)
    for job in ("prometheus", "alertmanager"):
        yield line("up", {"job": job}, 1, now)
    yield "# EOF"


def line(name, labels, value, at):
    return f"{name}{{{','.join(f'{key}={json.dumps(text)}' for key, text in labels.items())}}} {value} {at}"


@pytest.fixture(scope="module")
def full_prometheus(tmp_path_factory):
    """(Prometheus, the time at which everything fires)."""
    folder = tmp_path_factory.mktemp("runbooks")
    now = int(time.time()) // 3600 * 3600 - 7200
    (folder / "samples.txt").write_text("\n".join(openmetrics(now)) + "\n")
    subprocess.run(
        [debian_tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet", "samples.txt", "tsdb"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    with prometheus(folder, folder / "prometheus.yml") as server:
        yield server, now


@pytest.mark.req("P-14")
@pytest.mark.parametrize("name", NAMES)
def test_queries_answer_while_the_alert_fires(full_prometheus, name):
    server, now = full_prometheus
    for query in [query for owner, query in blocks("promql") if owner == name]:
        found = server.query(query, at=now)
        assert found or query in NO_ANSWER, f"{query}: no answer"


# --- commands ----------------------------------------------------------------------------------------------------

COMMANDS = sorted({command for _, command in blocks("sh")})
OURS = [command for command in COMMANDS if command.startswith(".venv/bin/lobservatory")]
THEIRS = [command for command in COMMANDS if command.startswith("openclaw ")]


def test_commands_are_of_programs_that_are_run_here():
    others = set(COMMANDS) - set(OURS) - set(THEIRS)
    assert {command.split()[0] for command in others} == {"curl", "df"}


@pytest.mark.parametrize("command", OURS)
def test_our_own_commands_run_in_a_sandbox(tmp_path, command):
    """A home with a state directory and nothing else: `doctor` says what is missing, and no stack trace."""
    with tarfile.open(REPOSITORY / "tests" / "fixtures" / "samples" / "state-2026.9.6.tar.gz") as archive:
        extract(archive, tmp_path)
    (state,) = [path.parent for path in tmp_path.rglob("openclaw.json")]
    program, *arguments = command.split()
    done = subprocess.run(
        [REPOSITORY / program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LOBS_STATE_DIR": str(state),
             "LOBS_DATA_DIR": str(tmp_path / "data"), "LOBS_GATEWAY_URL": "ws://127.0.0.1:9"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if arguments[0] == "scan" else 1), done.stdout + done.stderr
    assert {"scan": "calls", "doctor": "gateway"}[arguments[0]] in done.stdout


def test_other_commands_run(tmp_path):
    with (
        fake_exporter() as exporter,
        fake_slack() as slack,
        fast_alertmanager(tmp_path, slack.url) as alerts,
    ):
        alerts.send([{"labels": {"alertname": "Watchdog"}}])
        wait_for(alerts.alerts, "the watchdog is known")
        here = {"http://127.0.0.1:9464": f"http://127.0.0.1:{exporter.port}", "http://127.0.0.1:9093": alerts.url}
        for command in set(COMMANDS) - set(OURS) - set(THEIRS):
            words = shlex.split(re.sub("|".join(here), lambda found: here[found[0]], command))
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, command
            assert done.stderr == "", command
            if "Watchdog" in command:
                assert [one["labels"]["alertname"] for one in json.loads(done.stdout)] == ["Watchdog"]


def patiently(command):
    """The arguments, with the time that a busy gateway may take: OpenClaw itself gives up after three to thirty s."""
    _, *arguments = shlex.split(command)
    unit = {"models": None, "update": 1}.get(arguments[0], 1000)  # `models` looks at files only; most take ms
    return arguments if unit is None else [*arguments, "--timeout", f"{PATIENCE_SECONDS * unit:.0f}"]


@pytest.mark.live
def test_commands_of_openclaw_run_beside_a_real_gateway(live_gateway):
    with ThreadPoolExecutor(2) as pool:
        finished = pool.map(lambda command: live_gateway.command(*patiently(command)), THEIRS)
        for command, done in zip(THEIRS, finished, strict=True):
            assert done.returncode == 0, f"{command}: {done.stdout[-500:]}{done.stderr[-500:]}"
            assert done.stdout.strip(), command
