"""What pushed events tell of sessions at work: when the last one came, whether the same tool call comes again and
again, and which compactions failed. No content is kept: arguments of a call only as a hash, until the next call."""

from __future__ import annotations

import json
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from openclaw.fields import mapping, text
from openclaw.protocol import Pushed
from openclaw.wrapped import parent_of

MOST_SESSIONS = 2_000  # those that were quiet for longest are forgotten first
_OF_RUNS = frozenset({"agent", "chat", "session.tool", "session.message"})


@dataclass(slots=True)
class _Seen:
    at: float
    agent: str
    call: bytes = b""  # hash of the last tool call's name and arguments
    call_id: str = ""
    repeats: int = 0  # how often that call came in a row


class Activity:
    """A listener for the client. `clock`: epoch seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.failed_compactions: Counter[str] = Counter()  # by agent
        self._clock = clock
        self._sessions: OrderedDict[str, _Seen] = OrderedDict()

    def pushed(self, event: Pushed) -> None:
        """Take in one event."""
        payload = mapping(event.payload)
        key = text(payload.get("sessionKey"))
        if key is None:
            return
        agent = text(payload.get("agentId")) or (key.split(":")[1] if key.startswith("agent:") else "main")
        if event.event == "session.operation":
            ended = payload.get("operation") == "compact" and payload.get("phase") == "end"
            self.failed_compactions[agent] += ended and payload.get("completed") is False
        elif event.event in _OF_RUNS:
            self._run(key, agent, payload)

    def _run(self, key: str, agent: str, payload: Mapping[str, Any]) -> None:
        seen = self._sessions.setdefault(key, _Seen(0.0, agent))
        seen.at = self._clock()
        self._sessions.move_to_end(key)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        data = mapping(payload, "data")
        match payload.get("stream"), data.get("phase"):
            case "tool", "start" if parent_of(data) is None:  # a call within a call is no call of its own
                self._tool_call(seen, data)
            case "lifecycle", "end" | "error":
                seen.call, seen.repeats = b"", 0

    def _tool_call(self, seen: _Seen, data: Mapping[str, Any]) -> None:
        call_id = text(data.get("toolCallId"), 200) or ""
        if call_id and call_id == seen.call_id:
            return  # one call is told on two streams
        what = json.dumps([data.get("name"), data.get("args")], sort_keys=True, default=str).encode()
        call = blake2b(what, digest_size=16).digest()
        seen.repeats = seen.repeats + 1 if call == seen.call else 1
        seen.call, seen.call_id = call, call_id

    def last_event(self, key: str) -> float | None:
        """When the last event of a session came, epoch seconds."""
        seen = self._sessions.get(key)
        return None if seen is None else seen.at

    def repeats(self) -> dict[str, int]:
        """The longest present row of one and the same tool call, by agent."""
        longest: dict[str, int] = {}
        for seen in self._sessions.values():
            longest[seen.agent] = max(seen.repeats, longest.get(seen.agent, 0))
        return longest
