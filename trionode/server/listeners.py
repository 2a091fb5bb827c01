"""The listening sockets of a server: a host and port, a Unix socket, or sockets passed by systemd."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from hypercorn.config import Sockets

from ..live_settings import warn_of_unused

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

    from ..settings import Settings

BACKLOG = 2048
"""Connections waiting to be accepted: all tablets of a room connect within a second. Bounded by somaxconn."""

FIRST_PASSED_FD = 3
"""First descriptor of socket activation (sd_listen_fds(3))."""

UNIX_MODE = 0o660
"""Owner and group may connect to the Unix socket; a proxy is added to the group."""


class CannotListen(Exception):
    """A socket cannot be opened. The message names the socket and the reason."""


@contextlib.contextmanager
def listening(settings: Settings, environ: MutableMapping[str, str]) -> Iterator[list[socket.socket]]:
    """Yield the listening sockets; close them at the end, and remove the Unix socket that was created here.

    Sockets passed by systemd take precedence over all settings, and their variables are removed from `environ`. Raises
    `CannotListen`.
    """
    passed = _passed(environ)
    made: Path | None = None
    created: tuple[int, int] | None = None
    if passed:
        sockets = passed
        warn_of_unused(settings, dict.fromkeys(("host", "port", "unix_socket"), "the sockets that systemd has passed"))
    elif settings.unix_socket is not None:
        made = settings.unix_socket
        sockets = [_listen_unix(made)]
        created = _identity(made)
        warn_of_unused(settings, dict.fromkeys(("host", "port"), "unix_socket"))
    else:
        sockets = listen_tcp(settings.host, settings.port)
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()
        # Unless the next process on this storage folder has replaced it.
        if made is not None and _identity(made) == created:
            made.unlink(missing_ok=True)


def for_hypercorn(sockets: list[socket.socket], *, tls: bool) -> Sockets:
    """Return the sockets in Hypercorn's form."""
    return Sockets(sockets, [], []) if tls else Sockets([], sockets, [])


def describe(listener: socket.socket) -> dict[str, object]:
    """Return the address of a listening socket, for the log."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return {"unix_socket": name or "(without a name)"}
    return {"host": name[0], "port": name[1]}


def _passed(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets passed to this process (sd_listen_fds(3)); [] if there are none."""
    pid, count = environ.get("LISTEN_PID"), environ.get("LISTEN_FDS")
    if pid != str(os.getpid()) or count is None:
        return []
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(variable, None)
    if not count.isascii() or not count.isdigit():
        raise CannotListen(f"cannot listen on the sockets that were passed: LISTEN_FDS is {count!r}")
    return [_adopt(fd) for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + int(count))]


def _adopt(fd: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=fd)
    except OSError as error:
        raise CannotListen(f"cannot listen on descriptor {fd}, which was passed: {error.strerror}") from error
    if adopted.type != socket.SOCK_STREAM or not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        adopted.detach()
        raise CannotListen(f"cannot listen on descriptor {fd}, which was passed: it is not a listening stream socket")
    os.set_inheritable(fd, False)
    adopted.setblocking(False)
    return adopted


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of `host` that this machine has. Raises `CannotListen`.

    With port 0 all have the port that the system chose for the first.
    """
    plain = host.removeprefix("[").removesuffix("]")
    shown = f"[{plain}]" if ":" in plain else plain
    made: list[socket.socket] = []
    missing: OSError | None = None
    try:
        if not 0 <= port < 1 << 16:
            raise OSError(errno.EINVAL, "a port is a number from 0 to 65535")
        found = socket.getaddrinfo(plain, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may be listed several times with one address.
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            chosen = made[0].getsockname()[1] if made else port
            try:
                made.append(_listen(family, (address[0], chosen, *address[2:])))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not made:
            raise missing
    except OSError as error:  # also if the name does not resolve
        for each in made:
            each.close()
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there already; choose another port"
        raise CannotListen(f"cannot listen on {shown}:{port}: {reason}") from error
    return made


_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""Errors for an address that this machine does not have, such as ::1 for localhost without IPv6."""


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _listen_unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        made.bind(str(path))
        path.chmod(UNIX_MODE)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise CannotListen(f"cannot listen on {path}: {error.strerror or error}") from error
    return made


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from others with its name; None without it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns  # the number alone may be used again at once


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that was killed. Raises `OSError` if a process listens on it."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "a file of that name exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another program listens there already")
