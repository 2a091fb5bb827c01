"""Limits and counters of a server's connections."""

from __future__ import annotations

import resource
import time
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

import structlog

from .min_data_rate import MinDataRate
from .sendfile import SendTurns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...settings import Settings

RESERVED_FILES = 256
"""Open files that are not connections of clients: packages, fills, connections to the master, libraries."""

MAX_LINGERING = 64
"""Refused connections that are kept until the client has read the answer. Each holds one of the reserved files."""

WARN_SECONDS = 60.0
"""Between two lines of log about refused connections."""

_log = structlog.get_logger("trionode.server")


class ConnectionLimits:
    """The limits, send turns and counters that the connections of one server share.

    `open_connections` does not include connections that are being refused.
    """

    def __init__(self) -> None:
        self._lingering = 0
        self._warned_at = -inf
        self.max_connections = _files_for_connections()
        self.min_data_rate = MinDataRate()
        self.turns = SendTurns()
        self.open_connections = 0
        self.active_requests = 0

    def configure(self, settings: Settings) -> None:
        """Apply the limits of the settings."""
        limits = [limit for limit in (settings.max_connections, _files_for_connections()) if limit]
        self.max_connections = min(limits, default=0)
        self.min_data_rate.configure(settings.progress_seconds, settings.progress_bytes)

    def try_open(self) -> bool:
        """Count a new connection. Return False, without counting it, if there are too many."""
        if self.max_connections and self.open_connections >= self.max_connections:
            if time.monotonic() - self._warned_at >= WARN_SECONDS:
                self._warned_at = time.monotonic()
                _log.warning("new connections are refused, with 503: too many are open", limit=self.max_connections)
            return False
        self.open_connections += 1
        return True

    def close(self) -> None:
        """Count the end of a connection."""
        self.open_connections -= 1

    @contextmanager
    def lingering(self) -> Iterator[bool]:
        """Count a refused connection. The value is whether it may be kept until the client has read the answer."""
        self._lingering += 1
        try:
            yield self._lingering <= MAX_LINGERING
        finally:
            self._lingering -= 1

    def begin_request(self) -> None:
        """Count a request."""
        self.active_requests += 1

    def end_request(self) -> None:
        """Count the end of a request."""
        self.active_requests -= 1


def _files_for_connections() -> int:
    """Return how many connections the limit of open files allows; 0: any number."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 0 if files == resource.RLIM_INFINITY else max(1, files - RESERVED_FILES)
