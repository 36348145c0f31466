"""One event of the outbox in each of the forms that clients get. Each form is encoded once, for all clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

Encode = Callable[["LiveEvent"], str | None]


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """A committed event. `seq` is its id in the database: it rises in commit order and is the same everywhere."""

    seq: int
    topic: str
    kind: str
    payload: Mapping[str, Any]
    gateway: str | None = None
    _encoded: dict[Encode, str | None] = field(default_factory=dict, compare=False, repr=False)

    def encoded(self, encode: Encode) -> str | None:
        """This event in one form, or None when that form has no word for it."""
        try:
            return self._encoded[encode]
        except KeyError:
            text = self._encoded[encode] = encode(self)
            return text


def json(value: object) -> str:
    """Compact JSON text."""
    return msgspec.json.encode(value).decode()


def as_operation(event: LiveEvent) -> str | None:
    """`/ws/operations`: the operation object, and `seq`."""
    if event.topic != "operations":
        return None
    return json({**event.payload, "seq": event.seq})


def as_agent_event(event: LiveEvent) -> str | None:
    """`/ws/agents`."""
    if event.topic != "agents":
        return None
    known = {"type": "agent_event", "seq": event.seq, "event": event.kind, "gateway": event.gateway}
    return json({**known, **event.payload, "type": "agent_event", "seq": event.seq})


_ACTIONS = {"task_created": "created", "task_updated": "updated", "task_deleted": "deleted"}


def as_channel_message(event: LiveEvent) -> str | None:
    """`/ws`: what its channels carry."""
    body: dict[str, Any]
    if event.topic == "tasks":
        body = {"type": "task:update", "action": _ACTIONS.get(event.kind, event.kind)}
    elif event.topic == "feed":
        body = {"type": "feed:activity"}
    elif event.topic == "operations":
        body = {"type": "operation:update"}
    elif event.topic == "alerts":
        body = {"type": "alert"}
    else:
        return None
    return json({**body, "data": event.payload, "seq": event.seq})


_STREAMED = {
    ("tasks", "created"): "task_created",
    ("tasks", "updated"): "task_updated",
    ("tasks", "deleted"): "task_deleted",
    ("agents", "subagent_spawned"): "agent_spawned",
    ("agents", "subagent_ended"): "agent_completed",
}
_STREAMED_KINDS = frozenset(
    {
        "task_created",
        "task_updated",
        "task_deleted",
        "activity_logged",
        "deliverable_added",
        "agent_spawned",
        "agent_completed",
    }
)


def as_server_sent_event(event: LiveEvent) -> str | None:
    """`/api/events/stream`."""
    kind = _STREAMED.get((event.topic, event.kind), event.kind)
    if event.topic == "alerts":
        kind = "alert"
    elif kind not in _STREAMED_KINDS:
        return None
    return server_sent_event(kind, event.payload, event.seq)


def server_sent_event(kind: str, payload: Mapping[str, Any], seq: int) -> str:
    """One message of an event stream. JSON has no raw line breaks, so one `data` line is enough."""
    return f"id: {seq}\nevent: {kind}\ndata: {json({'type': kind, 'payload': payload})}\n\n"
