"""Plays the recorded turns again and again: into both session stores, and as events of the replay gateway.

A turn is a user's message and everything up to the next one. Each is written with new ids at the present time into the
session that it was recorded in, while the gateway tells of the same run. One pass takes `LOOP_SECONDS`, which keeps a
day of the demo under the limit of the alert on daily cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import sqlite3
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import zstandard

from cli.demo.gateway import RECORDINGS, ReplayGateway, load_replies, moved
from cli.demo.state import LEGACY, open_database, prepare
from openclaw.fields import items, mapping, text, whole
from openclaw.schedule import next_run, period_seconds
from openclaw.stores.keys import session_kind

LOOP_SECONDS = 2400.0
MAX_PAUSE = 2.0  # seconds between two entries of a turn
USAGE_DAYS = 30
ACCOUNT_AGE = 5.0  # seconds
_NAMES = uuid.UUID("6f1c0c7e-6a55-4c1e-9d0a-3a4e1f2b7c10")
_CLASSES = {"input": "input", "output": "output", "cacheRead": "cacheRead", "cacheWrite": "cacheWrite"}

Entry = dict[str, Any]


@dataclass(slots=True)
class Turn:
    """Recorded entries of one session, beginning with what a user (or a job) said."""

    agent: str
    session_id: str
    session_key: str
    at: str  # of the first entry, for the order
    entries: list[Entry]

    @property
    def run_id(self) -> str:
        """The recorded run id, or a stand-in where entries carry none (before 2026.9)."""
        for entry in self.entries:
            run = mapping(entry, "message", "__openclaw").get("runId")
            if isinstance(run, str):
                return run
        return f"{self.session_id}:{self.entries[0].get('id')}"

    @property
    def provider_fails(self) -> bool:
        """Whether it is one of many retries against the provider that always refuses."""
        return any(mapping(entry, "message").get("provider") == "flaky" for entry in self.entries)


@dataclass(slots=True)
class Usage:
    """Tokens by class, and US dollars."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_CLASSES, 0))
    cost: float = 0.0

    def add(self, other: Usage) -> None:
        """Count another one too."""
        for name in _CLASSES:
            self.tokens[name] += other.tokens[name]
        self.cost += other.cost

    def totals(self) -> dict[str, Any]:
        """As the gateway's accounts have them."""
        return {**self.tokens, "totalTokens": sum(self.tokens.values()), "totalCost": self.cost}


class Account:
    """What the gateway itself would have counted.

    As a real gateway's, which is a cache, its account is some seconds old: calls that were written a moment ago are in
    it as soon as whoever reads the stores has had the time to count them too.
    """

    def __init__(self) -> None:
        self._agents: dict[str, Usage] = {}
        self._new: list[tuple[int, str, Usage]] = []  # calls that may be younger than the account: when, whose

    @property
    def usage(self) -> Usage:
        """Everything, up to the last call."""
        found = Usage()
        for one in (*self._agents.values(), *(used for _, _, used in self._new)):
            found.add(one)
        return found

    def add(self, agent: str, entry: Mapping[str, Any]) -> None:
        """Count an entry that is a model call."""
        message = mapping(entry, "message")
        used = mapping(message, "usage")
        if message.get("role") != "assistant" or message.get("model") in {"gateway-injected", "delivery-mirror"}:
            return
        cost = used.get("cost")
        total = cost.get("total") if isinstance(cost, dict) else cost
        tokens = {name: whole(used.get(source)) or 0 for name, source in _CLASSES.items()}
        usage = Usage(tokens, float(total) if isinstance(total, int | float) else 0.0)
        self._new.append((_stamp(datetime.fromisoformat(str(entry["timestamp"]))), agent, usage))

    def _until(self, now: datetime) -> int:
        """Take in what is old enough; up to when that is."""
        until = _stamp(now - timedelta(seconds=ACCOUNT_AGE))
        for at, agent, usage in self._new:
            if at < until:
                self._agents.setdefault(agent, Usage()).add(usage)
        self._new = [one for one in self._new if one[0] >= until]
        return until

    def cost_answer(self, now: datetime) -> dict[str, Any]:
        """As `usage.cost` answers."""
        until = self._until(now)
        first = (now - timedelta(days=USAGE_DAYS)).date()
        days = [{"date": (first + timedelta(days=age)).isoformat()} for age in range(USAGE_DAYS + 1)]
        return {**self._answer(until), "days": USAGE_DAYS, "daily": days}

    def sessions_answer(self, now: datetime, sessions: int) -> dict[str, Any]:
        """As `sessions.usage` answers, of the sums by agent; single sessions are left out."""
        until = self._until(now)
        agents = [{"agentId": agent, "totals": usage.totals()} for agent, usage in sorted(self._agents.items())]
        return {
            **self._answer(until),
            "startDate": (now - timedelta(days=USAGE_DAYS)).date().isoformat(),
            "endDate": now.date().isoformat(),
            "sessions": [],
            "aggregates": {"sessionCount": sessions, "byAgent": agents},
        }

    def _answer(self, until: int) -> dict[str, Any]:
        everything = Usage()
        for usage in self._agents.values():
            everything.add(usage)
        return {
            "updatedAt": until,
            "totals": everything.totals(),
            "cacheStatus": {"status": "fresh", "pendingFiles": 0, "staleFiles": 0, "refreshedAt": until},
        }


