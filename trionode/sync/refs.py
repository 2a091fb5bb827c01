"""What is written into the refs: which version a meeting has, and whether it is in progress."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
import trio

from store import Ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from store import Digest, Store

    from .meeting import Meeting

_log = structlog.get_logger("trionode.sync")


class RefKeeper:
    """Writes the refs of `meetings`, those in progress by id. `notice` takes over what others did in the folder."""

    def __init__(self, store: Store, meetings: Mapping[str, Meeting], notice: Callable[[], Awaitable[None]]) -> None:
        self.owed = False
        """Whether it is still to be written which meetings are in progress."""
        self._store = store
        self._meetings = meetings
        self._notice = notice
        self._error = ""
        # Held while refs are listed, and while one is written in a thread: none that is being made is overlooked.
        self._lock = trio.Lock()

    async def keep(self) -> None:
        """Write which meetings have ended, if that is owed: their versions may go after a grace time.

        What cannot be written now stays owed, and is written after a later look: a disk that takes no more still
        serves.
        """
        if not self.owed:
            return
        self.owed = False
        try:
            await self._notice()
            async with self._lock:
                refs = self._store.refs()
            for ref in refs:
                if ref.in_progress != (ref.meeting_id in self._meetings):
                    async with self._lock:
                        await trio.to_thread.run_sync(self._store.change_ref, ref.meeting_id, self._marked)
        except Exception as error:  # noqa: BLE001 - what only tidies up must not take the node down
            self.owed = True
            if str(error) != self._error:
                _log.exception("the refs cannot be brought up to date now")
            self._error = str(error)
        else:
            self._error = ""

    def _marked(self, ref: Ref | None) -> Ref | None:
        return None if ref is None else self._mark(ref)

    def _mark(self, ref: Ref) -> Ref:
        in_progress = ref.meeting_id in self._meetings
        if ref.in_progress == in_progress:
            return ref
        return replace(ref, in_progress=in_progress, ended_at=0.0 if in_progress else time.time())

    async def switch(self, meeting: Meeting, digest: Digest) -> bool:
        """Switch a meeting to a version that is here; tell whether that was done.

        Not for one that has ended and started again: what is current now is for its successor to find.
        """
        done = False

        def switched(before: Ref | None) -> Ref | None:
            nonlocal done
            if self._meetings.get(meeting.id, meeting) is not meeting:
                return None
            done = True
            now = replace(before or Ref(meeting.id, digest), digest=digest, title=meeting.title)
            if before is None or now.digest != before.digest or not now.switched_at:
                now = replace(now, switched_at=time.time())
            return self._mark(now)

        await self._notice()
        async with self._lock:
            await trio.to_thread.run_sync(self._store.change_ref, meeting.id, switched)
        return done
