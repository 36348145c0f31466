"""The fan-out itself: encoded once, bounded, filtered, idle while nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

import pytest

from api.counts import Counts
from api.errors import RateLimitedError
from api.live.events import LiveEvent, as_agent_event, as_channel_message, as_operation, as_server_sent_event
from api.live.hub import RESET, Hub
from api.live.status import broadcast_agent_status
from api.models.agents import AgentStatus
from api.openapi import DESCRIPTION
from api.routes.live import CHANNELS, STREAM_TOPICS
from api.security.scopes import Actor, Scope
from tests.servers import PATIENCE_SECONDS

EVERYONE = Actor("a", Scope.READ, "t1")
DATA = {"id": "1"}
HOME = Actor("h", Scope.READ, "t2", frozenset({"home"}))


class Silent:
    """A source of given events, and of nothing more."""

    def __init__(self, *events):
        self.events = events

    async def follow(self):
        for event in self.events:
            yield event
        await asyncio.Event().wait()

    async def lost(self, after):
        return None

    async def read(self, after, limit):
        return [event for event in self.events if event.seq > after][:limit]


def hub(*events, size=10, clients=10):
    return Hub(Silent(*events), Counts(), queue_size=size, most_clients=clients)


def operation(seq, gateway=None):
    return LiveEvent(seq, "operations", "operation_updated", {"id": f"op_{seq}"}, gateway)


async def texts(subscription, number):
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [(await subscription.get())[1] for _ in range(number)]


def test_each_form_is_encoded_once_for_all():
    calls = []

    def encode(event):
        calls.append(event.seq)
        return "x"

    one = hub()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(one.subscribe("operations", encode, ["operations"], EVERYONE))
        one.dispatch(operation(1))
        one.dispatch(operation(2))
    assert calls == [1, 2]


@pytest.mark.req("S0-15")
def test_whoever_lets_the_queue_fill_up_is_ended_and_counted_and_the_others_go_on():
    one = hub(size=3)
    with (
        one.subscribe("operations", as_operation, ["operations"], EVERYONE) as slow,
        one.subscribe("operations", as_operation, ["operations"], EVERYONE) as fast,
    ):
        for seq in range(1, 6):
            one.dispatch(operation(seq))
            assert fast._queue.get_nowait()[0] == seq
        assert (slow.gone.is_set(), slow.close_code, slow._queue.qsize()) == (True, 1013, 3)
        assert not fast.gone.is_set()
        assert 'lobservatory_live_evictions_total{stream="operations"} 1.0' in one._counts.exposition()
    assert 'lobservatory_live_clients{stream="operations"} 0.0' in one._counts.exposition()


@pytest.mark.req("S3-10")
def test_a_thousand_clients_get_everything_in_order_beside_one_that_reads_nothing():
    calls = []

    def encode(event):
        calls.append(event.seq)
        return str(event.seq)

    one = hub(size=20, clients=1_001)
    with contextlib.ExitStack() as stack:
        stalled, *others = [
            stack.enter_context(one.subscribe("operations", encode, ["operations"], EVERYONE)) for _ in range(1_001)
        ]
        for seq in range(1, 41):
            one.dispatch(operation(seq))
            assert {other._queue.get_nowait() for other in others} == {(seq, str(seq))}
        assert calls == list(range(1, 41)), "each message is encoded once for all"
        assert (stalled.gone.is_set(), stalled.close_code) == (True, 1013)
        assert not any(other.gone.is_set() for other in others)


def test_what_waits_is_bounded_by_size_too():
    one = hub(size=1000)
    with one.subscribe("operations", lambda _: "x" * 3_000_000, ["operations"], EVERYONE) as slow:
        for seq in range(1, 5):
            one.dispatch(operation(seq))
        assert slow.close_code == 1013


@pytest.mark.req("S4-25")
async def test_a_token_of_some_gateways_gets_only_their_events():
    one = hub()
    with one.subscribe("operations", as_operation, ["operations"], HOME) as subscription:
        for seq, gateway in enumerate(("work", "home", None), start=1):
            one.dispatch(operation(seq, gateway))
        assert await texts(subscription, 2) == ['{"id":"op_2","seq":2}', '{"id":"op_3","seq":3}']


def test_the_number_of_clients_is_bounded():
    one = hub(clients=1)
    with (
        one.subscribe("operations", as_operation, ["operations"], EVERYONE),
        pytest.raises(RateLimitedError),
        one.subscribe("operations", as_operation, ["operations"], EVERYONE),
    ):
        pass


async def test_lost_events_end_every_stream_so_that_clients_ask_anew():
    one = hub(LiveEvent(9, RESET, RESET, {}))
    with one.subscribe("operations", as_operation, ["operations"], EVERYONE) as subscription:
        task = asyncio.create_task(one.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await subscription.gone.wait()
        task.cancel()
        assert subscription.close_code == 1012


@pytest.mark.req("S2-11")
async def test_agents_are_not_asked_for_while_nobody_listens():
    asked = asyncio.Event()

    class Agents:
        async def status(self):
            asked.set()
            return [AgentStatus(id="main", gateway=gateway, status="idle") for gateway in ("home", "work")]

    one = hub()
    task = asyncio.create_task(broadcast_agent_status(one, Agents(), 0.01))
    with one.subscribe("channels", as_channel_message, ["tasks"], EVERYONE):
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked.is_set()
        with one.subscribe("channels", as_channel_message, ["agents"], HOME) as subscription:
            (text,) = await texts(subscription, 1)
            (agent,) = json.loads(text)["data"]
            assert (agent["id"], agent["gateway"]) == ("main", "home")
            assert json.loads(text) == {"type": "agent:status", "data": [agent], "seq": 0}
        asked.clear()
    task.cancel()


@pytest.mark.parametrize(
    ("topic", "kind", "encode", "expected"),
    [
        (
            "tasks",
            "task_created",
            as_channel_message,
            {"type": "task:update", "action": "created", "data": DATA},
        ),
        ("feed", "activity", as_channel_message, {"type": "feed:activity", "data": DATA}),
        ("alerts", "firing", as_channel_message, {"type": "alert", "data": DATA}),
        ("agents", "thinking", as_channel_message, None),
        ("agents", "thinking", as_agent_event, {"type": "agent_event", "event": "thinking", "gateway": "h", "id": "1"}),
        ("operations", "operation_created", as_operation, {"id": "1"}),
        ("tasks", "task_created", as_operation, None),
    ],
)
def test_the_messages_of_web_sockets(topic, kind, encode, expected):
    text = LiveEvent(7, topic, kind, {"id": "1"}, "h").encoded(encode)
    assert (text and json.loads(text)) == (expected and {**expected, "seq": 7})


@pytest.mark.req("S3-3", "S1-21")
@pytest.mark.parametrize(
    ("topic", "kind", "name"),
    [
        ("tasks", "task_created", "task_created"),
        ("tasks", "task_updated", "task_updated"),
        ("tasks", "task_deleted", "task_deleted"),
        ("tasks", "activity_logged", "activity_logged"),
        ("tasks", "deliverable_added", "deliverable_added"),
        ("agents", "subagent_spawned", "agent_spawned"),
        ("agents", "subagent_ended", "agent_completed"),
        ("alerts", "firing", "alert"),
    ],
)
def test_the_events_of_the_stream(topic, kind, name):
    text = LiveEvent(7, topic, kind, {"id": "a\nb"}, "h").encoded(as_server_sent_event)
    assert text is not None
    lines = text.split("\n")
    assert lines[:2] == ["id: 7", f"event: {name}"]
    assert json.loads(lines[2].removeprefix("data: ")) == {"type": name, "payload": {"id": "a\nb"}}
    assert lines[3:] == ["", ""]


# What is written into the outbox: topic and kind.
WRITTEN = [
    *(("tasks", f"task_{kind}") for kind in ("created", "updated", "deleted")),
    ("tasks", "activity_logged"),
    ("tasks", "deliverable_added"),
    ("tasks", "agent_spawned"),
    ("tasks", "agent_completed"),
    ("feed", "activity"),
    ("alerts", "firing"),
    ("alerts", "resolved"),
    ("operations", "operation_created"),
    ("operations", "operation_updated"),
    ("agents", "subagent_spawned"),
    ("agents", "subagent_ended"),
    ("agents", "thinking"),
]


@pytest.mark.parametrize(
    ("connection", "encode", "topics", "besides"),
    [
        ("WS /ws/operations", as_operation, {"operations"}, set()),
        ("WS /ws/agents", as_agent_event, {"agents"}, set()),
        ("WS /ws", as_channel_message, set(CHANNELS.values()), {"agent:status"}),
        ("GET /api/events/stream", as_server_sent_event, STREAM_TOPICS, set()),
    ],
)
def test_each_connection_carries_what_the_description_says(connection, encode, topics, besides):
    (carries,) = re.findall(rf"^\| `{connection}` \| (.*?) \|", DESCRIPTION, re.MULTILINE)
    given = [
        text
        for topic, kind in WRITTEN
        if topic in topics and (text := LiveEvent(7, topic, kind, {"id": "1"}, "h").encoded(encode))
    ]
    assert given
    types = {json.loads(text.split("data: ")[-1]).get("type") for text in given} - {None}
    assert set(re.findall(r"`([\w:]+)`", carries)) == types | besides


def test_what_the_stream_has_no_word_for_is_left_out():
    assert LiveEvent(7, "agents", "thinking", {}, "h").encoded(as_server_sent_event) is None
