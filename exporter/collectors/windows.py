"""Money by event time: what boards and alerts compare with limits.

The definitions are those of `public.cost_windows` and `public.cost_hour_baseline` in the database. Without a database
the same is computed here from the calls that the checkpoint remembers; a test holds both to the same numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import WINDOWS
from store.ledger.spending import Spending

BASELINE_DAYS = 7
_WEEK = 7


@dataclass(frozen=True, slots=True)
class Windows:
    """US dollars by (agent, window), and the baseline by agent (absent where there is none)."""

    costs: Mapping[tuple[str, str], Decimal]
    baseline: Mapping[str, Decimal] = field(default_factory=dict)


def compute(spending: Spending, zone: ZoneInfo, at: datetime) -> Windows:
    """The windows at an instant."""
    today = at.astimezone(zone).date()
    month = today.replace(day=1)
    starts = {
        "today": _midnight(today, zone),
        "7d": _midnight(today - timedelta(days=6), zone),
        "30d": _midnight(today - timedelta(days=29), zone),
        "month": _midnight(month, zone),
    }
    full_week = _midnight(today - timedelta(days=_WEEK), zone)
    agents = spending.first_calls
    costs = {(agent, window): Decimal(0) for agent in agents for window in WINDOWS}
    week = dict.fromkeys(agents, Decimal(0))
    for bucket, agent, cost in spending.buckets:
        if bucket > at:
            continue
        for window, start in starts.items():
            if bucket >= start:
                costs[agent, window] += cost
        if full_week <= bucket < starts["today"]:
            week[agent] += cost
    for ts, agent, cost in spending.recent:
        if at - timedelta(hours=1) < ts <= at:
            costs[agent, "1h"] += cost
    days_left = (_next_month(month) - today).days - 1
    for agent in agents:
        costs[agent, "month_projected"] = costs[agent, "month"] + week[agent] / _WEEK * days_left
    return Windows(costs, _baseline(spending, zone, at))


def _baseline(spending: Spending, zone: ZoneInfo, at: datetime) -> dict[str, Decimal]:
    hour = at.astimezone(zone).replace(tzinfo=None, minute=0, second=0, microsecond=0)
    starts = [
        (hour - timedelta(days=days)).replace(tzinfo=zone).astimezone(UTC) for days in range(1, BASELINE_DAYS + 1)
    ]
    baseline = {}
    for agent, first in spending.first_calls.items():
        sums = [
            sum(
                (cost for bucket, name, cost in spending.buckets if name == agent and start <= bucket < end), Decimal(0)
            )
            for start, end in ((start, start + timedelta(hours=1)) for start in starts)
            if first < end
        ]
        if sums:
            baseline[agent] = sorted(sums)[(len(sums) - 1) // 2]  # percentile_disc(0.5): a value that occurred
    return baseline


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


class WindowsCollector:
    """Asks for the windows now and then. `ask(at)` comes from the database or from the checkpoint; it answers None
    while the first scan goes on, when any number would be too small."""

    name = "windows"
    deadline = 10.0

    def __init__(
        self,
        gateway: str,
        ask: Callable[[datetime], Awaitable[Windows | None]],
        *,
        interval: float = 15.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.interval = interval
        self._gateway = gateway
        self._ask = ask
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
        """The windows and the baseline."""
        if self._windows is None:
            return
        for (agent, window), cost in self._windows.costs.items():
            yield Sample("claw_cost_window_usd", (self._gateway, agent, window), float(cost))
        for agent, cost in self._windows.baseline.items():
            yield Sample("claw_cost_hour_baseline_usd", (self._gateway, agent), float(cost))
