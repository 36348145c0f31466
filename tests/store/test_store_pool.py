"""The pool of connections: whoever is cancelled ends, also while a connection comes free."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from store.pool import open_pool
from tests.servers import PATIENCE_SECONDS

STEPS = 20  # of the event loop: more than a connection needs to change hands


@pytest.mark.parametrize("around", [None, contextlib.nullcontext])
async def test_a_cancellation_while_a_connection_changes_hands_is_not_lost(postgres_dsn, around):
    async with open_pool(postgres_dsn, name="test", max_size=1, around=around) as pool:

        async def use():
            async with pool.connection():
                await asyncio.Event().wait()  # for ever, unless it is cancelled

        for steps in range(STEPS):
            async with pool.connection():
                task = asyncio.create_task(use())
                while not pool.get_stats().get("requests_waiting"):  # noqa: ASYNC110 - the pool has no event for it
                    await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE_SECONDS)
            assert task.cancelled(), f"it goes on when it is cancelled {steps} steps later"
        async with pool.connection() as connection:  # it was given back each time
            await connection.execute("SELECT 1")
