"""The task that keeps the storage within its limits; what goes is decided by the store's plan."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
import trio

from store import NoSpace
from store.space import plan_eviction

if TYPE_CHECKING:
    from store import Store

EVICTION_SECONDS = 60.0
"""Between two looks at the storage. Versions a meeting has left stay 10 minutes, so nothing is urgent here."""

_log = structlog.get_logger("trionode.eviction")


class Evictor:
    """Removes versions by plan, one plan at a time. `keep_free` (`min_free_bytes`) stays free on the disk."""

    def __init__(self, store: Store, keep_free: int = 0) -> None:
        self.evicted = 0
        self._store = store
        self._keep_free = keep_free
        self._lock = trio.Lock()

    async def make_room(self, needed: int) -> bool:
        """Evict what lets `needed` more bytes in; tell whether there is now room. Evicts nothing if there cannot be."""
        async with self._lock:
            try:
                await self._evict(needed)
            except NoSpace as full:
                _log.warning("no room can be made", needed=full.needed, available=full.available)
                return False
            return True

    async def run(self) -> None:
        """Evict what is due until cancelled."""
        while True:
            await self.make_room(0)
            await trio.sleep(EVICTION_SECONDS)

    async def _evict(self, needed: int) -> None:
        usage = await trio.to_thread.run_sync(self._store.usage)
        plan = plan_eviction(
            self._store.versions(), self._store.refs(), usage, needed, time.time(), keep_free=self._keep_free
        )
        for digest in plan:
            await trio.to_thread.run_sync(self._store.remove, digest)
            self.evicted += 1
            _log.info("version evicted", version=digest)
