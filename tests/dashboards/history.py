"""Thirty days of two gateways that never were: rows for PostgreSQL and samples for Prometheus that agree.

Calls of models come first; counters, windows of money and sessions are made from them, so a tile and a table show the
same. Everything else follows a day's rhythm. The same seed and the same end give the same history. The plugin's metrics
grow from nothing to what its recorded scrape says.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import uuid
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from lobservatory.metrics.catalogue import METRICS
from lobservatory.metrics.labels import (
    AGENT_STATES,
    COLLECTORS,
    CONNECTION_STATES,
    CRON_STATUSES,
    SERVICE_STATES,
    SKILL_STATES,
    SOURCES,
    TOKEN_TYPES,
)
from tests.tools import debian_tool

DAYS = 30
DAY = 86_400
OFFICIAL_SAMPLE = Path(__file__).resolve().parents[1] / "fixtures" / "samples" / "official-metrics-2026.4.27.txt"
# gateway → agent → how much of its work it does.
GATEWAYS: Mapping[str, Mapping[str, int]] = {
    "home": {"main": 6, "researcher": 3, "release-notes-writer": 1},
    "office": {"main": 3, "support-desk": 4, "invoice-checker": 1},
}
# provider, model, US$ per million tokens (input, output, cache read, cache write), share of the calls.
MODELS = (
    ("anthropic", "claude-sonnet-4-5", (3.0, 15.0, 0.3, 3.75), 50),
    ("anthropic", "claude-haiku-4-5", (1.0, 5.0, 0.1, 1.25), 32),
    ("openai", "gpt-5", (1.25, 10.0, 0.125, 1.25), 16),
    ("ollama", "qwen3-30b", None, 2),
)
SUBSCRIBED = "gpt-5"  # covered by a subscription: equivalent, not billed
KINDS = {"main": 40, "direct": 20, "group": 8, "cron": 14, "subagent": 18}
CHANNELS = ("telegram", "whatsapp", "slack")
TOOLS = {"exec": 30, "read": 26, "write": 14, "web_search": 12, "browser": 8, "sessions_spawn": 3}
JOBS = (  # name, period in seconds, seconds that a run takes, share that fails
    ("nightly report", 86_400, 95, 0.0),
    ("inbox digest", 3_600, 22, 0.04),
    ("backup of notes", 21_600, 41, 0.0),
    ("price watch", 7_200, 9, 0.35),
)
FAILING = 0.3  # a job of which more fails has failed three times in a row at the end
DAILY_LIMIT, MONTHLY_BUDGET = 15.0, 400.0


@dataclass(frozen=True, slots=True)
class Call:
    at: float
    gateway: str
    agent: str
    provider: str
    model: str
    kind: str
    channel: str | None
    session: str
    key: str
    run: str
    outcome: str
    tokens: tuple[int, int, int, int]  # input, output, cache read, cache write
    cost: float | None
    seconds: float

    @property
    def billed(self) -> bool:
        return self.model != SUBSCRIBED


@dataclass(frozen=True, slots=True)
class ToolCall:
    at: float
    call: Call
    tool: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class History:
    start: float
    end: float
    calls: list[Call] = field(repr=False)
    tools: list[ToolCall] = field(repr=False)

    @property
    def restarts(self) -> list[float]:
        """Starts of every gateway."""
        return [self.start - 3 * DAY, self.end - 12 * DAY, self.end - 31_000]


def rhythm(at: float) -> float:
    """Work by the hour of the day: a little at night, most in the afternoon."""
    hour = at / 3600 % 24
    return 0.2 + 1.3 * max(0.0, 1 - abs(hour - 14) / 8)


def make(end: datetime, *, per_hour: float = 40, seed: int = 7) -> History:
    """The calls of all gateways, oldest first."""
    chance = random.Random(seed)
    stop = end.timestamp()
    start = stop - DAYS * DAY
    calls, tools = [], []
    at = start
    while True:
        at += chance.expovariate(rhythm(at) * per_hour / 3600)
        if at >= stop - 20:
            break
        call = _call(chance, at)
        calls.append(call)
        for number in range(chance.choices((0, 1, 2), (5, 3, 2))[0]):
            outcome = chance.choices(("ok", "error", "nonzero_exit"), (92, 3, 5))[0]
            tool = chance.choices(list(TOOLS), list(TOOLS.values()))[0]
            tools.append(ToolCall(at + 2 + number, call, tool, outcome, chance.lognormvariate(0, 1.2)))
    return History(start, stop, calls, tools)


def _call(chance: random.Random, at: float) -> Call:
    gateway = chance.choices(list(GATEWAYS), (3, 2))[0]
    agents = GATEWAYS[gateway]
    agent = chance.choices(list(agents), list(agents.values()))[0]
    provider, model, price, _ = chance.choices(MODELS, [share for *_, share in MODELS])[0]
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    channel = chance.choice(CHANNELS) if kind in {"direct", "group"} else None
    outcome = chance.choices(("ok", "error", "aborted"), (96, 3, 1))[0]
    read = int(chance.lognormvariate(10, 0.6))
    tokens = (
        int(chance.lognormvariate(7.4, 1)),
        int(chance.lognormvariate(5.8, 1)),
        read,
        int(read * chance.random() * 0.1),
    )
    if outcome == "error":
        tokens = (0, 0, 0, 0)
    cost = None if price is None else round(sum(n * p for n, p in zip(tokens, price, strict=True)) / 1e6, 8)
    if price is None and not sum(tokens):
        cost = 0.0
    block = int(at // (3600 if kind == "subagent" else 6 * 3600))
    key = f"agent:{agent}:{kind}" + (f":{channel}" if channel else f":{block}" if kind == "subagent" else "")
    session = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{gateway}{key}{block}"))
    run = f"run-{int(at // 240)}-{agent}-{kind}"
    seconds = chance.lognormvariate(1.6, 0.7)
    return Call(at, gateway, agent, provider, model, kind, channel, session, key, run, outcome, tokens, cost, seconds)


# --- rows -----------------------------------------------------------------------------------------------------------


def _when(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _copy(connection: psycopg.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY lobs.{table} ({', '.join(columns)}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row([row[column] for column in columns])


def write_rows(connection: psycopg.Connection, history: History) -> None:
    """Everything that the exporter, the API and Alertmanager would have left; `connection` may write base tables."""
    chance = random.Random(11)
    _calls(connection, history)
    _gateways(connection, history, chance)
    _work(connection, history, chance)
    connection.execute("SELECT lobs.rebuild_usage(%s, %s)", (_when(history.start), _when(history.end + DAY)))
    connection.commit()


def _calls(connection: psycopg.Connection, history: History) -> None:
    calls, tools = [], []
    for number, call in enumerate(history.calls):
        basis = "unpriced" if call.cost is None else "reported"
        calls.append(
            {
                "ts": _when(call.at),
                "gateway": call.gateway,
                "agent": call.agent,
                "session_id": call.session,
                "session_key": call.key,
                "parent_session_key": f"agent:{call.agent}:main" if call.kind == "subagent" else None,
                "kind": call.kind,
                "channel": call.channel,
                "entry_id": f"e{number}",
                "identity": uuid.UUID(int=number),
                "provider": call.provider,
                "model": call.model,
                "outcome": call.outcome,
                "input_tokens": call.tokens[0],
                "output_tokens": call.tokens[1],
                "cache_read_tokens": call.tokens[2],
                "cache_write_tokens": call.tokens[3],
                "reasoning_tokens": call.tokens[1] // 3,
                "cost_usd": call.cost,
                "cost_basis": basis,
                "billing": "billed" if call.billed else "equivalent",
                "duration_ms": int(call.seconds * 1000),
                "run_id": call.run,
                "error_code": "rate_limit_error" if call.outcome == "error" else None,
            }
        )
    for number, tool in enumerate(history.tools):
        tools.append(
            {
                "ts": _when(tool.at),
                "gateway": tool.call.gateway,
                "agent": tool.call.agent,
                "session_id": tool.call.session,
                "entry_id": f"t{number}",
                "position": 0,
                "identity": uuid.UUID(int=10**9 + number),
                "call_id": f"c{number}",
                "tool": tool.tool,
                "kind": tool.call.kind,
                "run_id": tool.call.run,
                "outcome": tool.outcome,
                "exit_code": 1 if tool.outcome == "nonzero_exit" else None,
                "duration_ms": int(tool.seconds * 1000),
                "output_bytes": int(tool.seconds * 900),
            }
        )
    _copy(connection, "model_calls", calls)
    _copy(connection, "tool_calls", tools)
    connection.execute(
        """
