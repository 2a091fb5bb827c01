"""The command `master-shim`: a whole small master for those who have none.

Served by Hypercorn on asyncio. Measured: Hypercorn's Trio worker shields every write without a time limit,
so one client that stops reading keeps it alive for ever; the asyncio worker waits for such a client as
well, but its connections can be cut from outside, which `_serve` does.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotation when it runs
from typing import TYPE_CHECKING, Annotated, Any

import hypercorn.asyncio.run as hypercorn_run
from cyclopts import App, CycloptsError, Parameter
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config

from .app import MasterShim
from .errors import FolderMissing, FolderUnreadable, ShimError
from .packages import DirectoryPackages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .packages import Meeting

GRACE_SECONDS = 3.0
"""After a signal, downloads have this long to end; what is still open then is cut off."""
CUT_SECONDS = 0.2
"""How often connections are cut from then on, since one may have been accepted late."""
BACKLOG = 1024
"""Connections waiting to be accepted: all tablets of a meeting ask at once."""
WRONG_USAGE = 2

app = App(name="master-shim", help="A small master that sends tablets to the nodes of a LAN.")


@app.command
def serve(
    *,
    packages: Annotated[Path, Parameter(help="Folder of MEETING-ID.zip files: each is a meeting in progress.")],
    host: Annotated[str, Parameter(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, Parameter(help="Port to listen on; 0 takes a free one.")] = 8000,
) -> int:
    """Serve a folder of packages as a master: nodes register here, and tablets are sent to them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        source = DirectoryPackages(packages)
        meetings = source.read()
        listener = _listen(host, port)
    except FolderMissing as error:
        return _refuse(f"{error}; create it, or name another with --packages")
    except FolderUnreadable as error:
        return _refuse(f"the packages folder cannot be read: {error.reason}")
    except _CannotListen as error:
        return _refuse(str(error))
    with listener:
        _announce(listener, source, meetings)
        asyncio.run(_serve(MasterShim(source), listener))
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 after a signal, 2 when it was used wrongly or cannot start, in words."""
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        status = _refuse(f"{error} (see master-shim --help)")
    sys.exit(status)


class _CannotListen(Exception):
    """Nothing can listen at this address."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there already; choose another --port"
        else:
            reason = error.strerror or str(error)
        super().__init__(f"cannot listen on {host} port {port}: {reason}")


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise _CannotListen(host, port, OSError(errno.EINVAL, "a port is a number from 0 to 65535"))
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listener = socket.socket(family, kind)
    except OSError as error:  # a name that does not resolve is one too
        raise _CannotListen(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _CannotListen(host, port, error) from error
    return listener


def _refuse(sentence: str) -> int:
    print(f"master-shim: {sentence}", file=sys.stderr)
    return WRONG_USAGE


def _announce(listener: socket.socket, source: DirectoryPackages, meetings: tuple[Meeting, ...]) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"master-shim: listening on http://{shown}:{port}")
    if meetings:
        print(f"{len(meetings)} in progress in {source.folder}:")
    else:
        print(f"no meeting in progress yet: every <meeting id>.zip put into {source.folder} is one")
    for meeting in meetings:
        print(f"  {meeting.id}  {meeting.title}")
    sys.stdout.flush()


class _Connections(TCPServer):
    """Hypercorn's connection, kept in a set while it is open so that it can be cut."""

    open: set[_Connections] = set()  # noqa: RUF012 - shared on purpose: Hypercorn makes the instances

    async def run(self) -> None:
        self.open.add(self)
        try:
            await super().run()
        finally:
            self.open.discard(self)


async def _serve(shim: MasterShim, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then end within GRACE_SECONDS and a little."""
    config = Config()
    # A descriptor of its own, since Hypercorn closes the one it is given.
    config.bind = [f"fd://{listener.dup().detach()}"]
    config.backlog = BACKLOG
    config.graceful_timeout = GRACE_SECONDS + 1
    config.loglevel = "WARNING"
    config.include_server_header = False

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(_quiet_about_cut_connections)
    # The module's own name is what Hypercorn looks up for every connection (0.18, pinned).
    hypercorn_run.TCPServer = _Connections  # type: ignore[attr-defined]
    reading = loop.create_task(_read_packages(shim))
    cutting = loop.create_task(_cut_after(stop))
    try:
        await hypercorn_serve(shim, config, shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]
    finally:
        for task in (reading, cutting):
            task.cancel()
        await asyncio.gather(reading, cutting, return_exceptions=True)


async def _read_packages(shim: MasterShim) -> None:
    """Read the packages before anyone asks: the first tablet need not wait for the hashing of all of them."""
    try:
        await shim.snapshot()
    except ShimError as error:
        logging.getLogger("master_shim").warning("%s", error)


async def _cut_after(stop: asyncio.Event) -> None:
    await stop.wait()
    await asyncio.sleep(GRACE_SECONDS)
    while True:
        for connection in tuple(_Connections.open):
            # Abort, not close: closing waits until a client has read what is buffered for it.
            connection.writer.transport.abort()
        await asyncio.sleep(CUT_SECONDS)


def _quiet_about_cut_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # CPython 3.11 reports the tasks of connections cut at the end as failures of the loop.
    if not isinstance(context.get("exception"), asyncio.CancelledError | ConnectionError):
        loop.default_exception_handler(context)
