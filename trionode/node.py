"""One node: its lifecycle, and the root nursery of its services.

Only `Node.run` opens the root nursery; every service opens its own inside its `run`.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from .errors import NodeStopped
from .lifecycle import END_SECONDS, Lifecycle, NodeEvent
from .services import open_services
from .settings import peers_believed
from .supervision import supervise

if TYPE_CHECKING:
    from collections.abc import Callable

    from .live_settings import LiveSettings, Reloaded
    from .services import Services

STOP_SECONDS = 4.0
"""Time limit for the end of all services, unregistering included. Quart allows 5."""

MARK_SECONDS = 1.0
"""Time limit of writing into the storage's lock that this node is ending: a disk that does not answer must not keep it
from being unregistered."""

_log = structlog.get_logger("trionode.node")


class Control(Protocol):
    """The server of the control socket; see `server.hypercorn.control`."""

    async def run(self) -> None:
        """Serve until cancelled."""
        ...


class Node:
    """A node. Constructing it does no I/O; `run` opens the storage and starts the services.

    `end_server` requests the server around the node to drain and end; None if only signals can end it.
    """

    def __init__(self, settings: LiveSettings, end_server: Callable[[], None] | None = None) -> None:
        self.live_settings = settings
        self.lifecycle = Lifecycle()
        self.started_at = time.time()
        self._end_server = end_server
        self._node_id = settings.current.node_id
        self._services: Services | None = None
        self._root: trio.Nursery | None = None
        self._ended = trio.Event()

    @property
    def services(self) -> Services:
        """The services of a node that serves. Raises `NodeStopped`."""
        self.lifecycle.require_serving()
        if self._services is None:
            raise NodeStopped("it is stopping")
        return self._services

    @property
    def node_id(self) -> str:
        """The node's id; "" before it was read from the storage folder."""
        return self._node_id

    async def run(self, control: Control, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the storage, report started, and run the services until `stop`.

        Raises what `open_services` raises before it has started. A later failure is recorded in `lifecycle` and not
        raised: HTTP continues, to report that the node is not ready.
        """
        try:
            async with open_services(self.live_settings, self.lifecycle) as services:
                self._services, self._node_id = services, services.own.registration.node_id
                try:
                    await self._run_services(services, control, task_status)
                except Exception as error:  # noqa: BLE001 - the last resort of the whole node
                    _log.exception("the node has failed")
                    self.lifecycle.fail(error)
                finally:
                    self.lifecycle.apply(NodeEvent.STOP)
                    await services.heartbeat.leave()
                    self._services = None
        finally:
            self._ended.set()

    async def _run_services(self, services: Services, control: Control, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as root:
            self._root = root
            self.lifecycle.apply(NodeEvent.SERVE)
            _log.info("other nodes that packages are fetched from", which=peers_believed(self.live_settings.current))
            for name, task in {**services.tasks, "control": control.run}.items():
                root.start_soon(functools.partial(supervise, name, task), name=name)
            task_status.started()

    def stop_reading(self) -> None:
        """End the threads that read whole packages: tasks that wait for them cannot be cancelled otherwise."""
        if self._services is not None:
            self._services.store.stop_reading()

    @property
    def ended(self) -> bool:
        """Whether the services have ended, or were never started."""
        return self._root is None or self._ended.is_set()

    async def stop(self) -> None:
        """End all services, within `STOP_SECONDS`. Does nothing if the node does not run.

        Services that wait for a disk that does not answer run on; see `ended`.
        """
        self.stop_reading()
        if self._root is not None:
            if self.lifecycle.ready:
                await self._set_ending(0.0)
            self._root.cancel_scope.cancel()
            with trio.move_on_after(STOP_SECONDS):
                await self._ended.wait()

    async def drain(self) -> None:
        """Unregister from the master, so that it sends no new clients here.

        Requests are still served: a client that the master has just sent here may not have connected yet.
        """
        services = self._services
        if services is None:
            return  # not registered
        ready = self.lifecycle.ready
        self.lifecycle.apply(NodeEvent.DRAIN)
        if ready:
            _log.info("draining", downloads=services.downloads.active)
            await self._set_ending(self.live_settings.current.drain_seconds)
        await services.heartbeat.leave()

    async def _set_ending(self, drain_seconds: float) -> None:
        """Let the next process on the storage folder wait for the end of this one."""
        if self._services is None:
            return
        set_ending, seconds = self._services.lock.set_ending, drain_seconds + END_SECONDS
        why = "the disk does not answer"
        with trio.move_on_after(MARK_SECONDS):
            try:
                await trio.to_thread.run_sync(set_ending, seconds, abandon_on_cancel=True)
                return
            except OSError as error:
                why = str(error)
        _log.warning("the storage's lock cannot say that this node is ending", why=why)

    async def drain_and_end(self) -> bool:
        """Drain, and end the server if it is ours. Return whether the server ends. Raises `NodeStopped`."""
        self.lifecycle.require_serving()
        if self._end_server is not None:
            self._end_server()
            return True
        await self.drain()
        return False

    def reload(self) -> Reloaded:
        """Read the settings again and apply those that are live. Raises `SettingError`: then nothing changes."""
        return self.live_settings.reload()