INSERT INTO lobs.sessions
  (gateway, agent, session_id, session_key, kind, channel, parent_session_key, status, provider, model, context_tokens,
   context_limit, started_at, updated_at, calls, errors, input_tokens, output_tokens, cache_read_tokens,
   cache_write_tokens, reasoning_tokens, cost_usd, equivalent_cost_usd, unpriced_calls, first_call_at, last_call_at)
SELECT gateway, agent, session_id, min(session_key), min(kind), min(channel), min(parent_session_key),
       CASE WHEN max(ts) > %(end)s - interval '5 minutes' THEN 'running'
            WHEN hashtext(session_id) %% 17 = 0 THEN 'failed' ELSE 'done' END,
       min(provider), min(model), 20000 + abs(hashtext(session_id)) %% 165000, 200000, min(ts), max(ts), count(*),
       count(*) FILTER (WHERE outcome <> 'ok'), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens),
       sum(cache_write_tokens), sum(reasoning_tokens), coalesce(sum(cost_usd) FILTER (WHERE billing = 'billed'), 0),
       coalesce(sum(cost_usd) FILTER (WHERE billing = 'equivalent'), 0),
       count(*) FILTER (WHERE cost_basis = 'unpriced'), min(ts), max(ts)
FROM lobs.model_calls GROUP BY 1, 2, 3
""",
        {"end": _when(history.end)},
    )
    connection.execute(
        """
INSERT INTO lobs.subagent_runs
  (gateway, run_id, child_session_key, parent_session_key, label, status, started_at, ended_at)
SELECT gateway, 'sub-' || session_id, session_key, parent_session_key,
       (ARRAY['look up prices', 'summarise the thread', 'check the links', 'draft an answer'])
         [1 + abs(hashtext(session_id)) % 4],
       CASE status WHEN 'done' THEN 'done' ELSE status END, started_at,
       CASE WHEN status <> 'running' THEN updated_at END
FROM lobs.sessions WHERE kind = 'subagent'
"""
    )
    connection.execute(
        """
INSERT INTO lobs.session_events (ts, gateway, agent, session_id, entry_id, identity, event, detail)
SELECT started_at + 0.6 * (updated_at - started_at), gateway, agent, session_id, 'v' || session_id, gen_random_uuid(),
       CASE WHEN hashtext(session_id) % 4 = 0 THEN 'reset' ELSE 'compaction' END, '{"tokens_after": 21000}'
FROM lobs.sessions WHERE calls > 3
"""
    )
    connection.execute(
        """
INSERT INTO lobs.agents
  (gateway, agent, name, model, configured, state, activity, state_at, first_call_at, last_call_at, last_activity_at)
SELECT DISTINCT ON (gateway, agent) gateway, agent, agent, model, true,
       CASE WHEN ts > %(end)s - interval '5 minutes' THEN 'tool' ELSE 'idle' END,
       CASE WHEN ts > %(end)s - interval '5 minutes' THEN 'runs exec' END, ts,
       min(ts) OVER (PARTITION BY gateway, agent), ts, ts
