"""Run an ASGI application under Hypercorn's Trio worker, with our sockets and our shutdown.

Used by the node, and by any other program that serves an ASGI application on Trio.
"""

from __future__ import annotations

import faulthandler
import gc
import signal
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.run import worker_serve
from hypercorn.utils import wrap_app

from ..lifecycle import END_SECONDS
from .listeners import for_hypercorn

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import FrameType
    from typing import Any

    from .hypercorn import ConnectionLimits

QUIET_SECONDS = 0.5
"""How long a draining server must be idle before it ends: clients that were sent here before it was unregistered
connect within that time."""

QUIET_POLL_SECONDS = 0.05

HANDSHAKE_SECONDS = 10.0
"""Time limit of a TLS handshake. Hypercorn allows a minute."""

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_log = structlog.get_logger("trionode.server")


def end_process_after(seconds: float) -> None:
    """End this process with status 1 after `seconds`, and print what each of its threads waits for.

    Works whatever the threads do, the event loop included. Replaces an earlier limit; see `cancel_end_of_process`.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)


cancel_end_of_process = faulthandler.cancel_dump_traceback_later


class Shutdown:
    """A request to end: the first call of `request` begins to drain, the second ends at once.

    `drain_seconds` returns how long the drain may take; None if the process need not end.
    """

    def __init__(self, drain_seconds: Callable[[], float] | None = None) -> None:
        self._drain_seconds = drain_seconds
        self._limited = False
        self._requested = trio.Event()
        self._now = trio.Event()

    def limit(self) -> None:
        """Limit the time until the process ends: the first call allows for the drain, the second does not.

        Called in the signal handler, so that a process whose event loop is blocked ends as well.
        """
        if self._drain_seconds is not None:
            end_process_after(END_SECONDS + (0.0 if self._limited else self._drain_seconds()))
            self._limited = True

    @property
    def requested(self) -> bool:
        """Whether the end was requested."""
        return self._requested.is_set()

    def begin(self) -> None:
        """Request the end. Doing so again changes nothing."""
        if not self.requested:
            self.limit()
        self._requested.set()

    def request(self) -> None:
        """Request the end; the second time, at once."""
        (self._now if self._requested.is_set() else self._requested).set()

    async def wait_requested(self) -> None:
        """Wait for the first request."""
        await self._requested.wait()

    async def wait_now(self) -> None:
        """Wait for the second request."""
        await self._now.wait()


def hypercorn_config(certfile: Path | None = None, keyfile: Path | None = None) -> Config:
    """Return Hypercorn's configuration; with a certificate and its key for HTTPS and HTTP/2."""
    config = Config()
    config.accesslog = None
    config.errorlog = "-"
    config.loglevel = "WARNING"
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    config.include_server_header = False
    if certfile is not None and keyfile is not None:
        config.certfile, config.keyfile = str(certfile), str(keyfile)
    return config


def freeze_objects() -> None:
    """Exclude all existing objects from garbage collection.

    They live as long as the process; traversing them repeatedly costs 5 % of small answers.
    """
    gc.collect()
    gc.freeze()


async def handle_signals(
    shutdown: Shutdown,
    reload: Callable[[], None] | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Request the shutdown at SIGTERM and SIGINT, and call `reload` at SIGHUP, until cancelled."""
    numbers = [signal.SIGTERM, signal.SIGINT] + [signal.SIGHUP] * (reload is not None)
    with trio.open_signal_receiver(*numbers) as signals:
        notify_trio = signal.getsignal(signal.SIGTERM)
        assert callable(notify_trio)

        def limit(number: int, frame: FrameType | None) -> None:
            shutdown.limit()
            notify_trio(number, frame)

        signal.signal(signal.SIGTERM, limit)
        signal.signal(signal.SIGINT, limit)
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP and reload is not None:
                reload()
                continue
            _log.info("stopping now" if shutdown.requested else "stopping", signal=signal.Signals(number).name)
            shutdown.request()


async def serve_app(
    app: Any,
    config: Config,
    sockets: list[socket.socket],
    shutdown: Shutdown,
    until_over: Callable[[], Awaitable[float]],
) -> None:
    """Serve `app` on `sockets` until `until_over` returns the grace period of the remaining requests, in seconds.

    A second request of `shutdown` ends it. Raises `LifespanFailureError`, perhaps in a group.
    """
    listening = True

    async def stop_listening() -> None:
        nonlocal listening
        config.graceful_timeout = await until_over()
        listening = False

    async with trio.open_nursery() as nursery:

        async def cut_off() -> None:
            await shutdown.wait_now()
            if not listening:
                nursery.cancel_scope.cancel()

        nursery.start_soon(cut_off)
        await worker_serve(
            wrap_app(app, config.wsgi_max_body_size, mode="asgi"),
            config,
            sockets=for_hypercorn(sockets, tls=config.ssl_enabled),
            shutdown_trigger=stop_listening,
        )
        nursery.cancel_scope.cancel()


async def wait_quiet(limits: ConnectionLimits) -> None:
    """Wait until no request has been active for `QUIET_SECONDS`."""
    quiet_since = inf
    while trio.current_time() - quiet_since < QUIET_SECONDS:
        if limits.active_requests:
            quiet_since = inf
        elif quiet_since == inf:
            quiet_since = trio.current_time()
        await trio.sleep(QUIET_POLL_SECONDS)
