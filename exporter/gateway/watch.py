"""Watches one gateway: the client, the collectors of its RPC, and the feed that turns events into operations.

`GatewayWatch` is all that the exporter's main program needs: its `collectors` go to the runner, its `run` is a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

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
from exporter.collectors.usage import UsageCollector
from exporter.gateway.contents import Contents
from exporter.gateway.feed import OperationsFeed
from exporter.gateway.rows import SAVE_WAIT, PolledRows, Save
from exporter.gateway.traces import Span, Traces
from openclaw import journal
from openclaw.client import GatewayClient
from openclaw.protocol import Pushed
from openclaw.state_records import StateRecords
from store import gateway as rows
from store.pool import Pool

Wake = Callable[..., None]


class GatewayWatch:
    """Everything that watches one gateway over its RPC, made and connected. Changes with what is watched and who hears
    of what. `pool` None: metrics only."""

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
        self._rows = PolledRows(gateway, pool) if pool is not None else None
        self._contents = Contents(self.feed.tracker.operation_of) if contents and send_spans else None
        self.traces = self._made_traces(send_spans) if send_spans else None
        self.feed.traces = self.traces
        self._update = UpdateCollector(gateway, self.client, interval=4 * interval)
        self.collectors: tuple[Collector, ...] = tuple(self._made(state_dir, pool, interval, zone))

    def _made_traces(self, send: Callable[[Sequence[Span]], None]) -> Traces:
        if self._rows is None:
            return Traces(send, contents=self._contents)
        return Traces(send, self._rows.calls_of_run, save=self._rows.save_sent_to, contents=self._contents)

    def _saver(self, write: Callable[..., Any]) -> Save | None:
        return None if self._rows is None else self._rows.saver(write)

    def _saver_of_all(self, write: Callable[..., Any]) -> Save | None:
        return None if self._rows is None else self._rows.saver_of_all(write)

    def _made(
        self, state_dir: Path | None, pool: Pool | None, interval: float, zone: ZoneInfo | None
    ) -> list[Collector]:
        gateway, client, feed, kept = self._gateway, self.client, self.feed, self._rows
        records = None if state_dir is None else StateRecords(state_dir)
        made: list[Collector] = [
            GatewayCollector(gateway, client, interval=interval, record=None if kept is None else kept.record),
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
        connect = None if pool is None else connector(pool, SAVE_WAIT)
        unit = None if state_dir is None else journal.owned_unit(state_dir)
        made.append(LogsCollector(gateway, client, state_dir, interval=interval, connect=connect, unit=unit))
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
                    decisions=None if kept is None else kept.decisions,
                )
            )
        if kept is not None:
            # The gateway counts anew for each such question: asked twenty times less often than the rest.
            every = 20 * interval
            made.append(
                UsageCollector(
                    gateway,
                    client,
                    kept.usage,
                    interval=every,
                    zone=zone,
                    save=kept.saver(rows.insert_cost_snapshots),
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
