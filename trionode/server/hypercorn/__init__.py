"""All work-arounds for Hypercorn 0.18. No other module depends on its internals.

Each has a test in `tests/trionode/server/hypercorn/`. They depend on the structure of `hypercorn.trio.tcp_server` and
`hypercorn.protocol`, so that version is pinned: with another one nothing is installed, a warning is logged, and
packages are sent as ordinary bodies.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import suppress
from importlib.metadata import version

import hypercorn.asyncio.run
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.trio.run
import structlog

from .asyncio_connection import AsyncioConnection, log_failed_accepts_once_a_minute
from .connection import Connection
from .h2_protocol import IdlingH2Protocol
from .h11_protocol import LenientH11Protocol
from .limits import ConnectionLimits
from .stream_buffer import BoundedStreamBuffer

__all__ = ["ConnectionLimits", "install"]

KNOWN_HYPERCORN = "0.18."

_log = structlog.get_logger("trionode.server")


def install(limits: ConnectionLimits) -> bool:
    """Serve every connection of this process by ours. Return False for an unknown Hypercorn.

    Hypercorn looks up its classes when it begins to listen, so the lifespan's startup is not too late for this call.
    """
    found = version("hypercorn")
    if not found.startswith(KNOWN_HYPERCORN):
        _log.warning("unknown version of Hypercorn; packages are sent without zero-copy", version=found)
        return False
    hypercorn.protocol.H11Protocol = LenientH11Protocol  # type: ignore[attr-defined,assignment]
    hypercorn.protocol.H2Protocol = IdlingH2Protocol  # type: ignore[attr-defined,assignment]
    hypercorn.protocol.h2.StreamBuffer = BoundedStreamBuffer  # type: ignore[misc]
    trio_connection = functools.partial(Connection, limits)
    hypercorn.trio.run.TCPServer = trio_connection  # type: ignore[attr-defined,assignment]
    asyncio_connection = functools.partial(AsyncioConnection, limits)
    hypercorn.asyncio.run.TCPServer = asyncio_connection  # type: ignore[attr-defined,assignment]
    with suppress(RuntimeError):  # no loop of asyncio
        log_failed_accepts_once_a_minute(asyncio.get_running_loop())
    return True