FROM lobs.model_calls ORDER BY gateway, agent, ts DESC
""",
        {"end": _when(history.end)},
    )


def _gateways(  # noqa: C901 - a paragraph for each table
    connection: psycopg.Connection, history: History, chance: random.Random
) -> None:
    jobs, runs, channels, approvals, events, starts = [], [], [], [], [], []
    signatures, lines = [], []
    for gateway in GATEWAYS:
        for number, (name, period, seconds, failing) in enumerate(JOBS):
            first = history.end - (history.end - history.start) // period * period
            times = [first + period * n for n in range(int((history.end - first) // period))]
            errors = 0
            for at in times:
                age = (at - history.start) / (history.end - history.start)
                length = seconds * (1 + 0.8 * age if number == 0 else 1) * chance.uniform(0.8, 1.3)
                bad = chance.random() < failing
                if failing > FAILING and at in times[-4:]:
                    bad = at != times[-4]  # three in a row, as the metric says
                errors = errors + 1 if bad else 0
                runs.append(
                    {
                        "gateway": gateway,
                        "job_id": f"job-{number}",
                        "started_at": _when(at),
                        "finished_at": _when(at + length),
                        "status": "error" if bad else "ok",
                    }
                )
            jobs.append(
                {
                    "gateway": gateway,
                    "job_id": f"job-{number}",
                    "agent": "main",
                    "name": name,
                    "schedule": f"every {period // 3600} h",
                    "enabled": True,
                    "period_seconds": period,
                    "next_run_at": _when(times[-1] + 2 * period),
                    "last_run_at": _when(times[-1]),
                    "last_status": "error" if errors else "ok",
                    "last_duration_ms": seconds * 1000,
                    "consecutive_errors": errors,
                    "delivery_status": "delivered" if number != 1 else "failed",
                }
            )
        for number, channel in enumerate(CHANNELS):
            channels.append(
                {
                    "gateway": gateway,
                    "channel": channel,
                    "configured": True,
                    "connected": number != 1,
                    "last_inbound_at": _when(history.end - 240 * (1 + 40 * number)),
                    "last_outbound_at": _when(history.end - 200 * (1 + 40 * number)),
                    "last_error": "logged out" if number == 1 else None,
                }
            )
        for number in range(60):
            at = history.end - number * 9_000 - 60
            status = "pending" if not number else chance.choice(["allowed", "allowed", "denied", "expired"])
            approvals.append(
                {
                    "gateway": gateway,
                    "approval_id": f"a{number}",
                    "agent": "main",
                    "command": "git push",
                    "status": status,
                    "requested_at": _when(at),
                    "expires_at": _when(at + 1_800),
                    "resolved_at": None if status == "pending" else _when(at + 90),
                }
            )
        starts += [
            {"ts": _when(at), "gateway": gateway, "event": "start", "detail": '{"version": "2026.9.6"}'}
            for at in history.restarts[1:]
        ]
        for number, (level, sample) in enumerate(
            (
                ("error", "provider answered 529 overloaded"),
                ("warn", "telegram: long poll timed out"),
                ("warn", "lane main waited 31 s"),
                ("error", "whatsapp: session logged out"),
            )
        ):
            signatures.append(
                {
                    "gateway": gateway,
                    "signature": f"s{number}",
                    "level": level,
                    "sample": sample,
                    "count": 4 + 31 * number,
                    "first_seen_at": _when(history.end - (5_000 if number == 3 else 20 * DAY)),
                    "last_seen_at": _when(history.end - 1_000 * (number + 1)),
                }
            )
        for number in range(400):
            level, part, text = chance.choices(
                (
                    ("info", "gateway/ws", "client connected"),
                    ("info", "agent/run", "run finished in 8.4 s"),
                    ("debug", "cron", "next wake in 512 s"),
                    ("warn", "channels/telegram", "long poll timed out"),
                    ("error", "model", "provider answered 529 overloaded"),
                ),
                (40, 40, 10, 7, 3),
            )[0]
            lines.append(
                {
                    "gateway": gateway,
                    "ts": _when(history.end - number * 37 - 5),
                    "level": level,
                    "subsystem": part,
                    "message": text,
                }
            )
    for call in history.calls:
        if call.at > history.end - 2 * DAY:
            happened: tuple[tuple[float, str, str | None], ...] = (
                (-2, "message_in" if call.channel else "thinking", None),
                (0, "tool_start", "runs exec"),
                (call.seconds, "message_out" if call.channel else "idle", None),
            )
            for offset, event, activity in happened:
                events.append(
                    {
                        "ts": _when(call.at + offset),
                        "gateway": call.gateway,
                        "agent": call.agent,
                        "event": event,
                        "activity": activity,
                        "tool": "exec" if activity else None,
                        "run_id": call.run,
                    }
                )
    for table, rows in (
        ("cron_jobs", jobs),
        ("cron_runs", runs),
        ("channels", channels),
        ("exec_approvals", approvals),
        ("gateway_events", starts),
        ("log_signatures", signatures),
        ("log_lines", lines),
        ("agent_events", events),
    ):
        _copy(connection, table, rows)


def _work(connection: psycopg.Connection, history: History, chance: random.Random) -> None:
    connection.execute(
        """
INSERT INTO lobs.operations
  (id, gateway, type, name, status, agent_id, channel, created_at, started_at, completed_at, duration_ms, source,
   run_id, session_key, session_id)
SELECT 'op-' || gateway || run_id, gateway, CASE min(kind) WHEN 'cron' THEN 'scheduled' ELSE 'agent_task' END,
       'Run of ' || min(agent), CASE WHEN max(ts) > %(end)s - interval '4 minutes' THEN 'in_progress'
         WHEN bool_or(outcome = 'error') THEN 'failed' WHEN bool_or(outcome = 'aborted') THEN 'cancelled'
         ELSE 'completed' END,
       min(agent), min(channel), min(ts), min(ts), CASE WHEN max(ts) <= %(end)s - interval '4 minutes'
         THEN max(ts) + make_interval(secs => max(duration_ms) / 1000.0) END,
       CASE WHEN max(ts) <= %(end)s - interval '4 minutes'
         THEN (extract(epoch FROM max(ts) - min(ts)) * 1000)::bigint + max(duration_ms) END, 'run', run_id,
       min(session_key), min(session_id)
FROM lobs.model_calls WHERE ts > %(end)s - interval '10 days' GROUP BY gateway, run_id
""",
        {"end": _when(history.end)},
    )
    connection.execute(
        """
