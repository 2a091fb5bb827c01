"""The meetings of a node of several processes: the leader's own, and in every other process a copy of them.

Only the leader asks the master, fills and switches, so the origin sends one copy and all processes agree on what is
current. A process that does not lead answers from what it was last told, follows the leader's fills through their
files, and asks the leader where it would ask the master.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from store import Digest, NeverFits, NoSpace

from ..errors import FillFailed, OriginUnreachable
from ..signals import Signal
from ..sync.active import ActiveFill
from ..sync.meetings import Meeting, Meetings
from ..sync.plan import Check, State
from .wire import CheckAsked, FillEnd, FillState, Lack, Lost, MeetingState

if TYPE_CHECKING:
    import msgspec

    from store import DiskStore
    from store.peeking import PeekedFill, PeekedStream

    from ..sync.plan import Event
    from .wire import Board

LEADERLESS_SECONDS = 5.0
"""How long a request waits for another process to lead, when the one that did has ended."""

WATCHED_SECONDS, UNWATCHED_SECONDS = 0.02, 0.25
"""How often the file of a fill is looked at while somebody here follows it, and while nobody does."""

ORPHAN_SECONDS = 30.0
"""How long a fill whose leader has ended may stand still before those who follow it are cut off: by then the next
leader has found the master, or will not."""

_log = structlog.get_logger("trionode.workers")


class Link(Protocol):
    """The way to the leader, which may be down."""

    async def look(self, younger_than: float) -> bool:
        """Have the leader look at the master; false when the leader ended meanwhile. Raises as `Meetings.look`."""
        ...

    async def up(self) -> None:
        """Wait until there is a leader that listens."""
        ...

    def tell(self, message: msgspec.Struct) -> None:
        """Tell the leader something, now or as soon as there is one."""
        ...


class SharedMeetings(Meetings):
    """`Meetings` of which one process leads. `link` is set before anything is asked; `leading` once, by `lead`."""

    store: DiskStore
    link: Link
    leading = False

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.stirred = Signal()
        """Given at every event of every meeting."""
        self._followed: dict[int, _Followed] = {}
        # Both clocks are the kernel's monotonic one, of which Trio's begins anywhere.
        self._clock_offset = time.monotonic() - trio.current_time()

    # -- What is asked of the leader

    async def look(self, *, full: bool = False, younger_than: float = 0.0) -> None:
        """Look at the master, or have the leader look."""
        while not self.leading:
            with trio.move_on_after(LEADERLESS_SECONDS) as waiting:
                await self.link.up()
            if waiting.cancelled_caught:
                raise OriginUnreachable("no process of this node leads at the moment")
            if not self._leads() and await self.link.look(younger_than):
                return
        await super().look(full=full, younger_than=younger_than)

    def _leads(self) -> bool:
        return self.leading

    def want(self, meeting: Meeting, check: Check) -> None:
        """Have `meeting` checked."""
        if self.leading:
            super().want(meeting, check)
        else:
            self.link.tell(CheckAsked(meeting.id, int(check), doubt=False))

    def doubt(self, meeting: Meeting) -> None:
        """Take the promise of a meeting back, and have it checked: what was promised is not here after all."""
        if self.leading:
            super().doubt(meeting)
        else:
            # Whoever asks for it now waits until the leader has said something new of it.
            meeting.state = State.UNCONFIRMED
            self.link.tell(CheckAsked(meeting.id, int(Check.ROUTINE), doubt=True))

    def withdraw(self, digest: Digest) -> None:
        """Take back every promise of a version that is not whole."""
        if self.leading:
            super().withdraw(digest)
        else:
            self.link.tell(Lost(digest))

    def storage_changed(self) -> None:
        """Check every promise whose version was switched: the leader's business."""
        if self.leading:
            super().storage_changed()

    def _move(self, meeting: Meeting, event: Event) -> None:
        super()._move(meeting, event)
        self.stirred.give()

    # -- What the leader says

    async def take(self, board: Board) -> None:
        """Take over what the leader has said. What it calls current is in this process's store when this returns."""
        if any(self._is_news(state) for state in board.meetings) or any(end.error is None for end in board.ended):
            await self._notice()
        for end in board.ended:
            self._end(end)
        for meeting_id in board.gone:
            if (gone := self._meetings.pop(meeting_id, None)) is not None:
                gone.state = State.ENDED
                gone.moved.give()
        for state in board.meetings:
            self._copy(state)
        facts = board.facts
        self.token, self.last_look, self.look_error = facts.token, facts.last_look, facts.look_error

    def _is_news(self, state: MeetingState) -> bool:
        ref = self.store.ref(state.id)
        return state.confirmed is not None and (ref is None or ref.digest != state.confirmed)

    def _copy(self, state: MeetingState) -> None:
        meeting = self._meetings.setdefault(state.id, Meeting(state.id, state.title))
        meeting.title, meeting.state, meeting.reason = state.title, State(state.state), state.reason
        meeting.unreachable, meeting.unbuilt, meeting.working = state.unreachable, state.unbuilt, state.working
        meeting.file_count = state.file_count
        meeting.lacks = _to_error(state.lacks)
        meeting.confirmed = None if state.confirmed is None else Digest(state.confirmed)
        meeting.checked_from, meeting.checked_at = self._to_trio(state.checked_from), self._to_trio(state.checked_at)
        meeting.fill = None if state.fill is None else self._follow(meeting, state.fill)
        meeting.moved.give()

    def _follow(self, meeting: Meeting, fill: FillState) -> ActiveFill:
        """Return the fill as this process follows it, taking over one whose leader has ended."""
        followed = self._followed.get(fill.number)
        if followed is None:
            orphans = (f for f in self._followed.values() if f.orphaned_at < inf and f.active.digest == fill.digest)
            followed = next(orphans, None) if fill.digest is not None else None
            if followed is not None:
                del self._followed[followed.number]
                followed.number, followed.orphaned_at = fill.number, inf
            else:
                digest = None if fill.digest is None else Digest(fill.digest)
                followed = _Followed(fill.number, ActiveFill(meeting.id, digest, fill.size))
                self.nursery.start_soon(self._watch, followed)
            self._followed[fill.number] = followed
        followed.begun = fill.begun
        return followed.active

    def _end(self, end: FillEnd) -> None:
        followed = self._followed.get(end.number)
        if followed is not None:
            self._finish(followed, None if end.error is None else FillFailed(end.error))

    def _finish(self, followed: _Followed, error: Exception | None) -> None:
        self._followed.pop(followed.number, None)
        if followed.peeked is not None:
            followed.peeked.refresh()
        followed.active.finish(error)
        meeting = self._meetings.get(followed.active.meeting_id)
        if meeting is not None and meeting.fill is followed.active:
            meeting.fill = None

    async def _watch(self, followed: _Followed) -> None:
        """Look at the file of a fill for as long as it goes on, and wake those who follow it here."""
        active = followed.active
        while not active.finished:
            if followed.peeked is None and followed.begun:
                followed.peeked = await trio.to_thread.run_sync(self._peek, active)
                if followed.peeked is not None:
                    active.begin_elsewhere(followed.peeked)
            elif followed.peeked is not None and followed.peeked.refresh():
                active.advance()
                if followed.orphaned_at < inf:
                    followed.orphaned_at = trio.current_time()
            if followed.orphaned_at < inf:
                await self._look_after_orphan(followed)
            await trio.sleep(WATCHED_SECONDS if active.followers else UNWATCHED_SECONDS)

    def _peek(self, active: ActiveFill) -> PeekedFill | PeekedStream | None:
        if active.digest is not None:
            return self.store.peek(active.digest)
        return self.store.peek_stream(active.meeting_id)

    async def _look_after_orphan(self, followed: _Followed) -> None:
        assert followed.active.digest is not None
        await self._notice()
        if followed.active.finished or followed.orphaned_at == inf:
            return  # meanwhile
        if self.store.holds(followed.active.digest):
            self._finish(followed, None)
        elif trio.current_time() - followed.orphaned_at > ORPHAN_SECONDS:
            self._finish(followed, FillFailed("the process that fetched it has ended, and no other goes on with it"))

    def _to_trio(self, at: float | None) -> float:
        return -inf if at is None else at - self._clock_offset

    # -- What a leader says

    def states(self, numbers: FillNumbers) -> dict[str, MeetingState]:
        """Return what the others are to know of the meetings, by id."""
        return {meeting.id: self._state_of(meeting, numbers) for meeting in self._meetings.values()}

    def _state_of(self, meeting: Meeting, numbers: FillNumbers) -> MeetingState:
        return MeetingState(
            id=meeting.id,
            title=meeting.title,
            state=meeting.state.value,
            reason=meeting.reason,
            unreachable=meeting.unreachable,
            unbuilt=meeting.unbuilt,
            lacks=_from_error(meeting.lacks),
            confirmed=meeting.confirmed,
            checked_from=self._from_trio(meeting.checked_from),
            checked_at=self._from_trio(meeting.checked_at),
            file_count=meeting.file_count,
            working=meeting.working,
            fill=None if meeting.fill is None else numbers.state_of(meeting.fill),
        )

    def _from_trio(self, at: float) -> float | None:
        return None if at == -inf else at + self._clock_offset

    # -- When the leader ends

    def leader_lost(self) -> None:
        """Keep those who follow a fill that another process can go on with; a stream has ended with its process."""
        for followed in list(self._followed.values()):
            if followed.active.digest is None:
                self._finish(followed, FillFailed("the process that fetched it has ended"))
            elif followed.orphaned_at == inf:
                followed.orphaned_at = trio.current_time()

    def lead(self) -> None:
        """Lead from now on, beginning with what the last leader knew. What it was doing is begun anew."""
        self.leading = True
        for meeting in self._meetings.values():
            meeting.working = False
            if meeting.state in {State.CHECKING, State.FILLING}:
                meeting.state = State.UNCONFIRMED
            if meeting.state is not State.CURRENT:
                meeting.fill = None
            meeting.moved.give()


