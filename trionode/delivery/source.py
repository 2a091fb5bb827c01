"""From a meeting and perhaps a version to what a request is answered from: a trusted lease, or the fill to follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from store import VersionMissing

from ..errors import FillFailed, MeetingUnknown, OriginError, OriginUnreachable, VersionGone
from ..sync.plan import Check, State
from .checked import CheckedLease

if TYPE_CHECKING:
    from store import Digest

    from ..sync.active import ActiveFill
    from ..sync.meetings import Meeting, Meetings

ABSENT_SECONDS = 1.0
"""For so long what the master did not name is absent without asking again: hostile ids never become its work."""

SETTLE_SECONDS = 20.0
"""How long a request waits to hear what there is to send. Tablets want the headers within 30 s."""


def at_once(meetings: Meetings, meeting_id: str, version: Digest | None) -> CheckedLease | None:
    """Return what a request is answered from without waiting for anything: a lease whose bytes are right.

    None when that takes a wait. The caller closes it. What it finds is what `acquire` would.
    """
    if version is None:
        meeting = meetings.get(meeting_id)
        ref = meetings.store.ref(meeting_id) if meeting is not None and meeting.state is State.CURRENT else None
        if ref is None:
            return None
        version = ref.digest
    try:
        lease = CheckedLease(meetings.store.lease(version), meetings.is_whole)
    except VersionMissing:
        return None
    if lease.trusted:
        return lease
    lease.close()
    return None


async def acquire(meetings: Meetings, meeting_id: str, version: Digest | None) -> CheckedLease | ActiveFill:
    """Return what a request is answered from; the caller closes a lease, and follows a fill with `followed`.

    `version` None means the current one; a given one is exact. Raises `MeetingUnknown`, `VersionGone`, `FillFailed`,
    `OriginUnreachable`, `OriginError`. Waits up to `SETTLE_SECONDS`.
    """
    arrived = trio.current_time()
    with trio.move_on_after(SETTLE_SECONDS):
        while True:
            source = await _acquire_once(meetings, meeting_id, version, arrived)
            if source is not None:
                return source
    raise FillFailed("the master has not yet said which version is current")


async def _acquire_once(
    meetings: Meetings, meeting_id: str, version: Digest | None, arrived: float
) -> CheckedLease | ActiveFill | None:
    """Return a source, or None after waiting for something that may have changed what there is."""
    if version is not None and (lease := await _lease(meetings, version)) is not None:
        return lease
    meeting = await _find(meetings, meeting_id, version)
    if meeting is None:
        return await _not_in_progress(meetings, meeting_id, version)
    fill = meeting.fill
    # A fill that was going on when a doubt came may be bringing what is no longer current: only a request for
    # that very version follows it.
    if fill is not None and (meeting.state is State.FILLING if version is None else version == fill.digest):
        return await _join(fill)
    if meeting.state in {State.UNCONFIRMED, State.CHECKING, State.FILLING}:
        await meeting.moved.wait()
        return None
    return await (_current(meetings, meeting) if version is None else _asked_for(meetings, meeting, version, arrived))


async def _find(meetings: Meetings, meeting_id: str, version: Digest | None) -> Meeting | None:
    meeting = meetings.get(meeting_id)
    if meeting is not None:
        return meeting
    try:
        await meetings.look(younger_than=ABSENT_SECONDS)
    except (OriginUnreachable, OriginError):
        # While the master is away, what is stored is the best there is.
        if version is not None or meetings.store.ref(meeting_id) is None:
            raise
    return meetings.get(meeting_id)


async def _not_in_progress(meetings: Meetings, meeting_id: str, version: Digest | None) -> CheckedLease:
    """Answer for a meeting that is not in progress as far as anybody can tell: late tablets still get what is here."""
    if version is not None:
        raise VersionGone(version)
    ref = meetings.store.ref(meeting_id)
    lease = None if ref is None else await _lease(meetings, ref.digest)
    if lease is None:
        raise MeetingUnknown(meeting_id)
    return lease


async def _current(meetings: Meetings, meeting: Meeting) -> CheckedLease | None:
    """Answer from a meeting whose last check is over, one way or the other."""
    ref = meetings.store.ref(meeting.id)
    if ref is None or not (meeting.state is State.CURRENT or meeting.unreachable):
        raise _why_not(meeting)
    lease = await _lease(meetings, ref.digest)
    if lease is None and meeting.state is State.FAILED:
        # Damaged or gone, and the master is away: its task asks again by itself, and not as often as clients come.
        raise _why_not(meeting)
    if lease is None:
        # Evicted, or damaged and not repaired: the promise is taken back, and kept anew.
        meetings.doubt(meeting)
    return lease


def _why_not(meeting: Meeting) -> Exception:
    """Say why there is no package: for want of room, which is told apart (507 and 503), or as the last check ended."""
    lacks = meeting.lacks
    return FillFailed(meeting.reason) if lacks is None else type(lacks)(lacks.needed, lacks.available)


async def _asked_for(meetings: Meetings, meeting: Meeting, version: Digest, arrived: float) -> None:
    """Have the master asked about a version this node has not heard of: a client was sent here for it.

    What a check that began after the client came has not found is gone. Checks are spaced, so that a client that
    makes versions up costs the master one small request a second.
    """
    if meeting.checked_from >= arrived:
        raise VersionGone(version) if meeting.lacks is None else _why_not(meeting)
    pause = meeting.checked_at + ABSENT_SECONDS - trio.current_time()
    if not meeting.working and pause > 0:
        with trio.move_on_after(pause):
            await meeting.moved.wait()
        return
    if not meeting.working:
        meetings.want(meeting, Check.ROUTINE)
    await meeting.moved.wait()


async def _lease(meetings: Meetings, digest: Digest) -> CheckedLease | None:
    """Return a trusted lease, or None when the version is not here whole."""
    if not await meetings.is_whole(digest):
        return None
    try:
        return CheckedLease(meetings.store.lease(digest), meetings.is_whole)
    except VersionMissing:
        return None


async def _join(fill: ActiveFill) -> ActiveFill | None:
    try:
        await fill.begun()
    except FillFailed:
        # The meeting's state, which the end of the fill has moved, says what there is instead.
        return None
    # One that is over already is answered from the store, like any other version.
    return None if fill.finished else fill
