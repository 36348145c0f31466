"""Operations, agent events and agent states, derived from what the gateway pushes and from what polls tell. Pure.

A run of an agent becomes an operation without the agent's co-operation; its steps are its tool calls. A pushed event
is used at once; a poll is the truth and ends (or begins) what events did not tell, because they were missed or because
we were not there. The same run always has the same id, so that a restart or a second sight changes nothing.

No content passes: activities name a tool and at most the name of a file.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from openclaw.fields import flag, instant, mapping, text, whole
from openclaw.protocol import Pushed
from openclaw.stores.keys import session_kind
from openclaw.wrapped import TOOL_CALL, asked_for, parent_of
from store.operations import DerivedOperation, DerivedStep, run_operation_id
from store.rows import AgentEvent, AgentState

MAX_RUNS = 2_000  # tracked at once; beyond it the longest untouched is let go
MAX_ENDED = 10_000  # remembered, so that a poll does not write them anew each time
MAX_STEPS = 500  # of one run
MAX_JOBS = 5_000
MAX_AGENTS = 1_000
# A poll may have been answered just before the run began or an event was sent.
MAX_JOBS = 2_000
MAX_JOB_RUNS = 200  # remembered of each job, which is as many as records tell
SAME_RUN = timedelta(milliseconds=100)  # scheduler and agent need not agree better on when a run began and ended
POLL_SLACK = timedelta(seconds=5)
# A busy gateway lists a run late, and a run may be silent for long: only after this much silence is a run that is not
# listed, and whose end nobody tells, taken for ended.
SILENCE = timedelta(minutes=5)
HEAT = timedelta(seconds=60)  # of the messages that are counted as an agent's heat
MAX_HEAT = 1_000
NEWS = timedelta(minutes=1)  # of what ended longer ago nobody is told; it only becomes a row
HISTORY = timedelta(hours=24)  # a poll makes operations of runs that ended so long ago, not of older ones

_FILE_TOOLS = {"read": "Reading", "write": "Writing", "edit": "Editing", "apply_patch": "Editing"}
_ACTIVITIES = {
    "exec": "Running a command",
    "bash": "Running a command",
    "process": "Watching a command",
    "sessions_spawn": "Starting a sub-agent",
    "sessions_send": "Writing to another session",
    "web_search": "Searching the web",
    "web_fetch": "Fetching a page",
    "browser": "Using the browser",
    "message": "Sending a message",
    "memory_search": "Searching memory",
    "memory_get": "Reading memory",
    "cron": "Planning a job",
    "image": "Looking at an image",
    TOOL_CALL: "Using a tool",
}
_SKILL = re.compile(r"([\w.-]{1,64})/SKILL\.md$")
_CRON_JOB = re.compile(r"(?:^|:)cron:(?P<job>[^:]+)")
_SESSION_STATUS = {"done": "completed", "failed": "failed", "killed": "cancelled", "timeout": "failed"}
_MAX_ERROR = 300


def file_name(hint: str | None) -> str | None:
    """The last part of a path, when it is short and plain; `hint` may begin with a word such as `from`."""
    if not hint:
        return None
    name = PurePosixPath(hint.strip().split(" ")[-1].replace("\\", "/")).name
    return name if 0 < len(name) <= 64 and name.isprintable() else None  # noqa: PLR2004 - as label values


def activity_text(tool: str, hint: str | None = None) -> str:
    """What using a tool is called: `Reading notes.md`, `Running a command`, `Using calendar`."""
    if tool in _FILE_TOOLS:
        return f"{_FILE_TOOLS[tool]} {file_name(hint) or 'a file'}"
    return _ACTIVITIES.get(tool) or f"Using {tool}"


@dataclass(frozen=True, slots=True)
class Derived:
    """What one event or poll gave. Operations are whole as far as known; upserting them again changes nothing."""

    operations: tuple[DerivedOperation, ...] = ()
    agent_events: tuple[AgentEvent, ...] = ()
    states: tuple[AgentState, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self.operations or self.agent_events or self.states)


@dataclass(slots=True)
class _Run:
    operation: DerivedOperation
    kind: str
    touched: datetime
    steps: OrderedDict[str, DerivedStep] = field(default_factory=OrderedDict)
    tools: dict[str, str] = field(default_factory=dict)  # running steps → activity
    waiting: bool = False
    polled: bool = False  # a poll found it, and its start was not told yet
    news: bool = True  # False: it was over before we heard of it, so nobody is told and no state changes
    outcome: tuple[datetime, str, str | None, str | None] | None = (
        None  # as the agent told; the scheduler's counts more
    )

    @property
    def state(self) -> str:
        if self.waiting:
            return "waiting"
        return "tool" if self.tools else "thinking"


class RunTracker:
    """Follows every run of one gateway. Not thread-safe; give it events in the order in which they came."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._runs: OrderedDict[str, _Run] = OrderedDict()  # by the id of the operation
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._jobs: OrderedDict[str, str] = OrderedDict()  # id → name
        self._jobs_known = False
        # Start, end and whether the session is known, of runs by job: records of the database tell no session.
        self._job_runs: OrderedDict[str, deque[tuple[datetime, datetime, bool]]] = OrderedDict()
        self._states: dict[str, AgentState] = {}
        self._messages: OrderedDict[str, deque[datetime]] = OrderedDict()  # by agent: when

    @property
    def active(self) -> int:
        """How many runs are in progress."""
        return len(self._runs)

    @property
    def states(self) -> Mapping[str, AgentState]:
        """The present state of each agent that was seen."""
        return self._states

    def restore(self, known: Iterable[DerivedOperation], now: datetime) -> None:
        """Go on after a restart from the operations of the last day, as `store.operations.derived_since` gives them."""
        for operation in known:
            if operation.id in self._runs or operation.id in self._ended:
                continue
            if operation.status != "in_progress":
                self._remember(operation.id)
                self._remember_job(operation)
                continue
            kept = replace(operation, started_at=operation.started_at or now, steps=())
            run = _Run(kept, session_kind(kept.session_key), now - POLL_SLACK * 2)
            for step in operation.steps:
                run.steps[step.id] = step
                if step.status == "running":
                    run.tools[step.id] = activity_text(step.name)
            self._runs[operation.id] = run
            self._state(run, kept.started_at or now)  # at work until a poll or an event says otherwise

    # --- pushed events ------------------------------------------------------------------------------------

    def event(self, pushed: Pushed, now: datetime) -> Derived:
        """What a pushed event means; nothing for events that are not about runs."""
        payload = mapping(pushed.payload)
        match pushed.event:
            case "agent" | "session.tool":
                return self._agent_event(payload, now)
            case "cron":
                return self._cron_event(payload, now)
        return Derived()

    def _agent_event(self, payload: Mapping[str, Any], now: datetime) -> Derived:
        run_id, data = text(payload.get("runId")), mapping(payload, "data")
        if run_id is None:
            return Derived()
        phase, at = text(data.get("phase")), instant(payload.get("ts")) or now
        derived = Derived()
        match payload.get("stream"), phase:
            case "lifecycle", "end" | "error":
                derived = self._end(payload, data, at, now)
            case "lifecycle", _:
                derived = self._lifecycle(payload, data, phase, at, now)
            case "item", "start" | "end" if data.get("kind") == "tool":
                derived = self._step(payload, data, at, now, ended=phase == "end", hint=text(data.get("meta")))
            case "tool", "start" | "result":
                path = mapping(data, "args").get("path") or mapping(data, "args").get("file_path")
                derived = self._step(payload, data, at, now, ended=phase == "result", hint=text(path))
            case "run_status", "retrying":
                derived = self._activity(payload, at, now, "Trying the model again")
        return derived

    def operation_of(self, payload: Mapping[str, Any]) -> str:
        """The id of the operation. One cron or webhook run has a session of its own, and maybe several run ids (and the
        history of the scheduler none that the agent knows)."""
        key, session_id = text(payload.get("sessionKey")) or "", text(payload.get("sessionId"))
        if ":run:" in key and session_kind(key) in {"cron", "hook"}:
            return self._id(f"session:{session_id or key.rsplit(':', 1)[1]}")
        return self._id(text(payload.get("runId")) or f"session:{session_id}")

    def _id(self, run: str) -> str:
        return run_operation_id(self._gateway, run)

    def _find(self, payload: Mapping[str, Any], at: datetime, now: datetime) -> tuple[_Run | None, bool]:
        """The run of an event, begun if it is new; None when it has ended before."""
        key = self.operation_of(payload)
        known = self._runs.get(key)
        if known is not None:
            known.touched = now
            if known.operation.session_id is None:  # not every event tells it
                known.operation = replace(known.operation, session_id=text(payload.get("sessionId")))
            self._runs.move_to_end(key)
            return known, False
        if key in self._ended:
            return None, False
        return self._begin(key, payload, at, now), True

    def _begin(self, key: str, payload: Mapping[str, Any], at: datetime, now: datetime) -> _Run:
        session_key = text(payload.get("sessionKey"))
        kind = session_kind(session_key, created_via=text(payload.get("createdVia")) or "")
        agent = text(payload.get("agentId")) or _agent_of(session_key)
        run_id = text(payload.get("runId"))
        job = _CRON_JOB.search(session_key or "")
        job_id = job["job"] if job else None
        operation_type, source, name, tags = self._classify(kind, agent, job_id, payload)
        parent = text(payload.get("spawnedBy"))
        operation = DerivedOperation(
            id=key,
            gateway=self._gateway,
            type=operation_type,
            name=name,
            status="in_progress",
            source=source,
            agent_id=agent,
            channel=_channel_of(session_key),
            run_id=run_id,
            session_key=session_key,
            session_id=text(payload.get("sessionId")),
            cron_job_id=job_id if operation_type == "scheduled" else None,
            started_at=instant(mapping(payload, "data").get("startedAt")) or at,
            activity="Thinking",
            metadata={"kind": kind, **({"parentSessionKey": parent} if parent else {})},
            tags=tags,
        )
        run = _Run(operation, kind, now)
        self._runs[key] = run
        while len(self._runs) > MAX_RUNS:
            self._runs.popitem(last=False)
        return run

    def _classify(
        self, kind: str, agent: str, job_id: str | None, payload: Mapping[str, Any]
    ) -> tuple[str, str, str, tuple[str, ...]]:
        """Type, source, name and tags, by what started the run."""
        run_id = text(payload.get("runId")) or ""
        found: tuple[str, str, str, tuple[str, ...]] = ("agent_task", "run", f"Run of {agent}", ())
        if payload.get("isHeartbeat") is True:
            found = ("scheduled", "cron", f"Heartbeat of {agent}", ("heartbeat",))
        elif kind == "cron" and (job_id in self._jobs or not self._jobs_known):
            found = ("scheduled", "cron", self._jobs.get(job_id or "") or f"Scheduled run of {agent}", ())
        elif kind in {"hook", "cron"}:  # 2026.9 gives a webhook's run a cron-like key, but there is no such job
            found = ("webhook", "webhook", f"Webhook run of {agent}", ())
        elif kind == "subagent":
            found = ("agent_task", "run", f"Sub-agent of {agent}", ("subagent",))
        elif run_id.startswith("announce:"):
            found = ("agent_task", "run", f"Report of a sub-agent to {agent}", ("announce",))
        return found

    def _lifecycle(
        self, payload: Mapping[str, Any], data: Mapping[str, Any], phase: str | None, at: datetime, now: datetime
    ) -> Derived:
        run, new = self._find(payload, at, now)
        if run is None:
            return Derived()
        told: list[AgentEvent] = []
        if new or (run.polled and phase == "start"):
            run.polled = False
            if run.kind == "subagent":
                told.append(self._tell(run, at, "subagent_spawned", "Started a sub-agent"))
            elif run.operation.type == "agent_task" and "announce" not in run.operation.tags:
                told.append(self._tell(run, at, "message_in", "Received a message"))
        changed = new
        match phase:
            case "waiting-approval":
                run.waiting, changed = True, True
                run.operation = replace(run.operation, activity="Waiting for an approval")
            case "approval-resolved":
                run.waiting, changed = False, True
                run.operation = replace(run.operation, activity=_current(run))
            case "start" if not new:  # a poll found it first, and does not know since when it runs
                began, changed = instant(data.get("startedAt")) or at, True
                known = run.operation.started_at or began
                run.operation = replace(run.operation, started_at=min(known, began))
            case "model" if text(data.get("model")):
                found = {"provider": data.get("provider"), "model": data.get("model")}
                run.operation = replace(run.operation, metadata={**run.operation.metadata, **found})
        if new:
            told.append(self._tell(run, at, "thinking", "Thinking"))
        return self._derived(run, at, told) if changed else Derived()

    def _activity(self, payload: Mapping[str, Any], at: datetime, now: datetime, activity: str) -> Derived:
        run, _ = self._find(payload, at, now)
        if run is None:
            return Derived()
        run.operation = replace(run.operation, activity=activity)
        return self._derived(run, at, [])

    def _step(
        self,
        payload: Mapping[str, Any],
        data: Mapping[str, Any],
        at: datetime,
        now: datetime,
        *,
        ended: bool,
        hint: str | None,
    ) -> Derived:
        call_id, tool = text(data.get("toolCallId"), 200), text(data.get("name"), 64)
        if call_id is None or tool is None:
            return Derived()
        run, _ = self._find(payload, at, now)
        if run is None:
            return Derived()
        # A call through `tool_call` is one step, named for the real tool. Which one that is tells the stream `tool`, or
        # the call in it; `item` comes first and does not.
        tool = text(asked_for(tool, data.get("args")), 64) or tool
        step_id = parent_of(data) or call_id
        before = run.steps.get(step_id)
        if before is None and len(run.steps) >= MAX_STEPS:
            return Derived()
        inner = step_id != call_id
        unnamed = before is None or before.name == TOOL_CALL
        name = before.name if before is not None and not (inner or unnamed) else tool
        activity = activity_text(name, hint)
        started = (before.started_at if before else None) or instant(data.get("startedAt")) or at
        step = before or DerivedStep(id=step_id, name=name, started_at=started)
        step = replace(step, name=name)
        if ended and not inner:
            if step.status != "running":
                return Derived()  # told twice: by the streams `item` and `tool`
            step = _finished(step, data, instant(data.get("endedAt")) or at)
            run.tools.pop(step_id, None)
        elif not ended:
            if before is not None and step_id in run.tools and not inner and name == before.name:
                return Derived()
            run.tools[step_id] = activity
        run.steps[step_id] = step
        run.operation = self._with_skill(run, name, hint)
        index = list(run.steps).index(step_id)
        run.operation = replace(run.operation, current_step=name, current_step_index=index, activity=_current(run))
        event = "tool_end" if ended else "tool_start"
        told = []
        if (ended and not inner) or (not ended and unnamed and name != TOOL_CALL):
            told.append(self._tell(run, at, event, activity, tool=name))
        return self._derived(run, at, told, (step,))

    def _with_skill(self, run: _Run, tool: str, hint: str | None) -> DerivedOperation:
        """A run whose first step reads a SKILL.md was started by that skill."""
        found = _SKILL.search(hint or "") if tool == "read" and len(run.steps) == 1 else None
        if found is None or run.operation.type != "agent_task":
            return run.operation
        return replace(run.operation, type="skill", name=f"Skill {found[1]}", skill_name=found[1])

    def _end(self, payload: Mapping[str, Any], data: Mapping[str, Any], at: datetime, now: datetime) -> Derived:
        run, _ = self._find(payload, at, now)
        if run is None:
            return Derived()
        ended = instant(data.get("endedAt")) or at
        outcome: tuple[datetime, str, str | None, str | None] = (ended, "completed", None, None)
        if data.get("aborted") is True:
            outcome = (ended, "cancelled", "aborted", text(data.get("error"), _MAX_ERROR) or "aborted")
        elif data.get("phase") == "error":
            observed = mapping(data, "errorObservation")
            code = text(observed.get("failoverReason"), 64) or text(observed.get("providerRuntimeFailureKind"), 64)
            outcome = (ended, "failed", code or "error", text(data.get("error"), _MAX_ERROR) or "failed")
        if run.operation.cron_job_id is not None:
            # The scheduler's word follows at once, and knows a time-out from an abort.
            run.outcome = outcome
            run.tools.clear()
            return Derived()
        return self._finish(run, *outcome)

    def _finish(
        self, run: _Run, at: datetime, status: str, code: str | None = None, error: str | None = None
    ) -> Derived:
        self._runs.pop(run.operation.id, None)
        self._remember(run.operation.id)
        success = status == "completed"
        if success:
            disposition: dict[str, Any] = {"success": True, "result": {"steps": len(run.steps)}}
        else:
            disposition = {"success": False, "error": error or status, "errorCode": code or status}
        open_steps = [replace(step, status="skipped") for step in run.steps.values() if step.status == "running"]
        run.operation = replace(
            run.operation,
            status=status,
            completed_at=max(at, run.operation.started_at or at),
            activity="Done" if success else "Stopped" if status == "cancelled" else "Failed",
            disposition=disposition,
        )
        self._remember_job(run.operation)
        if not run.news:
            return Derived((run.operation,))
        told = []
        if status == "failed":
            told.append(self._tell(run, at, "error", f"Failed: {code}"))
        elif success and run.operation.type == "agent_task":
            told.append(self._tell(run, at, "message_out", "Sent a reply"))
        if run.kind == "subagent":
            told.append(self._tell(run, at, "subagent_ended", "A sub-agent ended"))
        agent = run.operation.agent_id or "main"
        if not any(other.operation.agent_id == agent for other in self._runs.values()):
            told.append(self._tell(run, at, "idle", "Idle"))
        return self._derived(run, at, told, open_steps)

    def _cron_event(self, payload: Mapping[str, Any], now: datetime) -> Derived:
        job_id = text(payload.get("jobId"), 128)
        if job_id is None:
            return Derived()
        name = text(mapping(payload, "job").get("name"), 200)
        if name:
            self._keep_job(job_id, name)
        if payload.get("action") != "finished":
            return Derived()
        return self.cron_run(payload, now)

    def gateway_started(self, at: datetime) -> Derived:
        """The gateway's process began at `at`: what ran before died with the process before it. (What the gateway takes
        up again is a new run.)"""
        dead = [run for run in self._runs.values() if run.operation.started_at and run.operation.started_at < at]
        lost = "failed", "gateway_restarted", "the gateway ended while it ran"
        return merged([self._finish(run, *(run.outcome or (at, *lost))) for run in dead])

    # --- polls --------------------------------------------------------------------------------------------

    def jobs(self, names: Mapping[str, str]) -> None:
        """The jobs that the gateway lists now, by id. Jobs that are gone stay known: their last run may still come."""
        for job_id, name in names.items():
            self._keep_job(job_id, name)
        self._jobs_known = True

    def cron_run(self, run: Mapping[str, Any], now: datetime) -> Derived:
        """A finished run of a job: an event `cron` or an entry of `cron.runs`."""
        job_id, started = text(run.get("jobId"), 128), instant(run.get("runAtMs"))
        if job_id is None or started is None:
            return Derived()
        session_id = text(run.get("sessionId"))
        key = self._id(f"session:{session_id}" if session_id else f"cron:{job_id}:{whole(run.get('runAtMs'))}")
        ended = started + timedelta(milliseconds=whole(run.get("durationMs")) or 0)
        if key in self._ended or started < now - HISTORY:
            return Derived()
        if any(
            first <= ended and started <= last and not (session_id and named)
            for first, last, named in self._job_runs.get(job_id, ())
        ):
            return Derived()
        tracked = self._runs.get(key) or (None if session_id else self._running_job(job_id, started, ended))
        if tracked is None:
            agent = text(run.get("agentId")) or _agent_of(text(run.get("sessionKey")))
            shape = {"sessionKey": run.get("sessionKey"), "sessionId": session_id, "agentId": agent}
            tracked = self._begin(key, shape, started, now)
            tracked.news = ended > now - NEWS
            tracked.operation = replace(
                tracked.operation,
                type="scheduled",
                source="cron",
                cron_job_id=job_id,
                run_id=None,
                started_at=started,
                name=self._jobs.get(job_id) or text(run.get("jobName"), 200) or f"Scheduled run of {agent}",
            )
        status = text(run.get("status")) or "unknown"
        if status in {"ok", "skipped"}:
            return self._finish(tracked, ended, "completed" if status == "ok" else "cancelled", status, status)
        code = text(run.get("errorReason"), 64) or status
        return self._finish(tracked, ended, "failed", code, text(run.get("error"), _MAX_ERROR) or status)

    def _running_job(self, job_id: str, started: datetime, ended: datetime) -> _Run | None:
        """The run of a job that goes on as far as we know, of which a record without its session is."""
        for run in self._runs.values():
            began = run.operation.started_at
            if run.operation.cron_job_id != job_id or began is None:
                continue
            if started - SAME_RUN <= began <= ended + SAME_RUN:
                return run
        return None

    def sessions(self, listed: Sequence[Mapping[str, Any]], asked_at: datetime, now: datetime) -> Derived:
        """What `sessions.list`, asked at `asked_at`, tells of runs that began or ended without us noticing."""
        found: list[Derived] = []
        seen: dict[str, tuple[Mapping[str, Any], bool]] = {}
        for session in listed:
            active = [run for run in session.get("activeRunIds") or () if isinstance(run, str)]
            last = text(session.get("lastRunId"))
            for run_id in active:
                seen[self._session_key(session, run_id)] = (session, True)
            if last and last not in active:
                seen.setdefault(self._session_key(session, last), (session, False))
            found += [self._still_running(session, run_id, now) for run_id in active]
        where = {text(session.get(name)): session for session in listed for name in ("sessionId", "key")}
        where.pop(None, None)
        for run in list(self._runs.values()):
            if run.touched > asked_at - POLL_SLACK or seen.get(run.operation.id, (None, False))[1]:
                continue
            own = where.get(run.operation.session_id) or where.get(run.operation.session_key)
            found.append(self._lost(run, own, asked_at))
        found += [self._unseen(key, session, now) for key, (session, running) in seen.items() if not running]
        return merged(found)

    def _session_key(self, session: Mapping[str, Any], run_id: str) -> str:
        key = {"sessionKey": session.get("key"), "sessionId": session.get("sessionId"), "runId": run_id}
        return self.operation_of(key)

    def _still_running(self, session: Mapping[str, Any], run_id: str, now: datetime) -> Derived:
        shape = _as_payload(session, run_id)
        # A session tells when its last run began, and while a run begins that is still the one before.
        run, new = self._find(shape, now, now)
        if run is None or not new:
            return Derived()
        run.polled = True
        return self._derived(run, now, [self._tell(run, now, "thinking", "Thinking")])

    def _lost(self, run: _Run, session: Mapping[str, Any] | None, asked_at: datetime) -> Derived:
        """A run that is no longer active and whose end was not told."""
        if run.outcome is not None:
            return self._finish(run, *run.outcome)
        silent = run.touched <= asked_at - SILENCE
        if session is None:
            gone = "its session is no longer listed"
            return self._finish(run, asked_at, "cancelled", "session_gone", gone) if silent else Derived()
        if session.get("hasActiveRun") is None and text(session.get("status")) == "running":
            run.touched = asked_at  # before 2026.9 only the status tells
            return Derived()
        status = _SESSION_STATUS.get(text(session.get("status")) or "")
        last = text(session.get("lastRunId"))
        if status is None or (last is not None and last != run.operation.run_id):
            unseen = "it ended while nobody was looking"
            return self._finish(run, asked_at, "cancelled", "end_not_seen", unseen) if silent else Derived()
        return self._ended_as(run, session, status, instant(session.get("endedAt")) or asked_at)

    def _unseen(self, key: str, session: Mapping[str, Any], now: datetime) -> Derived:
        """The last run of a session, which began and ended while we were not there."""
        ended, started = instant(session.get("endedAt")), instant(session.get("startedAt"))
        status = _SESSION_STATUS.get(text(session.get("status")) or "")
        if key in self._ended or key in self._runs or status is None:
            return Derived()
        if ended is None or started is None or not now - HISTORY <= ended <= now + POLL_SLACK:
            return Derived()
        run = self._begin(key, _as_payload(session, text(session.get("lastRunId"))), started, now)
        run.news = False
        return self._ended_as(run, session, status, ended)

    def _ended_as(self, run: _Run, session: Mapping[str, Any], status: str, ended: datetime) -> Derived:
        if status == "completed":
            return self._finish(run, ended, status)
        word = text(session.get("status"), 32) or status
        return self._finish(run, ended, status, word, text(session.get("lastRunError"), _MAX_ERROR) or word)

    # --- helpers ------------------------------------------------------------------------------------------

    def _keep_job(self, job_id: str, name: str) -> None:
        self._jobs[job_id] = name
        self._jobs.move_to_end(job_id)
        while len(self._jobs) > MAX_JOBS:
            self._jobs.popitem(last=False)

    def _remember(self, key: str) -> None:
        self._ended[key] = None
        self._ended.move_to_end(key)
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def _remember_job(self, operation: DerivedOperation) -> None:
        job, started, ended = operation.cron_job_id, operation.started_at, operation.completed_at
        if job is None or started is None or ended is None:
            return
        runs = self._job_runs.setdefault(job, deque(maxlen=MAX_JOB_RUNS))
        runs.append((started - SAME_RUN, ended + SAME_RUN, operation.session_id is not None))
        self._job_runs.move_to_end(job)
        while len(self._job_runs) > MAX_JOBS:
            self._job_runs.popitem(last=False)

    def _tell(self, run: _Run, at: datetime, event: str, activity: str, tool: str | None = None) -> AgentEvent:
        agent = run.operation.agent_id or "main"
        return AgentEvent(
            gateway=self._gateway,
            agent=agent,
            heat=self._heat(agent, at, event),
            ts=at,
            event=event,
            activity=activity,
            tool=tool,
            session_key=run.operation.session_key,
            run_id=run.operation.run_id,
        )

    def _heat(self, agent: str, at: datetime, event: str) -> int:
        """How many messages went to and from an agent in the last 60 s, this one included."""
        messages = self._messages.setdefault(agent, deque(maxlen=MAX_HEAT))
        self._messages.move_to_end(agent)
        while len(self._messages) > MAX_AGENTS:
            self._messages.popitem(last=False)
        if event in {"message_in", "message_out"}:
            messages.append(at)
        return sum(at - HEAT < one <= at for one in messages)

    def _derived(
        self, run: _Run, at: datetime, told: Sequence[AgentEvent], steps: Sequence[DerivedStep] = ()
    ) -> Derived:
        state = self._state(run, at)
        return Derived((replace(run.operation, steps=tuple(steps)),), tuple(told), (state,) if state else ())

    def _state(self, run: _Run, at: datetime) -> AgentState | None:
        """The state of the run's agent, when it has changed: the busiest of its runs decides."""
        agent = run.operation.agent_id or "main"
        others = [other for other in self._runs.values() if other.operation.agent_id == agent]
        order = ("waiting", "tool", "thinking")
        busiest = min(others, key=lambda other: order.index(other.state), default=None)
        if busiest is not None:
            state, activity = busiest.state, busiest.operation.activity
        else:
            state, activity = ("error" if run.operation.status == "failed" else "idle"), run.operation.activity
        before = self._states.get(agent)
        if before is not None and (before.state, before.activity) == (state, activity):
            self._states[agent] = replace(before, at=max(before.at, at))
            return None
        if before is None and len(self._states) >= MAX_AGENTS:
            return None
        self._states[agent] = AgentState(self._gateway, agent, state, at, activity)
        return self._states[agent]


