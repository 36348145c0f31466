"""docs/promql.md: every answer against its question, by a real Prometheus over series whose truth is known.

Each world is a moment of its own, far from the others, so that questions that ask for everything see one of them. What
is recorded is asked for by its rule.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.dashboards.grafana_macros import questions
from tests.dashboards.test_dashboards_static import RECORDED
from tests.servers import prometheus
from tests.tools import debian_tool

DAY, HOUR = 24 * 60, 70  # minutes that are kept of what is asked of a day, and of everything else
APART = 2 * DAY * 60  # seconds between the moments of two worlds
OURS = {"job": "lobservatory", "instance": "127.0.0.1:9464"}
OTHER = {"job": "lobservatory", "instance": "127.0.0.1:9465"}  # a second exporter of the same gateway


class World:
    """Series by the minutes before now: `put(name, value, **labels)`; a function of the minutes, or a number."""

    def __init__(self) -> None:
        self.series: list[tuple[str, dict[str, str], Any]] = []

    def put(self, name: str, value: Any, target: Mapping[str, str] = OURS, /, **labels: str) -> None:
        self.series.append((name, {**target, **labels}, value if callable(value) else lambda _, same=value: same))

    def instant(self, name: str, seconds: float, target: Mapping[str, str] = OURS, /, **labels: str) -> None:
        """A time, in seconds from now."""
        self.put(name, lambda _: ("now", seconds), target, **labels)

    def counter(self, name: str, per_minute: float, start: float = 1000, /, **labels: str) -> None:
        self.put(name, lambda ago: start + per_minute * (DAY - ago), **labels)

    def durations(self, name: str, per_minute: float, seconds: float, /, **labels: str) -> None:
        """A histogram of which every observation was below `seconds`."""
        for le in ("0.5", "1.0", "10.0", "60.0", "+Inf"):
            self.counter(f"{name}_bucket", per_minute if float(le) >= seconds else 0, 0, le=le, **labels)

    def lines(self, now: int) -> list[str]:
        found = []
        for name, labels, value in self.series:
            text = ",".join(f"{label}={json.dumps(one)}" for label, one in labels.items())
            for ago in range(DAY if name == "claw_gateway_up" else HOUR, -1, -1):
                number = value(ago)
                if isinstance(number, tuple):
                    number = now + number[1]
                if number is not None:
                    found.append(f"{name}{{{text}}} {number} {now - 60 * ago}")
        return found


def busy() -> World:
    """Two gateways at work, one of which was away for six hours, and one that is down."""
    world = World()
    money(world)
    calls(world)
    agents(world)
    for target in (OURS, OTHER):
        jobs(world, target)
    watched(world)
    return world


def money(world: World) -> None:
    for gateway, agent, hour, today, month in (
        ("home", "main", 0.5, 3, 40),
        ("home", "sleeper", 0, 0, 0),
        ("work", "main", 2, 2, 10),
    ):
        for window, dollars in (("1h", hour), ("today", today), ("month_projected", month)):
            world.put("claw_cost_window_usd", dollars, gateway=gateway, agent=agent, window=window)
    for gateway, limit in (("home", 25), ("work", 0)):
        labels = {"alert": "DailyCostHigh", "severity": "warning", "agent": ""}
        world.put("claw_alert_threshold", limit, gateway=gateway, **labels)
    for gateway, agent, model, kind, dollars in (
        ("home", "main", "big", "main", 10),
        ("home", "main", "big", "cron", 2),
        ("home", "main", "small", "subagent", 0.5),
        ("home", "main", "never called", "main", 0),
        ("work", "main", "big", "main", 5),
    ):
        labels = {"gateway": gateway, "agent": agent, "provider": "p", "model": model, "kind": kind}
        world.put("claw_cost_usd_total", dollars, **labels)


def calls(world: World) -> None:
    for model, classes in (
        ("big", {"input": 40, "output": 20, "cache_read": 60, "cache_write": 0}),
        ("small", {"input": 20, "output": 20}),  # never met a cache, and a series of nothing is not there
        ("at rest", {"input": 0, "output": 0, "cache_read": 0}),
    ):
        for token_type, per_minute in classes.items():
            labels = {"gateway": "home", "agent": "main", "provider": "p", "model": model, "kind": "main"}
            world.counter("claw_tokens_total", per_minute, **labels, token_type=token_type)
    for model, outcomes in (
        ("big", {"ok": 9, "error": 1}),
        ("small", {"ok": 2}),
        ("spotless", {"ok": 1, "error": 0}),
        ("broken", {"error": 1}),
        ("at rest", {"ok": 0, "error": 0}),
    ):
        for outcome, per_minute in outcomes.items():
            labels = {"gateway": "home", "agent": "main", "provider": "p", "model": model, "kind": "main"}
            world.counter("claw_model_calls_total", per_minute, **labels, outcome=outcome)
    for model, per_minute, seconds in (("big", 9, 9), ("small", 2, 0.6), ("at rest", 0, 9)):
        labels = {"gateway": "home", "provider": "p", "model": model}
        world.durations("claw_model_call_duration_seconds", per_minute, seconds, **labels)
    for tool, endings in (
        ("exec", {"ok": 3, "error": 1, "nonzero_exit": 0}),
        ("sessions_spawn", {"ok": 0.5, "error": 0.0}),
        ("at rest", {"ok": 0, "error": 0}),
    ):
        world.durations("claw_tool_call_duration_seconds", sum(endings.values()), 0.4, gateway="home", tool=tool)
        for outcome, share in endings.items():
            world.counter("claw_tool_calls_total", share, gateway="home", agent="main", tool=tool, outcome=outcome)


def agents(world: World) -> None:
    for gateway, agent, present, ago in (
        ("home", "main", "tool", 30),
        ("home", "thinker", "thinking", 5),
        ("home", "waiter", "waiting", 300),
        ("home", "sleeper", "idle", 7200),
        ("home", "unlucky", "error", 60),
        ("work", "main", "offline", -2),  # its clock is ahead of ours
    ):
        for state in ("idle", "thinking", "tool", "waiting", "error", "offline"):
            world.put("claw_agent_state", int(state == present), gateway=gateway, agent=agent, state=state)
        world.instant("claw_agent_last_activity_timestamp_seconds", -ago, gateway=gateway, agent=agent)
    for agent, ratio in (("main", 0.9), ("sleeper", 0.1)):
        world.put("claw_session_context_ratio_max", ratio, gateway="home", agent=agent)


def watched(world: World) -> None:
    world.put("claw_gateway_up", lambda ago: None if 600 > ago > 590 else 1, gateway="home")  # an exporter's restart
    world.put("claw_gateway_up", lambda ago: int(not 400 < ago <= 760), gateway="work")
    world.put("claw_gateway_up", 0, gateway="down")
    for gateway, collector, ago in (("home", "cron", 8), ("home", "usage", 250), ("work", "cron", -1)):
        name = "lobservatory_collector_last_success_timestamp_seconds"
        world.instant(name, -ago, gateway=gateway, collector=collector)
        world.put("lobservatory_collector_success", 1, gateway=gateway, collector=collector)
    world.put("lobservatory_collector_success", 0, gateway="work", collector="sessions")  # it never succeeded
    world.put("lobservatory_collector_success", 0, OTHER, gateway="home", collector="usage")  # it did once
    for gateway in ("home", "work"):
        world.instant("lobservatory_start_timestamp_seconds", -5000, gateway=gateway)
    for mode, per_minute in (("idle", 121), ("user", 0)):  # of two processors, and the clock wavers
        world.counter("claw_host_cpu_seconds_total", per_minute, gateway="home", mode=mode)
    world.put("claw_host_cpus", 2, gateway="home")


def jobs(world: World, target: dict[str, str]) -> None:
    for gateway, job, name, due, enabled, errors, status in (
        ("home", "j1", "nightly report", 600, 1, 0, "ok"),
        ("home", "j2", "hourly look", 300, 1, 2, "error"),
        ("home", "j3", "switched off", 60, 0, 1, "error"),
        ("home", "j4", "late", -120, 1, 0, "ok"),
        ("home", "j5", "at work", -240, 1, 0, "running"),
        ("home", "j6", "just due", -20, 1, 0, "ok"),
        ("home", "j7", "off and late", -9000, 0, 0, "ok"),
        ("home", "j8", "no plan", None, 1, 0, "never"),
        ("work", "j1", "its scheduler is off", 10, 1, 0, "ok"),
    ):
        labels = {"gateway": gateway, "cron_job": job}
        world.put("claw_cron_job_info", 1, target, **labels, name=name, agent="main")
        world.put("claw_cron_job_enabled", enabled, target, **labels)
        world.put("claw_cron_job_consecutive_errors", errors, target, **labels)
        for one in ("ok", "error", "skipped", "running", "never"):
            world.put("claw_cron_job_status", int(one == status), target, **labels, status=one)
        if due is not None:
            world.instant("claw_cron_job_next_run_timestamp_seconds", due, target, **labels)
    world.put("claw_cron_enabled", 1, target, gateway="home")
    world.put("claw_cron_enabled", 0, target, gateway="work")


def quiet() -> World:
    """A new installation in which nothing happened yet: counters are 0, and stay there."""
    world = World()
    for window in ("1h", "today", "month_projected"):
        world.put("claw_cost_window_usd", 0, gateway="home", agent="main", window=window)
    world.put("claw_alert_threshold", 25, gateway="home", alert="DailyCostHigh", severity="warning", agent="")
    labels = {"gateway": "home", "agent": "main", "provider": "p", "model": "m", "kind": "main"}
    world.counter("claw_cost_usd_total", 0, 0, **labels)
    for token_type in ("input", "output", "cache_read", "cache_write"):
        world.counter("claw_tokens_total", 0, 0, **labels, token_type=token_type)
    for outcome in ("ok", "error", "aborted"):
        world.counter("claw_model_calls_total", 0, 0, **labels, outcome=outcome)
        world.counter("claw_tool_calls_total", 0, 0, gateway="home", agent="main", tool="exec", outcome=outcome)
    world.durations("claw_model_call_duration_seconds", 0, 1, gateway="home", provider="p", model="m")
    world.durations("claw_tool_call_duration_seconds", 0, 1, gateway="home", tool="exec")
    for state in ("idle", "thinking", "tool", "waiting", "error", "offline"):
        world.put("claw_agent_state", int(state == "idle"), gateway="home", agent="main", state=state)
    world.put("claw_gateway_up", 1, gateway="home")
    world.put("claw_cron_enabled", 1, gateway="home")
    return world


def just_started() -> World:
    """An exporter that knows of nothing but itself, for a minute."""
    world = World()
    world.put("claw_ingest_progress_ratio", lambda ago: 0 if ago < 1 else None, gateway="home")
    world.put("lobservatory_start_timestamp_seconds", lambda ago: ("now", -40) if ago < 1 else None, gateway="home")
    return world


def unpriced() -> World:
    """A tenth of the tokens has no price."""
    world = World()
    labels = {"gateway": "home", "provider": "p", "model": "m"}
    world.put("claw_unpriced_tokens_total", 100, **labels)
    for token_type, tokens in (("input", 600), ("output", 400)):
        world.put("claw_tokens_total", tokens, **labels, agent="main", kind="main", token_type=token_type)
    return world


WORLDS = {"busy": busy, "quiet": quiet, "just started": just_started, "unpriced": unpriced, "nothing": World}

H, W = {"gateway": "home"}, {"gateway": "work"}
BIG = {**H, "provider": "p", "model": "big"}
# world → question, by its beginning → rows: labels and value. What is not here is answered by no row.
ANSWERS: dict[str, dict[str, list[tuple[dict[str, str], float]]]] = {
    "busy": {
        "1.": [(H, 3), (W, 2)],
        "2.": [({**W, "agent": "main"}, 2), ({**H, "agent": "main"}, 0.5)],
        "3.": [({}, 50)],
        "4.": [(H, 0.12)],  # a limit of 0 is no limit of which a share could be used
        "5.": [({"provider": "p", "model": "big"}, 17), ({"provider": "p", "model": "small"}, 0.5)],
        "6.": [({"kind": "cron"}, 2), ({"kind": "subagent"}, 0.5)],
        "7.": [({}, 0)],
        "8.": [
            ({"token_type": "input"}, 60),
            ({"token_type": "output"}, 40),
            ({"token_type": "cache_read"}, 60),
            ({"token_type": "cache_write"}, 0),
        ],
        "9.": [({**H, "model": "big"}, 0.6), ({**H, "model": "small"}, 0)],
        "10.": [({**BIG, "model": "broken"}, 1), (BIG, 0.1)],
        "11.": [({**H, "model": "big"}, 9.55), ({**H, "model": "small"}, 0.975)],
        "12.": [({"tool": "exec"}, 4), ({"tool": "sessions_spawn"}, 0.5)],
        "13.": [({**H, "tool": "exec"}, 0.25)],
        "14.": [
            ({**H, "agent": "main", "state": "tool"}, 1),
            ({**H, "agent": "thinker", "state": "thinking"}, 1),
            ({**H, "agent": "waiter", "state": "waiting"}, 1),
        ],
        "15.": [
            ({**H, "agent": "main"}, 30),
            ({**H, "agent": "thinker"}, 5),
            ({**H, "agent": "waiter"}, 300),
            ({**H, "agent": "sleeper"}, 7200),
            ({**H, "agent": "unlucky"}, 60),
            ({**W, "agent": "main"}, 0),
        ],
        "16.": [({**H, "agent": "main"}, 0.9), ({**H, "agent": "sleeper"}, 0.1)],
        "17.": [
            ({**H, "cron_job": "j2", "name": "hourly look"}, 2),
            ({**H, "cron_job": "j3", "name": "switched off"}, 1),
        ],
        "18.": [({**H, "cron_job": "j2", "name": "hourly look"}, 300)],
        "Which are late": [({**H, "cron_job": "j4", "name": "late"}, 120)],
        "19.": [(H, 1), (W, 0.75), ({"gateway": "down"}, 0)],
        "20.": [
            ({**W, "collector": "sessions"}, 5000),
            ({**H, "collector": "usage"}, 250),
            ({**H, "collector": "cron"}, 8),
            ({**W, "collector": "cron"}, 0),
        ],
    },
    "quiet": {
        "1.": [(H, 0)],
        "3.": [({}, 0)],
        "4.": [(H, 0)],
        "8.": [({"token_type": name}, 0) for name in ("input", "output", "cache_read", "cache_write")],
        "19.": [(H, 1)],
    },
    "unpriced": {"7.": [({}, 0.1)], "8.": [({"token_type": name}, 0) for name in ("input", "output")]},
}
ORDERED = ("2.", "5.", "10.", "11.", "12.", "13.", "16.", "Which are late", "20.")  # the greatest first


def inlined(query: str) -> str:
    """The query with the rules of what is recorded in their places."""
    return re.sub(r"claw:[a-z_]+:[a-z0-9_]+", lambda found: f"({RECORDED[found[0]]})", query)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """(Prometheus, the moment of each world)."""
    folder = tmp_path_factory.mktemp("answers")
    now = int(time.time()) // 3600 * 3600 - 7200
    moments = {name: now - place * APART for place, name in enumerate(WORLDS)}
    lines = [line for name, world in WORLDS.items() for line in world().lines(moments[name])]
    (folder / "samples.txt").write_text("\n".join([*lines, "# EOF"]) + "\n")
    subprocess.run(
        [debian_tool("promtool"), "tsdb", "create-blocks-from", "--max-block-duration=24h", "--quiet", "openmetrics",
         "samples.txt", "tsdb"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    with prometheus(folder, folder / "prometheus.yml", "--storage.tsdb.retention.time=60d") as server:
        yield server, moments


def rows(server, query, at):
    """Labels and value of each row, in the order of the answer."""
    return [
        ({name: value for name, value in one["metric"].items() if name != "__name__"}, float(one["value"][1]))
        for one in server.query(inlined(query), at=at)
    ]


def sorted_rows(found):
    return sorted(found, key=lambda row: sorted(row[0].items()))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("question", "query"), questions(), ids=[question for question, _ in questions()])
def test_the_answer_is_that_of_the_question(worlds, world, question, query):
    server, moments = worlds
    found = rows(server, query, moments[world])
    (expected,) = [answer for begin, answer in ANSWERS.get(world, {}).items() if question.startswith(begin)] or [[]]
    assert [labels for labels, _ in sorted_rows(found)] == [labels for labels, _ in sorted_rows(expected)]
    for (_, value), (labels, right) in zip(sorted_rows(found), sorted_rows(expected), strict=True):
        assert value == pytest.approx(right, rel=0.02, abs=1e-9), labels
    if question.startswith(ORDERED):
        assert [labels for labels, _ in found] == [labels for labels, _ in expected]


def test_every_answer_that_is_expected_is_of_a_question():
    begins = {begin for answers in ANSWERS.values() for begin in answers}
    assert len(begins) == len(questions()) == 21
    assert not [begin for begin in begins if not any(question.startswith(begin) for question, _ in questions())]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_is_a_number_and_not_negative(worlds, world, name):
    server, moments = worlds
    found = rows(server, name, moments[world])
    assert world != "busy" or found, "asked of a world in which it has an answer"
    assert all(math.isfinite(value) and value >= 0 for _, value in found), found
