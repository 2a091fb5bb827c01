"""Every meeting this node knows, and the one task that works on each.

The looks at the master say what to check; a check confirms what is stored or fills what is not; requests join
what is going on. States and plans are decided in `plan`; here they are carried out.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio

from store import NeverFits, StoreError

from ..errors import FillFailed, NodeError, OriginError
from ..signals import Request
from .active import ActiveFill
from .fetch import begins_alike, fill_from_manifest, fill_from_stream
from .healing import Healer
from .meeting import Meeting, note_failure
from .members import count_members
from .plan import Check, Event, Look, Seen, State, move, plan_look, retry_seconds
from .refs import RefKeeper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from store import Digest, Manifest, Store

    from .fetch import MakeRoom
    from .sources import Master

NEVER_FITS_SECONDS = 600.0
"""Between two tries of a package that never fits, unless it is asked for: only an administrator can change that."""

__all__ = ["Meeting", "Meetings"]

_log = structlog.get_logger("trionode.sync")


async def _nothing() -> None:
    return


class Meetings:
    """The meetings of one node. Its tasks run in `nursery`, which the node owns and sets before anything is asked.

    `notice` takes over what other processes did to the refs, so that a switch does not undo a pin.
    """

    def __init__(
        self,
        store: Store,
        master: Master,
        chance: Random,
        make_room: MakeRoom,
        notice: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self.store = store
        self.nursery: trio.Nursery
        self.changed = Request()
        """Asks for a heartbeat: what one says has changed."""
        self.reached = Request()
        """Asks for a heartbeat, if the last one was not answered: a look was."""
        self.token: str | None = None
        self.last_look = 0.0
        """When the master last answered a look, in Unix seconds."""
        self.look_error = ""
        self.fills_done = 0
        self.fills_failed = 0
        self._master = master
        self._chance = chance
        self._make_room = make_room
        self._notice = notice
        self.healer = Healer(store, master, self.withdraw)
        self._meetings: dict[str, Meeting] = {}
        self._refs = RefKeeper(store, self._meetings, notice)
        self._seen: Seen | None = None
        self._looked_at = -inf
        self._look_failure: NodeError | None = None
        self._look_lock = trio.Lock()

    # -- What others read

    def in_progress(self) -> list[Meeting]:
        """Return the meetings the master last said are in progress."""
        return list(self._meetings.values())

    def promised(self) -> dict[str, Digest]:
        """Return the version of every meeting whose complete, verified, current package is here."""
        current = (meeting for meeting in self._meetings.values() if meeting.state is State.CURRENT)
        refs = ((meeting.id, self.store.ref(meeting.id)) for meeting in current)
        return {meeting_id: ref.digest for meeting_id, ref in refs if ref is not None}

    def filling(self) -> list[ActiveFill]:
        """Return the fills that are going on."""
        return [meeting.fill for meeting in self._meetings.values() if meeting.fill is not None]

    # -- Looks

    async def look(self, *, full: bool = False, younger_than: float = 0.0) -> None:
        """Ask the master what is in progress, and start what follows from it.

        A look that ended less than `younger_than` seconds ago is good enough, however it ended: else all who wait for
        one at a master that does not answer would wait for its silence one after the other. Raises `OriginUnreachable`
        or `OriginError`.
        """
        async with self._look_lock:
            if younger_than and trio.current_time() - self._looked_at < younger_than:
                if self._look_failure is not None:
                    raise self._look_failure.with_traceback(None)
                return
            try:
                now = await self._master.look()
            except NodeError as error:
                self.look_error = str(error)
                self._looked_at, self._look_failure = trio.current_time(), error
                raise
            self.reached.ask()
            if self.look_error:
                self._wake_unreachable()
            self.look_error = ""
            self._look_failure = None
            self.last_look = time.time()
            self._looked_at = trio.current_time()
            await self._apply(now, full=full)

    def _wake_unreachable(self) -> None:
        """Try again now what failed because the master was away."""
        for meeting in self._meetings.values():
            if meeting.unreachable:
                meeting.asked.ask()

    async def _apply(self, now: Look, *, full: bool) -> None:
        first = self._seen is None
        plan = plan_look(self._seen, now, full=full)
        self._seen = plan.seen
        self.token = now.token
        for meeting_id in plan.ended:
            self._move(self._meetings.pop(meeting_id), Event.END)
            _log.info("meeting ended", meeting=meeting_id)
        for meeting_id, title in now.meetings.items():
            meeting = self._meetings.get(meeting_id)
            if meeting is None:
                self._meetings[meeting_id] = Meeting(meeting_id, title)
                _log.info("meeting in progress", meeting=meeting_id, title=title)
            else:
                meeting.title = title
        # A shim sends clients here for an exact version: what is promised stays true whatever else is current, and
        # taking all promises back at a new token would leave the master alone just when its tablets come.
        for meeting_id in () if self._master.protocol else plan.doubted:
            self._move(self._meetings[meeting_id], Event.DOUBT)
        for meeting_id, check in plan.checks.items():
            self.want(self._meetings[meeting_id], check)
        if plan.ended or plan.checks or first:
            self.changed.ask()
            self._refs.owed = True
        await self._refs.keep()

    # -- Checks and fills

    def want(self, meeting: Meeting, check: Check) -> None:
        """Have `meeting` checked, by the task that works on it already or by a new one."""
        meeting.wanted = max(meeting.wanted or check, check)
        meeting.asked.ask()
        if not meeting.tended:
            meeting.tended = meeting.working = True
            self.nursery.start_soon(self._work, meeting)

    async def _work(self, meeting: Meeting) -> None:
        """Check until nothing is wanted; what failed is tried again, later and later, unless it is asked for sooner."""
        try:
            while meeting.state is not State.ENDED and meeting.wanted is not None:
                check, meeting.wanted = meeting.wanted, None
                meeting.asked = Request()
                meeting.working = True
                if not await self._check_once(meeting, check):
                    meeting.failures += 1
                    meeting.working = False
                    with trio.move_on_after(self._pause(meeting)):
                        await meeting.asked.taken()
                    self.want(meeting, check)
        finally:
            meeting.tended = meeting.working = False

    def _pause(self, meeting: Meeting) -> float:
        """Return how long to wait before a failed meeting is tried again."""
        if isinstance(meeting.lacks, NeverFits):
            return NEVER_FITS_SECONDS
        return retry_seconds(meeting.failures, self._chance.random(), unbuilt=meeting.unbuilt)

    async def _check_once(self, meeting: Meeting, check: Check) -> bool:
        """Check, fill if need be, and move the meeting's state; tell whether that was the last try."""
        began = trio.current_time()
        self._move(meeting, Event.CHECK)
        try:
            await self._check(meeting, check)
            return True
        except (NodeError, StoreError, OSError) as error:
            # OSError: a disk that fails at one package must not take the others down.
            note_failure(meeting, error)
        except Exception as error:  # noqa: BLE001 - one meeting's fault must not take the node down
            # A fault of the program, and for all that is known of this meeting alone: the others are served on.
            _log.exception("a meeting's check has crashed", meeting=meeting.id)
            note_failure(meeting, error)
        finally:
            meeting.checked_from, meeting.checked_at = began, trio.current_time()
        self._move(meeting, Event.FAIL)
        return meeting.state is State.ENDED

    async def _check(self, meeting: Meeting, check: Check) -> None:
        known = await self._trusted_version(meeting.id)
        try:
            manifest = await self._master.manifest(meeting.id, known)
        except OriginError as error:
            if self._master.protocol or error.status not in {404, 405}:
                raise
            await self._check_legacy(meeting, check, known)
            return
        if manifest is not None and not await self.is_whole(manifest.digest):
            await self._fill(meeting, manifest)
        current = manifest.digest if manifest is not None else known
        assert current is not None, "only a request that names a version can be answered 304"
        await self._confirm(meeting, current)

    async def _check_legacy(self, meeting: Meeting, check: Check, known: Digest | None) -> None:
        if known is not None and check is Check.ROUTINE:
            with self.store.lease(known) as stored:
                if await begins_alike(self._master, meeting.id, stored):
                    await self._confirm(meeting, known)
                    return
        token = self.token
        if meeting.outgrew is not None and meeting.outgrew[0] == token:
            # Nothing says that it was built anew, so it would be streamed to where it did not fit the last time.
            await self._make_room(meeting.outgrew[1])
        try:
            manifest = await self._fill(meeting, None)
        except NeverFits as error:
            meeting.outgrew = (token, error.needed)
            raise
        meeting.outgrew = None
        await self._confirm(meeting, manifest.digest)

    async def _fill(self, meeting: Meeting, manifest: Manifest | None) -> Manifest:
        """Run one fill. The requests that follow it are told how it ends, whatever happens."""
        if manifest is None:
            active = ActiveFill(meeting.id)
        else:
            active = ActiveFill(meeting.id, manifest.digest, manifest.size)
        meeting.fill = active
        self._move(meeting, Event.FILL)
        error: Exception | None = FillFailed("the node is stopping")
        try:
            if manifest is None:
                manifest = await fill_from_stream(self.store, self._master, active, self._make_room)
            else:
                await fill_from_manifest(self.store, self._master, manifest, active, self._chance, self._make_room)
            error = None
            self.fills_done += 1
        except Exception as reason:
            error = reason
            self.fills_failed += 1
            raise
        finally:
            meeting.fill = None
            active.finish(error)
        return manifest

    async def _confirm(self, meeting: Meeting, digest: Digest) -> None:
        """Switch the meeting to `digest`, and only then promise it; a doubt that came meanwhile is checked again."""
        if not await self.is_whole(digest):
            raise FillFailed("what is stored is damaged, and cannot be repaired now")
        if not await self._refs.switch(meeting, digest):
            return
        with self.store.lease(digest) as lease:
            meeting.file_count = await trio.to_thread.run_sync(count_members, lease)
        meeting.reason = ""
        meeting.lacks = None
        meeting.confirmed = digest
        meeting.unreachable = False
        meeting.failures = 0
        self._move(meeting, Event.CONFIRM)

    async def _trusted_version(self, meeting_id: str) -> Digest | None:
        ref = self.store.ref(meeting_id)
        return ref.digest if ref is not None and await self.is_whole(ref.digest) else None

    async def is_whole(self, digest: Digest) -> bool:
        """Tell whether a version is here and its bytes are right, verifying and repairing them if need be."""
        return await self.healer.ensure(digest)

    # -- Moves

    def withdraw(self, digest: Digest) -> None:
        """Take back at once every promise of a version that is not whole, and have those meetings checked."""
        for meeting in self._meetings.values():
            ref = self.store.ref(meeting.id)
            if meeting.state is State.CURRENT and (ref is None or ref.digest == digest):
                self.doubt(meeting)

    def storage_changed(self) -> None:
        """Check for certain every promise whose version is not the one that was confirmed: somebody switched it."""
        for meeting in self._meetings.values():
            ref = self.store.ref(meeting.id)
            if meeting.state is State.CURRENT and (ref is None or ref.digest != meeting.confirmed):
                self._move(meeting, Event.DOUBT)
                self.want(meeting, Check.CERTAIN)

    def doubt(self, meeting: Meeting) -> None:
        """Take the promise of a meeting back, and have it checked: what was promised is not here after all."""
        self._move(meeting, Event.DOUBT)
        self.want(meeting, Check.ROUTINE)

    def get(self, meeting_id: str) -> Meeting | None:
        """Return a meeting in progress."""
        return self._meetings.get(meeting_id)

    def _move(self, meeting: Meeting, event: Event) -> None:
        before = meeting.state
        meeting.state = move(before, event)
        meeting.moved.give()
        if meeting.state is not before:
            _log.info("meeting moved", meeting=meeting.id, before=before.value, now=meeting.state.value)
            self.changed.ask()