def merged(parts: Iterable[Derived]) -> Derived:
    """Several as one: the last word on an operation with the steps of all, every event, the last state of an agent."""
    operations: dict[str, DerivedOperation] = {}
    events: list[AgentEvent] = []
    states: dict[str, AgentState] = {}
    for part in parts:
        for operation in part.operations:
            before = operations.get(operation.id)
            steps = {step.id: step for step in (*(before.steps if before else ()), *operation.steps)}
            operations[operation.id] = replace(operation, steps=tuple(steps.values()))
        events += part.agent_events
        states.update({state.agent: state for state in part.states})
    return Derived(tuple(operations.values()), tuple(events), tuple(states.values()))


def _finished(step: DerivedStep, data: Mapping[str, Any], at: datetime) -> DerivedStep:
    """A step that has ended. `item` tells a status, `tool` tells `isError`. Error texts may quote content: not kept."""
    exit_code = whole(mapping(data, "result", "details").get("exitCode"))
    failed = data.get("status") == "failed" or flag(data.get("isError")) is True or bool(exit_code)
    started = step.started_at or at
    return replace(
        step,
        status="failed" if failed else "completed",
        completed_at=max(at, started),
        duration_ms=max(0, round((at - started).total_seconds() * 1000)),
        error=(f"exit status {exit_code}" if exit_code else "the tool reported an error") if failed else None,
    )


def _current(run: _Run) -> str:
    return next(reversed(run.tools.values()), "Thinking")


def _agent_of(session_key: str | None) -> str:
    parts = (session_key or "").split(":")
    return parts[1] if len(parts) > 2 and parts[0] == "agent" and parts[1] else "main"  # noqa: PLR2004 - agent:<id>:…


def _channel_of(session_key: str | None) -> str | None:
    """The channel of `agent:<agent>:<channel>:(direct|group|channel|room):…`."""
    parts = (session_key or "").split(":")
    if len(parts) > 4 and parts[0] == "agent" and parts[3] in {"direct", "dm", "group", "channel", "room"}:  # noqa: PLR2004
        return parts[2]
    return None


def _as_payload(session: Mapping[str, Any], run_id: str | None) -> dict[str, Any]:
    return {
        "runId": run_id,
        "sessionKey": session.get("key"),
        "sessionId": session.get("sessionId"),
        "agentId": session.get("agentId"),
        "createdVia": session.get("createdVia"),
        "spawnedBy": session.get("spawnedBy"),
    }
