"""`trionode serve`: the node under our own server, with signals, drain and exit statuses."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING

import structlog
import trio
from hypercorn.utils import LifespanFailureError

from store import StorageTaken, StoreError

from ..errors import SettingError
from ..live_settings import LiveSettings, warn_of_unknown_variables
from ..logs import set_level
from ..node import Node
from ..services import wait_for_ending_node
from ..web.app import NodeApp
from .certificates import CertificateInvalid, check_certificate
from .hypercorn import ConnectionLimits, install
from .hypercorn.control import ControlServer
from .listeners import CannotListen, describe, listening
from .open_files import raise_open_files
from .runner import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    Shutdown,
    cancel_end_of_process,
    freeze_objects,
    handle_signals,
    hypercorn_config,
    serve_app,
    wait_quiet,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from ..settings import Settings

LAST_SECONDS = 1.0
"""Grace period for requests that arrive while listening ends after a complete drain."""

_log = structlog.get_logger("trionode.server")


def serve(settings: Settings, read: Callable[[], Settings]) -> int:
    """Run a node until SIGTERM or SIGINT. Return the exit status: 0 success, 1 failure, 2 usage error.

    `read` reads the settings again, for a reload.
    """
    raise_open_files()
    warn_of_unknown_variables(os.environ)
    try:
        if settings.certfile is not None and settings.keyfile is not None:
            check_certificate(settings.certfile, settings.keyfile)
    except CertificateInvalid as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        # It still listens on the port.
        wait_for_ending_node(settings.storage_path)
    except StorageTaken as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_OK
    try:
        with listening(settings, os.environ) as sockets:
            return _NodeServer(LiveSettings(settings, read)).run(sockets)
    except CannotListen as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE


class _NodeServer:
    """One node and its server."""

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings
        self._shutdown = Shutdown(lambda: settings.current.drain_seconds)
        self._limits = ConnectionLimits()
        self._node = Node(settings, self._shutdown.begin)
        self._app = NodeApp(self._node, ControlServer)
        settings.subscribe(lambda current: set_level(current.log_level))

    def run(self, sockets: list[socket.socket]) -> int:
        install(self._limits)
        freeze_objects()
        try:
            with self._settings.subscribed(self._limits.configure):
                trio.run(self._serve, sockets)
        except LifespanFailureError:
            return self._explain_start()
        except BaseExceptionGroup as group:
            if group.subgroup(LifespanFailureError) is None:
                raise
            return self._explain_start()
        finally:
            cancel_end_of_process()
        return EXIT_OK if self._node.lifecycle.failure is None else EXIT_FAILED

    def _explain_start(self) -> int:
        error = self._app.start_error
        print(f"cannot start: {error}", file=sys.stderr)
        # A usage error can be corrected by another setting.
        return EXIT_USAGE if isinstance(error, (StoreError, SettingError, OSError)) else EXIT_FAILED

    async def _serve(self, sockets: list[socket.socket]) -> None:
        settings = self._settings.current
        config = hypercorn_config(settings.certfile, settings.keyfile)
        async with trio.open_nursery() as nursery:
            await nursery.start(handle_signals, self._shutdown, self._reload)
            until_over = functools.partial(self._until_over, sockets)
            await serve_app(self._app, config, sockets, self._shutdown, until_over)
            nursery.cancel_scope.cancel()

    def _reload(self) -> None:
        try:
            self._node.reload()
        except SettingError as error:
            _log.error("settings not reloaded; nothing has changed", why=str(error))

    async def _until_over(self, sockets: list[socket.socket]) -> float:
        """Wait, once the node has started, until listening should end: drained, ended at once, out of time, or failed.

        Return the grace period of the remaining requests, in seconds.
        """
        # Hypercorn calls this for a moment even if the node could not start.
        for listener in sockets if self._node.lifecycle.serving else ():
            _log.info("listening", **describe(listener))
        grace = 0.0
        async with trio.open_nursery() as nursery:

            async def cancel_when(wait: Callable[[], Awaitable[None]]) -> None:
                await wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_when, self._node.lifecycle.wait_failed)
            nursery.start_soon(cancel_when, self._shutdown.wait_now)
            await self._shutdown.wait_requested()
            self._limits.min_data_rate.begin_ending()
            if await self._drain():
                grace = LAST_SECONDS
            nursery.cancel_scope.cancel()
        if not grace:
            self._node.stop_reading()
        return grace

    async def _drain(self) -> bool:
        """Drain the node. Return whether all requests ended in time."""
        # Unregister first, so that no more tablets are sent here.
        await self._node.drain()
        with trio.move_on_after(self._settings.current.drain_seconds) as limit:
            await wait_quiet(self._limits)
        if limit.cancelled_caught:
            _log.warning("drain_seconds are over; active requests are cut off", requests=self._limits.active_requests)
        return not limit.cancelled_caught
