"""Words of messages that are spelled in one place."""

from __future__ import annotations


def counted(number: int, noun: str, many: str = "") -> str:
    """`1 block`, `2 blocks`, `1,200 queries`. `many`: the plural, where it is not the noun and an s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"
