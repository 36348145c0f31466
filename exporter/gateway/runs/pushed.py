"""What agents push while they work (`agent`, `session.tool`), used at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from exporter.gateway.runs.activities import THINKING
from exporter.gateway.runs.book import MAX_ERROR_TEXT, RunBook
from exporter.gateway.runs.derived import Derived
from exporter.gateway.runs.run import Outcome, ToolCall
from openclaw.fields import flag, instant, mapping, text, whole
from openclaw.wrapped import asked_for, parent_of
from store.rows import AgentEvent


class PushedRuns:
    """Changes with the events that agents push of their runs."""

    def __init__(self, book: RunBook) -> None:
        self._book = book

    def event(self, payload: Mapping[str, Any], now: datetime) -> Derived:
        """What an event means; nothing when it is not about a run."""
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
                derived = self._tool(payload, data, at, now, ended=phase == "end", hint=text(data.get("meta")))
            case "tool", "start" | "result":
                path = mapping(data, "args").get("path") or mapping(data, "args").get("file_path")
                derived = self._tool(payload, data, at, now, ended=phase == "result", hint=text(path))
            case "run_status", "retrying":
                derived = self._retrying(payload, at, now)
        return derived

    def _lifecycle(
        self, payload: Mapping[str, Any], data: Mapping[str, Any], phase: str | None, at: datetime, now: datetime
    ) -> Derived:
        run, new = self._book.find(payload, at, now)
        if run is None:
            return Derived()
        tell = self._book.agents.event
        told: list[AgentEvent] = []
        if new or (run.polled and phase == "start"):
            run.polled = False
            if run.kind == "subagent":
                told.append(tell(run, at, "subagent_spawned", "Started a sub-agent"))
            elif run.operation.type == "agent_task" and "announce" not in run.operation.tags:
                told.append(tell(run, at, "message_in", "Received a message"))
        changed = new
        match phase:
            case "waiting-approval":
                changed = True
                run.wait()
            case "approval-resolved":
                changed = True
                run.go_on()
            case "start" if not new:  # a poll found it first, and does not know since when it runs
                changed = True
                run.began(instant(data.get("startedAt")) or at)
            case "model" if text(data.get("model")):
                run.uses(data.get("provider"), data.get("model"))
        if new:
            told.append(tell(run, at, "thinking", THINKING))
        return self._book.changed(run, at, told) if changed else Derived()

    def _retrying(self, payload: Mapping[str, Any], at: datetime, now: datetime) -> Derived:
        run, _ = self._book.find(payload, at, now)
        if run is None:
            return Derived()
        run.doing("Trying the model again")
        return self._book.changed(run, at)

    def _tool(
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
        run, _ = self._book.find(payload, at, now)
        if run is None:
            return Derived()
        # A call through `tool_call` is one step, named for the real tool. Which one that is tells the stream `tool`, or
        # the call in it; `item` comes first and does not.
        step_id = parent_of(data) or call_id
        call = ToolCall(
            step_id=step_id,
            tool=text(asked_for(tool, data.get("args")), 64) or tool,
            hint=hint,
            inner=step_id != call_id,
            started_at=instant(data.get("startedAt")) or at,
            ended_at=(instant(data.get("endedAt")) or at) if ended else None,
            # The stream `item` tells the one, `tool` the other.
            failed=data.get("status") == "failed" or flag(data.get("isError")) is True,
            exit_code=whole(mapping(data, "result", "details").get("exitCode")),
        )
        used = run.use_tool(call)
        if used is None:
            return Derived()
        told = []
        if used.event is not None:
            told.append(self._book.agents.event(run, at, used.event, used.activity, tool=used.step.name))
        return self._book.changed(run, at, told, (used.step,))

    def _end(self, payload: Mapping[str, Any], data: Mapping[str, Any], at: datetime, now: datetime) -> Derived:
        run, _ = self._book.find(payload, at, now)
        if run is None:
            return Derived()
        ended = instant(data.get("endedAt")) or at
        outcome = Outcome(ended, "completed")
        if data.get("aborted") is True:
            outcome = Outcome(ended, "cancelled", "aborted", text(data.get("error"), MAX_ERROR_TEXT) or "aborted")
        elif data.get("phase") == "error":
            observed = mapping(data, "errorObservation")
            code = text(observed.get("failoverReason"), 64) or text(observed.get("providerRuntimeFailureKind"), 64)
            outcome = Outcome(ended, "failed", code or "error", text(data.get("error"), MAX_ERROR_TEXT) or "failed")
        if run.operation.cron_job_id is not None:
            # The scheduler's word follows at once, and knows a time-out from an abort.
            run.outcome = outcome
            run.tools.clear()
            return Derived()
        return self._book.finish(run, outcome)