def turns_of(agent: str, session_id: str, session_key: str, entries: list[Entry]) -> Iterator[Turn]:
    """The turns of a transcript. What comes before the first message is the session's own beginning."""
    current: list[Entry] = []
    for entry in entries:
        begins = mapping(entry, "message").get("role") == "user"
        if begins and current:
            yield Turn(agent, session_id, session_key, str(current[0].get("timestamp")), current)
            current = []
        if begins or current:
            current.append(entry)
    if current:
        yield Turn(agent, session_id, session_key, str(current[0].get("timestamp")), current)


def renewed(turn: Turn, loop: int, *, short_ids: bool) -> tuple[Turn, str]:
    """A turn of this pass: other entry, call and run ids, the same everything else. Also the new run id."""

    def new(old: str) -> str:
        name = uuid.uuid5(_NAMES, f"{loop}\0{turn.session_id}\0{old}")
        return name.hex[:8] if short_ids else str(name)

    ids = {str(entry["id"]): new(str(entry["id"])) for entry in turn.entries if entry.get("id")}
    calls = {
        str(part["id"]): f"call_{new(str(part['id'])).replace('-', '')[:12]}"
        for entry in turn.entries
        for part in items(entry, "message", "content")
        if part.get("type") == "toolCall" and part.get("id")
    }
    run = str(uuid.uuid5(_NAMES, f"{loop}\0{turn.run_id}"))
    names = {**ids, **calls, turn.run_id: run}

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        if isinstance(value, str):
            if value in names:
                return names[value]
            for old, name in names.items():
                if len(old) >= 8 and old in value:  # noqa: PLR2004 - ids inside of other ids
                    value = value.replace(old, name)
        return value

    entries = [replaced(copy.deepcopy(entry)) for entry in turn.entries]
    return Turn(turn.agent, turn.session_id, turn.session_key, turn.at, entries), run


def stamped(entry: Entry, now: datetime) -> Entry:
    """The entry as if it were written now."""
    by = int(now.timestamp() * 1000) - int(datetime.fromisoformat(str(entry["timestamp"])).timestamp() * 1000)
    fresh: Entry = moved(entry, by)
    fresh["timestamp"] = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return fresh


