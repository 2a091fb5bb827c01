"""Changes that other processes make in the storage folder: commands, and administrators by hand.

Once a second the two modification times of the folder are compared; only if one has changed are its names compared with
those in the store.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from store import Store

CHECK_SECONDS = 1.0
"""Interval between two checks, of two `stat` calls each: shorter than the time to type another command."""

WARN_SECONDS = 60.0
"""Interval of the warnings while the folder cannot be read."""

TICK_NS = 20_000_000
"""Twice the longest tick of the kernel's clock for file times (100 Hz)."""

_log = structlog.get_logger("trionode.folder")


class FolderWatch:
    """Refreshes the store from its folder, and then calls the subscribers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscribers: list[Callable[[], None]] = []
        self._lock = trio.Lock()
        self._seen: tuple[int, int] | None = None
        self._warned_at = -inf

    def subscribe(self, subscriber: Callable[[], None]) -> None:
        """Call `subscriber` after every refresh of the store."""
        self._subscribers.append(subscriber)

    async def run(self) -> None:
        """Check the folder until cancelled."""
        while True:
            try:
                await self.refresh()
            except OSError as error:
                self._warn(error)
            else:
                if self._warned_at > -inf:
                    _log.warning("the storage folder can be read again")
                self._warned_at = -inf
            await trio.sleep(CHECK_SECONDS)

    def _warn(self, error: OSError) -> None:
        # Open packages are still served; callers of `refresh` get their own error.
        if trio.current_time() - self._warned_at >= WARN_SECONDS:
            self._warned_at = trio.current_time()
            _log.warning("the storage folder cannot be read: put it back, or start the node again", why=str(error))

    async def refresh(self) -> None:
        """Refresh the store if the folder has changed. On return it reflects all changes made before the call."""
        async with self._lock:
            if self._store.folder_mtimes() != self._seen and await trio.to_thread.run_sync(self._take_over):
                _log.info("the storage was changed by another process")
                for subscriber in self._subscribers:
                    subscriber()

    def _take_over(self) -> bool:
        # Read before the names, so that a change in between is seen at the next check.
        seen = self._store.folder_mtimes()
        # Two changes within one tick of the kernel's clock have the same time: a recent one is checked again.
        settled = not 0 <= time.time_ns() - max(seen) < TICK_NS
        differs = self._store.differs_from_disk()
        if differs:
            self._store.refresh()
        self._seen = seen if settled else None
        return differs
