"""What is known of the scheduler's jobs."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import datetime, timedelta

from store.operations import DerivedOperation

MAX_JOBS = 2_000
MAX_JOB_RUNS = 200  # remembered of each job, which is as many as records tell
SAME_RUN = timedelta(milliseconds=100)  # scheduler and agent need not agree better on when a run began and ended


class Jobs:
    """The names of jobs, and when their last runs were. Changes with how a job and its runs are recognised."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()  # by id
        self._listed = False
        # Start, end and whether the session is known, of runs by job: records of the database tell no session.
        self._runs: OrderedDict[str, deque[tuple[datetime, datetime, bool]]] = OrderedDict()

    def listed(self, names: Mapping[str, str]) -> None:
        """The jobs that the gateway lists now, by id. Jobs that are gone stay known: their last run may still come."""
        for job_id, name in names.items():
            self.keep(job_id, name)
        self._listed = True

    def keep(self, job_id: str, name: str) -> None:
        """A job and its name."""
        self._names[job_id] = name
        self._names.move_to_end(job_id)
        while len(self._names) > MAX_JOBS:
            self._names.popitem(last=False)

    def name(self, job_id: str | None) -> str | None:
        """The name of a job, where it is known."""
        return self._names.get(job_id or "")

    def may_be(self, job_id: str | None) -> bool:
        """Whether there is such a job, as far as we know: before they were listed, any may be."""
        return job_id in self._names or not self._listed

    def remember(self, operation: DerivedOperation) -> None:
        """A run that has ended, when it is a job's."""
        job, started, ended = operation.cron_job_id, operation.started_at, operation.completed_at
        if job is None or started is None or ended is None:
            return
        runs = self._runs.setdefault(job, deque(maxlen=MAX_JOB_RUNS))
        runs.append((started - SAME_RUN, ended + SAME_RUN, operation.session_id is not None))
        self._runs.move_to_end(job)
        while len(self._runs) > MAX_JOBS:
            self._runs.popitem(last=False)

    def has_run(self, job_id: str, started: datetime, ended: datetime, *, session: bool) -> bool:
        """Whether this run of a job is remembered. `session`: whether it is known; two known ones are two runs."""
        return any(
            first <= ended and started <= last and not (session and named)
            for first, last, named in self._runs.get(job_id, ())
        )