class Stores:
    """Both kinds of session store of the copy, open for writing."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self._databases: dict[str, sqlite3.Connection] = {}
        self.account = Account()
        self.sessions: dict[str, dict[str, Any]] = {}  # by session id, as `sessions.list` has them
        self.turns: list[Turn] = []
        for path in sorted(state_dir.glob("agents/*/agent/openclaw-agent.sqlite")):
            self._read_database(path.parts[-3], path)
        for path in sorted(state_dir.glob("agents/*/sessions")):
            self._read_files(path.parts[-2], path)
        self.turns.sort(key=lambda turn: turn.at)

    def close(self) -> None:
        """Close the databases; their last state stays readable."""
        for connection in self._databases.values():
            connection.close()

    # --- reading ------------------------------------------------------------------------------------------

    def _read_database(self, agent: str, path: Path) -> None:
        connection = open_database(path)
        connection.execute("PRAGMA journal_mode = WAL")
        self._databases[agent] = connection
        windows = connection.execute(
            "SELECT w.session_id, w.session_key, n.status, w.updated_at, n.created_via, n.spawned_by"
            " FROM session_windows AS w LEFT JOIN session_nodes AS n ON n.session_key = w.session_key"
        ).fetchall()
        for session_id, key, status, updated, via, spawned in windows:
            rows = connection.execute(
                "SELECT event_json, event_zstd FROM transcript_events WHERE session_id = ? ORDER BY seq", [session_id]
            ).fetchall()
            entries = [json.loads(line if line is not None else _unzstd(packed)) for line, packed in rows]
            known = {"status": status, "updatedAt": updated, "createdVia": via, "spawnedBy": spawned}
            self._know(agent, session_id, key, entries, known)
        archived = sorted(self._dir.glob(f"agents/{agent}/sessions/*.zst"))
        for archive in archived:
            for line in _unzstd(archive.read_bytes()).decode().splitlines():
                self.account.add(agent, json.loads(line))

    def _read_files(self, agent: str, folder: Path) -> None:
        if not agent.startswith(LEGACY):
            return
        index = json.loads((folder / "sessions.json").read_text(encoding="utf-8"))
        keys = {session["sessionId"]: (key, session) for key, session in index.items()}
        counted: set[tuple[Any, ...]] = set()
        for path in sorted(folder.glob("*.jsonl*"), key=lambda path: (path.suffix != ".jsonl", path.name)):
            if any(word in path.name for word in (".trajectory", ".checkpoint.", ".bak")):
                continue
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            fresh = [entry for entry in entries if (entry.get("id"), entry.get("timestamp")) not in counted]
            counted.update((entry.get("id"), entry.get("timestamp")) for entry in entries)
            session_id = path.name.split(".jsonl")[0]
            if path.suffix != ".jsonl":
                for entry in fresh:
                    self.account.add(agent, entry)
                continue
            key, session = keys.get(session_id, (f"agent:{agent}:dashboard:{session_id[:8]}", {}))
            self._know(agent, session_id, key, fresh, session)

    def _know(self, agent: str, session_id: str, key: str, entries: list[Entry], known: Mapping[str, Any]) -> None:
        for entry in entries:
            self.account.add(agent, entry)
        found = list(turns_of(agent, session_id, key, entries))
        self.turns += [turn for turn in found if not (turn.provider_fails and agent.startswith(LEGACY))]
        calls = [entry["message"] for entry in entries if mapping(entry, "message").get("role") == "assistant"]
        used = mapping(calls[-1], "usage") if calls else {}
        self.sessions[session_id] = {
            "key": key,
            "agentId": agent,
            "sessionId": session_id,
            "kind": "direct",
            "createdVia": known.get("createdVia"),
            "spawnedBy": known.get("spawnedBy"),
            "status": "done" if known.get("status") == "running" else known.get("status"),
            "modelProvider": calls[-1].get("provider") if calls else None,
            "model": calls[-1].get("model") if calls else None,
            "contextTokens": 200_000,
            "totalTokens": sum(whole(used.get(name)) or 0 for name in ("input", "cacheRead", "cacheWrite")),
            "totalTokensFresh": bool(calls),
            "updatedAt": known.get("updatedAt"),
            "hasActiveRun": False,
            "activeRunIds": [],
        }

    # --- writing ------------------------------------------------------------------------------------------

    def append(self, turn: Turn, entry: Entry, now: datetime) -> None:
        """Add one entry to its session, as OpenClaw does."""
        line = json.dumps(entry, separators=(",", ":"), ensure_ascii=False)
        stamp = int(now.timestamp() * 1000)
        if turn.agent in self._databases:
            connection = self._databases[turn.agent]
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO transcript_events (session_id, seq, event_json, created_at, event_utf8_bytes)"
                " SELECT ?, coalesce(max(seq), -1) + 1, ?, ?, ? FROM transcript_events WHERE session_id = ?",
                [turn.session_id, line, stamp, len(line.encode()), turn.session_id],
            )
            connection.execute(
                "UPDATE session_windows SET updated_at = ? WHERE session_id = ?", [stamp, turn.session_id]
            )
            connection.execute("COMMIT")
        else:
            path = self._dir / "agents" / turn.agent / "sessions" / f"{turn.session_id}.jsonl"
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self.account.add(turn.agent, entry)


def _unzstd(frame: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=4 << 20)


class Player:
    """Plays turns into the stores and tells of them through the gateway."""

    def __init__(self, stores: Stores, gateway: ReplayGateway, *, max_pause: float = MAX_PAUSE) -> None:
        self.stores = stores
        self.gateway = gateway
        self._max_pause = max_pause
        legacy = load_replies(RECORDINGS / "legacy")["cron.list"]["payload"]["jobs"]
        self._jobs = {str(job["id"]): job for job in gateway.recorded("cron.list")["jobs"]}
        self._jobs.update({str(job["id"]): {**job, "agentId": f"{LEGACY}main"} for job in legacy})
        self._runs: deque[dict[str, Any]] = deque(gateway.recorded("cron.runs")["entries"], maxlen=100)
        gateway.answers.update(
            {
                "usage.cost": lambda _: stores.account.cost_answer(datetime.now(UTC)),
                "sessions.usage": lambda _: stores.account.sessions_answer(datetime.now(UTC), len(stores.sessions)),
                "sessions.list": lambda _: {"sessions": list(stores.sessions.values()), "hasMore": False},
                "agents.list": lambda _: self._agents(),
                "cron.list": lambda _: {"jobs": [self._job(job) for job in self._jobs.values()], "hasMore": False},
                "cron.runs": lambda _: {"entries": list(self._runs), "hasMore": False},
                "health": lambda _: self._health(),
            }
        )

    def _agents(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.gateway.recorded("agents.list")
        legacy = sorted({turn.agent for turn in self.stores.turns if turn.agent.startswith(LEGACY)})
        model = {"primary": "fake/fake-1"}
        return {**answer, "agents": [*answer["agents"], *({"id": agent, "model": model} for agent in legacy)]}

    def _health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.gateway.recorded("health")
        by_agent: dict[str, list[dict[str, Any]]] = {}
        for session in self.stores.sessions.values():
            recent = {"key": session["key"], "updatedAt": session["updatedAt"]}
            by_agent.setdefault(session["agentId"], []).append(recent)
        agents = [{"agentId": agent, "sessions": {"recent": recent}} for agent, recent in sorted(by_agent.items())]
        return {**answer, "ts": _stamp(datetime.now(UTC)), "agents": agents}

    def _job(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The job in good order: it ran when it should, and its next run lies ahead."""
        now, schedule = datetime.now(UTC), mapping(job, "schedule")
        following, period = next_run(schedule, now), period_seconds(schedule, now)
        state = {"lastRunStatus": "ok", "lastStatus": "ok", "lastDurationMs": 916, "consecutiveErrors": 0}
        if following is not None and period is not None:
            planned = following - timedelta(seconds=period)
            played = [run["runAtMs"] for run in self._runs if run["jobId"] == job["id"]]
            state |= {"nextRunAtMs": _stamp(following), "lastRunAtMs": max([_stamp(planned), *played])}
        return {**job, "state": state}

    async def play(self, turn: Turn, loop: int) -> None:
        """One turn, with its own pauses (at most `max_pause` seconds each)."""
        turn, run_id = renewed(turn, loop, short_ids=turn.agent.startswith(LEGACY))
        session = self.stores.sessions[turn.session_id]
        started = datetime.now(UTC)
        stamp = _stamp(started)
        session.update(status="running", startedAt=stamp, updatedAt=stamp)
        if not _scheduled(turn):
            session.update(hasActiveRun=True, activeRunIds=[run_id])
        session.pop("endedAt", None)
        await self._agent(turn, run_id, "lifecycle", {"phase": "start", "startedAt": stamp})
        before = turn.entries[0]
        calls: dict[str, tuple[str, datetime]] = {}
        for entry in turn.entries:
            gap = datetime.fromisoformat(entry["timestamp"]) - datetime.fromisoformat(before["timestamp"])
            await asyncio.sleep(min(max(gap.total_seconds(), 0.0), self._max_pause))
            before = entry
            now = datetime.now(UTC)
            self.stores.append(turn, stamped(entry, now), now)
            await self._tell(turn, run_id, entry, calls, now)
        await self._end(turn, run_id, session, started)

    async def _tell(
        self, turn: Turn, run_id: str, entry: Entry, calls: dict[str, tuple[str, datetime]], now: datetime
    ) -> None:
        message = mapping(entry, "message")
        for part in items(message, "content"):
            if part.get("type") == "toolCall":
                calls[str(part["id"])] = (str(part["name"]), now)
                path = text(mapping(part, "arguments").get("path"))
                call = {"phase": "start", "toolCallId": part["id"], "name": part["name"], "meta": path}
                await self._item(turn, run_id, {**call, "startedAt": _stamp(now)})
        if message.get("role") == "toolResult":
            call_id = str(message.get("toolCallId"))
            name, began = calls.get(call_id, (str(message.get("toolName")), now))
            failed = message.get("isError") is True or bool(mapping(message, "details").get("exitCode"))
            status = "failed" if failed else "completed"
            call = {"phase": "end", "toolCallId": call_id, "name": name, "status": status}
            await self._item(turn, run_id, {**call, "startedAt": _stamp(began), "endedAt": _stamp(now)})

    async def _item(self, turn: Turn, run_id: str, data: Mapping[str, Any]) -> None:
        told = {name: value for name, value in data.items() if value is not None}
        await self._agent(turn, run_id, "item", {"kind": "tool", **told})

    async def _end(self, turn: Turn, run_id: str, session: dict[str, Any], started: datetime) -> None:
        now = datetime.now(UTC)
        stop = [mapping(entry, "message").get("stopReason") for entry in turn.entries]
        failed = stop[-1] == "error"
        data: dict[str, Any] = {"phase": "error" if failed else "end", "startedAt": _stamp(started)}
        if failed:
            data["error"] = "The selected model was not found by the provider."
            data["errorObservation"] = {"failoverReason": "model_not_found"}
        session.update(
            hasActiveRun=False,
            activeRunIds=[],
            status="failed" if failed else "done",
            lastRunId=None if _scheduled(turn) else run_id,
            endedAt=_stamp(now),
            updatedAt=_stamp(now),
        )
        await self._agent(turn, run_id, "lifecycle", {**data, "endedAt": _stamp(now), "aborted": False})
        if self.gateway.log is not None and stop[-1] == "stop":
            self.gateway.log.write("agents/agent-command", f"[agent] run {run_id} ended with stopReason=stop", now)
        job = self._job_of(turn)
        if job is not None:
            run = {
                "jobId": job["id"],
                "jobName": job["name"],
                "action": "finished",
                "status": "ok",
                "runAtMs": _stamp(started),
                "durationMs": _stamp(now) - _stamp(started),
                **_where(turn, run_id),
            }
            self._runs.appendleft(run)
            await self.gateway.emit("cron", {**run, "job": self._job(job)})

    def _job_of(self, turn: Turn) -> Mapping[str, Any] | None:
        """The job whose session this is; none for a webhook, whose key looks alike."""
        return self._jobs.get(turn.session_key.split(":")[3]) if _scheduled(turn) else None

    async def _agent(self, turn: Turn, run_id: str, stream: str, data: Mapping[str, Any]) -> None:
        payload = {
            "runId": run_id,
            **_where(turn, run_id),
            "agentId": turn.agent,
            "stream": stream,
            "data": dict(data),
            "ts": _stamp(datetime.now(UTC)),
        }
        await self.gateway.emit("agent", payload)


