"""Our totals against the gateway's own accounts, by token class and in US dollars.

`usage.cost` is the account of all agents, `sessions.usage` that of single sessions, which tells each agent's; both are
compared. Each is a cache that answers at once with what it has and refreshes behind: only `fresh` counts, and even that
may be 30 s old, so our side is summed up to the gateway's `updatedAt`. Without `agentScope: "all"` they count the
default agent only; versions before 2026.9 ignore or refuse the parameter, so there only the default agent is compared.
Nothing is compared before everything that lies in the stores is counted here: half of a first scan is no drift.
docs/reconciliation.md explains what may differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from lobservatory.errors import LobservatoryError
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import TOKEN_TYPES
from openclaw.client import GatewayClient
from openclaw.fields import instant, items, mapping, text, whole
from openclaw.protocol import RpcError
from store.rows import CostSnapshot

DAYS = 30
# Of an account by sessions. The gateway lists the newest ones; what it leaves out is in none of its sums.
MOST_SESSIONS = 1_000
_CENT = Decimal("0.01")
_EXACT = Decimal("1e-8")  # the gateway adds floating point numbers; nearer than this is equal
_FIELDS = {"input": "input", "output": "output", "cache_read": "cacheRead", "cache_write": "cacheWrite"}


class NotFreshError(LobservatoryError):
    """The gateway was still counting when our deadline came."""


class NotCountedError(LobservatoryError):
    """We were still counting ourselves when our deadline came."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by class and US dollars of some time. Ours has the dollars only of calls that a gateway can price."""

    tokens: Mapping[str, int]
    cost_usd: Decimal = Decimal(0)


# Our own account from an instant to another, of one agent or of all (None).
OurUsage = Callable[[datetime, datetime, str | None], Awaitable[Usage]]
SaveSnapshots = Callable[[list[CostSnapshot]], Awaitable[None]]


def drift(ours: Usage, theirs: Usage) -> dict[str, float]:
    """Ours over theirs minus 1, by token class: 0 agrees, 0.1 means that we count 10 % more."""
    ratios = {}
    for token_type in TOKEN_TYPES:
        mine, other = ours.tokens.get(token_type, 0), theirs.tokens.get(token_type, 0)
        ratios[token_type] = (mine - other) / max(other, 1) if mine != other else 0.0
    return ratios


def cost_drift(ours: Usage, theirs: Usage) -> float:
    """The same for US dollars. What is equal to 1e-8 is equal; a sum of less than a cent is compared with a cent."""
    difference = ours.cost_usd - theirs.cost_usd
    return 0.0 if abs(difference) < _EXACT else float(difference / max(theirs.cost_usd, _CENT))


def to_usage(answer: Any) -> Usage:
    """The totals of a `usage.cost` answer."""
    totals = mapping(answer, "totals")
    try:
        cost = Decimal(str(totals.get("totalCost", 0)))
    except InvalidOperation:
        cost = Decimal(0)
    tokens = {name: whole(totals.get(field)) or 0 for name, field in _FIELDS.items()}
    return Usage(tokens, cost if cost.is_finite() and cost >= 0 else Decimal(0))


