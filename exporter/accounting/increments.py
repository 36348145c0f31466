"""Rows that are new to counter increments, under the names and in the label order of the catalogue. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TypeVar

from exporter.accounting.accountant import EXACT, Facts, Increments
from store.rows import ModelCall

T = TypeVar("T")


def increments(
    facts: Facts,
    *,
    new_calls: Sequence[bool],
    new_tool_calls: Sequence[bool],
    new_results: Sequence[bool],
    new_events: Sequence[bool],
    new_rejects: Sequence[bool],
) -> Increments:
    """What to add to the totals for one chunk. The sequences are the ledger's answers, in the order of the rows;
    `new_rejects` answers `facts.rejects(new_calls)`."""
    totals = _Totals()
    gateway, source = facts.gateway, facts.source
    totals.add("claw_source_entries_total", (gateway, source), facts.entries)
    totals.add("claw_source_bytes_total", (gateway, source), facts.bytes)
    for call in _new(facts.calls, new_calls):
        _call(totals, call)
    totals.add(
        "claw_duplicate_entries_total", (gateway, source), len(new_calls) - sum(new_calls) + facts.shadowed_calls
    )
    for tool_call in _new(facts.tool_calls, new_tool_calls):
        totals.add("claw_tool_calls_started_total", (gateway, tool_call.agent, tool_call.tool), 1)
    for result in _new(facts.tool_results, new_results):
        totals.add("claw_tool_calls_total", (gateway, result.agent, result.tool, result.outcome), 1)
    for event in _new(facts.events, new_events):
        if event.event == "compaction":
            totals.add("claw_compactions_total", (gateway, event.agent), 1)
    for reject in _new(facts.rejects(new_calls), new_rejects):
        totals.add("claw_rejected_entries_total", (gateway, source, reject.reason), 1)
    return totals.values


def _call(totals: _Totals, call: ModelCall) -> None:
    labels = (call.gateway, call.agent, call.provider, call.model, call.kind)
    totals.add("claw_model_calls_total", (*labels, call.outcome), 1)
    for token_type, tokens in (
        ("input", call.input_tokens),
        ("output", call.output_tokens),
        ("cache_read", call.cache_read_tokens),
        ("cache_write", call.cache_write_tokens),
    ):
        totals.add("claw_tokens_total", (*labels, token_type), tokens)
    totals.add("claw_reasoning_tokens_total", labels, call.reasoning_tokens)
    if call.cost_usd is None:
        tokens = call.input_tokens + call.output_tokens + call.cache_read_tokens + call.cache_write_tokens
        totals.add("claw_unpriced_tokens_total", (call.gateway, call.provider, call.model), tokens)
        totals.add("claw_unpriced_calls_total", (call.gateway, call.provider, call.model), 1)
    elif call.billing == "billed":
        totals.add("claw_cost_usd_total", labels, call.cost_usd)
    else:
        totals.add("claw_equivalent_cost_usd_total", labels, call.cost_usd)


class _Totals:
    def __init__(self) -> None:
        self.values: Increments = {}

    def add(self, metric: str, labels: tuple[str, ...], value: Decimal | int) -> None:
        """Zero starts no series."""
        if not value:
            return
        before = self.values.get((metric, labels))
        if before is None:
            self.values[metric, labels] = value
        elif isinstance(before, int) and isinstance(value, int):
            self.values[metric, labels] = before + value
        else:
            self.values[metric, labels] = EXACT.add(Decimal(before), Decimal(value))


def _new(rows: Sequence[T], new: Sequence[bool]) -> Iterable[T]:
    return (row for row, first_seen in zip(rows, new, strict=True) if first_seen)
