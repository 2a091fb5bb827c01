"""What to do about meetings: the state table and the plan of a look at the master. Pure: no clock, no I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from master_shim.protocol import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(enum.Enum):
    """Where a meeting stands in this node. Only `CURRENT` is named in `synced_meetings`."""

    UNCONFIRMED = "unconfirmed"
    CHECKING = "checking"
    FILLING = "filling"
    CURRENT = "current"
    FAILED = "failed"
    ENDED = "ended"


class Event(enum.Enum):
    """What happens to a meeting."""

    DOUBT = "doubt"
    CHECK = "check"
    FILL = "fill"
    CONFIRM = "confirm"
    FAIL = "fail"
    END = "end"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.UNCONFIRMED, Event.CHECK): State.CHECKING,
    (State.CHECKING, Event.FILL): State.FILLING,
    (State.CHECKING, Event.CONFIRM): State.CURRENT,
    (State.CHECKING, Event.FAIL): State.FAILED,
    (State.FILLING, Event.FILL): State.FILLING,
    (State.FILLING, Event.CONFIRM): State.CURRENT,
    (State.FILLING, Event.FAIL): State.FAILED,
    # A routine check does not take the promise back: only a doubt or a new version does.
    (State.CURRENT, Event.CHECK): State.CURRENT,
    (State.CURRENT, Event.CONFIRM): State.CURRENT,
    (State.CURRENT, Event.FILL): State.FILLING,
    # The master did not answer a routine check: what was current when it was last seen is the best there is.
    (State.CURRENT, Event.FAIL): State.CURRENT,
    (State.FAILED, Event.CHECK): State.CHECKING,
    **{(state, Event.DOUBT): State.UNCONFIRMED for state in State},
    # A doubt outlives the check that was going on when it came: what that finds is checked again.
    (State.UNCONFIRMED, Event.FILL): State.UNCONFIRMED,
    (State.UNCONFIRMED, Event.CONFIRM): State.UNCONFIRMED,
    (State.UNCONFIRMED, Event.FAIL): State.UNCONFIRMED,
    # An ended meeting's last check may still be finishing.
    **{(State.ENDED, event): State.ENDED for event in Event},
    **{(state, Event.END): State.ENDED for state in State},
}
"""Every move there is; `docs/design.md` draws it from here. Anything else is a fault of the program."""


class IllegalMove(AssertionError):
    """An event that cannot happen in that state; the state is left alone."""


def move(state: State, event: Event) -> State:
    """Return the state after `event`. Raises `IllegalMove`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalMove(f"{event} in {state}") from None


class Check(enum.IntEnum):
    """How sure a check must be. A manifest makes both the same; a legacy origin makes the difference.

    `ROUTINE` compares the beginning of the package, whose first member holds the time it was generated;
    `CERTAIN` takes the whole package again.
    """

    ROUTINE = 1
    CERTAIN = 2


@dataclass(frozen=True, slots=True)
class Look:
    """What the master said: its token, and the title of each meeting in progress by id."""

    token: str
    meetings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node remembers between looks.

    `owed` is set from a change of the set of meetings until the next change of the token: a legacy master lists a
    meeting first and changes the token when all nodes have it, so that change needs no other explanation.
    """

    look: Look
    owed: bool


@dataclass(frozen=True, slots=True)
class LookPlan:
    """What to do now. `doubted` meetings are no longer promised until checked again."""

    checks: Mapping[str, Check]
    doubted: frozenset[str]
    ended: frozenset[str]
    seen: Seen


def plan_look(seen: Seen | None, now: Look, *, full: bool = False) -> LookPlan:
    """Compare what the master says now with what it said before.

    - The first look of a process checks everything in routine: what is stored was current when it was stored.
    - A meeting that was not there before may be one that ended and started again: certain.
    - A new token that no change of the set explains means that something was built anew: everything, certain,
      and nothing is promised until then. Without this a meeting restarted between two looks is missed.
    - A new token with such a change, and a `full` look (every SYNC_INTERVAL): everything in routine.
    """
    if seen is None:
        checks = dict.fromkeys(now.meetings, Check.ROUTINE)
        # Meetings without a token: a deployed master is waiting for its nodes, and its token is still to come.
        owed = now.token == NO_TOKEN and bool(now.meetings)
        return LookPlan(checks, frozenset(), frozenset(), Seen(now, owed=owed))
    added = now.meetings.keys() - seen.look.meetings.keys()
    ended = seen.look.meetings.keys() - now.meetings.keys()
    stayed = now.meetings.keys() & seen.look.meetings.keys()
    set_changed = bool(added or ended)
    new_token = now.token != seen.look.token
    unexplained = new_token and not set_changed and not seen.owed

    checks = dict.fromkeys(added, Check.CERTAIN)
    if unexplained:
        checks |= dict.fromkeys(stayed, Check.CERTAIN)
    elif new_token or full:
        checks |= dict.fromkeys(stayed, Check.ROUTINE)
    return LookPlan(
        checks,
        doubted=frozenset(added | (stayed if unexplained else set())),
        ended=frozenset(ended),
        seen=Seen(now, owed=(seen.owed or set_changed) and not new_token),
    )


FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 15.0
"""Longest wait between two tries: what has failed for long is had again while people still find their seats."""


def retry_seconds(failures: int, chance: float, *, unbuilt: bool = False, most: float = LAST_RETRY_SECONDS) -> float:
    """Return how long to wait after `failures` (>= 1) tries in a row; `chance` in [0, 1) spreads nodes apart.

    `unbuilt`: the master lists a meeting and has no package of it, so it is just building it, with its start gate
    waiting for this node; that is asked about at the same pace however often.
    """
    failures = 1 if unbuilt else failures
    # The exponent is bounded so that a node left alone for a year does not compute 2 ** 10_000_000.
    ceiling = min(most, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * (0.5 + 0.5 * chance)
