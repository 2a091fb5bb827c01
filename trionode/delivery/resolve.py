"""Resolve a meeting and an optional version to the source of an answer: a trusted lease, or a fill to follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from store import VersionMissing

from ..errors import FillFailed, MeetingUnknown, OriginError, OriginUnreachable, VersionGone
from ..meetings.poll_plan import Check
from ..meetings.poller import SPACING_SECONDS
from ..meetings.states import MeetingState
from .http import HEAD_SECONDS
from .verified_lease import VerifiedLease

if TYPE_CHECKING:
    from store import Digest, Store

    from ..fetch.live_fill import LiveFill
    from ..meetings.meeting import Meeting
    from ..meetings.poller import Poller
    from ..meetings.service import Meetings
    from ..upkeep.repair import Repairer

    Source = VerifiedLease | LiveFill


class Resolver:
    """Finds the source of an answer. The caller closes a lease, and follows a fill with `followed`."""

    def __init__(self, store: Store, meetings: Meetings, poller: Poller, repairer: Repairer) -> None:
        self._store = store
        self._meetings = meetings
        self._poller = poller
        self._repairer = repairer

    def resolve_now(self, meeting_id: str, version: Digest | None) -> VerifiedLease | None:
        """Return a trusted lease without waiting; None where `resolve` may have to wait."""
        if version is None:
            meeting = self._meetings.get(meeting_id)
            current = meeting is not None and meeting.state is MeetingState.CURRENT
            ref = self._store.ref(meeting_id) if current else None
            if ref is None:
                return None
            version = ref.digest
        try:
            lease = VerifiedLease(self._store.lease(version), self._repairer)
        except VersionMissing:
            return None
        if lease.trusted:
            return lease
        lease.close()
        return None

    def find(self, meeting_id: str, version: Digest) -> Source | None:
        """Return a version that is here, or its fill, without waiting; None if neither is."""
        lease = self.resolve_now(meeting_id, version)
        meeting = self._meetings.get(meeting_id)
        if lease is not None or meeting is None or meeting.fill is None:
            return lease
        return meeting.fill if meeting.fill.digest == version else None

    async def resolve(
        self, meeting_id: str, version: Digest | None, *, arrived: float | None = None, peer: bool = False
    ) -> Source:
        """Return the source of an answer: of exactly `version`, or of the current one (None).

        Another node (`peer`) also gets a fill that has just begun. Waits until `HEAD_SECONDS` after the request's
        arrival (None: now). Raises `MeetingUnknown`, `VersionGone`, `FillFailed`, `OriginUnreachable`, `OriginError`,
        `NoSpace`.
        """
        arrived = trio.current_time() if arrived is None else arrived
        with trio.CancelScope(deadline=arrived + HEAD_SECONDS):
            while True:
                source = await self._resolve_once(meeting_id, version, arrived, peer=peer)
                if source is not None:
                    return source
        raise FillFailed("the current version is not known yet")

    async def resolve_under(self, meeting_id: str, token: str) -> Source:
        """Return the package that a legacy master has under `token`, for another node, as `resolve` does.

        The package may be a fill that has just begun.
        """
        arrived = trio.current_time()
        with trio.move_on_after(HEAD_SECONDS):
            while True:
                source = await self.find_under(meeting_id, token)
                if source is not None:
                    return source
                meeting = self._meetings.get(meeting_id)
                if meeting is None or self._meetings.token != token:
                    # The other node may have polled after the meeting began, and this one before.
                    if await self._poller.poll_since(arrived):
                        self._require_under(meeting_id, token)
                    continue
                if meeting.state is MeetingState.FAILED:
                    raise _failure_of(meeting)
                await meeting.changed.wait()
        raise FillFailed("the current version is not known yet")

    def _require_under(self, meeting_id: str, token: str) -> None:
        """Raise an error unless the last poll has found the meeting in progress, and this token."""
        if self._meetings.token != token:
            raise VersionGone(f"under the token {token[:80]!r}")
        if self._meetings.get(meeting_id) is None:
            raise MeetingUnknown(meeting_id)

    async def find_under(self, meeting_id: str, token: str) -> Source | None:
        """Return what is here of the package that a legacy master has under `token`; None if nothing is."""
        meeting = self._meetings.get(meeting_id)
        if meeting is None:
            return None
        ref = self._store.ref(meeting_id)
        if meeting.state is MeetingState.CURRENT and ref is not None and ref.token == token:
            return await self._lease(ref.digest)
        return meeting.fill if meeting.fill is not None and meeting.fill.token == token else None

    async def _resolve_once(
        self, meeting_id: str, version: Digest | None, arrived: float, *, peer: bool
    ) -> Source | None:
        """Return a source, or None after waiting for a change that may bring one."""
        if version is not None and (lease := await self._lease(version)) is not None:
            return lease
        meeting = self._meetings.get(meeting_id)
        if meeting is None:
            absent = await self._is_absent(meeting_id, version, arrived)
            return await self._not_in_progress(meeting_id, version) if absent else None
        fill = meeting.fill
        # A fill that was in progress when the meeting was invalidated may be of a version that is no longer current:
        # only a request for that very version follows it.
        if fill is not None and (meeting.state is MeetingState.FILLING if version is None else version == fill.digest):
            return fill if peer else await _follow(fill)
        if meeting.state in {MeetingState.UNCONFIRMED, MeetingState.CHECKING, MeetingState.FILLING}:
            await meeting.changed.wait()
            return None
        if version is None:
            return await self._current(meeting)
        await self._check_for(meeting, version, arrived)
        return None

    async def _is_absent(self, meeting_id: str, version: Digest | None, arrived: float) -> bool:
        """Return whether the master does not list a meeting, by a poll that began after the request's arrival.

        False after a wait for a poll.
        """
        try:
            known = await self._poller.poll_since(arrived)
        except (OriginUnreachable, OriginError):
            # While the master does not answer, a stored version is served.
            if version is not None or self._store.ref(meeting_id) is None:
                raise
            known = True
        return known and self._meetings.get(meeting_id) is None

    async def _not_in_progress(self, meeting_id: str, version: Digest | None) -> VerifiedLease:
        """Return the stored version of a meeting that is not in progress, for late tablets."""
        if version is not None:
            raise VersionGone(version)
        ref = self._store.ref(meeting_id)
        lease = None if ref is None else await self._lease(ref.digest)
        if lease is None:
            raise MeetingUnknown(meeting_id)
        return lease

    async def _current(self, meeting: Meeting) -> VerifiedLease | None:
        """Return the current version of a meeting whose last check has ended, in success or failure."""
        ref = self._store.ref(meeting.id)
        if ref is None or not (meeting.state is MeetingState.CURRENT or meeting.unreachable):
            raise _failure_of(meeting)
        lease = await self._lease(ref.digest)
        if lease is None and meeting.state is MeetingState.FAILED:
            # Damaged or gone while the master does not answer: the meeting's task retries, clients do not trigger it.
            raise _failure_of(meeting)
        if lease is None:
            # Evicted, or damaged and not repaired.
            self._meetings.invalidate(meeting)
        return lease

    async def _check_for(self, meeting: Meeting, version: Digest, arrived: float) -> None:
        """Request a check for a version that is not known here, and wait for a change.

        Raises `VersionGone` if a check that began after the request's arrival has not found it. Checks are spaced, so
        that invented versions cost the master one small request a second.
        """
        if meeting.check_began_at >= arrived:
            raise VersionGone(version) if meeting.lacks_room is None else _failure_of(meeting)
        pause = meeting.check_ended_at + SPACING_SECONDS - trio.current_time()
        if not meeting.checking and pause > 0:
            with trio.move_on_after(pause):
                await meeting.changed.wait()
            return
        if not meeting.checking:
            self._meetings.request_check(meeting, Check.ROUTINE)
        await meeting.changed.wait()

    async def _lease(self, digest: Digest) -> VerifiedLease | None:
        """Return a trusted lease; None if the version is missing or damaged."""
        if not await self._repairer.ensure(digest):
            return None
        try:
            return VerifiedLease(self._store.lease(digest), self._repairer)
        except VersionMissing:
            return None


def _failure_of(meeting: Meeting) -> Exception:
    """Return why there is no package: lack of room (507 or 503), or the failure of the last check."""
    lacks = meeting.lacks_room
    return FillFailed(meeting.reason) if lacks is None else type(lacks)(lacks.needed, lacks.available)


async def _follow(fill: LiveFill) -> LiveFill | None:
    try:
        await fill.wait_begun()
    except FillFailed:
        # The end of the fill has changed the meeting's state: the caller resolves again.
        return None
    # A fill that has ended meanwhile is answered from the store, like any other version.
    return None if fill.finished else fill
