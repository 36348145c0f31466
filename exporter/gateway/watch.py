"""Watches one gateway: the client, the collectors of its RPC, and the feed that turns events into operations.

`GatewayWatch` is all that the exporter's main program needs: its `collectors` go to the runner, its `run` is a task.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from exporter.collectors import Collector, models, skills, tasks
from exporter.collectors.activity import Activity
from exporter.collectors.agents import AgentsCollector
from exporter.collectors.approvals import ApprovalsCollector
from exporter.collectors.channels import ChannelsCollector
from exporter.collectors.cron import CronCollector
from exporter.collectors.gateway import GatewayCollector
from exporter.collectors.logs import LogsCollector, connector
from exporter.collectors.nodes import NodesCollector
from exporter.collectors.probe import ProbeCollector
from exporter.collectors.quota import QuotaCollector
from exporter.collectors.sessions import SessionsCollector
from exporter.collectors.silence import Silence
from exporter.collectors.subagents import SubagentsCollector
from exporter.collectors.update import UpdateCollector
from exporter.collectors.usage import Usage, UsageCollector
from exporter.gateway.contents import Contents
from exporter.gateway.runs.book import HISTORY
from exporter.gateway.runs.derived import Derived, merged
from exporter.gateway.runs.tracker import RunTracker
from exporter.gateway.traces import Span, Traces
from lobservatory import logging
from openclaw import journal
from openclaw.client import GatewayClient
from openclaw.fields import mapping, number
from openclaw.protocol import Hello, Pushed
from openclaw.state_records import StateRecords
from store import gateway as rows
from store import operations, usage
from store import traces as trace_rows
from store.operations import DerivedOperation
from store.pool import Pool
from store.rows import AgentEvent, AgentState

log = logging.get(__name__)

MAX_QUEUED = 10_000  # pushed events; when it is full, the oldest are dropped and the next poll repairs it
MAX_BATCH = 200
MAX_UNSAVED = 5_000
MAX_COUNTED = 2_000
_SAVE_WAIT = 2.0  # seconds for a free connection
_RETRY = (0.5, 10.0)  # seconds: first and longest wait after a failed write
_AGENT_EVENTS = frozenset({"agent", "session.tool", "cron"})

Wake = Callable[..., None]


class OperationsFeed:
    """From pushed events and polls to rows, in order, within milliseconds while the database is there.

    While it is away, what was derived is kept (bounded) and written when it is back; operations are upserts, so that
    nothing is lost by the polls and nothing doubled by a repetition. Without a pool only states and counts are kept.
    """

    def __init__(
        self, gateway: str, pool: Pool | None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.tracker = RunTracker(gateway)
        self.looked = False  # whether a list of sessions was gone through
        self.on_looked: Callable[[], None] = lambda: None  # once: from now on it is known which agents are at rest
        self.dropped = 0
        self.traces: Traces | None = None
        self._gateway = gateway
        self._pool = pool
        self._now = now
        self._queue: deque[Pushed | Callable[[], Derived]] = deque(maxlen=MAX_QUEUED)
        self._filled = asyncio.Event()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._operations: dict[str, DerivedOperation] = {}
        self._events: deque[AgentEvent] = deque(maxlen=MAX_UNSAVED)
        self._states: dict[str, AgentState] = {}
        self._restored = pool is None
        self._failing = False

    # --- what collectors and metrics see ------------------------------------------------------------------

    @property
    def states(self) -> Mapping[str, AgentState]:
        """The present state of each agent that was seen."""
        return self.tracker.states

    @property
    def event_counts(self) -> Mapping[tuple[str, str], int]:
        """How often each (agent, event) was seen."""
        return self._counts

    def pushed(self, event: Pushed) -> None:
        """A listener for the client."""
        if event.event in _AGENT_EVENTS:
            self._put(event)

    def connected(self, hello: Hello | None) -> None:
        """A listener for the client: a gateway that tells how long it is up tells what died before."""
        uptime = number(mapping(hello.payload if hello else None, "snapshot").get("uptimeMs"))
        if uptime is not None:
            started = self._now() - timedelta(milliseconds=uptime)
            self._put(lambda: self.tracker.gateway_started(started))

    def sessions_listed(self, listed: Sequence[Mapping[str, Any]], asked_at: datetime) -> None:
        """A listener for the collector `sessions`."""

        def derive() -> Derived:
            if not self.looked:
                self.looked = True
                self.on_looked()
            return self.tracker.sessions(listed, asked_at, self._now())

        self._put(derive)

    def cron_listed(self, names: Mapping[str, str], runs: Sequence[Mapping[str, Any]]) -> None:
        """A listener for the collector `cron`."""

        def derive() -> Derived:
            self.tracker.jobs(names)
            return merged([self.tracker.cron_run(run, self._now()) for run in runs])

        self._put(derive)

    def _put(self, item: Pushed | Callable[[], Derived]) -> None:
        self.dropped += len(self._queue) == MAX_QUEUED
        self._queue.append(item)
        self._filled.set()

    # --- the task -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Derive and write until cancelled; what is left is written at the end, if that works at once."""
        delay = _RETRY[0]
        try:
            while True:
                if not self._unsaved:
                    await self._filled.wait()
                if await self.step():
                    delay = _RETRY[0]
                else:
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _RETRY[1])
        finally:
            try:
                async with asyncio.timeout(2):
                    await self.step()
            except Exception as error:  # noqa: BLE001 - whatever it is, a stop goes on
                log.warning("the last operations could not be written", error=str(error) or type(error).__name__)

    @property
    def _unsaved(self) -> bool:
        return bool(self._operations or self._events or self._states)

    async def step(self) -> bool:
        """Take what is queued and write what is unsaved; whether that worked."""
        if self._pool is not None and not await self._restore(self._pool):
            return False
        self._filled.clear()
        parts: list[Derived] = []
        while self._queue and len(parts) < MAX_BATCH:
            item = self._queue.popleft()
            parts.append(self.tracker.event(item, self._now()) if isinstance(item, Pushed) else item())
        if self._queue:
            self._filled.set()
        derived = merged(parts)
        if self.traces is not None:
            self.traces.add(derived.operations)
        self._keep(derived)
        return self._pool is None or await self._write(self._pool)

    def _keep(self, derived: Derived) -> None:
        self._counts.update(
            (event.agent, event.event)
            for event in derived.agent_events
            if (event.agent, event.event) in self._counts or len(self._counts) < MAX_COUNTED
        )
        if self._pool is None:
            return
        both = merged([Derived(tuple(self._operations.values())), derived])
        self._operations = {operation.id: operation for operation in both.operations[-MAX_UNSAVED:]}
        self._events.extend(derived.agent_events)
        self._states.update({state.agent: state for state in derived.states})

    async def _write(self, pool: Pool) -> bool:
        if not self._unsaved:
            return True
        try:
            async with pool.connection() as connection:
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

    async def _restore(self, pool: Pool) -> bool:
        """Once: what was in progress before a restart, and what has ended. Events wait for it in the queue."""
        if self._restored:
            return True
        since = self._now() - HISTORY - timedelta(hours=1)
        try:
            async with pool.connection() as connection:
                known = await operations.derived_since(connection, self._gateway, since)
                sent_to = await trace_rows.sent_to(connection, self._gateway)
        except psycopg.Error as error:
            self._complain(error)
            return False
        self.tracker.restore(known, self._now())
        if self.traces is not None:
            self.traces.restore(known, sent_to)
        self._restored = True
        self._recovered()
        return True

    def _complain(self, error: psycopg.Error) -> None:
        if not self._failing:
            log.warning("operations cannot be written; they are kept and tried again", error=str(error).strip())
        self._failing = True

    def _recovered(self) -> None:
        if self._failing:
            log.info("operations are written again")
        self._failing = False


