"""Eviction, for a new package and for the limits of the storage. The store's `plan_eviction` selects the versions."""

from __future__ import annotations

import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio

from store import NoSpace, StoreError, plan_eviction

if TYPE_CHECKING:
    from store import Store

    from ..settings import Settings
    from .folder_watch import FolderWatch

CHECK_SECONDS = 60.0
"""Interval between two checks of the limits. It only saves time: a new package makes its own room."""

HIGH_WATER = 0.95
"""Part of `max_bytes` above which versions are evicted in advance, down to the store's low-water mark, so that the
package of a meeting that starts does not wait for a hundred unlinks."""

FORCE_SECONDS = 60.0
"""When the disk reports that it is full although the file system counts free bytes (a quota, a fault), versions are
evicted anyway, but at most once in this time: a broken disk must not empty the whole storage."""

_log = structlog.get_logger("trionode.eviction")


class Evictor:
    """Evicts versions, one plan at a time. `folder` is refreshed before each plan, so that it respects new pins."""

    def __init__(self, store: Store, folder: FolderWatch) -> None:
        self.evicted = 0
        """Versions evicted since the start."""
        self._store = store
        self._folder = folder
        self._keep_free = 0
        self._lock = trio.Lock()
        self._forced_at = -inf

    def configure(self, settings: Settings) -> None:
        """Apply `min_free_bytes`."""
        self._keep_free = settings.min_free_bytes

    async def make_room(self, needed: int, *, spare: int = 0, full_disk: bool = False) -> None:
        """Evict until `needed` more bytes fit, and `spare` more as far as old versions are left; see `plan_eviction`.

        With `full_disk` the disk has refused them, whatever it reports as free. Raises `NeverFits` if there can never
        be room, `NoSpace` if there is none now; nothing is evicted then.
        """
        async with self._lock:
            await self._folder.refresh()
            usage = await trio.to_thread.run_sync(self._store.usage)
            if full_disk and usage.free - self._keep_free >= needed:
                if trio.current_time() - self._forced_at < FORCE_SECONDS:
                    raise NoSpace(needed, 0)
                self._forced_at = trio.current_time()
                usage = replace(usage, free=self._keep_free)
            versions, refs, now = self._store.versions(), self._store.refs(), time.time()
            plan = plan_eviction(versions, refs, usage, needed, now, spare=spare, keep_free=self._keep_free)
            for digest in plan:
                await trio.to_thread.run_sync(self._store.remove, digest)
                self.evicted += 1
                _log.info("version evicted", version=digest, for_bytes=needed)

    async def run(self) -> None:
        """Keep the storage within its limits until cancelled."""
        while True:
            await self.enforce_limits()
            await trio.sleep(CHECK_SECONDS)

    async def enforce_limits(self) -> None:
        """Evict what exceeds the limits, and old versions above the high-water mark."""
        try:
            usage = await trio.to_thread.run_sync(self._store.usage)
            try:
                await self.make_room(0, spare=usage.limit - int(usage.limit * HIGH_WATER))
            except NoSpace:
                # What is left is in progress, pinned, or being sent.
                _log.warning(
                    "the storage limits cannot be kept",
                    stored=usage.stored + usage.filling,
                    max_bytes=usage.limit,
                    free=usage.free,
                    min_free_bytes=self._keep_free,
                )
        except (StoreError, OSError) as error:
            # Despite a failing disk, packages are served from memory or from another part of it.
            _log.error("eviction failed", why=str(error))
