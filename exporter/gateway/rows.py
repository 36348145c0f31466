"""The rows of one gateway: those of polls, which the next poll brings again, and derived ones, which nobody brings
again and which are kept until they are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from exporter.collectors.usage import Usage
from exporter.gateway.runs.derived import Derived, merged
from lobservatory import logging
from lobservatory.errors import one_line
from store import gateway as rows
from store import operations, traces, usage
from store.operations import DerivedOperation
from store.pool import Pool
from store.rows import AgentEvent, AgentState

log = logging.get(__name__)

MAX_UNSAVED = 5_000
SAVE_WAIT = 2.0  # seconds for a free connection

Save = Callable[[Sequence[Any]], Awaitable[None]]


class PolledRows:
    """What collectors and traces of one gateway write and ask. Changes with what they need of the database."""

    def __init__(self, gateway: str, pool: Pool) -> None:
        self._gateway = gateway
        self._pool = pool

    def saver(self, write: Callable[..., Any]) -> Save:
        """Saves rows by `write(connection, rows)`, when there are any."""

        async def save(what: Sequence[Any]) -> None:
            if what:
                await self._kept(write, what)

        return save

    def saver_of_all(self, write: Callable[..., Any]) -> Save:
        """Saves by `write(connection, gateway, rows)`, for functions that take all rows of a gateway, so that those
        which are gone are noticed."""

        async def save(what: Sequence[Any]) -> None:
            await self._kept(write, self._gateway, what)

        return save

    async def _kept(self, write: Callable[..., Any], *what: Any) -> None:
        """Write what a poll found. While the database is away, metrics go on as ever: the next poll brings the same
        rows again, and `lobservatory_database_up` tells."""
        try:
            async with self._pool.connection(timeout=SAVE_WAIT) as connection:
                await write(connection, *what)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            log.debug("rows of a poll were not kept", error=one_line(error))

    async def decisions(self) -> Mapping[str, int] | None:
        """How approvals were decided; None while the database is away."""
        try:
            async with self._pool.connection(timeout=SAVE_WAIT) as connection:
                return await rows.approval_decisions(connection, self._gateway)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            log.debug("decisions could not be counted", error=one_line(error))
            return None

    async def record(self, event: str, detail: Mapping[str, Any]) -> None:
        """An event of the gateway itself. Raises psycopg.Error, as do all below."""
        async with self._pool.connection() as connection:
            await rows.insert_gateway_event(connection, self._gateway, datetime.now(UTC), event, detail)

    async def calls_of_run(self, operation: DerivedOperation) -> list[traces.RunCall]:
        """The model calls of a run that has ended."""
        if not (operation.session_id and operation.started_at and operation.completed_at):
            return []
        # A job's or a webhook's run has a session of its own, and maybe several run ids.
        own = operation.type in {"scheduled", "webhook"} and ":run:" in (operation.session_key or "")
        async with self._pool.connection(timeout=SAVE_WAIT) as connection:
            return await traces.calls_of_run(
                connection,
                self._gateway,
                operation.session_id,
                operation.started_at,
                operation.completed_at,
                run_id=None if own else operation.run_id,
            )

    async def save_sent_to(self, at: datetime) -> None:
        """Until when runs were sent as traces."""
        async with self._pool.connection(timeout=SAVE_WAIT) as connection:
            await traces.save_sent_to(connection, self._gateway, at)

    async def usage(self, since: datetime, until: datetime, agent: str | None) -> Usage:
        """What we counted, to be compared with what the gateway counted."""
        async with self._pool.connection() as connection:
            found = await usage.totals(connection, self._gateway, since, until, agent)
        return Usage(
            {
                "input": found.input_tokens,
                "output": found.output_tokens,
                "cache_read": found.cache_read_tokens,
                "cache_write": found.cache_write_tokens,
            },
            found.cost_usd,
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What was derived before a restart, and until when runs were sent as traces."""

    operations: Sequence[DerivedOperation]
    sent_to: datetime | None


class DerivedRows:
    """What was derived and is not written yet. Changes with how it is kept while the database is away: bounded, and
    written when it is back. Operations are upserts, so that nothing is lost by the polls and nothing doubled by a
    repetition."""

    def __init__(self, gateway: str, pool: Pool) -> None:
        self._gateway = gateway
        self._pool = pool
        self._operations: dict[str, DerivedOperation] = {}
        self._events: deque[AgentEvent] = deque(maxlen=MAX_UNSAVED)
        self._states: dict[str, AgentState] = {}
        self._failing = False

    @property
    def unsaved(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._operations or self._events or self._states)

    def keep(self, derived: Derived) -> None:
        """Take in what is to be written."""
        both = merged([Derived(tuple(self._operations.values())), derived])
        self._operations = {operation.id: operation for operation in both.operations[-MAX_UNSAVED:]}
        self._events.extend(derived.agent_events)
        self._states.update({state.agent: state for state in derived.states})

    async def known(self, since: datetime) -> Known | None:
        """What is there since then; None while the database is away."""
        try:
            async with self._pool.connection() as connection:
                known = await operations.derived_since(connection, self._gateway, since)
                sent_to = await traces.sent_to(connection, self._gateway)
        except psycopg.Error as error:
            self._complain(error)
            return None
        self._recovered()
        return Known(known, sent_to)

    async def write(self) -> bool:
        """Write what is unsaved; whether that worked."""
        if not self.unsaved:
            return True
        try:
            async with self._pool.connection() as connection:
                await rows.save_agent_states(connection, list(self._states.values()))
                # Messages last: whoever publishes lets others wait, who may hold operations that this needs.
                await operations.upsert_derived(connection, list(self._operations.values()))
                await rows.insert_agent_events(connection, list(self._events))
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self._complain(error)
            return False
        except psycopg.Error as error:
            # The rows themselves are refused: holding on to them would stop everything behind them.
            log.exception(
                "derived rows were refused and are dropped", operations=len(self._operations), error=str(error)
            )
        else:
            self._recovered()
        self._operations, self._states = {}, {}
        self._events.clear()
        return True

    def _complain(self, error: psycopg.Error) -> None:
        if not self._failing:
            log.warning("operations cannot be written; they are kept and tried again", error=one_line(error))
        self._failing = True

    def _recovered(self) -> None:
        if self._failing:
            log.info("operations are written again")
        self._failing = False
