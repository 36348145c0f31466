"""WebSockets and the event stream."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, WebSocket
from fastapi.responses import Response

from api.context import ContextDep, Reader, of_app, websocket_actor
from api.live import events
from api.live.hub import Subscription
from api.live.streams import EventStream, reset_message, serve_websocket
from api.responses import problems

router = APIRouter(tags=["live"])

CHANNELS = {
    "tasks": "tasks",
    "task:update": "tasks",
    "agents": "agents",
    "agent:status": "agents",
    "feed": "feed",
    "feed:activity": "feed",
    "operations": "operations",
    "alerts": "alerts",
}
STREAM_TOPICS = frozenset({"tasks", "agents", "alerts"})
_LONGEST_MESSAGE = 4096
_LARGEST_SEQ = 2**62


def _after(websocket: WebSocket) -> int | None:
    text = websocket.query_params.get("after", "")
    return min(int(text), _LARGEST_SEQ) if text.isdecimal() and len(text) < 20 else None  # noqa: PLR2004 - digits of a bigint


@router.websocket("/ws/operations")
async def operations(websocket: WebSocket) -> None:
    """Operation objects, whole, each time one changes."""
    hub = of_app(websocket.app).hub
    with hub.subscribe("operations", events.as_operation, ["operations"], websocket_actor(websocket)) as subscription:
        await serve_websocket(websocket, hub, subscription, after=_after(websocket), reset=reset_message, reply=_pong)


@router.websocket("/ws/agents")
async def agents(websocket: WebSocket) -> None:
    """What agents do, as they do it."""
    hub = of_app(websocket.app).hub
    with hub.subscribe("agents", events.as_agent_event, ["agents"], websocket_actor(websocket)) as subscription:
        await serve_websocket(websocket, hub, subscription, after=_after(websocket), reset=reset_message, reply=_pong)


@router.websocket("/ws")
async def channels(websocket: WebSocket) -> None:
    """The channels that the client subscribes to. `?channels=tasks,feed` subscribes from the start."""
    hub = of_app(websocket.app).hub
    names = websocket.query_params.get("channels", "").split(",")
    topics = {CHANNELS[name] for name in names if name in CHANNELS}

    def reply(subscription: Subscription, text: str) -> str | None:
        answer = _channel_reply(subscription, text)
        hub.topics_changed()
        return answer

    with hub.subscribe("channels", events.as_channel_message, topics, websocket_actor(websocket)) as subscription:
        await serve_websocket(websocket, hub, subscription, after=_after(websocket), reset=reset_message, reply=reply)


def _message(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text) if len(text) <= _LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _pong(_: Subscription, text: str) -> str | None:
    return events.json({"type": "pong"}) if _message(text).get("type") == "ping" else None


def _channel_reply(subscription: Subscription, text: str) -> str:
    message = _message(text)
    kind = message.get("type")
    if kind == "ping":
        return events.json({"type": "pong"})
    asked = message.get("channels")
    if kind in {"subscribe", "unsubscribe"} and isinstance(asked, list):
        unknown = [name for name in asked if not isinstance(name, str) or name not in CHANNELS]
        if unknown:
            known = ", ".join(sorted(set(CHANNELS.values())))
            return events.json({"type": "error", "code": "unknown_channel", "detail": f"The channels are {known}."})
        topics = {CHANNELS[name] for name in asked}
        subscription.topics = subscription.topics | topics if kind == "subscribe" else subscription.topics - topics
        return events.json({"type": "subscribed", "channels": sorted(subscription.topics)})
    return events.json(
        {"type": "error", "code": "unknown_message", "detail": "Send ping, subscribe or unsubscribe with channels."}
    )


@router.get(
    "/api/events/stream",
    summary="Live events (server-sent)",
    response_class=Response,
    responses={
        **problems(),
        200: {
            "description": "A stream that lasts until either side ends it.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: 42\nevent: task_updated\ndata: {"type":"task_updated","payload":{"id":"t"}}\n\n',
                }
            },
        },
    },
)
async def stream(
    context: ContextDep,
    actor: Reader,
    last_event_id: Annotated[
        str | None, Header(max_length=40, description="The last id that the client got: it gets all since.")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, le=_LARGEST_SEQ, description="As Last-Event-ID, where a header cannot be set.")
    ] = None,
) -> Response:
    """Task, agent and alert events; a comment line every 30 seconds. Beyond 24 hours: one event `reset`, read anew."""
    if last_event_id is not None and last_event_id.isdecimal():
        after = min(int(last_event_id), _LARGEST_SEQ)
    return EventStream(context.hub, actor, STREAM_TOPICS, after)
