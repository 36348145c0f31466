"""Money by event time: what boards and alerts compare with limits.

The definitions are those of `public.cost_windows` and `public.cost_hour_baseline` in the database. Without a database
the same is computed here from the calls that the checkpoint remembers; a test holds both to the same numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from exporter.exposition import Sample
from lobservatory.catalogue import WINDOWS

BASELINE_DAYS = 7
REMEMBERED = timedelta(days=32)  # the longest window (30 days, a month) and a day for zones
_QUARTER = timedelta(minutes=15)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_WEEK = 7


@dataclass(frozen=True, slots=True)
class Spending:
    """One billed call, for the windows."""

    agent: str
    ts: datetime
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Windows:
    """US dollars by (agent, window), and the baseline by agent (absent where there is none)."""

    costs: Mapping[tuple[str, str], Decimal]
    baseline: Mapping[str, Decimal] = field(default_factory=dict)


def compute(calls: Iterable[Spending], first_calls: Mapping[str, datetime], zone: ZoneInfo, at: datetime) -> Windows:
    """The windows at an instant. `calls`: billed calls of at least the last `REMEMBERED`; `first_calls`: every agent
    that ever called a model, with the time of its first call."""
    today = at.astimezone(zone).date()
    month = today.replace(day=1)
    starts = {
        "today": _midnight(today, zone),
        "7d": _midnight(today - timedelta(days=6), zone),
        "30d": _midnight(today - timedelta(days=29), zone),
        "month": _midnight(month, zone),
    }
    full_week = _midnight(today - timedelta(days=_WEEK), zone)
    costs: dict[tuple[str, str], Decimal] = {(agent, window): Decimal(0) for agent in first_calls for window in WINDOWS}
    mean: defaultdict[str, Decimal] = defaultdict(Decimal)
    spent: defaultdict[str, list[Spending]] = defaultdict(list)
    for call in calls:
        spent[call.agent].append(call)
        if at - timedelta(hours=1) < call.ts <= at:
            costs[call.agent, "1h"] += call.cost_usd
        bucket = _EPOCH + (call.ts - _EPOCH) // _QUARTER * _QUARTER
        if bucket > at:
            continue
        for window, start in starts.items():
            if bucket >= start:
                costs[call.agent, window] += call.cost_usd
        if full_week <= bucket < starts["today"]:
            mean[call.agent] += call.cost_usd
    days_left = (_next_month(month) - today).days - 1
    for agent in first_calls:
        costs[agent, "month_projected"] = costs[agent, "month"] + mean[agent] / _WEEK * days_left
    return Windows(costs, _baseline(spent, first_calls, zone, at))


def _baseline(
    spent: Mapping[str, list[Spending]], first_calls: Mapping[str, datetime], zone: ZoneInfo, at: datetime
) -> dict[str, Decimal]:
    local = at.astimezone(zone).replace(tzinfo=None, minute=0, second=0, microsecond=0)
    starts = [
        (local - timedelta(days=days)).replace(tzinfo=zone).astimezone(UTC) for days in range(1, BASELINE_DAYS + 1)
    ]
    baseline = {}
    for agent, first in first_calls.items():
        sums = []
        for start in starts:
            end = start + timedelta(hours=1)
            if first < end:
                calls = (call for call in spent.get(agent, ()) if start <= _bucket(call.ts) < end)
                sums.append(sum((call.cost_usd for call in calls), Decimal(0)))
        if sums:
            baseline[agent] = sorted(sums)[(len(sums) - 1) // 2]  # percentile_disc(0.5): a value that occurred
    return baseline


def _bucket(ts: datetime) -> datetime:
    return _EPOCH + (ts - _EPOCH) // _QUARTER * _QUARTER


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


class WindowsCollector:
    """Asks for the windows now and then. `ask(at)` comes from the database or from the checkpoint."""

    name = "windows"
    deadline = 10.0

    def __init__(
        self,
        gateway: str,
        ask: Callable[[datetime], Awaitable[Windows]],
        *,
        daily_limit: float,
        interval: float = 5.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.interval = interval
        self._gateway = gateway
        self._ask = ask
        self._limit = daily_limit
        self._now = now
        self._windows: Windows | None = None

    async def refresh(self) -> None:
        """Learn the present windows; on failure the old ones are no longer shown."""
        try:
            self._windows = await self._ask(self._now())
        except BaseException:
            self._windows = None
            raise

    def render(self) -> Iterable[Sample]:
        """The windows, the baseline and the limit."""
        yield Sample("claw_daily_cost_limit_usd", (self._gateway,), self._limit)
        if self._windows is None:
            return
        for (agent, window), cost in self._windows.costs.items():
            yield Sample("claw_cost_window_usd", (self._gateway, agent, window), float(cost))
        for agent, cost in self._windows.baseline.items():
            yield Sample("claw_cost_hour_baseline_usd", (self._gateway, agent), float(cost))
