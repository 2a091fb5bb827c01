"""One node: what it is made of, the order in which it starts, the root nursery, supervision, and its end.

Only `Node.run` opens the root nursery; every background task of the node lives in it and nowhere else.
"""

from __future__ import annotations

import functools
import time
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from random import Random
from typing import TYPE_CHECKING

import structlog
import trio

from store import DiskStore
from store.node_files import StorageLock, node_id

from . import metrics
from .config import LIVE, load_settings
from .delivery.admission import Downloads
from .delivery.digests import ReprDigests
from .delivery.limits import Limits
from .errors import NodeError, NodeStopped, SettingError, StorageUnusable
from .logs import set_level
from .signals import Request
from .supervision import supervise
from .sync.eviction import Evictor
from .sync.folder import Folder
from .sync.heartbeat import Pulse, beat_forever
from .sync.scrub import CheckTimes, Scrubber
from .sync.sources import Master
from .sync.watch import watch_master
from .workers.channel import prepare_folder
from .workers.meetings import SharedMeetings
from .workers.slots import Slots
from .workers.team import Team
from .workers.wire import Draining, Facts, Reloading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from .config import Settings
    from .metrics import Sample

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
        self.failure: BaseException | None = None
        self.failed = trio.Event()
        self.draining = False
        """Whether this node takes no new assignments, and is about to end."""
        self.observers: list[Callable[[Settings], None]] = []
        """Called with the new settings after a reload."""
        self.reread: Callable[[], Settings] = load_settings
        """Reads the settings again, for a reload."""
        self.end: Callable[[], None] | None = None
        """Has all processes of the node drain and end; None when that is for a server of others to do."""
        self.store: DiskStore
        self.master: Master
        self.meetings: SharedMeetings
        self.team: Team
        self.pulse: Pulse
        self.evictor: Evictor
        self.folder: Folder
        self._chance = Random()  # noqa: S311 - spreads nodes apart, guards nothing
        self._look_now = Request()
        self._root: trio.Nursery | None = None
        self._ended = trio.Event()
        self._sharing = 1
        """Between how many processes the total rate is shared out."""
        self._left = False
        self._leads = False
        self._handing_over = False
        self._beating = trio.CancelScope()

    @property
    def leader(self) -> bool:
        """Whether this process runs the background tasks; other processes of the node only serve."""
        return self._root is not None and self.meetings.leading

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

    def hand_over(self, *, to_another: bool) -> None:
        """Say whether another process of this node is to lead when this one has ended: the node then does not leave."""
        self._handing_over = to_another

    def reload(self) -> tuple[str, bool]:
        """Read the settings again, and take over what can change while the node runs.

        Returns what to say of it, and whether they were right: wrong ones change nothing.
        """
        try:
            now = self.reread()
        except SettingError as error:
            _log.error("not reloaded; everything stays as it is", why=str(error))
            return f"not reloaded; everything stays as it is: {error}", False
        before = self.settings
        names = [field.name for field in fields(now) if getattr(now, field.name) != getattr(before, field.name)]
        changed = [name for name in names if name in LIVE]
        left = [name for name in names if name not in LIVE]
        self._take(replace(before, **{name: getattr(now, name) for name in changed}))
        for name in names:
            said = "setting changed" if name in LIVE else "setting differs, and needs a restart"
            _log.info(said, setting=name, before=getattr(before, name), now=getattr(now, name))
        words = [f"changed: {', '.join(changed) or 'nothing'}"] + [f"needs a restart: {', '.join(left)}"] * bool(left)
        return "; ".join(words), True

    def _take(self, settings: Settings) -> None:
        self.settings = settings
        self.downloads.set_limit(settings.max_downloads)
        self._sharing = 0
        set_level(settings.log_level)
        if self._root is not None:
            self.store.set_limits(max_bytes=settings.max_bytes, min_free_bytes=settings.min_free_bytes)
            self.evictor.keep_free = settings.min_free_bytes
        for observer in self.observers:
            observer(settings)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the storage, say started, and work until `stop`.

        Raises before it has started (`StorageTaken`, `UnknownFormat`, `StorageUnusable`); afterwards a fault of the
        program ends up in `failure` and sets `failed`: whoever started the node would be brought down by an exception
        here, and HTTP must go on to say that the node is not ready.
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
        if self._left or self._handing_over or not self._leads:
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
        try:
            lock = await self._open_storage(path)
        except OSError as error:
            raise StorageUnusable(path, error) from error
        self.master = Master(settings.main_server)
        self.folder = Folder(self.store, path, lambda: self.meetings.storage_changed())
        self.evictor = Evictor(self.store, settings.min_free_bytes, self.folder.notice)
        self.meetings = SharedMeetings(
            self.store, self.master, self._chance, self.evictor.make_room, self.folder.notice
        )
        self.pulse = Pulse(
            self.node_id, settings.node_address, self.meetings, self.downloads, lambda: self.team.facts().counts
        )
        self.downloads.on_full = self.meetings.changed.ask
        self.downloads.slots = slots = await trio.to_thread.run_sync(Slots, prepare_folder(path) / "slots")
        self.team = Team(
            path,
            self.meetings,
            counts=lambda: metrics.take(self),
            facts=self._facts,
            hear=self._hear,
            saw_ticket=self.pulse.saw_ticket,
            take_tickets=self.pulse.take_tickets,
            lead=self._lead,
            share=self._share,
            order=self._obey,
            orders=_Orders(self),
        )
        try:
            yield
        finally:
            with trio.move_on_after(LEAVE_SECONDS, shield=True):
                await self.master.aclose()
            self.downloads.slots = None
            slots.close()
            self.store.close()
            lock.release(to_another=self._handing_over)

    async def _open_storage(self, path: Path) -> StorageLock:
        settings = self.settings
        self.node_id = settings.node_id or await trio.to_thread.run_sync(node_id, path)
        lock = self._lock = StorageLock(path)
        # Before the store is opened: opening tidies up, which is not for a folder that another node owns.
        await trio.to_thread.run_sync(lock.acquire, settings.node_address, self.node_id)
        try:
            self.store = await trio.to_thread.run_sync(
                lambda: DiskStore.open(path, max_bytes=settings.max_bytes, min_free_bytes=settings.min_free_bytes)
            )
        except BaseException:
            lock.release()
            raise
        return lock

    def _facts(self, counts: Sample, workers: int) -> Facts:
        return Facts(
            token=self.meetings.token,
            last_look=self.meetings.last_look,
            look_error=self.meetings.look_error,
            connected=self.pulse.connected,
            protocol=self.master.protocol,
            counts=counts,
            workers=workers,
        )

    def _share(self, workers: int) -> None:
        """Keep to this process's share of what all processes of the node may do."""
        if workers != self._sharing:
            self._sharing = workers
            rates = self.settings.client_bytes_per_second, self.settings.total_bytes_per_second // workers
            self.downloads.limits.change(*rates)
        self.downloads.move_up()

    def _hear(self, facts: Facts) -> None:
        """Take over what the leader has said of the node."""
        self.pulse.connected, self.master.protocol = facts.connected, facts.protocol

    def _obey(self, order: Draining | Reloading) -> None:
        """Do what the leader says that all processes are to do."""
        if isinstance(order, Reloading):
            self.reload()
        elif self._root is not None:
            self._root.start_soon(self.drain)

    def _start_tasks(self, root: trio.Nursery) -> None:
        address = self.settings.node_address
        follow = functools.partial(self.team.run, self._lock, address, self.node_id, lambda: not self.draining)
        root.start_soon(supervise, "folder", self.folder.run)
        root.start_soon(supervise, "workers", follow)
        root.start_soon(supervise, "shares", self.team.keep_shares)

    def _lead(self) -> None:
        """Begin what one process does for all: ask the master, speak for the node, tidy up."""
        assert self._root is not None
        self._leads = True
        _log.debug("this process leads")
        for name, task in (
            ("sync", self._watch),
            ("heartbeat", self._beat),
            ("eviction", self.evictor.run),
            ("scrub", self._scrub),
        ):
            self._root.start_soon(supervise, name, task)

    async def _watch(self) -> None:
        await watch_master(self.meetings, self._look_now, self.settings.sync_interval, self._chance)

    async def _scrub(self) -> None:
        times = await trio.to_thread.run_sync(CheckTimes, self.settings.storage_path / "scrub.json")
        rate, promised = self.settings.scrub_bytes_per_second, lambda: self.meetings.promised().values()
        await Scrubber(self.store, self.meetings.healer, times, rate, promised).run()

    async def _beat(self) -> None:
        with self._beating:
            await beat_forever(self.pulse, self.master, self.look, self.meetings, self._chance)
        await trio.sleep_forever()


class _Orders:
    """What a command may order the leader; a `workers.leading.Orders`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def drain(self) -> bool:
        """Have all processes drain, and end if their server is ours."""
        if self._node.end is not None:
            self._node.end()
            return True
        self._node.team.office.tell_to_drain()
        self._node._obey(Draining())
        return False

    def reload(self) -> tuple[str, bool]:
        """Read the settings again here and, if they are right, everywhere."""
        said, right = self._node.reload()
        if right:
            self._node.team.office.tell_to_reload()
        return said, right
