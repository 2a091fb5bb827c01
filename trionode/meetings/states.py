"""The states of a meeting in this node, as one table. Pure."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class MeetingState(enum.Enum):
    """The state of a meeting's package. Only a `CURRENT` one is advertised, in `synced_meetings`."""

    UNCONFIRMED = "unconfirmed"
    CHECKING = "checking"
    FILLING = "filling"
    CURRENT = "current"
    FAILED = "failed"
    ENDED = "ended"


class MeetingEvent(enum.Enum):
    """Events that change the state of a meeting."""

    INVALIDATE = "invalidate"
    CHECK = "check"
    FILL = "fill"
    CONFIRM = "confirm"
    FAIL = "fail"
    END = "end"


TRANSITIONS: Mapping[tuple[MeetingState, MeetingEvent], MeetingState] = {
    (MeetingState.UNCONFIRMED, MeetingEvent.CHECK): MeetingState.CHECKING,
    (MeetingState.CHECKING, MeetingEvent.FILL): MeetingState.FILLING,
    (MeetingState.CHECKING, MeetingEvent.CONFIRM): MeetingState.CURRENT,
    (MeetingState.CHECKING, MeetingEvent.FAIL): MeetingState.FAILED,
    (MeetingState.FILLING, MeetingEvent.FILL): MeetingState.FILLING,
    (MeetingState.FILLING, MeetingEvent.CONFIRM): MeetingState.CURRENT,
    (MeetingState.FILLING, MeetingEvent.FAIL): MeetingState.FAILED,
    # A routine check keeps the meeting advertised: only an invalidation or a new version ends that.
    (MeetingState.CURRENT, MeetingEvent.CHECK): MeetingState.CURRENT,
    (MeetingState.CURRENT, MeetingEvent.CONFIRM): MeetingState.CURRENT,
    (MeetingState.CURRENT, MeetingEvent.FILL): MeetingState.FILLING,
    # The master did not answer a routine check: the last confirmed version stays advertised.
    (MeetingState.CURRENT, MeetingEvent.FAIL): MeetingState.CURRENT,
    (MeetingState.FAILED, MeetingEvent.CHECK): MeetingState.CHECKING,
    **{(state, MeetingEvent.INVALIDATE): MeetingState.UNCONFIRMED for state in MeetingState},
    # An invalidation stays in force after the check in progress, whose result is checked again.
    (MeetingState.UNCONFIRMED, MeetingEvent.FILL): MeetingState.UNCONFIRMED,
    (MeetingState.UNCONFIRMED, MeetingEvent.CONFIRM): MeetingState.UNCONFIRMED,
    (MeetingState.UNCONFIRMED, MeetingEvent.FAIL): MeetingState.UNCONFIRMED,
    # The last check of an ended meeting may still be in progress.
    **{(MeetingState.ENDED, event): MeetingState.ENDED for event in MeetingEvent},
    **{(state, MeetingEvent.END): MeetingState.ENDED for state in MeetingState},
}
"""Every transition; `docs/design.md` shows the same table. Any other is a bug."""


class IllegalTransition(AssertionError):
    """An event that cannot happen in a state; the state is unchanged."""


def next_state(state: MeetingState, event: MeetingEvent) -> MeetingState:
    """Return the state after `event`. Raises `IllegalTransition`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event} in {state}") from None
