"""The meetings in progress, and one task for each that is checked.

A poll of the master decides which meetings are checked; a check confirms the stored version or fills the current one.
The decisions are made in `poll_plan`, the states are in `states`; here both are applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from master_shim.protocol import why_no_meeting_id
from store import StoreError

from ..errors import NodeError
from ..events import AutoResetEvent
from ..stats import FillStats
from .checker import Checker, open_fetchers
from .meeting import Meeting
from .poll_plan import CHECKS_AT_ONCE, Check, LastPoll, plan_poll
from .refs import RefWriter
from .states import MeetingEvent, MeetingState, next_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from store import Digest, Store

    from ..fetch.live_fill import LiveFill
    from ..fetch.room import MakeRoom
    from ..fetch.source_factory import Peers
    from ..master.client import Master
    from ..master.responses import MeetingList
    from ..upkeep.folder_watch import FolderWatch
    from ..upkeep.repair import Repairer

_log = structlog.get_logger("trionode.meetings")


class Meetings:
    """The meetings in progress. `beat_due` is set whenever something that a heartbeat reports has changed."""

    def __init__(
        self,
        store: Store,
        master: Master,
        rng: Random,
        make_room: MakeRoom,
        folder: FolderWatch,
        repairer: Repairer,
        beat_due: AutoResetEvent,
        peers: Peers | None = None,
    ) -> None:
        self.fill_stats = FillStats()
        self._store = store
        self._master = master
        self._rng = rng
        self._beat_due = beat_due
        self._meetings: dict[str, Meeting] = {}
        self._refs = RefWriter(store, self._meetings, folder)
        fetchers = open_fetchers(store, master, peers, rng, make_room)
        self._checker = Checker(
            store, master, repairer, self._refs, fetchers, make_room, self.fill_stats, self._apply_event
        )
        self._last_poll: LastPoll | None = None
        self._slots = trio.CapacityLimiter(CHECKS_AT_ONCE)
        self._check_requested = AutoResetEvent()
        folder.subscribe(self._invalidate_switched)
        repairer.subscribe(self._invalidate_version)

    # -- Read access

    @property
    def token(self) -> str | None:
        """The master's token at the last poll; None before the first."""
        return None if self._last_poll is None else self._last_poll.listed.token

    def get(self, meeting_id: str) -> Meeting | None:
        """Return a meeting in progress."""
        return self._meetings.get(meeting_id)

    def in_progress(self) -> list[Meeting]:
        """Return the meetings in progress at the last poll."""
        return list(self._meetings.values())

    def advertised(self) -> dict[str, Digest]:
        """Return the version of every meeting whose complete, verified, current package is here."""
        current = (meeting for meeting in self._meetings.values() if meeting.state is MeetingState.CURRENT)
        refs = ((meeting.id, self._store.ref(meeting.id)) for meeting in current)
        return {meeting_id: ref.digest for meeting_id, ref in refs if ref is not None}

    def fills(self) -> list[LiveFill]:
        """Return the fills in progress."""
        return [meeting.fill for meeting in self._meetings.values() if meeting.fill is not None]

    # -- Polls

    async def apply(self, listed: MeetingList, *, full: bool) -> None:
        """Apply the answer to a poll, and request the checks that it requires."""
        first = self._last_poll is None
        if full:
            self._checker.forget_master()
        plan = plan_poll(self._last_poll, listed, self._refs.tokens(), full=full)
        self._last_poll = plan.poll
        for name in sorted(plan.newly_invalid):
            _log.warning("a meeting of the master is left out", meeting=name[:80], why=why_no_meeting_id(name))
        for meeting_id in plan.ended:
            self._apply_event(self._meetings.pop(meeting_id), MeetingEvent.END)
            _log.info("meeting ended", meeting=meeting_id)
        for meeting_id, title in listed.meetings.items():
            meeting = self._meetings.get(meeting_id)
            if meeting is None:
                self._meetings[meeting_id] = Meeting(meeting_id, title)
                _log.info("meeting in progress", meeting=meeting_id, title=title)
            else:
                meeting.title = title
        # A shim redirects clients to an exact version, so an advertised one stays valid. Invalidating all at a new
        # token would leave the master without nodes just when the tablets download.
        for meeting_id in () if self._master.protocol else plan.invalidated:
            self._apply_event(self._meetings[meeting_id], MeetingEvent.INVALIDATE)
        for meeting_id, check in plan.checks.items():
            self.request_check(self._meetings[meeting_id], check)
        if plan.ended or plan.checks or first:
            self._beat_due.set()
            self._refs.mark_pending()
        await self._refs.write_pending()

    def retry(self, failed_so: Callable[[Meeting], bool]) -> None:
        """Repeat now the checks of the meetings for which `failed_so` is true."""
        for meeting in self._meetings.values():
            if failed_so(meeting):
                meeting.check_due.set()

    # -- Checks and fills

    def request_check(self, meeting: Meeting, check: Check) -> None:
        """Request a check of `meeting`, by its task or by a new one."""
        meeting.pending_check = max(meeting.pending_check or check, check)
        meeting.check_due.set()
        if not meeting.has_task:
            meeting.checking = True
            self._check_requested.set()

    async def run(self) -> None:
        """Start a task for every meeting with a pending check, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for meeting in self._meetings.values():
                    if meeting.pending_check is not None and not meeting.has_task:
                        meeting.has_task = True
                        nursery.start_soon(self._check_until_done, meeting)
                await self._check_requested.wait()

    async def _check_until_done(self, meeting: Meeting) -> None:
        """Check while a check is pending; repeat a failed one with back-off, or at once when requested."""
        check: Check | None = None
        try:
            while not meeting.ended and meeting.pending_check is not None:
                meeting.check_due = AutoResetEvent()
                meeting.checking = True
                async with self._slots:
                    check, meeting.pending_check = meeting.pending_check, None
                    done = await self._check_once(meeting, check)
                if not done:
                    meeting.failures += 1
                    meeting.checking = False
                    with trio.move_on_after(meeting.retry_seconds(self._rng.random())):
                        await meeting.check_due.wait()
                    self.request_check(meeting, check)
                check = None
        finally:
            meeting.has_task = meeting.checking = False
            if check is not None:
                # Interrupted: by the end of the node, or by a crash of this task or another. `run` starts it again.
                meeting.pending_check = max(meeting.pending_check or check, check)
                meeting.state = next_state(meeting.state, MeetingEvent.INVALIDATE)

    async def _check_once(self, meeting: Meeting, check: Check) -> bool:
        """Check the meeting, fill if needed, and change its state. Return whether no further attempt is needed."""
        if meeting.ended:  # while it waited for its turn
            return True
        began = trio.current_time()
        self._apply_event(meeting, MeetingEvent.CHECK)
        try:
            await self._checker.check(meeting, check, self.token or "")
            return True
        except (NodeError, StoreError, OSError) as error:
            # OSError: a disk that fails at one package must not affect the others.
            meeting.record_failure(error, trio.current_time())
        except Exception as error:  # noqa: BLE001 - a bug in the check of one meeting must not fail the node
            _log.exception("the check of a meeting crashed", meeting=meeting.id)
            meeting.record_failure(error, trio.current_time())
        finally:
            meeting.check_began_at, meeting.check_ended_at = began, trio.current_time()
        self._apply_event(meeting, MeetingEvent.FAIL)
        return meeting.ended

    # -- Invalidation

    def invalidate(self, meeting: Meeting, check: Check = Check.ROUTINE) -> None:
        """Stop advertising a meeting whose version is missing or was not confirmed, and request a check."""
        self._apply_event(meeting, MeetingEvent.INVALIDATE)
        self.request_check(meeting, check)

    def _invalidate_version(self, digest: Digest) -> None:
        """Invalidate every meeting whose current version is missing or damaged."""
        for meeting in self._meetings.values():
            ref = self._store.ref(meeting.id)
            if meeting.state is MeetingState.CURRENT and (ref is None or ref.digest == digest):
                self.invalidate(meeting)

    def _invalidate_switched(self) -> None:
        """Invalidate every meeting that another process has switched to a version that was not confirmed."""
        for meeting in self._meetings.values():
            ref = self._store.ref(meeting.id)
            if meeting.state is MeetingState.CURRENT and (ref is None or ref.digest != meeting.confirmed):
                self.invalidate(meeting, Check.CERTAIN)

    def _apply_event(self, meeting: Meeting, event: MeetingEvent) -> None:
        before = meeting.state
        meeting.state = next_state(before, event)
        meeting.changed.notify()
        if meeting.state is not before:
            _log.info("meeting state changed", meeting=meeting.id, before=before.value, now=meeting.state.value)
            self._beat_due.set()