class _Followed:
    """A fill of another process, and who follows it here."""

    def __init__(self, number: int, active: ActiveFill) -> None:
        self.number = number
        self.active = active
        self.begun = False
        self.peeked: PeekedFill | PeekedStream | None = None
        self.orphaned_at = inf
        """When its leader ended, or when it last moved since; in seconds of this program's clock."""


class FillNumbers:
    """Names the leader's fills, and notices their ends. The numbers of two leaders differ."""

    def __init__(self) -> None:
        self._next = time.monotonic_ns()
        self._numbers: dict[ActiveFill, int] = {}

    def state_of(self, fill: ActiveFill) -> FillState:
        """Return a fill that goes on as others are told of it."""
        if fill not in self._numbers:
            self._next += 1
            self._numbers[fill] = self._next
        digest = None if fill.digest is None else str(fill.digest)
        return FillState(self._numbers[fill], digest, fill.size, fill.has_file)

    def take_ended(self) -> list[FillEnd]:
        """Return the fills that have ended since this was last asked."""
        ended = [fill for fill in self._numbers if fill.finished]
        return [FillEnd(self._numbers.pop(fill), None if fill.error is None else _said(fill.error)) for fill in ended]


def _said(error: Exception) -> str:
    return error.reason if isinstance(error, FillFailed) else str(error)


def _from_error(lacks: NoSpace | None) -> Lack | None:
    return None if lacks is None else Lack(lacks.needed, lacks.available, isinstance(lacks, NeverFits))


def _to_error(lack: Lack | None) -> NoSpace | None:
    return None if lack is None else (NeverFits if lack.never else NoSpace)(lack.needed, lack.available)
