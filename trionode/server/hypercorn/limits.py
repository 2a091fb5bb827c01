"""Limits and counters of a server's connections."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from .min_data_rate import MinDataRate
from .sendfile import SendTurns

if TYPE_CHECKING:
    from ...settings import Settings

RESERVED_FILES = 256
"""Open files that are not connections of clients: packages, fills, connections to the master, libraries."""


class ConnectionLimits:
    """The limits, send turns and counters that the connections of one server share.

    `open_connections` does not include connections that are being refused.
    """

    def __init__(self) -> None:
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
            return False
        self.open_connections += 1
        return True

    def close(self) -> None:
        """Count the end of a connection."""
        self.open_connections -= 1

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
