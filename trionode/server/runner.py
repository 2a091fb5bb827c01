"""`trionode serve`: Hypercorn's worker under Trio, with our sockets, our signals and our exit statuses."""

from __future__ import annotations

import os
import signal
import ssl
import sys
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.run import worker_serve
from hypercorn.utils import LifespanFailureError, wrap_app

from store import StorageTaken, StoreError

from ..app import create_app
from ..errors import SettingError
from . import connection
from .files import raise_open_files
from .listeners import CannotListen, for_hypercorn, listening, name_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ..app import NodeApp
    from ..config import Settings

QUIET_SECONDS = 0.5
"""How long nothing is to be asked of a draining node before it ends: who was sent here before it left the master's
list connects within that."""

LAST_SECONDS = 1.0
"""What requests get that come while the listening ends, once all others are over."""

HANDSHAKE_SECONDS = 10.0
"""What a TLS handshake may take. Hypercorn allows a minute."""

POLL_SECONDS = 0.05

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_log = structlog.get_logger("trionode.server")


def serve(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit status: 0 in good order, 1 failed, 2 cannot start so.

    `reread` reads the settings again, for SIGHUP. Raises `SettingError` from no place but there.
    """
    raise_open_files()
    config = _hypercorn_config(settings)
    try:
        config.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        print(f"cannot use {settings.certfile} with {settings.keyfile}: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        with listening(settings, os.environ) as sockets:
            return _run(settings, reread, config, sockets)
    except CannotListen as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE


def _run(settings: Settings, reread: Callable[[], Settings], config: Config, sockets: list[socket.socket]) -> int:
    app = create_app(settings)
    connection.install()
    connection.limits.take(settings)
    app.node.observers.append(connection.limits.take)
    try:
        return trio.run(_serve, app, reread, config, sockets)
    except LifespanFailureError:
        return _explain_start(app)
    except BaseExceptionGroup as group:
        if group.subgroup(LifespanFailureError) is None:
            raise
        return _explain_start(app)


def _explain_start(app: NodeApp) -> int:
    error = app.start_error
    print(f"cannot start: {error}", file=sys.stderr)
    # What an administrator can put right by another setting is a matter of usage; the rest is a failure.
    return EXIT_USAGE if isinstance(error, (StorageTaken, StoreError, OSError)) else EXIT_FAILED


def _hypercorn_config(settings: Settings) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = "-"
    config.loglevel = "WARNING"
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    if settings.certfile is not None and settings.keyfile is not None:
        config.certfile, config.keyfile = str(settings.certfile), str(settings.keyfile)
    return config


class Ending:
    """How a node comes to its end: told once, it drains; told again, it ends now."""

    def __init__(self) -> None:
        self.told = trio.Event()
        self.now = trio.Event()

    def tell(self) -> None:
        """Tell the node to end."""
        (self.now if self.told.is_set() else self.told).set()


async def _serve(app: NodeApp, reread: Callable[[], Settings], config: Config, sockets: list[socket.socket]) -> int:
    ending = Ending()
    for listener in sockets:
        _log.info("listening", **name_of(listener), address=app.node.settings.node_address)

    async def over() -> None:
        config.graceful_timeout = LAST_SECONDS if await _until_over(app, ending) else 0.0

    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, app, reread, ending)
        await worker_serve(
            wrap_app(app, config.wsgi_max_body_size, mode="asgi"),
            config,
            sockets=for_hypercorn(sockets, tls=config.ssl_enabled),
            shutdown_trigger=over,
        )
        nursery.cancel_scope.cancel()
    return EXIT_OK if app.node.failure is None else EXIT_FAILED


async def _heed_signals(
    app: NodeApp,
    reread: Callable[[], Settings],
    ending: Ending,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                reload(app, reread)
                continue
            _log.info("stopping now" if ending.told.is_set() else "stopping", signal=signal.Signals(number).name)
            ending.tell()


def reload(app: NodeApp, reread: Callable[[], Settings]) -> None:
    """Read the settings again; wrong ones change nothing, and are said."""
    try:
        settings = reread()
    except SettingError as error:
        _log.error("not reloaded; everything stays as it is", why=str(error))
    else:
        app.node.reload(settings)


async def _until_over(app: NodeApp, ending: Ending) -> bool:
    """Return when the node may end: drained, told twice, out of time, or failed. Tell whether nothing is left to do."""
    in_time = False
    async with trio.open_nursery() as nursery:

        async def cancel_after(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_after, app.node.failed)
        nursery.start_soon(cancel_after, ending.now)
        await ending.told.wait()
        # Off the master's list first, so that no tablet is sent here any more.
        connection.limits.patience.begin_ending()
        await app.node.drain()
        with trio.move_on_after(app.node.settings.drain_seconds) as limit:
            await _until_quiet()
        in_time = not limit.cancelled_caught
        if not in_time:
            _log.warning("the time to drain is over; what is going on is cut off", requests=connection.limits.requests)
        nursery.cancel_scope.cancel()
    return in_time


async def _until_quiet() -> None:
    """Return when no request was being answered for a while."""
    quiet_since = inf
    while trio.current_time() - quiet_since < QUIET_SECONDS:
        if connection.limits.requests:
            quiet_since = inf
        elif quiet_since == inf:
            quiet_since = trio.current_time()
        await trio.sleep(POLL_SECONDS)