INSERT INTO lobs.operation_metrics (operation_id, prompt_tokens, completion_tokens, total_tokens, cost_usd, model)
SELECT 'op-' || gateway || run_id, sum(input_tokens), sum(output_tokens), sum(input_tokens + output_tokens),
       sum(cost_usd), min(model)
FROM lobs.model_calls WHERE ts > %s - interval '10 days' GROUP BY gateway, run_id
""",
        (_when(history.end),),
    )
    tasks, steps = [], []
    for number in range(80):
        created = history.end - chance.uniform(0, DAYS * DAY)
        begun = created + chance.uniform(600, 40_000)
        done = begun + chance.lognormvariate(9, 1)
        status = "done" if done < history.end - 3_600 else chance.choice(["todo", "in_progress", "review", "assigned"])
        tasks.append(
            {
                "id": f"task-{number}",
                "gateway": chance.choice(list(GATEWAYS)),
                "title": chance.choice(["Answer the landlord", "Plan the trip", "Sort receipts", "Write the summary"]),
                "status": status,
                "priority": chance.choice(["low", "medium", "medium", "high", "urgent"]),
                "assigned_agent": "main",
                "due_date": _when(history.end + chance.uniform(-DAY, 5 * DAY)),
                "created_at": _when(created),
            }
        )
        path = [(None, "todo", created), ("todo", "in_progress", begun), ("in_progress", "done", done)]
        for before, after, at in path[: 3 if status == "done" else 1]:
            steps.append({"task_id": f"task-{number}", "at": _when(at), "from_status": before, "to_status": after})
    _copy(connection, "tasks", tasks)
    _copy(connection, "task_status_history", steps)
    alerts = []
    for alert, severity, count, length, summary in (
        ("CronJobFailing", "warning", 14, 9_000, "A job failed several times in a row"),
        ("DailyCostHigh", "warning", 4, 20_000, "Today costs more than its limit"),
        ("GatewayDown", "critical", 2, 700, "The gateway does not answer"),
        ("ModelErrors", "warning", 23, 200, "Many model calls fail"),
        ("ChannelDown", "critical", 3, 5_000, "A channel is not connected"),
    ):
        for number in range(count):
            started = history.end - (number + chance.random()) * DAYS * DAY / (count + 1) - 5_400
            ended = started + length * chance.uniform(0.4, 1.8)
            fires = number == 0 and alert in {"CronJobFailing", "ChannelDown"}
            alerts.append(
                {
                    "fingerprint": f"{alert}{number}",
                    "gateway": chance.choice(list(GATEWAYS)),
                    "alert": alert,
                    "severity": severity,
                    "status": "firing" if fires else "resolved",
                    "starts_at": _when(started),
                    "ends_at": None if fires else _when(min(ended, history.end - 60)),
                    "annotations": json.dumps({"summary": summary}),
                }
            )
    _copy(connection, "alert_events", alerts)


# --- samples --------------------------------------------------------------------------------------------------------

Value = Callable[[float], float | None]


def _times(history: History, tiers: tuple[tuple[float, int], ...]) -> Iterator[int]:
    """Instants of samples; `tiers`: (age in seconds down to which, step in seconds), the coarsest first."""
    at = history.start // 900 * 900
    for age, step in tiers:
        at = (at + step - 1) // step * step
        while at < history.end - age:
            yield int(at)
            at += step
    yield int(history.end)


class _Running:
    """A counter that never falls: so much a second, more at work hours."""

    def __init__(self, per_hour: float, *, steady: bool = False) -> None:
        self._rate = per_hour / 3600
        self._steady = steady
        self._value = 0.0
        self._at: float | None = None

    def __call__(self, at: float) -> float:
        if self._at is not None:
            self._value += self._rate * (at - self._at) * (1 if self._steady else rhythm(at))
        self._at = at
        return round(self._value, 3)


class _Sum:
    """What happened until now: amounts by time, oldest first."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._sums = [0.0]

    def add(self, at: float, amount: float) -> None:
        self._times.append(at)
        self._sums.append(self._sums[-1] + amount)

    def __call__(self, at: float) -> float:
        return round(self._sums[bisect_right(self._times, at)], 8)

    def between(self, low: float, high: float) -> float:
        return self._sums[bisect_right(self._times, high)] - self._sums[bisect_left(self._times, low)]

    def newest(self, at: float) -> float | None:
        index = bisect_right(self._times, at)
        return self._times[index - 1] if index else None


Series = dict[tuple[str, tuple[tuple[str, str], ...]], Value]


class _Book:
    """Series by name and labels; a value is a number or a function of the time."""

    def __init__(self) -> None:
        self.series: Series = {}

    def put(self, name: str, value: Any, /, **labels: str) -> None:
        self.series[name, tuple(labels.items())] = value if callable(value) else lambda _: value


