"""Decide from a poll of the master which meetings to check, to invalidate and to end. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from master_shim.protocol import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..master.responses import MeetingList

CHECKS_AT_ONCE = 12
"""Checks in progress at a time. With at most two requests each, heartbeats and polls always find one of the master's
`CONNECTIONS` free."""


class Check(enum.IntEnum):
    """How thorough a check is. With a manifest there is no difference.

    At a legacy master `TOKEN` compares the token alone, and `ROUTINE` the beginning of the package, whose first member
    holds the time of its generation. `CERTAIN` fetches the whole package again.
    """

    TOKEN = 1
    ROUTINE = 2
    CERTAIN = 3


@dataclass(frozen=True, slots=True)
class LastPoll:
    """The state kept from the last poll.

    `token_pending` is set from a change of the set of meetings until the next change of the token: a legacy master
    lists a meeting first and changes the token when all nodes have it, so that change does not mean a rebuilt package.
    """

    listed: MeetingList
    token_pending: bool


@dataclass(frozen=True, slots=True)
class PollPlan:
    """The consequences of a poll. `invalidated` meetings are not advertised until they were checked again.

    `newly_invalid` are the invalid ids that the last poll did not list.
    """

    checks: Mapping[str, Check]
    invalidated: frozenset[str]
    ended: frozenset[str]
    newly_invalid: frozenset[str]
    poll: LastPoll


def plan_poll(last: LastPoll | None, listed: MeetingList, tokens: Mapping[str, str], *, full: bool = False) -> PollPlan:
    """Compare the master's meeting list with the one of the last poll.

    - The first poll of a process: the token is enough for the meetings whose version was found current under the same
      one (`tokens`). The others, which may have been rebuilt or restarted since, have a certain check.
    - A new meeting may be one that ended and started again: a certain check.
    - A new token that no change of the set explains means that a package was rebuilt: certain checks of all, and none
      is advertised until then. Without this, a meeting restarted between two polls would be missed.
    - A new token with such a change, and a `full` poll (every SYNC_INTERVAL): routine checks of all.
    """
    if last is None:
        same = set() if listed.token in {"", NO_TOKEN} else {each for each in tokens if tokens[each] == listed.token}
        checks = {each: Check.TOKEN if each in same else Check.CERTAIN for each in listed.meetings}
        # Meetings without a token: a deployed master waits for its nodes, and changes its token afterwards.
        token_pending = listed.token == NO_TOKEN and bool(listed.meetings)
        poll = LastPoll(listed, token_pending=token_pending)
        return PollPlan(checks, frozenset(), frozenset(), listed.invalid, poll)
    added = listed.meetings.keys() - last.listed.meetings.keys()
    ended = last.listed.meetings.keys() - listed.meetings.keys()
    stayed = listed.meetings.keys() & last.listed.meetings.keys()
    set_changed = bool(added or ended)
    new_token = listed.token != last.listed.token
    unexplained = new_token and not set_changed and not last.token_pending

    checks = dict.fromkeys(added, Check.CERTAIN)
    if unexplained:
        checks |= dict.fromkeys(stayed, Check.CERTAIN)
    elif new_token or full:
        checks |= dict.fromkeys(stayed, Check.ROUTINE)
    return PollPlan(
        checks,
        invalidated=frozenset(added | (stayed if unexplained else set())),
        ended=frozenset(ended),
        newly_invalid=listed.invalid - last.listed.invalid,
        poll=LastPoll(listed, token_pending=(last.token_pending or set_changed) and not new_token),
    )
