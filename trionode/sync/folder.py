"""What other processes did in the storage folder: commands, workers, and administrators with their own hands.

The folder is the truth and needs no messages: once a second its two times of modification are looked at, and when one
has moved, its names are compared with what the store knows. Only a difference has the store look at everything.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
import trio

from store.layout import Layout, parse_name
from store.refs import decode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from store import DiskStore

LOOK_SECONDS = 1.0
"""A command's work is seen by the node before its user has typed the next one. Two `stat` calls."""

TICK_NS = 20_000_000
"""Twice the longest tick of a Linux clock that file times are taken from (100 Hz)."""

_log = structlog.get_logger("trionode.folder")


class Folder:
    """Watches the folder of one store; `changed` is called after the store has taken over a change."""

    def __init__(self, store: DiskStore, path: Path, changed: Callable[[], None]) -> None:
        self._store = store
        self._layout = Layout(path)
        self._changed = changed
        self._lock = trio.Lock()
        self._seen: tuple[int, int] | None = None

    async def run(self) -> None:
        """Notice changes until cancelled."""
        while True:
            try:
                await self.notice()
            except OSError as error:
                # What is open is served all the same; whoever needs the folder hears of it by his own error.
                _log.warning("the storage folder cannot be looked at", why=str(error))
            await trio.sleep(LOOK_SECONDS)

    async def notice(self) -> None:
        """Take over what has changed in the folder. When this returns, the store knows what was so when it began."""
        async with self._lock:
            if self._times() != self._seen and await trio.to_thread.run_sync(self._take_over):
                _log.info("the storage was changed by another process")
                self._changed()

    def _times(self) -> tuple[int, int]:
        return (self._layout.packages.stat().st_mtime_ns, self._layout.meetings.stat().st_mtime_ns)

    def _take_over(self) -> bool:
        # Before the names are read: what changes while they are is looked at next time.
        seen = self._times()
        # Two changes within one tick of the kernel's clock have the same time: what is so young is looked at again.
        settled = not 0 <= time.time_ns() - max(seen) < TICK_NS
        different = self._differs()
        if different:
            self._store.refresh()
        self._seen = seen if settled else None
        return different

    def _differs(self) -> bool:
        """Tell whether the names in the folder, and what the refs say, are other than what the store knows."""
        names = (parse_name(path.name) for path in self._layout.packages.iterdir())
        packages = {name[0] for name in names if name is not None and name[1] == "zip"}
        if packages != {version.digest for version in self._store.versions()}:
            return True
        found = set()
        for path in self._layout.meetings.iterdir():
            if path.suffix != ".json":
                continue
            try:
                found.add(decode(path.read_bytes()))
            except (FileNotFoundError, ValueError):
                return True
        return found != set(self._store.refs())
