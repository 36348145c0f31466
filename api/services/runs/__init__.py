"""Runs that users ask for: at most LOBS_RUNS_PER_USER of each at once, the rest in a queue that outlives a restart.

A request has one stage or several (a pipeline). A stage is a run of the gateway with an operation of its own, which the
exporter follows; when the operation has ended, the next stage starts or the request ends, and its result is delivered
where that was asked for. Any number of API processes on one database share the work.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.counts import Counts
from api.services.commands import Commands
from api.services.runs.replies import RunReplies
from api.services.runs.requests import RunRequests
from api.services.runs.results import RunResults
from api.services.runs.stages import Stages
from api.services.runs.worker import RunWorker
from lobservatory.settings import Settings
from openclaw.client import GatewayClient
from store.pool import Pool


@dataclass(frozen=True, slots=True)
class Runs:
    """What is asked for, what it says, and the work behind it. `worker` None: commands are off, and what waits goes on
    waiting."""

    requests: RunRequests
    replies: RunReplies
    worker: RunWorker | None

    @classmethod
    def of(
        cls, pool: Pool, commands: Commands, client: GatewayClient | None, settings: Settings, counts: Counts
    ) -> Runs:
        """Of one gateway."""
        stages = Stages(pool, commands.gateway)
        results = RunResults(pool, settings, counts)
        worker = None if client is None else RunWorker(pool, commands, client, stages, results, settings, counts)
        requests = RunRequests(pool, commands, stages, settings, (lambda: None) if worker is None else worker.wake)
        return cls(requests=requests, replies=RunReplies(pool, commands, requests), worker=worker)

    async def work(self) -> None:
        """The work behind them, for ever."""
        if self.worker is not None:
            await self.worker.work()
