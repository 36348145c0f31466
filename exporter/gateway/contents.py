"""What runs say and are told, for traces, when `LOBS_STORE_CONTENT` allows it; else nothing of this exists.

From pushed events: the user's message, the reply, the arguments and results of tool calls. Bounded in every direction,
in memory only, and without secrets.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lobservatory import logging
from openclaw.fields import mapping, text
from openclaw.protocol import Pushed

MOST_RUNS: Final = 500
MOST_STEPS: Final = 200  # of one run
LONGEST: Final = 4_000  # characters of one text


@dataclass(slots=True)
class RunContent:
    """Texts of one run, as attributes of spans: messages as the conventions' JSON, steps by the id of the call."""

    asked: str | None = None
    answered: str | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)


class Contents:
    """A listener for the client. `operation_of`: the id of the operation that an event belongs to."""

    def __init__(self, operation_of: Callable[[Mapping[str, Any]], str]) -> None:
        self._operation_of = operation_of
        self._runs: OrderedDict[str, RunContent] = OrderedDict()
        self._asked: OrderedDict[str, str] = OrderedDict()  # by session: a message comes before its run

    def pushed(self, event: Pushed) -> None:
        """Take in one event."""
        payload = mapping(event.payload)
        data = mapping(payload, "data")
        if event.event == "session.message":
            self._message(payload)
        elif event.event in {"agent", "session.tool"} and text(payload.get("runId")):
            match payload.get("stream"), data.get("phase"):
                case "lifecycle", "start":
                    asked = self._asked.pop(text(payload.get("sessionKey")) or "", None)
                    self._run(payload).asked = asked
                case "lifecycle", "end":
                    reply = text(mapping(data, "terminalReply").get("text"), LONGEST)
                    if reply:
                        self._run(payload).answered = _message_json("assistant", reply)
                case "assistant", _ if text(data.get("text")):
                    self._run(payload).answered = _message_json("assistant", str(data["text"]))
                case "tool", "start":
                    self._step(self._run(payload).arguments, data, data.get("args"))
                case "tool", "result":
                    self._step(self._run(payload).results, data, data.get("result"))

    def take(self, operation: str) -> RunContent:
        """The texts of a run, which are forgotten then."""
        return self._runs.pop(operation, None) or RunContent()

    def _message(self, payload: Mapping[str, Any]) -> None:
        message = mapping(payload, "message")
        session = text(payload.get("sessionKey"))
        if message.get("role") != "user" or session is None:
            return
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = [part if isinstance(part, str) else str(mapping(part).get("text") or "") for part in parts]
        self._asked[session] = _message_json("user", "\n".join(texts))
        while len(self._asked) > MOST_RUNS:
            self._asked.popitem(last=False)

    def _run(self, payload: Mapping[str, Any]) -> RunContent:
        run = self._runs.setdefault(self._operation_of(payload), RunContent())
        while len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        return run

    def _step(self, kept: dict[str, str], data: Mapping[str, Any], value: Any) -> None:
        step = text(data.get("toolCallId"), 200)
        if step is not None and value is not None and (step in kept or len(kept) < MOST_STEPS):
            kept[step] = _clean(json.dumps(value, ensure_ascii=False, default=str))


def _clean(value: str) -> str:
    return logging.REDACTOR.text(value)[:LONGEST].encode("utf-8", "replace").decode()


def _message_json(role: str, content: str) -> str:
    message = [{"role": role, "parts": [{"type": "text", "content": _clean(content)}]}]
    return json.dumps(message, ensure_ascii=False)