def _scheduled(turn: Turn) -> bool:
    return session_kind(turn.session_key) in {"cron", "hook"} and turn.session_key.count(":") >= 3  # noqa: PLR2004


def _where(turn: Turn, run_id: str) -> dict[str, str]:
    """Session key and id: each run of a job or a webhook has a session of its own."""
    if not _scheduled(turn):
        return {"sessionKey": turn.session_key, "sessionId": turn.session_id}
    key = turn.session_key.split(":run:", maxsplit=1)[0]
    return {"sessionKey": f"{key}:run:{run_id}", "sessionId": run_id}


def _stamp(at: datetime) -> int:
    return int(at.timestamp() * 1000)


async def play(
    target_dir: Path,
    gateway_port: int,
    stop_event: asyncio.Event,
    *,
    token: str,
    loop_seconds: float = LOOP_SECONDS,
    max_pause: float = MAX_PAUSE,
    ready: asyncio.Event | None = None,
) -> None:
    """Make the copy in `target_dir` (if it is empty), serve the replay gateway and play until `stop_event` is set.

    `target_dir` is then a state directory of OpenClaw; its `openclaw.json` has the port and the token. `ready` is set
    once the gateway listens. Raises OSError when the port is taken.
    """
    if not (target_dir / "openclaw.json").exists():
        await asyncio.to_thread(prepare, target_dir, port=gateway_port, token=token, now=datetime.now(UTC))
    gateway = ReplayGateway(token=token)
    await gateway.start(port=gateway_port)
    stores = await asyncio.to_thread(Stores, target_dir)
    try:
        player = Player(stores, gateway, max_pause=max_pause)
        if ready is not None:
            ready.set()
        loop = int(datetime.now(UTC).timestamp())  # other ids than any pass before
        while not stop_event.is_set():
            await _one_pass(player, loop, stop_event, loop_seconds)
            loop += 1
    finally:
        await gateway.stop()
        stores.close()


async def _one_pass(player: Player, loop: int, stop_event: asyncio.Event, loop_seconds: float) -> None:
    turns = list(player.stores.turns)
    for turn in turns:
        until = asyncio.get_running_loop().time() + loop_seconds / max(len(turns), 1)
        await player.play(turn, loop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await stop_event.wait()
        if stop_event.is_set():
            return
