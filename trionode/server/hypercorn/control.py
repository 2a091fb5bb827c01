"""The control socket: the node's application on a Unix socket in the storage folder, for commands on this machine.

Works under every server, since the node itself listens. Access to the storage folder gives control of the node.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from ...web.control import CONTROL, SOCKET, short_path
from .connection import Connection
from .limits import ConnectionLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Application = Callable[[Any, Any, Any], Awaitable[None]]

SOCKET_MODE = 0o600
BACKLOG = 16

_log = structlog.get_logger("trionode.control")


class ControlServer:
    """Serves `app` on the control socket of a storage folder, for the process that holds the storage's lock."""

    def __init__(self, storage: Path, app: Application) -> None:
        self._storage = storage
        self._path = storage / SOCKET
        self._app = app
        self._limits = ConnectionLimits()
        self._config = Config()
        # As it is: by default Hypercorn would configure this logger of the whole process anew.
        self._config.errorlog = logging.getLogger("hypercorn.error")

    async def run(self) -> None:
        """Serve until cancelled. On a file system without sockets, log that commands cannot reach the node."""
        try:
            listener = await trio.to_thread.run_sync(self._listen)
        except OSError as error:
            _log.error("no control socket: trionode status, drain and reload do not work", why=str(error))
            await trio.sleep_forever()
        try:
            await trio.serve_listeners(self._serve, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))])
        finally:
            self._path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        self._path.unlink(missing_ok=True)  # left by a process that was killed
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(self._storage) as short:
                listener.bind(short)
            # Before it listens, so that no other user can connect in between.
            self._path.chmod(SOCKET_MODE)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    async def _serve(self, stream: trio.SocketStream) -> None:
        app = wrap_app(self._run_app, self._config.wsgi_max_body_size, mode="asgi")
        await Connection(self._limits, app, self._config, WorkerContext(None), ConnectionState({}), stream).run()

    async def _run_app(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "extensions": {**(scope.get("extensions") or {}), CONTROL: {}}}, receive, send)
