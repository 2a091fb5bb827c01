"""One meeting as a node knows it, which `Meetings` owns and all others only read."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import structlog

from store import NeverFits, NoSpace

from ..errors import MeetingUnknown, OriginUnreachable
from ..signals import Request, Signal
from .plan import State

if TYPE_CHECKING:
    from store import Digest

    from .active import ActiveFill
    from .plan import Check

_log = structlog.get_logger("trionode.sync")


@dataclass(eq=False)
class Meeting:
    """What this node knows of one meeting in progress. Owned by `Meetings`; others only read it."""

    id: str
    title: str
    state: State = State.UNCONFIRMED
    reason: str = ""
    unreachable: bool = False
    unbuilt: bool = False
    lacks: NoSpace | None = None
    """The room that the last check lacked, if it was that: `NeverFits`, or for now."""
    outgrew: tuple[str | None, int] | None = None
    """The token with which a package of unknown length never fitted, and to how many bytes it had come."""
    confirmed: Digest | None = None
    """What the last check that ended well found current."""
    failures: int = 0
    checked_from: float = -inf
    checked_at: float = -inf
    """When the last check that is over began and ended, well or not, in seconds of the running program's clock."""
    file_count: int = 0
    fill: ActiveFill | None = None
    wanted: Check | None = None
    working: bool = False
    """Whether a check is going on, or about to begin."""
    tended: bool = False
    """Whether a task looks after it: one that works, or one that rests until the next try."""
    asked: Request = field(default_factory=Request)
    moved: Signal = field(default_factory=Signal)
    """Given at every event of the state table, whether or not the state changes by it."""


def note_failure(meeting: Meeting, error: Exception) -> None:
    """Keep why a check failed, and say it; what never fits is said once and not at every try."""
    before, meeting.reason = meeting.reason, str(error) or repr(error)
    meeting.unreachable = isinstance(error, OriginUnreachable)
    meeting.unbuilt = isinstance(error, MeetingUnknown)
    meeting.lacks = error if isinstance(error, NoSpace) else None
    if isinstance(error, NeverFits):
        meeting.reason = f"the package never fits: {error}, whatever is evicted (max_bytes, min_free_bytes, disk)"
        if before != meeting.reason:
            _log.error("a package never fits", meeting=meeting.id, needed=error.needed, most=error.available)
        return
    if isinstance(error, NoSpace):
        meeting.reason = f"no room now: {error}, and nothing that is left may be evicted"
    _log.warning("meeting not synced", meeting=meeting.id, why=meeting.reason)
