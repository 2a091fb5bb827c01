"""Writes the refs on disk: which version a meeting has, and whether it is in progress."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
import trio

from store import Ref, StoreError, VersionMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store import Digest, Store

    from ..upkeep.folder_watch import FolderWatch
    from .meeting import Meeting

_log = structlog.get_logger("trionode.meetings")


class RefWriter:
    """Writes the refs of `meetings`, those in progress by id. `folder` is brought up to date before all are listed."""

    def __init__(self, store: Store, meetings: Mapping[str, Meeting], folder: FolderWatch) -> None:
        self._store = store
        self._meetings = meetings
        self._folder = folder
        self._pending = False
        self._last_error = ""
        # Held while refs are listed and while one is written in a thread, so that no new one is missed.
        self._lock = trio.Lock()

    def mark_pending(self) -> None:
        """Record that the set of meetings in progress has changed and must be written."""
        self._pending = True

    async def write_pending(self) -> None:
        """Write which meetings are in progress, if that is pending: versions of ended ones may then be evicted.

        After an error it stays pending until the next poll: a node whose disk refuses writes still serves.
        """
        if not self._pending:
            return
        self._pending = False
        try:
            await self._folder.refresh()
            async with self._lock:
                refs = self._store.refs()
            for ref in refs:
                if ref.in_progress != (ref.meeting_id in self._meetings):
                    async with self._lock:
                        await trio.to_thread.run_sync(self._store.change_ref, ref.meeting_id, self._update)
        except Exception as error:  # noqa: BLE001 - a failure to tidy up must not fail the node
            self._pending = True
            if str(error) != self._last_error:
                bug = None if isinstance(error, (OSError, StoreError)) else error
                _log.error("the refs cannot be updated now", why=str(error), exc_info=bug)
            self._last_error = str(error)
        except BaseException:
            self._pending = True  # cancelled: the request that polled was
            raise
        else:
            self._last_error = ""

    def _update(self, ref: Ref | None) -> Ref | None:
        return None if ref is None else self._with_progress(ref)

    def _with_progress(self, ref: Ref) -> Ref:
        in_progress = ref.meeting_id in self._meetings
        if ref.in_progress == in_progress:
            return ref
        return replace(ref, in_progress=in_progress, ended_at=0.0 if in_progress else time.time())

    def tokens(self) -> dict[str, str]:
        """Return the token under which the version of each meeting was last found to be current."""
        return {ref.meeting_id: ref.token for ref in self._store.refs() if ref.in_progress}

    async def switch(self, meeting: Meeting, digest: Digest, token: str) -> bool:
        """Switch a meeting to a stored version that is current under `token`. Return whether that was done.

        Not done for a meeting that has ended and started again: the new `Meeting` has its own check.
        """
        done = False
        left: Digest | None = None

        def switched(before: Ref | None) -> Ref | None:
            nonlocal done, left
            if self._meetings.get(meeting.id, meeting) is not meeting:
                return None
            done = True
            now = replace(before or Ref(meeting.id, digest), digest=digest, title=meeting.title, token=token)
            if before is None or now.digest != before.digest or not now.switched_at:
                now = replace(now, switched_at=time.time())
            left = None if before is None or now.digest == before.digest else before.digest
            return self._with_progress(now)

        def switch() -> None:
            self._store.change_ref(meeting.id, switched)
            if left is not None:
                # Count it as used until now: clients have been sent to it, and it is evicted after others.
                with suppress(VersionMissing):
                    self._store.lease(left).close()

        async with self._lock:
            await trio.to_thread.run_sync(switch)
        return done
