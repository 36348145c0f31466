"""How one client is served: a WebSocket or an event stream, from its subscription to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import errors
from api.live.events import as_server_sent_event, json, server_sent_event
from api.live.hub import Hub, Subscription
from api.middleware import SUBPROTOCOL
from api.security.scopes import Actor

KEEP_ALIVE = 30.0  # seconds
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",  # nginx would hold messages back
    "connection": "keep-alive",
}
Reply = Callable[[Subscription, str], str | None]


async def _first_of(*parts: Coroutine[Any, Any, Any]) -> None:
    """Run until one part ends, then stop the others; the error of the one that ended is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _catch_up(
    hub: Hub,
    subscription: Subscription,
    after: int,
    send: Callable[[str], Awaitable[None]],
    reset: Callable[[int], str],
) -> int:
    newest = await hub.lost(after)
    if newest is not None:
        await send(reset(newest))
        return newest
    return await hub.replay(subscription, after, send)


async def serve_websocket(
    websocket: WebSocket,
    hub: Hub,
    subscription: Subscription,
    *,
    after: int | None,
    reset: Callable[[int], str],
    reply: Reply | None = None,
) -> None:
    """Accept and serve until either side ends it. `after`: the last `seq` that the client has."""
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)

    async def give() -> None:
        seen = 0 if after is None else await _catch_up(hub, subscription, after, websocket.send_text, reset)
        while True:
            seq, text = await subscription.get()
            if seq > seen or seq == 0:
                await websocket.send_text(text)

    async def take() -> None:
        while True:
            text = await websocket.receive_text()
            answer = reply(subscription, text) if reply else None
            if answer is not None:
                hub.give(subscription, 0, answer)

    code = 1011
    try:
        await _first_of(give(), take(), subscription.gone.wait())
        code = subscription.close_code
    except (WebSocketDisconnect, KeyError):  # KeyError: a binary frame, which no client of ours sends
        code = 1003
    except errors.DATABASE_AWAY:
        code = 1013
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it is closed already
        await websocket.close(code)


class EventStream(Response):
    """`text/event-stream` of one client."""

    def __init__(self, hub: Hub, actor: Actor, topics: frozenset[str], after: int | None) -> None:
        super().__init__()
        self._hub = hub
        self._actor = actor
        self._topics = topics
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """ASGI."""
        with self._hub.subscribe("sse", as_server_sent_event, self._topics, self._actor) as subscription:
            headers = [(name.encode(), value.encode()) for name, value in STREAM_HEADERS.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

            async def text(chunk: str) -> None:
                await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})

            async def give() -> None:
                await text("retry: 2000\n: connected\n\n")
                seen = 0
                if self._after is not None:
                    seen = await _catch_up(self._hub, subscription, self._after, text, _reset_event)
                while True:
                    try:
                        async with asyncio.timeout(KEEP_ALIVE):
                            seq, chunk = await subscription.get()
                    except TimeoutError:
                        await text(": keep-alive\n\n")
                        continue
                    if seq > seen:
                        await text(chunk)

            async def vanish() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass

            with contextlib.suppress(*errors.DATABASE_AWAY):  # the client comes back with its Last-Event-ID
                await _first_of(give(), vanish(), subscription.gone.wait())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # one that does not read would keep us here
                    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _reset_event(seq: int) -> str:
    return server_sent_event("reset", {"reason": "the events since then are no longer kept: read anew"}, seq)


def reset_message(seq: int) -> str:
    """For WebSockets: what was missed is no longer kept, read anew."""
    return json({"type": "reset", "id": "reset", "seq": seq})
