"""The states of a node."""

from __future__ import annotations

from master_shim.node import TRANSITIONS, Event, State


def test_every_state_accepts_every_event_but_removal_while_absent() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, row in TRANSITIONS.items():
        refused = {Event.UNREGISTER, Event.TIMEOUT} if state is State.ABSENT else set()
        # Only an online node can become late.
        late = set() if state is State.ONLINE else {Event.LATE}
        assert set(row) == set(Event) - refused - late
