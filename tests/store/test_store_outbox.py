"""The outbox: commit order, nothing missed, nothing twice, across prunes and lost connections."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from store import maintenance, outbox
from store.rows import OutboxEvent
from tests.servers import PATIENCE_SECONDS


def event(number, topic="tasks"):
    return OutboxEvent(topic, "k", {"n": number}, "gw")


async def write(dsn, *numbers, topic="tasks"):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await outbox.publish(connection, [event(number, topic) for number in numbers])


async def take(events, count):
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [await anext(events) for _ in range(count)]


async def test_a_reader_gets_what_is_written_after_it_came(postgres_dsn, postgres_server, postgres_database):
    await write(postgres_dsn, 0)
    events = outbox.follow(postgres_dsn)
    first = asyncio.ensure_future(anext(events))
    await listening(postgres_server, postgres_database)
    await write(postgres_dsn, 1, 2)
    assert (await first).payload == {"n": 1}
    assert [one.payload["n"] for one in await take(events, 1)] == [2]
    await events.aclose()


async def listening(server, database):
    """Return when the follower waits on its connection."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        await psycopg.AsyncConnection.connect(server.admin, autocommit=True) as connection,
    ):
        while True:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lobservatory events'"
                " AND datname = %s AND state = 'idle' AND query LIKE '%%FROM lobs.events%%'",
                [database],
            )
            if (await cursor.fetchone())[0]:
                return
            await asyncio.sleep(0.02)


@pytest.mark.req("S3-2")
async def test_a_reader_that_comes_back_misses_nothing(postgres_dsn):
    await write(postgres_dsn, *range(600))
    events = outbox.follow(postgres_dsn, after_id=10)
    ids = [one.id for one in await take(events, 590)]
    await events.aclose()
    assert ids == list(range(11, 601))


async def test_topics_are_chosen(postgres_dsn):
    await write(postgres_dsn, 1, topic="feed")
    await write(postgres_dsn, 2, topic="tasks")
    events = outbox.follow(postgres_dsn, after_id=0, topics=["tasks"])
    assert [one.payload["n"] for one in await take(events, 1)] == [2]
    await events.aclose()


async def test_ids_are_in_the_order_of_commits(postgres_dsn):
    """Whoever sees an id must already have been able to see every lower one."""
    seen: list[int] = []

    async def writer():
        for number in range(20):
            await write(postgres_dsn, number)

    async def reader():
        async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
            while len(seen) < 80:
                seen.extend(one.id for one in await outbox.read(connection, seen[-1] if seen else 0))

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(reader(), *(writer() for _ in range(4)))
    assert seen == list(range(1, 81))


@pytest.mark.req("S0-13")
async def test_a_cut_connection_is_made_again_without_a_gap(postgres_dsn, postgres_server, postgres_database):
    events = outbox.follow(postgres_dsn, after_id=0)
    await write(postgres_dsn, 1)
    assert (await take(events, 1))[0].payload == {"n": 1}
    pending = asyncio.ensure_future(anext(events))
    await listening(postgres_server, postgres_database)
    async with await psycopg.AsyncConnection.connect(postgres_server.admin, autocommit=True) as admin:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lobservatory events'"
            " AND datname = %s",
            [postgres_database],
        )
    await write(postgres_dsn, 2)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await pending).payload == {"n": 2}
    await events.aclose()


async def test_who_was_away_for_too_long_is_told_to_begin_anew(postgres_dsn):
    await write(postgres_dsn, 1, 2, 3)
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        await connection.execute("UPDATE lobs.events SET at = now() - interval '25 hours' WHERE id < 3")
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        assert (await maintenance.prune(connection))["events"] == 2
    for position, expected in ((1, [("reset", 3)]), (99, [("reset", 3)]), (2, [("tasks", 3)])):
        events = outbox.follow(postgres_dsn, after_id=position)
        assert [(one.topic, one.id) for one in await take(events, 1)] == expected
        await events.aclose()


async def test_nothing_is_told_of_what_was_rolled_back(postgres_dsn):
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        await outbox.publish(connection, [event(1)])
        await connection.rollback()
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        assert await outbox.read(connection, 0) == []


async def test_a_strange_character_does_not_hold_up_a_message(postgres_dsn):
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        await outbox.publish(connection, [OutboxEvent("agents", "k", {"activity": "a\0b\ud800c", "é": ["\u2028"]})])
        (stored,) = await outbox.read(connection, 0)
    assert stored.payload == {"activity": "a\ufffdb?c", "é": ["\u2028"]}
