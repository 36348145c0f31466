"""Where an ingest stands between its sources and the ledger, and how it gets from one state to another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final

from lobservatory.errors import LobservatoryError


class State(Enum):
    """What memory knows of the ledger and what is shown; "in doubt" is what the ledger has to be asked for first.

    | from | to | when |
    |---|---|---|
    | WAITING | SCANNING | the ledger told that it is empty |
    | WAITING | RESUMING | it told that it holds a part of a first scan |
    | WAITING | LIVE | it told that a first scan has ended: its totals are shown |
    | WAITING | BEHIND | the same, but it knows less than was shown before, as after a restore |
    | SCANNING | SCAN_IN_DOUBT | a commit begins, or something failed |
    | SCANNING | LIVE | everything was read and committed: the totals are shown |
    | RESUMING | SCAN_IN_DOUBT | a commit begins, or something failed |
    | RESUMING | LIVE | everything was read and committed: the totals are shown |
    | SCAN_IN_DOUBT | SCANNING | the commit worked, or the ledger told that it is empty |
    | SCAN_IN_DOUBT | RESUMING | the commit worked, or the ledger told that it holds a part |
    | SCAN_IN_DOUBT | LIVE | the ledger told that the last commit of the scan was kept |
    | SCAN_IN_DOUBT | BEHIND | the same, but it knows less than was shown before |
    | LIVE | LIVE_IN_DOUBT | a commit begins, or something failed |
    | LIVE_IN_DOUBT | LIVE | the commit worked, or the ledger told all that was shown |
    | LIVE_IN_DOUBT | BEHIND | the ledger told less than was shown |
    | BEHIND | BEHIND_IN_DOUBT | a commit begins, or something failed |
    | BEHIND | LIVE | everything was read again, and what nobody can tell was made up for |
    | BEHIND_IN_DOUBT | BEHIND | the commit worked, or the ledger still knows less |
    | BEHIND_IN_DOUBT | LIVE | the ledger told all that was shown |
    """

    WAITING = auto()  # the ledger has told nothing yet
    SCANNING = auto()  # the first scan of an empty ledger
    RESUMING = auto()  # a first scan over a ledger that holds a part of it
    SCAN_IN_DOUBT = auto()
    LIVE = auto()
    LIVE_IN_DOUBT = auto()
    BEHIND = auto()  # live, but counters stand still until the ledger knows what was shown
    BEHIND_IN_DOUBT = auto()

    @property
    def in_step(self) -> bool:
        """Whether positions and counters are those of the ledger."""
        return _DOUBTED[self] is not self

    @property
    def shown(self) -> bool:
        """Whether totals are on `/metrics`: the first scan has ended."""
        return self in (State.LIVE, State.LIVE_IN_DOUBT, State.BEHIND, State.BEHIND_IN_DOUBT)

    @property
    def first_scan(self) -> str:
        """`waiting`, `running` or `done`."""
        if self.shown:
            return "done"
        return "waiting" if self is State.WAITING else "running"


# Where a state falls when what the ledger holds is in doubt.
_DOUBTED: Final[Mapping[State, State]] = {
    State.WAITING: State.WAITING,
    State.SCANNING: State.SCAN_IN_DOUBT,
    State.RESUMING: State.SCAN_IN_DOUBT,
    State.SCAN_IN_DOUBT: State.SCAN_IN_DOUBT,
    State.LIVE: State.LIVE_IN_DOUBT,
    State.LIVE_IN_DOUBT: State.LIVE_IN_DOUBT,
    State.BEHIND: State.BEHIND_IN_DOUBT,
    State.BEHIND_IN_DOUBT: State.BEHIND_IN_DOUBT,
}
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.WAITING: frozenset({State.SCANNING, State.RESUMING, State.LIVE, State.BEHIND}),
    State.SCANNING: frozenset({State.SCAN_IN_DOUBT, State.LIVE}),
    State.RESUMING: frozenset({State.SCAN_IN_DOUBT, State.LIVE}),
    State.SCAN_IN_DOUBT: frozenset({State.SCANNING, State.RESUMING, State.LIVE, State.BEHIND}),
    State.LIVE: frozenset({State.LIVE_IN_DOUBT}),
    State.LIVE_IN_DOUBT: frozenset({State.LIVE, State.BEHIND}),
    State.BEHIND: frozenset({State.BEHIND_IN_DOUBT, State.LIVE}),
    State.BEHIND_IN_DOUBT: frozenset({State.BEHIND, State.LIVE}),
}


class IllegalTransitionError(LobservatoryError):
    """A state that does not follow the present one: a fault of ours."""


class Stage:
    """The state of one ingest; it changes here alone, and may be looked at from any thread."""

    def __init__(self) -> None:
        self._state = State.WAITING

    @property
    def state(self) -> State:
        """The present one."""
        return self._state

    def to(self, state: State) -> None:
        """Go to a state, or stay in it. Raises IllegalTransitionError."""
        if state is not self._state and state not in TRANSITIONS[self._state]:
            raise IllegalTransitionError(f"{state.name} does not follow {self._state.name}")
        self._state = state

    def doubt(self) -> None:
        """The ledger has to be asked what it holds before anything else is done."""
        self.to(_DOUBTED[self._state])

    @contextlib.contextmanager
    def in_doubt(self) -> Iterator[None]:
        """While something is committed; back to the present state only when that is known to have worked."""
        before = self._state
        self.doubt()
        yield
        self.to(before)
