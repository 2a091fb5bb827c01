"""`trionode serve`: Hypercorn's worker under Trio, with our sockets, our signals and our exit statuses."""

from __future__ import annotations

import functools
import gc
import os
import signal
import ssl
import sys
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.run import worker_serve
from hypercorn.utils import LifespanFailureError, wrap_app

from store import StorageTaken, StoreError

from ..app import create_app
from ..config import LIVE
from ..errors import SettingError
from . import connection
from .files import raise_open_files
from .lines import Line, Word
from .listeners import CannotListen, for_hypercorn, listening, name_of
from .supervisor import Supervisor

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

    `reread` reads the settings again, for a reload.
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
            for listener in sockets:
                _log.info("listening", **name_of(listener), address=settings.node_address)
            if settings.workers == 1:
                return _run(settings, reread, sockets, None)
            # Before the fork: what the garbage collector never touches stays shared between the workers.
            _keep_what_is_there()
            return Supervisor(settings.workers, lambda line: _work(settings, reread, sockets, line)).run()
    except CannotListen as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE


def _work(settings: Settings, reread: Callable[[], Settings], sockets: list[socket.socket], line: Line) -> int:
    """Be one of several workers. The first were started with `settings`; one that replaces another reads them anew."""
    try:
        now = reread()
    except SettingError:
        pass  # said when it was reloaded
    else:
        settings = replace(settings, **{name: getattr(now, name) for name in LIVE})
    return _run(settings, reread, sockets, line)


def _run(settings: Settings, reread: Callable[[], Settings], sockets: list[socket.socket], line: Line | None) -> int:
    app = create_app(settings)
    app.node.reread = reread
    connection.install()
    connection.limits.take(settings)
    app.node.observers.append(connection.limits.take)
    _keep_what_is_there()
    try:
        return trio.run(_serve, app, _hypercorn_config(settings), sockets, line)
    except LifespanFailureError:
        return _explain_start(app)
    except BaseExceptionGroup as group:
        if group.subgroup(LifespanFailureError) is None:
            raise
        return _explain_start(app)


def _keep_what_is_there() -> None:
    """Take all objects out of garbage collection.

    They stay to the end, and looking through them again and again costs 5 % of small answers.
    """
    gc.collect()
    gc.freeze()


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
    """How this process comes to its end: told once, it drains; told again, it ends now."""

    def __init__(self) -> None:
        self.told = trio.Event()
        self.now = trio.Event()
        self.alone = False
        """Whether the node goes on without this process: it then stops listening at once."""
        self.listening = True

    def tell(self) -> None:
        """Have it end."""
        (self.now if self.told.is_set() else self.told).set()


async def _serve(app: NodeApp, config: Config, sockets: list[socket.socket], line: Line | None) -> int:
    ending = Ending()
    app.node.end = ending.tell if line is None else functools.partial(line.say, Word.END)

    async def over() -> None:
        config.graceful_timeout = await _until_over(app, ending)
        ending.listening = False

    async with trio.open_nursery() as nursery:

        async def cut() -> None:
            """End the time that requests were given after the listening, when told twice only then."""
            await ending.now.wait()
            if not ending.listening:
                nursery.cancel_scope.cancel()

        await nursery.start(_heed_signals, app, ending, line)
        nursery.start_soon(cut)
        if line is not None:
            nursery.start_soon(_heed_parent, app, ending, line, nursery)
        await worker_serve(
            wrap_app(app, config.wsgi_max_body_size, mode="asgi"),
            config,
            sockets=for_hypercorn(sockets, tls=config.ssl_enabled),
            shutdown_trigger=over,
        )
        nursery.cancel_scope.cancel()
    return EXIT_OK if app.node.failure is None else EXIT_FAILED


async def _heed_signals(
    app: NodeApp, ending: Ending, line: Line | None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    # A worker hears from its parent what the others mean.
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if line is None else (signal.SIGTERM,)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                app.node.reload()
                continue
            if line is None:
                said = "stopping now" if ending.told.is_set() else "stopping"
                _log.info(said, signal=signal.Signals(number).name)
            elif not ending.told.is_set():
                _log.info("this worker is stopping", signal=signal.Signals(number).name)
                _end_alone(app, ending)
            ending.tell()


async def _heed_parent(app: NodeApp, ending: Ending, line: Line, nursery: trio.Nursery) -> None:
    """Do what the parent says, and end when it has ended: an orphan would serve on, and nobody could stop it."""
    while True:
        await trio.lowlevel.wait_readable(line)
        words = line.hear()
        if words is None:
            _log.warning("the parent of this worker has ended")
            if not ending.told.is_set():
                _end_alone(app, ending)
                ending.tell()
            return
        for word in words:
            if word is Word.RELOAD:
                app.node.reload()
            elif ending.alone:
                # Told by a signal of its own, and now all are: nobody takes over, and the node leaves after all.
                ending.alone = False
                app.node.hand_over(to_another=False)
                nursery.start_soon(app.node.drain)
            else:
                ending.tell()


def _end_alone(app: NodeApp, ending: Ending) -> None:
    """Have this process end while the node goes on in others."""
    ending.alone = True
    app.node.hand_over(to_another=True)


async def _until_over(app: NodeApp, ending: Ending) -> float:
    """Return when the listening should end: drained, told twice, out of time, or failed.

    Returns the seconds that requests get which are still going on.
    """
    grace = 0.0
    async with trio.open_nursery() as nursery:

        async def cancel_after(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_after, app.node.failed)
        nursery.start_soon(cancel_after, ending.now)
        await ending.told.wait()
        connection.limits.patience.begin_ending()
        if ending.alone:
            grace = app.node.settings.drain_seconds
        elif await _drain(app):
            grace = LAST_SECONDS
        nursery.cancel_scope.cancel()
    return grace


async def _drain(app: NodeApp) -> bool:
    """Drain the node; tell whether that was done in time."""
    # Off the master's list first, so that no tablet is sent here any more.
    await app.node.drain()
    with trio.move_on_after(app.node.settings.drain_seconds) as limit:
        await _until_quiet(app)
    if limit.cancelled_caught:
        _log.warning("the time to drain is over; what is going on is cut off", requests=connection.limits.requests)
    return not limit.cancelled_caught


async def _until_quiet(app: NodeApp) -> None:
    """Return when no request was being answered for a while, nor, as far as the leader knows, by other workers."""
    quiet_since = inf
    while trio.current_time() - quiet_since < QUIET_SECONDS:
        busy_elsewhere = app.node.leader and app.node.team.elsewhere().active
        if connection.limits.requests or busy_elsewhere:
            quiet_since = inf
        elif quiet_since == inf:
            quiet_since = trio.current_time()
        await trio.sleep(POLL_SECONDS)
