"""The state table of a meeting."""

from __future__ import annotations

import pytest

from trionode.meetings.states import TRANSITIONS, IllegalTransition, MeetingEvent, MeetingState, next_state


@pytest.mark.parametrize("state", MeetingState)
@pytest.mark.parametrize("event", MeetingEvent)
def test_every_event_in_every_state_is_in_the_table_or_raises(state: MeetingState, event: MeetingEvent):
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition):
            next_state(state, event)


def test_only_a_confirmation_makes_a_meeting_current():
    into_current = {
        key
        for key, after in TRANSITIONS.items()
        if after is MeetingState.CURRENT and key[0] is not MeetingState.CURRENT
    }
    assert into_current == {(MeetingState.CHECKING, MeetingEvent.CONFIRM), (MeetingState.FILLING, MeetingEvent.CONFIRM)}


def test_an_invalidated_meeting_is_not_advertised_whatever_its_state():
    assert all(next_state(state, MeetingEvent.INVALIDATE) is not MeetingState.CURRENT for state in MeetingState)


def test_an_ended_meeting_stays_ended():
    assert {next_state(MeetingState.ENDED, event) for event in MeetingEvent} == {MeetingState.ENDED}
