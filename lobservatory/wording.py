"""Words of messages that are spelled in one place."""

from __future__ import annotations

from decimal import MAX_PREC, ROUND_HALF_EVEN, Context, Decimal

_SHOWN = Decimal("1e-6")  # US$
_EXACT = Context(prec=MAX_PREC)


def counted(number: int, noun: str, many: str = "") -> str:
    """`1 block`, `2 blocks`, `1,200 queries`. `many`: the plural, where it is not the noun and an s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def dollars(amount: Decimal, *, sign: str = "") -> str:
    """An exact sum for people: rounded once, here. `sign`: "+" shows that of what is not negative, too."""
    return format(amount.quantize(_SHOWN, rounding=ROUND_HALF_EVEN, context=_EXACT), f"{sign},f")
