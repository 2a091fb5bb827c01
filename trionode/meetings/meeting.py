"""The record of one meeting in progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import structlog

from store import NeverFits, NoSpace

from ..backoff import Reminder, retry_seconds
from ..errors import MeetingUnknown, OriginUnreachable
from ..events import AutoResetEvent, Broadcast
from .states import MeetingState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store import Digest

    from ..fetch.live_fill import LiveFill
    from .poll_plan import Check

NEVER_FITS_SECONDS = 600.0
"""Interval between attempts for a package that never fits: only an administrator can change that."""

_log = structlog.get_logger("trionode.meetings")


@dataclass(eq=False)
class Meeting:
    """One meeting in progress. Only `Meetings` changes it."""

    id: str
    title: str
    state: MeetingState = MeetingState.UNCONFIRMED
    reason: str = ""
    """Why the last check failed, for display; "" if it did not."""
    unreachable: bool = False
    """Whether the last check failed because the master did not answer."""
    unbuilt: bool = False
    """Whether the master lists the meeting but has no package of it yet."""
    lacks_room: NoSpace | None = None
    """The room missing in the last check: `NeverFits`, or `NoSpace` for now."""
    outgrew: tuple[str, int] | None = None
    """The token at which a legacy master's package did not fit, and the bytes that are needed at least."""
    confirmed: Digest | None = None
    """The version that the last successful check found current."""
    reminder: Reminder = field(default_factory=Reminder)
    """When a check that fails again for the same reason is logged again."""
    failures: int = 0
    """Failed checks in a row."""
    check_began_at: float = -inf
    check_ended_at: float = -inf
    """When the last completed check began and ended, in seconds of Trio's clock."""
    file_count: int = 0
    fill: LiveFill | None = None
    """The fill in progress."""
    fetched: Mapping[str, int] = field(default_factory=dict)
    """The bytes that the last complete fill received, by source (`LiveFill.fetched`)."""
    pending_check: Check | None = None
    checking: bool = False
    """Whether a check is in progress or about to begin."""
    has_task: bool = False
    """Whether a task checks the meeting, or waits for the next attempt."""
    check_due: AutoResetEvent = field(default_factory=AutoResetEvent)
    """Ends the wait for the next attempt."""
    changed: Broadcast = field(default_factory=Broadcast)
    """Notified at every event of the state table, whether or not the state changes."""

    @property
    def ended(self) -> bool:
        """Whether the master has ended the meeting."""
        return self.state is MeetingState.ENDED

    def retry_seconds(self, random: float) -> float:
        """Return the delay before the next attempt, after a failed one; see `backoff.retry_seconds`."""
        if isinstance(self.lacks_room, NeverFits):
            return NEVER_FITS_SECONDS
        # While a master builds the package, its start gate waits for this node: retry at the shortest interval.
        return retry_seconds(1 if self.unbuilt else self.failures, random)

    def record_failure(self, error: Exception, now: float) -> None:
        """Record why a check failed, and log it at once if the reason is another, else every few minutes.

        A package that never fits is logged only once.
        """
        before, self.reason = self.reason, str(error) or repr(error)
        self.unreachable = isinstance(error, OriginUnreachable)
        self.unbuilt = isinstance(error, MeetingUnknown)
        self.lacks_room = error if isinstance(error, NoSpace) else None
        if isinstance(error, NeverFits):
            self.reason = f"the package never fits: {error}, whatever is evicted (max_bytes, min_free_bytes, disk)"
            if before != self.reason:
                _log.error("a package never fits", meeting=self.id, needed=error.needed, most=error.available)
            return
        if isinstance(error, NoSpace):
            self.reason = f"no room now: {error}, and nothing more may be evicted"
        if before != self.reason:
            self.reminder.reset()
        if self.reminder.due(now):
            _log.warning("meeting not synced", meeting=self.id, why=self.reason)

    def record_success(self, digest: Digest, file_count: int) -> None:
        """Record that a check found `digest` current and stored."""
        self.file_count = file_count
        self.reason = ""
        self.lacks_room = None
        self.confirmed = digest
        self.unreachable = False
        self.failures = 0
