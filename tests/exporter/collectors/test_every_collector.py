"""What every collector must have: a file and a test file of its own, an interval, a deadline, back-off, a switch, and
the metrics that tell how it does."""

import importlib
from pathlib import Path

import pytest

import exporter.collectors
from exporter.app import Exporter
from exporter.collectors.scheduler import Runner, wait_after
from exporter.metrics.registry import Registry
from lobservatory.metrics.labels import COLLECTORS
from lobservatory.settings import load

FILES = Path(exporter.collectors.__file__).parent
TESTS = Path(__file__).parent
ELSEWHERE = {"windows"}  # sums of our own rows, computed beside the books: nothing is collected

# What is watched → who does it.
WATCHED = {
    "gateway": "gateway",
    "sessions": "sessions",
    "agents": "agents",
    "sub-agents": "subagents",
    "cron": "cron",
    "channels": "channels",
    "exec approvals": "approvals",
    "skills": "skills",
    "models": "models",
    "provider allowances": "quota",
    "nodes": "nodes",
    "tasks": "tasks",
    "usage reconciliation": "usage",
    "logs": "logs",
    "update available": "update",
    "storage sizes": "storage",
    "host": "host",
    "GPU": "gpu",
    "process": "process",
    "service manager": "service",
    "health paths from outside": "probe",
}


@pytest.fixture
def made(tmp_path):
    """Makes the exporter's collectors under these settings; gives all of them and those that run. Nothing connects."""

    def make(**environment):
        settings = load(
            {
                "LOBS_STATE_DIR": str(tmp_path),
                "LOBS_DATA_DIR": str(tmp_path / "data"),
                "LOBS_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
                **environment,
            }
        )
        exporter_ = Exporter(settings)
        exporter_._wire(object())  # a pool that nobody asks
        collectors = {one.name: one for one in exporter_._collectors}
        enabled = {
            sample.labels[1]: sample.value
            for sample in exporter_._report.samples()
            if sample.metric == "lobservatory_collector_enabled"
        }
        return collectors, enabled

    return make


@pytest.mark.req("S1-16")
def test_everything_that_is_watched_has_a_collector_and_nothing_else_has(made):
    collectors, enabled = made()
    assert set(WATCHED.values()) | {"windows", "thresholds"} == set(COLLECTORS) == set(collectors) == set(enabled)


@pytest.mark.req("S1-16")
@pytest.mark.parametrize("name", sorted(set(COLLECTORS) - ELSEWHERE))
def test_it_has_its_own_file_and_its_own_test_file(made, name):
    module = importlib.import_module(f"exporter.collectors.{name}")
    tests = (TESTS / f"test_collect_{name}.py").read_text(encoding="utf-8")
    assert f"exporter.collectors.{name} " in tests or f"import {name}" in tests
    assert "\ndef test_" in tests or "\nasync def test_" in tests
    collector = made()[0][name]
    own = type(collector).__module__ == module.__name__
    assert (
        own
        or f'PollCollector("{name}"' in (FILES / f"{name}.py").read_text(encoding="utf-8")
        or (f'"{name}",\n' in (FILES / f"{name}.py").read_text(encoding="utf-8"))
    )


@pytest.mark.req("S1-16")
@pytest.mark.parametrize("name", COLLECTORS)
def test_it_has_an_interval_and_a_deadline_that_settings_move(made, name):
    collector = made()[0][name]
    assert 1 <= collector.interval <= 3600
    assert 0 < collector.deadline <= 60
    slower = made(LOBS_POLL_INTERVAL="30", LOBS_HOST_INTERVAL="30")[0][name]
    fixed = {"storage", "windows"}  # a walk through a directory, and sums that a commit wakes
    assert slower.interval == collector.interval * (1 if name in fixed else 2)


@pytest.mark.req("S1-16")
@pytest.mark.parametrize("name", COLLECTORS)
def test_it_can_be_switched_off(made, name):
    _, enabled = made(LOBS_COLLECTORS_OFF=name)
    assert {one for one, on in enabled.items() if not on} == {name}


@pytest.mark.req("S1-16", "P-13")
@pytest.mark.parametrize("name", COLLECTORS)
async def test_a_failure_backs_off_and_is_told_by_metrics_of_its_own(made, name, monkeypatch):
    collector = made()[0][name]
    waits = []
    ended = [RuntimeError("broken"), RuntimeError("broken"), None]

    async def refresh():
        error = ended.pop(0)
        if error is not None:
            raise error

    class EnoughError(Exception):
        pass

    async def wait(_event, seconds):
        waits.append((seconds, shown()))
        if not ended:
            raise EnoughError

    def shown():
        return {
            sample.metric.removeprefix("lobservatory_collector_"): sample.value
            for sample in runner.render()
            if sample.labels == ("home", name)
        }

    monkeypatch.setattr(collector, "refresh", refresh)
    registry = Registry()
    runner = Runner(registry, "home", [collector], rng=lambda: 0.5, wall_clock=lambda: 1234.0, wait=wait)
    with pytest.raises(ExceptionGroup) as stopped:
        await runner.run()
    assert stopped.group_contains(EnoughError)
    assert [seconds for seconds, _ in waits] == [
        wait_after(collector.interval, failures, 0.5) for failures in (1, 2, 0)
    ]
    assert [state["success"] for _, state in waits] == [0, 0, 1]
    assert "last_success_timestamp_seconds" not in waits[1][1]
    assert waits[2][1]["last_success_timestamp_seconds"] == 1234
    assert all(state["duration_seconds"] >= 0 for _, state in waits)
    text = registry.render()
    assert f'lobservatory_collector_failures_total{{collector="{name}",gateway="home"}} 2' in text
