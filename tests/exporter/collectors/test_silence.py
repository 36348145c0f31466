"""An event stream that went quiet while polls see activity is told apart from a quiet gateway."""

from datetime import UTC, datetime

import pytest

from exporter.collectors.silence import Silence
from openclaw.protocol import Pushed

T0 = 1_795_000_000.0


class Clock:
    now = T0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def silence(clock):
    return Silence("home", clock=clock)


def listed(silence, *updated):
    sessions = [{"key": f"s{number}", "updatedAt": int(at * 1000)} for number, at in enumerate(updated)]
    silence.listed(sessions, datetime.fromtimestamp(T0, UTC))


def push(silence, event):
    silence.pushed(Pushed(event=event, payload={}, seq=1))


@pytest.mark.req("P-13")
def test_activity_that_no_event_told_of_is_a_lag_that_grows(silence, clock, helpers):
    clock.now = T0 + 10
    push(silence, "agent")
    listed(silence, T0, T0 + 9)
    assert silence.lag() == 0
    for seconds in (100, 700):
        clock.now = T0 + seconds
        push(silence, "tick")  # the connection lives
        push(silence, "health")
        listed(silence, T0 + seconds - 1)
        assert silence.lag() == seconds - 1 - 10
    assert helpers.shown(silence) == {
        ("claw_event_stream_lag_seconds", "home"): 689,
        ("claw_polled_activity_timestamp_seconds", "home"): T0 + 699,
        ("claw_pushed_activity_timestamp_seconds", "home"): T0 + 10,
    }
    push(silence, "session.tool")
    assert silence.lag() == 0


@pytest.mark.req("P-13")
def test_a_gateway_where_nothing_happens_is_only_quiet(silence, clock):
    listed(silence, T0 - 86_400)
    clock.now = T0 + 86_400
    listed(silence, T0 - 86_400)
    assert silence.lag() == 0


def test_what_was_missed_while_disconnected_is_no_silence(silence, clock):
    clock.now = T0 + 600
    listed(silence, T0 + 590)
    assert silence.lag() == 590
    silence.refetch("connected")
    assert silence.lag() == 0


def test_a_gateway_whose_clock_is_ahead_is_not_silent_for_ever(silence, clock):
    clock.now = T0 + 1
    push(silence, "chat")
    listed(silence, T0 + 3600)
    assert silence.lag() == 0


def test_before_a_poll_nothing_is_claimed(silence, helpers):
    assert helpers.shown(silence) == {}
    listed(silence)
    assert helpers.shown(silence) == {}
