"""The node's application under a third-party server: `hypercorn trionode:app`, on asyncio or Trio."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sniffio
import structlog
import trio

from ..errors import SettingError
from ..lifecycle import END_SECONDS
from ..live_settings import LiveSettings, warn_of_unknown_variables, warn_of_unused
from ..logs import configure_logs, set_level
from ..node import Node
from ..settings import load_settings
from ..web.app import NodeApp
from .asyncio_bridge import AnyLoop
from .hypercorn import ConnectionLimits, install
from .hypercorn.control import ControlServer
from .hypercorn.sigterm import delay_sigterm
from .open_files import raise_open_files
from .runner import EXIT_USAGE, end_process_after

if TYPE_CHECKING:
    from typing import NoReturn

    from ..settings import Settings


_log = structlog.get_logger("trionode.server")

_OF_HYPERCORN = {
    "host": "--bind of hypercorn",
    "port": "--bind of hypercorn",
    "unix_socket": "--bind unix:PATH of hypercorn",
    "certfile": "--certfile of hypercorn",
    "keyfile": "--keyfile of hypercorn",
    "drain_seconds": "--graceful-timeout of hypercorn",
}
"""Settings of `trionode serve`, and what counts instead of them."""

_OF_TRIO = dict.fromkeys(("progress_seconds", "progress_bytes"), "hypercorn -k trio has this limit")
"""Settings that have no effect on asyncio, where Hypercorn sends the answers."""


def _load() -> Settings:
    """Load the settings, without the certificate of `trionode serve`: another server speaks HTTPS by its own options.

    What the master is told is then the scheme of `node_address` alone. Raises `SettingError`.
    """
    return _without_certificate(load_settings())


def _without_certificate(settings: Settings) -> Settings:
    return replace(settings, certfile=None, keyfile=None)


def create_app(settings: Settings | None = None) -> NodeApp:
    """Return the application of a node, for a server on Trio.

    By default `settings` are loaded from the environment and its TOML file. Raises `SettingError`.
    """
    current = _load() if settings is None else _without_certificate(settings)
    return NodeApp(Node(LiveSettings(current, _load)), ControlServer)


def make_app() -> NodeApp:
    """Set up the process (logs, the limit of open files, Hypercorn) and return the application."""
    given = load_settings()
    settings = LiveSettings(_without_certificate(given), _load)
    configure_logs(given.log_level)
    warn_of_unknown_variables(os.environ)
    on_asyncio = sniffio.current_async_library() == "asyncio"
    warn_of_unused(given, _OF_HYPERCORN | _OF_TRIO if on_asyncio else _OF_HYPERCORN)
    settings.subscribe(lambda current: set_level(current.log_level))
    raise_open_files()
    limits = ConnectionLimits()
    settings.subscribe(limits.configure)
    install(limits)
    node = Node(settings)
    app = NodeApp(node, ControlServer)

    handling = trio.CancelScope()

    async def handle_sigterm() -> None:
        with handling:
            await delay_sigterm(node.drain, is_worker=multiprocessing.parent_process() is not None)

    async def begin_handling() -> None:
        app.nursery.start_soon(handle_sigterm)

    async def end_handling() -> None:
        handling.cancel()
        if not node.ended:
            _log.error("a disk does not answer; the process ends without waiting for it", seconds=END_SECONDS)
            end_process_after(END_SECONDS)

    app.before_serving(begin_handling)
    app.after_serving(end_handling)
    return app


_any_loop = AnyLoop(make_app)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve one ASGI scope, on asyncio or Trio. If the node cannot start, exit with one message."""
    if scope["type"] == "lifespan":
        send = functools.partial(_send_or_exit, send)
    try:
        await _any_loop(scope, receive, send)
    except SettingError as error:
        _exit(str(error))


async def _send_or_exit(send: Any, message: Any) -> None:
    if message["type"] == "lifespan.startup.failed":
        _exit(message["message"])
    await send(message)


def _exit(reason: str) -> NoReturn:
    """End this process. Hypercorn would print the message below a hundred lines of tracebacks."""
    print(f"trionode: cannot start: {reason}", file=sys.stderr, flush=True)
    # Not sys.exit, which the nurseries above would turn into a traceback again. Nothing is open yet.
    os._exit(EXIT_USAGE)
