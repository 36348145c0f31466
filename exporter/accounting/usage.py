"""The usage object of an assistant entry: token classes and the reported cost, checked field by field. Pure."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any

import msgspec

LARGEST = 10**12  # beyond this a count or a cost is no measurement
_PLACES = -30  # of a cost; JavaScript writes at most 25, and databases end somewhere
SMALLEST = Decimal("1E-30")
_WIDE = Context(prec=100)
_CLASSES: tuple[tuple[str, str | None], ...] = (
    ("input", None),
    ("output", None),
    ("cacheRead", None),
    ("cacheWrite", None),
    ("reasoningTokens", "reasoning"),
)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens and cost of one call. `input` excludes cached tokens, `reasoning` is a part of `output`."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    cache_write_1h: int  # the parts of cache_write whose lifetime the entry tells
    cache_write_5m: int
    cost: Decimal | None  # as reported; None: not reported, or refused
    rejected: tuple[str, ...]  # names of the refused fields

    @property
    def tokens(self) -> int:
        """The four classes together."""
        return self.input + self.output + self.cache_read + self.cache_write

    @property
    def cost_refused(self) -> bool:
        """A cost was given that is none: it is neither believed nor replaced by another."""
        return "cost" in self.rejected


_LIFETIMES = frozenset({"cacheWrite1h", "cacheWrite5m", "cache_creation", "cacheCreation"})


def read_usage(usage: dict[str, Any]) -> Usage:
    """Check every field on its own: a refused one counts as 0 and is named in `rejected`."""
    rejected: list[str] = []
    values = []
    for key, other in _CLASSES:
        value = usage.get(key)
        if type(value) is not int or not 0 <= value <= LARGEST:  # nearly never
            if value is None and other is not None:
                key, value = other, usage.get(other)  # noqa: PLW2901 - the other name of the same field
            value = _count(value, key, rejected)
        values.append(value)
    tokens_in, tokens_out, cache_read, cache_write, reasoning = values
    if cache_read:
        tokens_in = without_cached(tokens_in, tokens_out, cache_read, usage.get("totalTokens"))
    one_hour, five_minutes = 0, 0
    if cache_write and not _LIFETIMES.isdisjoint(usage):
        one_hour, five_minutes = _lifetimes(usage, cache_write, rejected)
    cost = _cost(usage.get("cost"), rejected)
    return Usage(
        tokens_in,
        tokens_out,
        cache_read,
        cache_write,
        reasoning,
        one_hour,
        five_minutes,
        cost,
        tuple(rejected),
    )


def without_cached(tokens_in: int, tokens_out: int, cache_read: int, total: Any) -> int:
    """Input without its cached part, which some providers include: their own total proves it."""
    proven = not isinstance(total, bool) and total == tokens_in + tokens_out
    return tokens_in - cache_read if proven and tokens_in >= cache_read else tokens_in


def _count(value: Any, name: str, rejected: list[str]) -> int:
    if value is None:
        return 0
    if type(value) is int:
        number = value
    elif isinstance(value, Decimal) and value.is_finite() and -LARGEST <= value <= LARGEST and value == int(value):
        number = int(value)
    else:
        number = -1
    if 0 <= number <= LARGEST:
        return number
    rejected.append(name)
    return 0


def _cost(value: Any, rejected: list[str]) -> Decimal | None:
    if isinstance(value, dict):
        value = value.get("total")
    if value is None:
        return None
    if type(value) is int or isinstance(value, Decimal):
        cost = Decimal(value)
        if cost.is_finite() and 0 <= cost <= LARGEST:
            return _storable(cost)
    rejected.append("cost")
    return None


def _storable(cost: Decimal) -> Decimal:
    """The same cost without digits that no money has: of 1e-9999999 nothing is left."""
    exponent = cost.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= _PLACES:
        return cost
    return cost.quantize(SMALLEST, context=_WIDE) if cost else Decimal(0)


def _lifetimes(usage: dict[str, Any], cache_write: int, rejected: list[str]) -> tuple[int, int]:
    """Cache writes for one hour and for five minutes, as far as the entry tells; never more than the class holds."""
    detail: dict[str, Any] = next(
        (usage[key] for key in ("cache_creation", "cacheCreation") if isinstance(usage.get(key), dict)), {}
    )
    one_hour = _first(usage, ("cacheWrite1h",)) or _first(
        detail, ("ephemeral_1h_input_tokens", "ephemeral1hInputTokens")
    )
    five_minutes = _first(usage, ("cacheWrite5m",)) or _first(
        detail, ("ephemeral_5m_input_tokens", "ephemeral5mInputTokens")
    )
    hours = min(_count(one_hour, "cacheWrite1h", rejected), cache_write)
    minutes = min(_count(five_minutes, "cacheWrite5m", rejected), cache_write - hours)
    return hours, minutes


def _first(document: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((document[key] for key in keys if document.get(key) is not None), None)


def written(usage: dict[str, Any]) -> str:
    """The whole usage tuple as it was written, in one form: 3, 3.0 and 3e0 are one number. Part of the identity."""
    cost = usage.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total")
    values = [usage.get(key) for key in _IDENTITY]
    values.append(cost)
    return "|".join([str(value) if type(value) is int else number(value) for value in values])


_IDENTITY = ("input", "output", "cacheRead", "cacheWrite", "reasoningTokens", "totalTokens")


def number(value: Any) -> str:
    """A number in the one form that identity uses; anything else as its text."""
    if isinstance(value, Decimal):
        if not value.is_finite() or not -LARGEST <= value <= LARGEST:
            return str(value)  # arithmetic on 1e9999999 would overflow
        return str(int(value)) if value == int(value) else str(value.normalize())
    return "" if value is None else str(value)
