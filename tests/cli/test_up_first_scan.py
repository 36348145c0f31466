"""The bar of `lobservatory up` while sessions are read for the first time."""

from __future__ import annotations

import contextlib
import io

import pytest
from rich.console import Console

from cli.up import parts
from cli.up.up import FirstScan
from lobservatory.settings import Listen

SOMEWHERE = Listen(host="127.0.0.1", port=9)


def shown(monkeypatch, answers, *, terminal=True):
    """What a person sees, and how often the exporter was asked."""
    asked = []

    def health(_listen):
        asked.append(1)
        return answers[len(asked) - 1]

    monkeypatch.setattr(parts, "health", health)
    said = io.StringIO()
    scan = FirstScan(Console(file=said, force_terminal=terminal, width=80), SOMEWHERE)
    for _ in range(len(answers) + 3):
        scan.show()
    return said.getvalue(), len(asked)


@pytest.mark.req("S1-18")
def test_a_bar_shows_how_much_is_read_and_goes_when_all_is(monkeypatch):
    answers = [
        {"first_scan": "waiting"},
        {"first_scan": "running", "progress": 0.25},
        {},  # busy just then
        {"first_scan": "running", "progress": 0.75},
        {"first_scan": "done", "progress": 1.0},
    ]
    said, asked = shown(monkeypatch, answers)
    assert "reading sessions" in said
    assert "25%" in said
    assert "75%" in said
    assert said.rstrip().endswith("All sessions have been read once.")
    assert asked == len(answers), "nobody is asked any more"


def test_where_all_was_read_before_nothing_is_said(monkeypatch):
    assert shown(monkeypatch, [{"first_scan": "done"}]) == ("", 1)


def test_without_a_terminal_there_is_no_bar(monkeypatch):
    assert shown(monkeypatch, [], terminal=False) == ("", 0)


def test_the_terminal_is_given_back_when_everything_stops_before_the_end(monkeypatch):
    monkeypatch.setattr(parts, "health", lambda _listen: {"first_scan": "running", "progress": 0.5})
    said = io.StringIO()
    with contextlib.closing(FirstScan(Console(file=said, force_terminal=True), SOMEWHERE)) as scan:
        scan.show()
    hidden, shown_again = "\x1b[?25l", "\x1b[?25h"
    assert said.getvalue().count(hidden) == said.getvalue().count(shown_again) == 1


def test_an_exporter_that_does_not_answer_is_no_error():
    assert parts.health(SOMEWHERE) == {}
