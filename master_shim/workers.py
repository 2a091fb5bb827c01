"""Detecting that a master with the shim runs as several processes, of which each has its own list of nodes."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger("master_shim")

SETTLE_SECONDS = 5.0
"""For this long after a restart, the previous process may still answer its last requests."""
_MAX_HELD = 64
"""Addresses of one machine, far more than a master is reached by."""

_held: set[str] = set()
"""Names of the sockets that show to other processes that this one serves an address. Of the process: several shims in
one process are several masters."""


class WorkerCheck:
    """Logs once when another process serves the same address with a shim."""

    def __init__(self) -> None:
        self._checked: set[object] = set()
        self._since: dict[object, float] = {}

    def check(self, server: Sequence[object] | None, now: float) -> None:
        """Check the address at which a request came in: `server` of its ASGI scope, None if it is not told."""
        key = tuple(server or ())
        if not key or key in self._checked:
            return
        since = self._since.setdefault(key, now)
        if since < now < since + SETTLE_SECONDS:
            return
        if _hold(name_of(key)):
            self._checked.add(key)
        elif now >= since + SETTLE_SECONDS:
            self._checked.add(key)
            _log.warning(
                "another process serves %s too, with its own list of nodes: the nodes that register there get no "
                "clients from here. Run the master as one process (one worker)",
                ":".join(map(str, key)),
            )


def name_of(server: Sequence[object]) -> str:
    """Return the name, in the abstract namespace of Unix sockets, that a process holds while it serves an address.

    The kernel frees it when the process ends. Each network namespace has names of its own, as it has addresses.
    """
    return f"\0master-shim-{blake3(repr(tuple(server)).encode()).hexdigest()[:32]}"


def _hold(name: str) -> bool:
    """Hold a name. Return false if another process holds it."""
    if sys.platform != "linux" or name in _held or len(_held) >= _MAX_HELD:
        return True
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(name)
    except OSError as error:
        held.close()
        return error.errno != errno.EADDRINUSE
    held.detach()  # held until the process ends
    _held.add(name)
    return True
