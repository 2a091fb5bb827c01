"""One node: what it is made of, the order in which it starts, the root nursery, supervision, and its end.

Only `Node.run` opens the root nursery; every background task of the node lives in it and nowhere else.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from random import Random
from typing import TYPE_CHECKING

import structlog
import trio

from store import DiskStore
from store.node_files import StorageLock, node_id

from .config import LIVE
from .delivery.admission import Downloads
from .delivery.digests import ReprDigests
from .delivery.limits import Limits
from .errors import NodeError, NodeStopped
from .logs import set_level
from .signals import Request
from .sync.eviction import Evictor
from .sync.folder import Folder
from .sync.heartbeat import Pulse, beat_forever
from .sync.meetings import Meetings
from .sync.scrub import CheckTimes, Scrubber
from .sync.sources import Master
from .sync.watch import watch_master

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .config import Settings

RESTART_SECONDS = 1.0
"""Between a crash of a task and its next start."""

MAX_CRASHES = 5
CRASH_WINDOW_SECONDS = 60.0
"""A task that crashes this often within this time will crash again: the node fails, in sight of everybody."""

LAST_BEAT_SECONDS = 0.5
"""What the last heartbeat may take, which says that this node drains. That it leaves is told all the same."""

LEAVE_SECONDS = 2.0
"""What telling the master that this node leaves may take; after that the master drops it by itself in 30 s."""

STOP_SECONDS = 4.0
"""What the end of all tasks may take, leaving included. Quart allows 5."""

_log = structlog.get_logger("trionode.node")


class Node:
    """A node and its state. Made without touching anything; `run` opens the storage and does the work."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        rates = Limits(settings.client_bytes_per_second, settings.total_bytes_per_second)
        self.downloads = Downloads(settings.max_downloads, rates)
        self.repr_digests = ReprDigests()
        self.started_at = time.time()
        self.node_id = settings.node_id
        self.leader = False
        """Whether this process runs the background tasks; other workers on the same storage only serve."""
        self.failure: BaseException | None = None
        self.failed = trio.Event()
        self.draining = False
        """Whether this node takes no new assignments, and is about to end."""
        self.observers: list[Callable[[Settings], None]] = []
        """Called with the new settings after a reload."""
        self.store: DiskStore
        self.master: Master
        self.meetings: Meetings
        self.pulse: Pulse
        self.evictor: Evictor
        self.folder: Folder
        self.scrubber: Scrubber
        self._chance = Random()  # noqa: S311 - spreads nodes apart, guards nothing
        self._look_now = Request()
        self._root: trio.Nursery | None = None
        self._ended = trio.Event()
        self._left = False
        self._beating = trio.CancelScope()

    @property
    def serving(self) -> bool:
        """Whether packages are served: started, not failed, not stopping."""
        return self._root is not None and self.failure is None

    def require_serving(self) -> None:
        """Raise `NodeStopped` unless packages are served."""
        if self.failure is not None:
            raise NodeStopped(f"it has failed: {self.failure!r}")
        if self._root is None:
            raise NodeStopped("it is starting or stopping")

    def require_ready(self) -> None:
        """Raise `NodeStopped` unless clients should be sent here: serving, and not about to end."""
        self.require_serving()
        if self.draining:
            raise NodeStopped("it is draining")

    async def drain(self) -> None:
        """Take no new assignments from now on. Returns when the master has been told, `LEAVE_SECONDS` at most.

        Who comes all the same is served: a client that was sent here a moment ago is still on its way.
        """
        if not self.draining:
            self.draining = True
            _log.info("draining", downloads=self.downloads.active)
        await self.leave()

    def reload(self, now: Settings) -> tuple[list[str], list[str]]:
        """Take over what can change while the node runs; return the names of what did, and of what needs a restart.

        The running settings keep the old values of the latter.
        """
        before = self.settings
        names = [field.name for field in fields(now) if getattr(now, field.name) != getattr(before, field.name)]
        changed = [name for name in names if name in LIVE]
        self.settings = replace(before, **{name: getattr(now, name) for name in changed})
        self.downloads.set_limit(now.max_downloads)
        self.downloads.limits.change(now.client_bytes_per_second, now.total_bytes_per_second)
        set_level(now.log_level)
        if self._root is not None:
            self.store.set_limits(max_bytes=now.max_bytes, min_free_bytes=now.min_free_bytes)
            self.evictor.keep_free = now.min_free_bytes
        for observer in self.observers:
            observer(self.settings)
        for name in names:
            _log.info(
                "setting changed" if name in LIVE else "setting differs, and needs a restart",
                setting=name,
                before=getattr(before, name),
                now=getattr(now, name),
            )
        if not names:
            _log.info("the settings are as they were")
        return changed, [name for name in names if name not in LIVE]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the storage, say started, and work until `stop`.

        Raises before it has started (`StorageTaken`, `UnknownFormat`, `OSError`); afterwards a fault of the program
        ends up in `failure` and sets `failed`: whoever started the node would be brought down by an exception here,
        and HTTP must go on to say that the node is not ready.
        """
        try:
            async with self._opened():
                try:
                    async with trio.open_nursery() as root:
                        self._root = self.meetings.nursery = root
                        self._start_tasks(root)
                        task_status.started()
                except Exception as error:  # noqa: BLE001 - the last resort of the whole node
                    _log.exception("the node has failed")
                    self.failure = error
                    self.failed.set()
                finally:
                    self._root = None
                    await self.leave()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End all tasks and wait for it, `STOP_SECONDS` at most. A node that is not running is no error."""
        if self._root is not None:
            self._root.cancel_scope.cancel()
            with trio.move_on_after(STOP_SECONDS):
                await self._ended.wait()

    async def leave(self) -> None:
        """Take this node off the master's list, once. Bounded by `LEAVE_SECONDS`, also when cancelled."""
        if self._left or not self.leader:
            return
        self._left = True
        # One more beat would put this node back on the list.
        self._beating.cancel()
        with trio.move_on_after(LEAVE_SECONDS, shield=True):
            try:
                self.pulse.draining = True
                with trio.move_on_after(LAST_BEAT_SECONDS):
                    await self.master.heartbeat(self.pulse.next_beat())
            except NodeError as error:
                _log.debug("the last heartbeat was not answered", why=str(error))
            try:
                await self.master.unregister(self.node_id)
            except NodeError as error:
                _log.info("the master was not told that this node leaves", why=str(error))

    def look(self) -> None:
        """Have the master looked at now."""
        self._look_now.ask()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        """Open what the node stands on, and close it again, in the opposite order."""
        settings = self.settings
        path = settings.storage_path
        self.node_id = settings.node_id or await trio.to_thread.run_sync(node_id, path)
        lock = StorageLock(path)
        # Before the store is opened: opening tidies up, which is not for a folder that another node owns.
        self.leader = await trio.to_thread.run_sync(lock.acquire, settings.node_address, self.node_id)
        try:
            self.store = await trio.to_thread.run_sync(
                lambda: DiskStore.open(path, max_bytes=settings.max_bytes, min_free_bytes=settings.min_free_bytes)
            )
        except BaseException:
            lock.release()
            raise
        self.master = Master(settings.main_server)
        self.folder = Folder(self.store, path, lambda: self.meetings.storage_changed())
        self.evictor = Evictor(self.store, settings.min_free_bytes, self.folder.notice)
        self.meetings = Meetings(self.store, self.master, self._chance, self.evictor.make_room, self.folder.notice)
        times = await trio.to_thread.run_sync(CheckTimes, path / "scrub.json")
        rate, promised = settings.scrub_bytes_per_second, lambda: self.meetings.promised().values()
        self.scrubber = Scrubber(self.store, self.meetings.healer, times, rate, promised)
        self.pulse = Pulse(self.node_id, settings.node_address, self.meetings, self.downloads)
        self.downloads.on_full = self.meetings.changed.ask
        try:
            yield
        finally:
            with trio.move_on_after(LEAVE_SECONDS, shield=True):
                await self.master.aclose()
            self.store.close()
            lock.release()

    def _start_tasks(self, root: trio.Nursery) -> None:
        chance, interval = self._chance, self.settings.sync_interval
        # Every process must know what is current; only the leader speaks for the node and tidies up.
        root.start_soon(self._supervise, "sync", lambda: watch_master(self.meetings, self._look_now, interval, chance))
        root.start_soon(self._supervise, "folder", self.folder.run)
        if self.leader:
            root.start_soon(self._supervise, "heartbeat", self._beat)
            root.start_soon(self._supervise, "eviction", self.evictor.run)
            root.start_soon(self._supervise, "scrub", self.scrubber.run)

    async def _beat(self) -> None:
        with self._beating:
            await beat_forever(self.pulse, self.master, self.look, self.meetings, self._chance)
        await trio.sleep_forever()

    async def _supervise(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task that has no end; start it again when it crashes, and fail the node when it keeps crashing."""
        crashes: list[float] = []
        while True:
            try:
                await task()
            except Exception:
                now = trio.current_time()
                crashes = [at for at in crashes if now - at < CRASH_WINDOW_SECONDS] + [now]
                _log.exception("a task has crashed", task=name, crashes=len(crashes))
                if len(crashes) >= MAX_CRASHES:
                    raise
                await trio.sleep(RESTART_SECONDS)
            else:
                raise AssertionError(f"the task {name!r} has no end, and ended")