class GatewayWatch:
    """Everything that watches one gateway over its RPC. `pool` None: metrics only."""

    def __init__(
        self,
        gateway: str,
        url: str,
        token: Callable[[], str],
        *,
        state_dir: Path | None = None,
        pool: Pool | None = None,
        interval: float = 15.0,
        zone: ZoneInfo | None = None,
        counted: Callable[[], bool] = lambda: True,
        send_spans: Callable[[Sequence[Span]], None] | None = None,
        contents: bool = False,
    ) -> None:
        self._counted = counted
        self.client = GatewayClient(url, token)
        self.feed = OperationsFeed(gateway, pool)
        self.activity = Activity()
        self.silence = Silence(gateway)
        self._gateway = gateway
        self._pool = pool
        self._state_dir = state_dir
        self._contents = Contents(self.feed.tracker.operation_of) if contents and send_spans else None
        self.traces = self._made_traces(send_spans) if send_spans else None
        self.feed.traces = self.traces
        self._state = GatewayCollector(
            gateway, self.client, interval=interval, record=self._record if pool is not None else None
        )
        self._update = UpdateCollector(gateway, self.client, interval=4 * interval)
        self.collectors: tuple[Collector, ...] = tuple(
            self._made(interval, StateRecords(state_dir) if state_dir is not None else None, zone)
        )

    def _made_traces(self, send: Callable[[Sequence[Span]], None]) -> Traces:
        if self._pool is None:
            return Traces(send, contents=self._contents)
        return Traces(send, self._calls_of_run, save=self._save_sent_to, contents=self._contents)

    def _made(self, interval: float, records: StateRecords | None, zone: ZoneInfo | None) -> list[Collector]:
        gateway, client, feed = self._gateway, self.client, self.feed
        made: list[Collector] = [
            self._state,
            SessionsCollector(
                gateway,
                client,
                interval=interval,
                records=records,
                save=self._saver(rows.save_sessions),
                listener=self._sessions_listed,
                activity=self.activity,
            ),
            AgentsCollector(
                gateway,
                client,
                interval=interval,
                records=records,
                live=feed,
                save=self._saver_of_all(rows.save_agents),
                save_states=self._saver(rows.save_present_states),
            ),
            CronCollector(
                gateway,
                client,
                interval=interval,
                records=records,
                save_jobs=self._saver_of_all(rows.save_cron_jobs),
                save_runs=self._saver(rows.save_cron_runs),
                listener=feed.cron_listed,
            ),
            ChannelsCollector(
                gateway, client, interval=interval, records=records, save=self._saver_of_all(rows.save_channels)
            ),
        ]
        made += [self._update, QuotaCollector(gateway, client, interval=20 * interval)]
        made += [make(gateway, client, 20 * interval) for make in (skills.collector, models.collector)]
        made += [
            NodesCollector(gateway, client, interval=4 * interval, save=self._saver_of_all(rows.save_nodes)),
            tasks.collector(gateway, client, records, 4 * interval),
        ]
        made.append(ProbeCollector(gateway, client.url, interval=interval))
        pool = self._pool
        connect = None if pool is None else connector(pool, _SAVE_WAIT)
        unit = None if self._state_dir is None else journal.owned_unit(self._state_dir)
        made.append(LogsCollector(gateway, client, self._state_dir, interval=interval, connect=connect, unit=unit))
        if records is not None:
            made.append(
                SubagentsCollector(
                    gateway,
                    records,
                    interval=interval,
                    alive=lambda: client.connected,
                    save=self._saver(rows.save_subagent_runs),
                )
            )
            made.append(
                ApprovalsCollector(
                    gateway,
                    records,
                    interval=interval,
                    save=self._saver(rows.save_approvals),
                    decisions=None if self._pool is None else self._decisions,
                )
            )
        if self._pool is not None:
            snapshots = self._saver(rows.insert_cost_snapshots)
            # The gateway counts anew for each such question: asked twenty times less often than the rest.
            every = 20 * interval
            made.append(
                UsageCollector(
                    gateway,
                    client,
                    self._our_usage,
                    interval=every,
                    zone=zone,
                    save=snapshots,
                    counted=self._counted,
                )
            )
        return made

    @property
    def listeners(self) -> list[Callable[[Pushed], None]]:
        """All that take in every pushed event."""
        told: list[Callable[[Pushed], None]] = [
            self.feed.pushed,
            self.activity.pushed,
            self._update.pushed,
            self.silence.pushed,
        ]
        if self._contents is not None:
            told.append(self._contents.pushed)
        return told

    async def run(self, wake: Wake) -> None:
        """Connect and derive until cancelled. `wake(*names)` refreshes collectors at once (`Runner.wake`)."""

        def on_event(event: Pushed) -> None:
            if event.event == "cron":
                wake("cron")

        def on_refetch(why: str) -> None:
            if why == "connected":
                self.feed.connected(self.client.hello)
            wake()

        self.feed.on_looked = lambda: wake("agents")
        ends = [
            *(self.client.subscribe(listener) for listener in self.listeners),
            self.client.subscribe(on_event),
            self.client.on_refetch(self.silence.refetch),
            self.client.on_refetch(on_refetch),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.client.run(), name="gateway-client")
                group.create_task(self.feed.run(), name="operations-feed")
                if self.traces is not None:
                    group.create_task(self.traces.run(), name="traces")
        finally:
            for end in ends:
                end()

    def _sessions_listed(self, listed: Sequence[Mapping[str, Any]], asked_at: datetime) -> None:
        self.silence.listed(listed, asked_at)
        self.feed.sessions_listed(listed, asked_at)

    # --- rows ---------------------------------------------------------------------------------------------

    async def _kept(self, pool: Pool, write: Callable[..., Any], *what: Any) -> None:
        """Write what a poll found. While the database is away, metrics go on as ever: the next poll brings the same
        rows again, and `lobservatory_database_up` tells."""
        try:
            async with pool.connection(timeout=_SAVE_WAIT) as connection:
                await write(connection, *what)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            log.debug("rows of a poll were not kept", error=str(error).strip())

    def _saver(self, write: Callable[..., Any]) -> Callable[[Sequence[Any]], Any] | None:
        pool = self._pool
        if pool is None:
            return None

        async def save(what: Sequence[Any]) -> None:
            if what:
                await self._kept(pool, write, what)

        return save

    def _saver_of_all(self, write: Callable[..., Any]) -> Callable[[Sequence[Any]], Any] | None:
        """For functions that take all rows of a gateway, so that those which are gone are noticed."""
        pool = self._pool
        if pool is None:
            return None

        async def save(what: Sequence[Any]) -> None:
            await self._kept(pool, write, self._gateway, what)

        return save

    async def _decisions(self) -> Mapping[str, int] | None:
        if self._pool is None:
            return None
        try:
            async with self._pool.connection(timeout=_SAVE_WAIT) as connection:
                return await rows.approval_decisions(connection, self._gateway)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            log.debug("decisions could not be counted", error=str(error).strip())
            return None

    async def _record(self, event: str, detail: Mapping[str, Any]) -> None:
        if self._pool is not None:
            async with self._pool.connection() as connection:
                await rows.insert_gateway_event(connection, self._gateway, datetime.now(UTC), event, detail)

    async def _calls_of_run(self, operation: DerivedOperation) -> list[trace_rows.RunCall]:
        if self._pool is None or not (operation.session_id and operation.started_at and operation.completed_at):
            return []
        # A job's or a webhook's run has a session of its own, and maybe several run ids.
        own = operation.type in {"scheduled", "webhook"} and ":run:" in (operation.session_key or "")
        async with self._pool.connection(timeout=_SAVE_WAIT) as connection:
            return await trace_rows.calls_of_run(
                connection,
                self._gateway,
                operation.session_id,
                operation.started_at,
                operation.completed_at,
                run_id=None if own else operation.run_id,
            )

    async def _save_sent_to(self, at: datetime) -> None:
        if self._pool is not None:
            async with self._pool.connection(timeout=_SAVE_WAIT) as connection:
                await trace_rows.save_sent_to(connection, self._gateway, at)

    async def _our_usage(self, since: datetime, until: datetime, agent: str | None) -> Usage:
        if self._pool is None:
            raise RuntimeError("there is no database to ask")
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
