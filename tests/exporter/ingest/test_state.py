"""The states of an ingest: the table in the docstring is the one that is kept."""

import itertools

import pytest

from exporter.ingest.state import TRANSITIONS, IllegalTransitionError, Stage, State

# A way from the beginning to each state.
WAYS = {
    State.WAITING: (),
    State.SCANNING: (State.SCANNING,),
    State.RESUMING: (State.RESUMING,),
    State.SCAN_IN_DOUBT: (State.SCANNING, State.SCAN_IN_DOUBT),
    State.LIVE: (State.LIVE,),
    State.LIVE_IN_DOUBT: (State.LIVE, State.LIVE_IN_DOUBT),
    State.BEHIND: (State.BEHIND,),
    State.BEHIND_IN_DOUBT: (State.BEHIND, State.BEHIND_IN_DOUBT),
}


def at(state):
    stage = Stage()
    for step in WAYS[state]:
        stage.to(step)
    return stage


def test_the_table_tells_every_transition():
    rows = [line.split("|")[1:3] for line in State.__doc__.splitlines() if line.strip().startswith("| ")][1:]
    told = [(State[before.strip()], State[after.strip()]) for before, after in rows]
    assert len(told) == len(set(told))
    assert set(told) == {(before, after) for before, then in TRANSITIONS.items() for after in then}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_a_transition_is_legal_or_raises_and_changes_nothing(before, after):
    stage = at(before)
    if after is before or after in TRANSITIONS[before]:
        stage.to(after)
        assert stage.state is after
    else:
        with pytest.raises(IllegalTransitionError, match=f"{after.name} does not follow {before.name}"):
            stage.to(after)
        assert stage.state is before


@pytest.mark.parametrize("state", list(State))
def test_doubt_is_possible_in_every_state_and_hides_nothing(state):
    stage = at(state)
    stage.doubt()
    assert not stage.state.in_step
    assert stage.state.shown is state.shown
    assert stage.state.first_scan == state.first_scan


@pytest.mark.parametrize("state", [one for one in State if one.in_step])
def test_a_commit_is_in_doubt_until_it_has_worked(state):
    stage = at(state)
    with stage.in_doubt():
        assert not stage.state.in_step
    assert stage.state is state
    with pytest.raises(KeyError), stage.in_doubt():
        raise KeyError
    assert not stage.state.in_step
    assert stage.state.shown is state.shown