def _accounting(book: _Book, history: History) -> None:  # noqa: C901 - a paragraph for each family
    counted: dict[tuple[str, tuple[tuple[str, str], ...]], _Sum] = defaultdict(_Sum)

    def add(name: str, at: float, amount: float, **labels: str) -> None:
        counted[name, tuple(labels.items())].add(at, amount)

    spent: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    activity: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    for call in history.calls:
        who = {
            "gateway": call.gateway,
            "agent": call.agent,
            "provider": call.provider,
            "model": call.model,
            "kind": call.kind,
        }
        add("claw_model_calls_total", call.at, 1, **who, outcome=call.outcome)
        for token_type, tokens in zip(("input", "output", "cache_read", "cache_write"), call.tokens, strict=True):
            add("claw_tokens_total", call.at, tokens, **who, token_type=token_type)
        add("claw_reasoning_tokens_total", call.at, call.tokens[1] // 3, **who)
        cost = call.cost or 0.0
        add("claw_cost_usd_total" if call.billed else "claw_equivalent_cost_usd_total", call.at, cost, **who)
        model = {"gateway": call.gateway, "provider": call.provider, "model": call.model}
        if call.cost is None:
            add("claw_unpriced_calls_total", call.at, 1, **model)
            add("claw_unpriced_tokens_total", call.at, sum(call.tokens), **model)
        for bound in (*_bounds("claw_model_call_duration_seconds"), "+Inf"):
            if call.seconds <= float(bound):
                add("claw_model_call_duration_seconds_bucket", call.at, 1, **model, le=bound)
        spent[call.gateway, call.agent].add(call.at, cost if call.billed else 0.0)
        activity[call.gateway, call.agent].add(call.at, 1)
    for tool in history.tools:
        gateway = tool.call.gateway
        add(
            "claw_tool_calls_total",
            tool.at,
            1,
            gateway=gateway,
            agent=tool.call.agent,
            tool=tool.tool,
            outcome=tool.outcome,
        )
        for bound in (*_bounds("claw_tool_call_duration_seconds"), "+Inf"):
            if tool.seconds <= float(bound):
                add("claw_tool_call_duration_seconds_bucket", tool.at, 1, gateway=gateway, tool=tool.tool, le=bound)
    book.series.update(counted)
    for (gateway, agent), money in spent.items():
        for window, sum_of_window in _windows(money).items():
            book.put("claw_cost_window_usd", sum_of_window, gateway=gateway, agent=agent, window=window)
        usual = 0.07 * GATEWAYS[gateway][agent] / 2
        book.put("claw_cost_hour_baseline_usd", lambda at, u=usual: u * rhythm(at), gateway=gateway, agent=agent)
        busy = activity[gateway, agent]
        book.put("claw_agent_last_activity_timestamp_seconds", busy.newest, gateway=gateway, agent=agent)
        book.put(
            "claw_active_runs",
            lambda at, b=busy: min(2.0, b.between(at - 120, at)),
            gateway=gateway,
            agent=agent,
        )
        for number, state in enumerate(AGENT_STATES):
            book.put(
                "claw_agent_state",
                lambda at, b=busy, n=number, a=agent: float(_state(b, at, a) == n),
                gateway=gateway,
                agent=agent,
                state=state,
            )
        for event, rate in (("message_in", 4), ("message_out", 4), ("thinking", 9), ("tool_start", 7), ("error", 0.2)):
            book.put("claw_agent_events_total", _Running(rate), gateway=gateway, agent=agent, event=event)
        full = 0.35 + 0.5 * (sum(map(ord, agent)) % 10) / 10
        book.put(
            "claw_session_context_ratio_max",
            lambda at, f=full: f * (0.6 + 0.4 * (at % 20_000) / 20_000),
            gateway=gateway,
            agent=agent,
        )
        book.put("claw_compactions_total", _Running(0.3), gateway=gateway, agent=agent)


def _bounds(family: str) -> tuple[str, ...]:
    metric = next(metric for metric in METRICS if metric.name == family)
    return tuple(f"{bound:g}" for bound in metric.buckets)


def _state(busy: _Sum, at: float, agent: str) -> int:
    """The place of the present state in AGENT_STATES."""
    newest = busy.newest(at)
    age = at - (newest or 0.0)
    if age < 60:
        return 1
    if age < 150:
        return 2
    return 3 if agent == "main" and at % 90_000 < 2_000 else 0


def _windows(money: _Sum) -> dict[str, Value]:
    def day(at: float) -> float:
        return at // DAY * DAY

    def month(at: float) -> float:
        moment = datetime.fromtimestamp(at, UTC)
        return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()

    def projected(at: float) -> float:
        first = datetime.fromtimestamp(month(at), UTC)
        following = (first + timedelta(days=32)).replace(day=1).timestamp()
        left = (following - day(at)) / DAY - 1
        return money.between(month(at), at) + money.between(day(at) - 7 * DAY, day(at)) / 7 * left

    return {
        "1h": lambda at: money.between(at - 3600, at),
        "today": lambda at: money.between(day(at), at),
        "7d": lambda at: money.between(day(at) - 6 * DAY, at),
        "30d": lambda at: money.between(day(at) - 29 * DAY, at),
        "month": lambda at: money.between(month(at), at),
        "month_projected": projected,
    }


def _observed(book: _Book, history: History) -> None:
    for number, gateway in enumerate(GATEWAYS):
        _gateway(book, history, gateway, number)
        _surroundings(book, history, gateway, number)
        _schedule(book, history, gateway)
        _host(book, history, gateway, number)
        _ourselves(book, history, gateway)
    official(book, history)
    unrecorded(book)
    book.put("ALERTS", 1, alertname="Watchdog", alertstate="firing", severity="none")
    for alert, severity, state, since in (
        ("CronJobFailing", "warning", "firing", 5_400),
        ("ChannelDown", "critical", "firing", 2_400),
        ("ModelErrors", "warning", "pending", 240),
    ):
        labels = {"alertname": alert, "severity": severity, "gateway": "home"}
        if alert == "ChannelDown":
            labels["channel"] = "whatsapp"
        begun = history.end - since
        held = lambda at, value, b=begun: value if at >= b else None  # noqa: E731 - two values of one condition
        book.put("ALERTS", lambda at, h=held: h(at, 1.0), **labels, alertstate=state)
        book.put("ALERTS_FOR_STATE", lambda at, h=held, b=begun: h(at, b), **labels)


def _gateway(  # noqa: C901 - a paragraph for each family
    book: _Book, history: History, gateway: str, number: int
) -> None:
    down = history.end - 31_000

    def up(at: float) -> float:
        return float(not (gateway == "home" and down - 900 < at < down))

    def started(at: float) -> float:
        return max(start for start in history.restarts if start <= at) + number * 700

    def memory(at: float) -> float:
        return 5.5e8 + 9e3 * math.pow(max(1.0, at - started(at)), 0.8) + 2e7 * rhythm(at)

    g = {"gateway": gateway}
    book.put("claw_gateway_up", up, **g)
    book.put("up", 1, job="lobservatory", instance=f"127.0.0.1:{9464 + number}", **g)
    book.put("claw_gateway_info", 1, **g, version=("2026.9.6", "2026.9.5")[number], protocol="4")
    book.put("claw_gateway_start_timestamp_seconds", started, **g)
    book.put("claw_gateway_restarts_total", lambda at: float(sum(s <= at for s in history.restarts)), **g)
    book.put("claw_gateway_resident_memory_bytes", memory, **g)
    book.put("claw_gateway_cpu_seconds_total", _Running(320), **g)
    book.put("claw_gateway_event_loop_delay_p99_seconds", lambda at: 0.015 + 0.012 * rhythm(at), **g)
    book.put("claw_gateway_reconnects_total", lambda at: 2.0 * sum(s <= at for s in history.restarts), **g)
    for state in CONNECTION_STATES:
        book.put(
            "claw_gateway_connection_state",
            lambda at, s=state: float(s == ("connected" if up(at) else "reconnecting")),
            **g,
            state=state,
        )
    for event, rate in (("tick", 120), ("health", 60), ("agent", 90), ("chat", 40), ("cron", 5)):
        book.put("claw_gateway_events_total", _Running(rate, steady=event == "tick"), **g, event=event)
    book.put("claw_gateway_event_gaps_total", _Running(0.2), **g)
    book.put("claw_gateway_frames_dropped_total", _Running(0.1), **g, reason="bad_json")
    book.put("claw_gateway_connect_failures_total", _Running(0.3), **g, reason="refused")
    for method, seconds in (("health", 0.01), ("status", 0.02), ("sessions.list", 0.14), ("cron.list", 0.03)):
        book.put("claw_rpc_latency_seconds", lambda at, s=seconds: s * (0.8 + 0.7 * rhythm(at)), **g, method=method)
    book.put("claw_rpc_errors_total", _Running(0.6), **g, method="usage.cost", code="UNAVAILABLE")
    for kind, state, count in (
        ("main", "done", 3),
        ("direct", "running", 1),
        ("cron", "done", 9),
        ("group", "failed", 1),
    ):
        book.put("claw_sessions", count, **g, kind=kind, state=state)
    book.put("claw_subagents_running", lambda at: float(int(at / 700) % 5 == 0), **g)
    book.put("claw_agents", len(GATEWAYS[gateway]), **g)
    for index, channel in enumerate(CHANNELS):
        book.put("claw_channel_configured", 1, **g, channel=channel)
        book.put("claw_channel_connected", float(index != 1), **g, channel=channel)
        for direction, lag in (("in", 240), ("out", 200)):
            book.put(
                "claw_channel_last_message_timestamp_seconds",
                lambda at, x=lag * (1 + 40 * index): at - x,
                **g,
                channel=channel,
                direction=direction,
            )
    book.put("claw_exec_approvals_pending", lambda at: float(at > history.end - 600), **g)
    book.put(
        "claw_exec_approval_oldest_timestamp_seconds",
        lambda at: history.end - 600 if at > history.end - 600 else None,
        **g,
    )
    book.put("claw_exec_approvals_expired", 2, **g)
    for provider, quota, period in (
        ("anthropic", "5h", 18_000),
        ("anthropic", "week", 604_800),
        ("openai", "week", 604_800),
    ):
        book.put(
            "claw_provider_quota_used_ratio",
            lambda at, p=period: 0.05 + 0.8 * (at % p) / p,
            **g,
            provider=provider,
            quota=quota,
        )
    for level, lines in (("info", 80.0), ("debug", 30.0), ("warn", 3.0), ("error", 0.7)):
        book.put("claw_log_lines_total", _Running(lines), **g, level=level)
    book.put("claw_log_new_signatures_total", _Running(0.02), **g, level="warn")
    book.put("claw_log_unreadable_lines_total", _Running(0.01), **g)
    book.put("claw_log_last_line_timestamp_seconds", lambda at: at - 12, **g)
    for alert, severity, value in (
        ("DailyCostHigh", "warning", DAILY_LIMIT),
        ("BudgetBurn", "critical", MONTHLY_BUDGET),
        ("BudgetBurn", "warning", 0.8),
    ):
        book.put("claw_alert_threshold", value, **g, alert=alert, severity=severity, agent="")
    for provider, model, price, _ in MODELS:
        for token_type, value in zip(("input", "output", "cache_read", "cache_write"), price or (), strict=False):
            book.put(
                "claw_model_token_price_usd", value / 1e6, **g, provider=provider, model=model, token_type=token_type
            )


def _surroundings(book: _Book, history: History, gateway: str, number: int) -> None:
    g = {"gateway": gateway}
    for endpoint, seconds in (("healthz", 0.004), ("readyz", 0.02)):
        book.put("claw_gateway_http_up", 1, **g, endpoint=endpoint)
        book.put(
            "claw_gateway_http_seconds", lambda at, s=seconds: s * (0.8 + 0.7 * rhythm(at)), **g, endpoint=endpoint
        )
    book.put("claw_gateway_failing_check", float(number), **g, check="event-loop")
    book.put("claw_gateway_last_event_timestamp_seconds", lambda at: at - 4, **g)
    unit = {**g, "manager": ("systemd_user", "launchd")[number]}
    for state in SERVICE_STATES:
        book.put("claw_service_state", float(state == "active"), **unit, state=state)
    book.put("claw_service_restarts", lambda at: float(sum(s <= at for s in history.restarts)), **unit)
    book.put("claw_service_last_exit_status", float(137 * (1 - number)), **unit)
    for state, many in zip(SKILL_STATES, (23, 4, 1, 2), strict=True):
        book.put("claw_skills", many, **g, state=state)
    for provider in {provider for provider, _, _, _ in MODELS}:
        book.put("claw_models", 3, **g, provider=provider)
        book.put("claw_models_usable", float(2 * (provider != "ollama")), **g, provider=provider)
    book.put("claw_nodes", 2, **g)
    book.put("claw_nodes_connected", 1, **g)
    for status, tasks in (("completed", 14), ("running", 1), ("failed", 2), ("lost", 1)):
        book.put("claw_tasks", tasks, **g, runtime="subagent", status=status)


def _schedule(book: _Book, history: History, gateway: str) -> None:
    book.put("claw_cron_enabled", 1, gateway=gateway)
    for number, (name, period, seconds, failing) in enumerate(JOBS):
        job = {"gateway": gateway, "cron_job": f"job-{number}"}
        last = lambda at, p=period: history.end - ((history.end - at) // p + 1) * p  # noqa: E731 - of three series
        errors = 3.0 if failing > FAILING else 0.0
        book.put("claw_cron_job_info", 1, **job, name=name, agent="main")
        book.put("claw_cron_job_enabled", 1, **job)
        book.put("claw_cron_job_last_run_timestamp_seconds", last, **job)
        book.put("claw_cron_job_last_success_timestamp_seconds", last, **job)
        book.put("claw_cron_job_delivery_failed", float(number == 1), **job)
        book.put("claw_cron_job_next_run_timestamp_seconds", lambda at, n=last, p=period: n(at) + 2 * p, **job)
        book.put(
            "claw_cron_job_last_duration_seconds",
            lambda at, s=seconds, n=last: s * (0.9 + 0.3 * (n(at) / 7_200 % 3) / 3),
            **job,
        )
        book.put("claw_cron_job_period_seconds", period, **job)
        book.put("claw_cron_job_consecutive_errors", errors, **job)
        for status in CRON_STATUSES:
            book.put("claw_cron_job_status", float(status == ("error" if errors else "ok")), **job, status=status)


def _host(book: _Book, history: History, gateway: str, number: int) -> None:
    g = {"gateway": gateway}
    size: float = 16e9 * (1 + number)
    book.put("claw_host_info", 1, **g, os="Linux", release="6.12.8", machine=("x86_64", "aarch64")[number])
    book.put("claw_host_boot_timestamp_seconds", history.start - 8 * DAY, **g)
    book.put("claw_host_cpus", 4 * (1 + number), **g)
    for mode, share in (("user", 0.22), ("system", 0.07), ("iowait", 0.01), ("irq", 0.005), ("nice", 0.01)):
        book.put("claw_host_cpu_seconds_total", _Running(4 * 3600 * share), **g, mode=mode)
    book.put("claw_host_cpu_seconds_total", _Running(4 * 3600 * (0.7 + number), steady=True), **g, mode="idle")
    for minutes, load in (("1", 1.3), ("5", 1.1), ("15", 0.9)):
        book.put(f"claw_host_load{minutes}", lambda at, x=load: x * rhythm(at), **g)
    book.put("claw_host_memory_total_bytes", size, **g)
    book.put("claw_host_memory_available_bytes", lambda at: size * (0.62 - 0.12 * rhythm(at)), **g)
    book.put("claw_host_swap_total_bytes", 2e9, **g)
    book.put("claw_host_swap_used_bytes", lambda at: 1.2e8 + 3e7 * rhythm(at), **g)
    for device, mountpoint, used in (("/dev/nvme0n1p2", "/", 0.55), ("/dev/nvme0n1p1", "/boot", 0.3)):
        place = {**g, "device": device, "mountpoint": mountpoint}
        book.put("claw_host_filesystem_size_bytes", 2.5e11, **place)
        book.put(
            "claw_host_filesystem_available_bytes",
            lambda at, u=used: 2.5e11 * (1 - u - 0.06 * (at - history.start) / (DAYS * DAY)),
            **place,
        )
    for direction in ("read", "written"):
        book.put(f"claw_host_disk_{direction}_bytes_total", _Running(4e9), **g, device="nvme0n1")
    for direction in ("receive", "transmit"):
        book.put(f"claw_host_network_{direction}_bytes_total", _Running(8e8), **g, device="eth0")
    book.put("claw_host_temperature_celsius", lambda at: 44 + 11 * rhythm(at), **g, chip="coretemp", sensor="package")
    if not number:
        gpu = {**g, "gpu": "0"}
        book.put("claw_host_gpu_info", 1, **gpu, name="RTX 4090")
        book.put("claw_host_gpu_utilization_ratio", lambda at: min(1.0, 0.5 * rhythm(at)), **gpu)
        book.put("claw_host_gpu_memory_used_bytes", lambda at: 9e9 + 4e9 * rhythm(at), **gpu)
        book.put("claw_host_gpu_memory_total_bytes", 2.4e10, **gpu)
        book.put("claw_host_gpu_temperature_celsius", lambda at: 38 + 24 * rhythm(at), **gpu)
        book.put("claw_host_gpu_power_watts", lambda at: 30 + 180 * rhythm(at), **gpu)
    for part, size_ in (("databases", 4e7), ("wal", 6e6), ("archives", 2e7), ("other", 5e6)):
        book.put(
            "claw_state_dir_bytes", lambda at, x=size_: x * (1 + (at - history.start) / (20 * DAY)), **g, part=part
        )


def _ourselves(book: _Book, history: History, gateway: str) -> None:
    g = {"gateway": gateway}
    for collector in COLLECTORS:
        c = {**g, "collector": collector}
        book.put("lobservatory_collector_enabled", float(collector != "gpu"), **c)
        if collector == "gpu":
            continue
        book.put("lobservatory_collector_success", 1, **c)
        book.put("lobservatory_collector_last_success_timestamp_seconds", lambda at: at - 7, **c)
        book.put("lobservatory_collector_duration_seconds", 0.02, **c)
        book.put("lobservatory_collector_failures_total", _Running(0.02), **c)
    for source in SOURCES:
        s = {**g, "source": source}
        book.put("claw_source_up", 1, **s)
        book.put("claw_source_schema_known", 1, **s)
        book.put("claw_source_files", 4, **s)
        book.put("claw_source_entries_total", _Running(60), **s)
        book.put("claw_source_bytes_total", _Running(9e4), **s)
        book.put("claw_source_lag_bytes", 0, **s)
        book.put("claw_source_last_entry_timestamp_seconds", lambda at: at - 40, **s)
        book.put("claw_duplicate_entries_total", _Running(0.4), **s)
        book.put("claw_rejected_entries_total", _Running(0.05), **s, reason="bad_json")
    for token_type in TOKEN_TYPES:
        book.put("claw_reconcile_drift_ratio", lambda at: 0.004 * (rhythm(at) - 0.8), **g, token_type=token_type)
    book.put("claw_reconcile_cost_drift_ratio", lambda at: 0.003 * (rhythm(at) - 0.8), **g)
    for agent in GATEWAYS[gateway]:
        off = 0.03 if agent == "researcher" else 0.001
        book.put("claw_reconcile_agent_cost_drift_ratio", lambda at, x=off: x * rhythm(at), **g, agent=agent)
        for token_type in TOKEN_TYPES:
            book.put(
                "claw_reconcile_agent_drift_ratio",
                lambda at, x=off: x * rhythm(at),
                **g,
                agent=agent,
                token_type=token_type,
            )
    book.put("claw_ingest_progress_ratio", 1, **g)
    book.put("lobservatory_start_timestamp_seconds", history.start + 600, **g)
    book.put("lobservatory_database_up", 1, **g)
    for table in ("model_calls", "tool_calls", "sessions"):
        book.put("lobservatory_rows_written_total", _Running(20), **g, table=table)
    book.put("lobservatory_build_info", 1, **g, version="1.0.0", python="3.11.7")
    book.put("lobservatory_poison_rows_total", _Running(0.01), **g)
    book.put("lobservatory_spans_dropped_total", _Running(0.02), **g, reason="not_sent")
    book.put("lobservatory_commit_failures_total", _Running(0.02), **g, reason="serialization")
    book.put("lobservatory_label_overflow_total", _Running(0.02), **g, metric="claw_tool_calls_total")
    book.put("lobservatory_cpu_seconds_total", _Running(30), **g)
    book.put("lobservatory_scrape_duration_seconds", 0.004, **g)
    book.put("lobservatory_resident_memory_bytes", lambda at: 6.2e7 + 3e6 * rhythm(at), **g)


def official(book: _Book, history: History) -> None:
    """The recorded scrape of OpenClaw's plugin, as if it had grown to that over the days."""
    book.put("up", 1, job="openclaw", instance="127.0.0.1:18789", gateway="home")
    body = OFFICIAL_SAMPLE.read_text(encoding="utf-8").partition("\n\n")[2]  # after the head of the HTTP answer
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            grows = family.type in {"counter", "histogram"}
            scale = 400 / (history.end - history.start)

            def grown(at: float, amount: float = sample.value, x: float = scale) -> float:
                return round(amount * x * (at - history.start), 3)

            book.put(sample.name, grown if grows else sample.value, **{"gateway": "home", **sample.labels})


def unrecorded(book: _Book) -> None:
    """Families of newer versions of the plugin, which the recorded scrape does not have: their names and labels are in
    `official-metric-names.txt`.
    """
    g = {"gateway": "home"}
    switch = {"from_model": "a", "from_provider": "p", "lane": "main", "to_model": "b", "to_provider": "q"}
    book.put("openclaw_model_failover_total", _Running(0.4), **g, reason="overloaded", suspended="false", **switch)
    for lane, depth in (("main", 1.2), ("cron", 0.4)):
        book.put("openclaw_queue_lane_size", lambda at, x=depth: round(x * rhythm(at)), **g, lane=lane)
        for bound, share in (("0.1", 0.6), ("1", 0.85), ("10", 0.99), ("+Inf", 1.0)):
            book.put("openclaw_queue_lane_wait_seconds_bucket", _Running(60 * share), **g, lane=lane, le=bound)
    for bound, share in (("0.1", 0.5), ("1", 0.9), ("+Inf", 1.0)):
        name = "openclaw_liveness_event_loop_delay_p99_seconds_bucket"
        book.put(name, _Running(5 * share), **g, reason="event_loop_delay", le=bound)
    for kind, size in (("rss", 6.2e8), ("heap_used", 2.6e8), ("external", 4e7)):
        book.put("openclaw_memory_bytes", lambda at, x=size: x * (0.9 + 0.1 * rhythm(at)), **g, kind=kind)


COARSE = ((2 * DAY, 1800), (3600, 300), (0, 60))  # enough for every query over 30 days, 24 hours and an hour
FINE = ((2 * DAY, 600), (6 * 3600, 120), (0, 60))  # for pictures


def samples(history: History) -> Series:
    """Every series of the catalogue that a board uses, and some more."""
    book = _Book()
    _accounting(book, history)
    _observed(book, history)
    return book.series


def write_blocks(history: History, directory: Path, tiers: tuple[tuple[float, int], ...] = COARSE) -> Path:
    """Blocks for `--storage.tsdb.path` in `directory / "tsdb"`; a day at a time, or promtool would read all of it for
    each block.
    """
    series = samples(history)
    store = directory / "tsdb"
    lines: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    prefix = {key: key[0] + "{" + ",".join(f'{label}="{value}"' for label, value in key[1]) + "} " for key in series}
    today = None
    for at in _times(history, tiers):
        if today is not None and at // DAY != today:
            _block(directory, store, lines, prefix)
            lines = {}
        today = at // DAY
        for key, value in series.items():
            number = value(at)
            if number is not None:
                lines.setdefault(key, []).append(f"{number!r} {at}\n")
    _block(directory, store, lines, prefix)
    return store


def _block(
    directory: Path,
    store: Path,
    lines: Mapping[tuple[str, tuple[tuple[str, str], ...]], list[str]],
    prefix: Mapping[tuple[str, tuple[tuple[str, str], ...]], str],
) -> None:
    path = directory / "day.om"
    with path.open("w", encoding="utf-8") as file:
        for key, values in lines.items():
            start = prefix[key]
            file.writelines(start + value for value in values)
        file.write("# EOF\n")
    command = [str(debian_tool("promtool")), "tsdb", "create-blocks-from", "--max-block-duration=24h", "--quiet"]
    done = subprocess.run([*command, "openmetrics", str(path), str(store)], capture_output=True, text=True, check=False)
    path.unlink()
    if done.returncode:
        raise RuntimeError(f"promtool: {done.stderr or done.stdout}")
