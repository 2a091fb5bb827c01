"""All work-arounds for Hypercorn 0.18. No other module depends on its internals.

Each has a test in `tests/trionode/server/hypercorn/`. They depend on the structure of `hypercorn.trio.tcp_server` and
`hypercorn.protocol`, so that version is pinned: with another one nothing is installed, a warning is logged, and
packages are sent as ordinary bodies.
"""

from __future__ import annotations

import functools
from importlib.metadata import version

import hypercorn.protocol.h2
import hypercorn.trio.run
import structlog

from .connection import Connection
from .limits import ConnectionLimits
from .stream_buffer import BoundedStreamBuffer

__all__ = ["ConnectionLimits", "install"]

KNOWN_HYPERCORN = "0.18."

_log = structlog.get_logger("trionode.server")


def install(limits: ConnectionLimits) -> bool:
    """Serve every Trio connection of this process by `Connection`. Return False for an unknown Hypercorn.

    Hypercorn looks up its class when it begins to listen, so the lifespan's startup is not too late for this call.
    """
    found = version("hypercorn")
    if not found.startswith(KNOWN_HYPERCORN):
        _log.warning("unknown version of Hypercorn; packages are sent without zero-copy", version=found)
        return False
    connection = functools.partial(Connection, limits)
    hypercorn.trio.run.TCPServer = connection  # type: ignore[attr-defined,assignment]
    hypercorn.protocol.h2.StreamBuffer = BoundedStreamBuffer  # type: ignore[misc]
    return True
