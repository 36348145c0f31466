"""The fan-out of one process: follows the outbox once and gives every event to all who listen.

Giving never waits. Each client has a bounded queue and a task of its own that empties it; whoever lets the queue fill
up is evicted (closed with 1013) and can resume from the last `seq` it saw, because replay comes from the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Protocol

import structlog

from api import errors
from api.counts import Counts
from api.live.events import Encode, LiveEvent
from api.security.scopes import Actor

log = structlog.get_logger(__name__)

SLOW = 1013
GOING_AWAY = 1012
POLICY = 1008
REPLAY_PAGE = 200
MOST_WAITING = 8 * 1024 * 1024  # characters that wait for one client (shared with all others that wait for them)
RESET = "reset"  # topic of the event that says: some were lost


class Source(Protocol):
    """Where events come from. All may raise what `errors.DATABASE_AWAY` names, but `follow`, which tries again."""

    def follow(self) -> AsyncIterator[LiveEvent]:
        """Every event from now on, each once and in order."""

    async def lost(self, after: int) -> int | None:
        """The id to go on from when events after `after` are no longer kept, else None."""

    async def read(self, after: int, limit: int) -> Sequence[LiveEvent]:
        """Events with a higher id, in order."""


class Subscription:
    """What one client listens to. `topics` may be changed at any time."""

    def __init__(self, stream: str, encode: Encode, topics: Iterable[str], actor: Actor, size: int) -> None:
        self.stream = stream
        self.encode = encode
        self.topics = frozenset(topics)
        self.actor = actor
        self._queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue(size)
        self._waiting = 0  # characters
        self.gone = asyncio.Event()
        self.close_code = 1000

    def wants(self, event: LiveEvent) -> bool:
        """Whether this client is to get that event."""
        return event.topic in self.topics and self.actor.sees(event.gateway)

    def put(self, seq: int, text: str) -> bool:
        """Queue one message. False when the queue is full, by number or by size."""
        if self._waiting and self._waiting + len(text) > MOST_WAITING:
            return False
        try:
            self._queue.put_nowait((seq, text))
        except asyncio.QueueFull:
            return False
        self._waiting += len(text)
        return True

    @property
    def waiting(self) -> int:
        """How many messages wait in the queue."""
        return self._queue.qsize()

    async def get(self) -> tuple[int, str]:
        """The next message, as soon as there is one."""
        seq, text = await self._queue.get()
        self._waiting -= len(text)
        return seq, text

    def end(self, code: int) -> None:
        """Make the client's task close it with that code."""
        if not self.gone.is_set():
            self.close_code = code
            self.gone.set()


class Hub:
    """All subscriptions of this process."""

    def __init__(self, source: Source, counts: Counts, *, queue_size: int, most_clients: int) -> None:
        self._source = source
        self._counts = counts
        self._queue_size = queue_size
        self._most_clients = most_clients
        self._subscriptions: set[Subscription] = set()
        self._changed = asyncio.Event()
        self._closing = False
        self.last_seq = 0

    @contextlib.contextmanager
    def subscribe(self, stream: str, encode: Encode, topics: Iterable[str], actor: Actor) -> Iterator[Subscription]:
        """Listen for as long as the block lasts. Raises RateLimitedError when too many do."""
        if len(self._subscriptions) >= self._most_clients:
            raise errors.RateLimitedError(5, "Too many live clients.")
        subscription = Subscription(stream, encode, topics, actor, self._queue_size)
        if self._closing:
            subscription.end(GOING_AWAY)
        self._subscriptions.add(subscription)
        self._counts.clients.labels(stream).inc()
        self.topics_changed()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._counts.clients.labels(stream).dec()

    def topics_changed(self) -> None:
        """Wake whoever waits for listeners."""
        self._changed.set()

    def anyone(self, topic: str, stream: str) -> list[Subscription]:
        """Who listens to a topic on a stream now."""
        return [one for one in self._subscriptions if one.stream == stream and topic in one.topics]

    async def until_someone(self, topic: str, stream: str) -> None:
        """Wait until somebody listens."""
        while not self.anyone(topic, stream):
            self._changed.clear()
            await self._changed.wait()

    def dispatch(self, event: LiveEvent) -> None:
        """Give one event to everybody who wants it, without waiting for anybody."""
        self.last_seq = max(self.last_seq, event.seq)
        self._counts.last_event_id.set(self.last_seq)
        for subscription in self._subscriptions:
            if subscription.wants(event):
                text = event.encoded(subscription.encode)
                if text is not None:
                    self.give(subscription, event.seq, text)

    def give(self, subscription: Subscription, seq: int, text: str) -> None:
        """Queue a message for one client; evict it when it is too slow."""
        if subscription.gone.is_set():
            return
        if subscription.put(seq, text):
            self._counts.messages.labels(subscription.stream).inc()
        else:
            self._counts.evictions.labels(subscription.stream).inc()
            self._counts.dropped_messages.labels(subscription.stream).inc(subscription.waiting + 1)
            log.info("client too slow, closed", stream=subscription.stream, actor=subscription.actor.name)
            subscription.end(SLOW)

    async def run(self) -> None:
        """Follow the outbox until cancelled."""
        async for event in self._source.follow():
            if event.topic == RESET:
                # What was committed meanwhile is gone: whoever listens has to ask, and is told so when it comes back.
                for subscription in list(self._subscriptions):
                    subscription.end(GOING_AWAY)
            else:
                self.dispatch(event)
            await asyncio.sleep(0)  # a page of events must not fill queues that nobody was given time to empty

    async def replay(self, subscription: Subscription, after: int, send: Callable[[str], Awaitable[None]]) -> int:
        """Send what was committed after `after`. Gives the id up to which the client now has everything."""
        while True:
            page = await self._source.read(after, REPLAY_PAGE)
            for event in page:
                if subscription.wants(event):
                    text = event.encoded(subscription.encode)
                    if text is not None:
                        await send(text)
                after = event.seq
            if len(page) < REPLAY_PAGE:
                return after

    async def lost(self, after: int) -> int | None:
        """See Source."""
        return await self._source.lost(after)

    async def check_actors(self, still_valid: Callable[[Sequence[str]], Awaitable[set[str]]]) -> None:
        """Close those whose token was revoked or has expired meanwhile."""
        tokens = sorted({one.actor.token_id for one in self._subscriptions})
        if not tokens:
            return
        valid = await still_valid(tokens)
        for subscription in list(self._subscriptions):
            if subscription.actor.token_id not in valid:
                subscription.end(POLICY)

    def close(self) -> None:
        """Ask every client's task to end; new ones end at once."""
        self._closing = True
        for subscription in list(self._subscriptions):
            subscription.end(GOING_AWAY)
