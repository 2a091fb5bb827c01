"""Room in the storage: made for what comes, kept within the limits; what goes is decided by the store's plan."""

from __future__ import annotations

import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio

from store import NeverFits, NoSpace, StoreError
from store.space import plan_eviction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from store import Store

EVICTION_SECONDS = 60.0
"""Between two looks at the storage. Versions a meeting has left stay 10 minutes, so nothing is urgent here."""

HIGH_WATER = 0.95
"""Part of `max_bytes` above which versions go before their space is asked for (down to the store's low-water mark):
a package that comes when a meeting starts then finds its room, and does not wait for a hundred unlinks."""

FORCE_SECONDS = 60.0
"""When a disk says that it is full although its file system counts free bytes (a quota, a fault), something is evicted
all the same, but no more often than this: a disk that is broken must not empty the whole storage."""

_log = structlog.get_logger("trionode.eviction")


async def _nothing() -> None:
    return


class Evictor:
    """Removes versions by plan, one plan at a time. `keep_free` (`min_free_bytes`) stays free on the disk.

    `notice` takes over what other processes did in the folder: a pin set a moment ago must hold.
    """

    def __init__(self, store: Store, keep_free: int = 0, notice: Callable[[], Awaitable[object]] = _nothing) -> None:
        self.evicted = 0
        self._store = store
        self.keep_free = keep_free
        self._notice = notice
        self._lock = trio.Lock()
        self._forced_at = -inf

    async def make_room(self, needed: int, *, full_disk: bool = False) -> None:
        """Evict what lets `needed` more bytes in; nothing when they fit already.

        With `full_disk`, the disk itself has refused them, whatever it says it has free. Raises `NeverFits` when
        there never can be room, `NoSpace` when there is none now; nothing is then evicted.
        """
        async with self._lock:
            await self._notice()
            usage = await trio.to_thread.run_sync(self._store.usage)
            if full_disk and usage.free - self.keep_free >= needed:
                if trio.current_time() - self._forced_at < FORCE_SECONDS:
                    raise NoSpace(needed, 0)
                self._forced_at = trio.current_time()
                usage = replace(usage, free=self.keep_free)
            plan = plan_eviction(
                self._store.versions(), self._store.refs(), usage, needed, time.time(), keep_free=self.keep_free
            )
            for digest in plan:
                await trio.to_thread.run_sync(self._store.remove, digest)
                self.evicted += 1
                _log.info("version evicted", version=digest, for_bytes=needed)

    async def run(self) -> None:
        """Keep the storage under its marks until cancelled."""
        while True:
            await self.keep_low()
            await trio.sleep(EVICTION_SECONDS)

    async def keep_low(self) -> None:
        """Evict what must go for `min_free_bytes`, or because the high-water mark is passed."""
        try:
            limit = (await trio.to_thread.run_sync(self._store.usage)).limit
            await self.make_room(limit - int(limit * HIGH_WATER))
        except NeverFits as full:
            _log.warning("the limits cannot be kept", needed=full.needed, available=full.available)
        except NoSpace as full:
            # What is left is wanted: meetings in progress, pins, grace times. Only a package that comes can be refused.
            _log.debug("above the high-water mark", needed=full.needed, available=full.available)
        except (StoreError, OSError) as error:
            # A disk that fails must not end what is served from memory, or from another part of it.
            _log.error("nothing can be evicted now", why=str(error))
