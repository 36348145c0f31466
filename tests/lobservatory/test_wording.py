"""Words and numbers of messages."""

import re
from decimal import Decimal

import pytest

from lobservatory.wording import counted, dollars
from tests.tools import REPOSITORY


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 blocks"), (1, "1 block"), (2, "2 blocks"), (1_200, "1,200 blocks")],
)
def test_one_is_one(number, words):
    assert counted(number, "block") == words


def test_a_plural_of_its_own():
    assert [counted(number, "entry", "entries") for number in (0, 1, 2)] == ["0 entries", "1 entry", "2 entries"]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "0.000000"),
        ("-0.0000005", "-0.000000"),
        ("0.00000249999999999999999999999999999999999999999", "0.000002"),
        ("0.0000025000000000000000000000000000000000000001", "0.000003"),
        ("123456789012345678901234567890.5", "123,456,789,012,345,678,901,234,567,890.500000"),
    ],
)
def test_money_is_rounded_once_whatever_its_size(amount, shown):
    assert dollars(Decimal(amount)) == shown


def test_no_message_counts_a_thing_without_its_word():
    """`{len(things)} things` says "1 things"."""
    found = {
        (path.name, text)
        for room in ("lobservatory", "store", "openclaw", "cli")
        for path in (REPOSITORY / room).rglob("*.py")
        for text in re.findall(r"\{len\([^{}]*\)(?::,)?\} [a-z]+s\b", path.read_text(encoding="utf-8"))
    }
    assert found == set()