class UsageCollector:
    """Asks `usage.cost` and compares. Needs our rows, so it exists only with a database."""

    name = "usage"

    def __init__(
        self,
        gateway: str,
        client: GatewayClient,
        our_usage: OurUsage,
        *,
        interval: float = 300.0,
        zone: ZoneInfo | None = None,
        pause: float = 2.0,
        save: SaveSnapshots | None = None,
        counted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.interval = interval
        self.deadline = 60.0
        self._gateway = gateway
        self._client = client
        self._our_usage = our_usage
        self._zone = zone or ZoneInfo("UTC")
        self._pause = pause
        self._save = save
        self._counted = counted
        self._drift: dict[str, float] = {}
        self._cost_drift: float | None = None
        self._agents: dict[str, tuple[dict[str, float], float]] = {}  # drift of tokens and of cost

    async def refresh(self) -> None:
        """Raises GatewayError, NotFreshError, NotCountedError, and whatever our own account raises."""
        try:
            await self._until_counted()
            answer = await self._fresh("usage.cost", {"days": DAYS})
            scoped = "cacheStatus" in answer  # 2026.9: all agents
            agent = None if scoped else await self._default_agent()
            counted_at = instant(answer.get("updatedAt")) or datetime.now(UTC)
            days = [text(day.get("date")) for day in items(answer, "daily")]
            ours = await self._our_usage(self._since(days, counted_at), counted_at, agent)
        except BaseException:  # the deadline's too; but never before: a scrape would find a gap in every refresh
            self._drift, self._cost_drift, self._agents = {}, None, {}
            raise
        theirs = to_usage(answer)
        self._drift, self._cost_drift = drift(ours, theirs), cost_drift(ours, theirs)
        if self._save is not None:
            await self._save([self._snapshot(theirs, counted_at, "gateway"), self._ours(ours, counted_at)])
        try:
            self._agents = await self._compare_agents() if scoped else {}
        except BaseException:
            self._agents = {}
            raise

    async def _compare_agents(self) -> dict[str, tuple[dict[str, float], float]]:
        """By agent, against the account by sessions; nothing where the gateway has more sessions than it lists."""
        answer = await self._fresh("sessions.usage", {"limit": MOST_SESSIONS})
        aggregates = mapping(answer, "aggregates")
        if (whole(aggregates.get("sessionCount")) or 0) >= MOST_SESSIONS:
            return {}
        counted_at = instant(answer.get("updatedAt")) or datetime.now(UTC)
        since = self._since([text(answer.get("startDate"))], counted_at)
        found = {}
        for one in items(aggregates, "byAgent"):
            agent = text(one.get("agentId"))
            if agent is not None:
                ours, theirs = await self._our_usage(since, counted_at, agent), to_usage(one)
                found[agent] = (drift(ours, theirs), cost_drift(ours, theirs))
        return found

    async def _until_counted(self) -> None:
        try:
            async with asyncio.timeout(self.deadline - 10):
                while not self._counted():  # noqa: ASYNC110 - set by another thread, and nothing is in a hurry
                    await asyncio.sleep(self._pause)
        except TimeoutError:
            raise NotCountedError(
                "our own first scan has not ended: nothing to compare yet; tried again later"
            ) from None

    async def _fresh(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(self.deadline - 10):
                while True:
                    answer = await self._ask(method, params)
                    if mapping(answer, "cacheStatus").get("status", "fresh") == "fresh":
                        return answer
                    await asyncio.sleep(self._pause)
        except TimeoutError:
            raise NotFreshError(f"{method}: the gateway still refreshes its own account; tried again later") from None

    async def _ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return mapping(await self._client.call(method, {**params, "agentScope": "all"}, timeout=30.0))
        except RpcError as error:
            if error.code != "UNAVAILABLE":
                raise
            return {"cacheStatus": {"status": "unavailable"}}  # a new gateway that is busy says so at first

    async def _default_agent(self) -> str | None:
        return text(mapping(await self._client.call("agents.list")).get("defaultId"))

    def _since(self, days: Iterable[str | None], counted_at: datetime) -> datetime:
        """The beginning of the first day of the answer; a version that lists only days with usage: of that day."""
        try:
            first = min(date.fromisoformat(day) for day in days if day)
        except ValueError:
            first = counted_at.astimezone(self._zone).date()
        return datetime(first.year, first.month, first.day, tzinfo=self._zone).astimezone(UTC)

    def _snapshot(self, usage: Usage, at: datetime, source: Any) -> CostSnapshot:
        return CostSnapshot(
            gateway=self._gateway,
            ts=at,
            source=source,
            input_tokens=usage.tokens.get("input", 0),
            output_tokens=usage.tokens.get("output", 0),
            cache_read_tokens=usage.tokens.get("cache_read", 0),
            cache_write_tokens=usage.tokens.get("cache_write", 0),
            cost_usd=usage.cost_usd,
        )

    def _ours(self, usage: Usage, at: datetime) -> CostSnapshot:
        return self._snapshot(usage, at, "lobservatory")

    def render(self) -> Iterable[Sample]:
        """The drift of the last good comparison; nothing while it failed."""
        for token_type, ratio in self._drift.items():
            yield Sample("claw_reconcile_drift_ratio", (self._gateway, token_type), ratio)
        if self._cost_drift is not None:
            yield Sample("claw_reconcile_cost_drift_ratio", (self._gateway,), self._cost_drift)
        for agent, (tokens, cost) in self._agents.items():
            for token_type, ratio in tokens.items():
                yield Sample("claw_reconcile_agent_drift_ratio", (self._gateway, agent, token_type), ratio)
            yield Sample("claw_reconcile_agent_cost_drift_ratio", (self._gateway, agent), cost)
