"""What new model calls add to the sums that the database keeps: of quarter hours, of sessions and of agents.

Every function answers in the order of the keys, so that two ledgers lock the same rows in the same order and never
deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from store.ledger.contract import EXACT
from store.ledger.tables import Table
from store.rows import ModelCall

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_QUARTER: Final = timedelta(minutes=15)
_ZERO: Final = Decimal(0)


@dataclass(slots=True)
class QuarterHour:
    """One row of `lobs.usage_15m`, whose columns are these in this order."""

    bucket: datetime
    gateway: str
    agent: str
    provider: str
    model: str
    kind: str
    channel: str
    billing: str
    calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = _ZERO
    unpriced_calls: int = 0
    unpriced_tokens: int = 0


@dataclass(slots=True)
class SessionUsage:
    """What calls add to their session, and what the last of them tells of it."""

    gateway: str
    agent: str
    session_id: str
    session_key: str | None
    kind: str
    channel: str | None
    parent_session_key: str | None
    provider: str
    model: str
    first_call_at: datetime
    last_call_at: datetime
    calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = _ZERO
    equivalent_cost_usd: Decimal = _ZERO
    unpriced_calls: int = 0


@dataclass(slots=True)
class AgentSpan:
    """When an agent called a model for the first and for the last time."""

    gateway: str
    agent: str
    first_call_at: datetime
    last_call_at: datetime


QUARTER_HOURS: Final = Table("usage_15m", QuarterHour)
SESSION_USAGE: Final = Table("sessions", SessionUsage)
AGENT_SPANS: Final = Table("agents", AgentSpan)

# What becomes of it is the database's affair: it raises a table, or marks what a continuous aggregate has to refresh.
RAISE_USAGE: Final = f"""
SELECT lobs.raise_usage(ARRAY(SELECT ROW(increment.*)::lobs.usage_15m FROM unnest(
    {", ".join(f"%s::{kind}[]" for kind in QUARTER_HOURS.columns.values())}) AS increment))
"""  # noqa: S608 - types of ours
_ADDED: Final = ", ".join(
    f"{column} = sessions.{column} + excluded.{column}"
    for column, kind in SESSION_USAGE.columns.items()
    if kind in ("int8", "numeric")
)
RAISE_SESSION: Final = f"""{SESSION_USAGE.insert}
ON CONFLICT (gateway, agent, session_id) DO UPDATE SET
    session_key = coalesce(sessions.session_key, excluded.session_key),
    kind = CASE WHEN coalesce(sessions.kind, 'unknown') = 'unknown' THEN excluded.kind ELSE sessions.kind END,
    channel = coalesce(sessions.channel, excluded.channel),
    parent_session_key = coalesce(sessions.parent_session_key, excluded.parent_session_key),
    provider = CASE WHEN excluded.last_call_at >= coalesce(sessions.last_call_at, '-infinity')
        THEN excluded.provider ELSE sessions.provider END,
    model = CASE WHEN excluded.last_call_at >= coalesce(sessions.last_call_at, '-infinity')
        THEN excluded.model ELSE sessions.model END,
    {_ADDED},
    first_call_at = least(sessions.first_call_at, excluded.first_call_at),
    last_call_at = greatest(sessions.last_call_at, excluded.last_call_at)
"""
RAISE_AGENT: Final = f"""{AGENT_SPANS.insert}
ON CONFLICT (gateway, agent) DO UPDATE SET
    first_call_at = least(agents.first_call_at, excluded.first_call_at),
    last_call_at = greatest(agents.last_call_at, excluded.last_call_at)
"""


def quarter_hours(calls: Sequence[ModelCall]) -> list[QuarterHour]:
    """What these calls add to their quarter hours."""
    sums: dict[tuple[datetime, str, str, str, str, str, str, str], QuarterHour] = {}
    for call in calls:
        bucket = _EPOCH + (call.ts - _EPOCH) // _QUARTER * _QUARTER
        channel = call.channel or ""
        key = (bucket, call.gateway, call.agent, call.provider, call.model, call.kind, channel, call.billing)
        one = sums.get(key)
        if one is None:
            one = sums[key] = QuarterHour(*key)
        _count(one, call)
        one.cost_usd = EXACT.add(one.cost_usd, call.cost_usd or _ZERO)
        if call.cost_basis == "unpriced":
            one.unpriced_tokens += (
                call.input_tokens + call.output_tokens + call.cache_read_tokens + call.cache_write_tokens
            )
    return [sums[key] for key in sorted(sums)]


def session_usage(calls: Sequence[ModelCall]) -> list[SessionUsage]:
    """What these calls add to their sessions."""
    sums: dict[tuple[str, str, str], SessionUsage] = {}
    for call in calls:
        key = (call.gateway, call.agent, call.session_id)
        one = sums.get(key)
        if one is None:
            one = sums[key] = SessionUsage(
                *key, call.session_key, call.kind, call.channel, call.parent_session_key, call.provider, call.model,
                call.ts, call.ts,
            )  # fmt: skip
        one.first_call_at = min(one.first_call_at, call.ts)
        if call.ts > one.last_call_at:
            one.last_call_at = call.ts
            one.session_key, one.kind, one.channel = call.session_key, call.kind, call.channel
            one.parent_session_key, one.provider, one.model = call.parent_session_key, call.provider, call.model
        _count(one, call)
        if call.billing == "billed":
            one.cost_usd = EXACT.add(one.cost_usd, call.cost_usd or _ZERO)
        else:
            one.equivalent_cost_usd = EXACT.add(one.equivalent_cost_usd, call.cost_usd or _ZERO)
    return [sums[key] for key in sorted(sums)]


def agent_spans(calls: Sequence[ModelCall]) -> list[AgentSpan]:
    """From when to when the agents of these calls called."""
    spans: dict[tuple[str, str], AgentSpan] = {}
    for call in calls:
        key = (call.gateway, call.agent)
        one = spans.get(key)
        if one is None:
            one = spans[key] = AgentSpan(*key, call.ts, call.ts)
        one.first_call_at = min(one.first_call_at, call.ts)
        one.last_call_at = max(one.last_call_at, call.ts)
    return [spans[key] for key in sorted(spans)]


def _count(one: QuarterHour | SessionUsage, call: ModelCall) -> None:
    one.calls += 1
    one.errors += call.outcome != "ok"
    one.input_tokens += call.input_tokens
    one.output_tokens += call.output_tokens
    one.cache_read_tokens += call.cache_read_tokens
    one.cache_write_tokens += call.cache_write_tokens
    one.reasoning_tokens += call.reasoning_tokens
    one.unpriced_calls += call.cost_basis == "unpriced"
