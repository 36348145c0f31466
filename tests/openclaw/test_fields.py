"""Values of others' JSON: the right type and something that a database takes, or nothing."""

from __future__ import annotations

import psycopg
from hypothesis import given
from hypothesis import strategies as st

from openclaw.fields import text


def test_half_of_a_character_does_not_pass():
    assert text("a\ud83d") == "a?"
    assert text("\udc00b\0") == "?b"
    assert text("\N{GRINNING FACE} déjà") == "\N{GRINNING FACE} déjà"
    assert text("\0") is None
    assert text("abc", limit=2) == "ab"


@given(
    st.none()
    | st.integers()
    | st.text(st.characters(exclude_categories=()) | st.sampled_from("\0\ud800\udfff\N{GRINNING FACE}"))
)
def test_every_text_can_be_stored(value):
    found = text(value)
    assert found is None or (found.encode() and "\0" not in found and len(found) <= 500)


def test_the_database_takes_what_passes(postgres_dsn):
    strange = text("\ud83dlabel\0 of \udc00a session \N{GRINNING FACE}")
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT %s::text", [strange]).fetchone() == (strange,)
