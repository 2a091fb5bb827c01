"""Tickets of redirects: each identifies a client that the master has sent here, and is reported in a heartbeat."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TICKETS = 10_000
"""Limit of the tickets kept for the next heartbeat, which may be delayed while the master does not answer."""

_TICKET = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""The form of the shim's tickets. They come from clients, so anything else is discarded."""


class Tickets:
    """Tickets not yet reported. Several requests of one client have the same ticket, which counts once."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def add(self, ticket: str) -> None:
        """Record that a client has arrived."""
        if len(self._seen) < MAX_TICKETS and _TICKET.fullmatch(ticket):
            self._seen[ticket] = None

    def first(self, count: int) -> tuple[str, ...]:
        """Return up to `count` tickets, the oldest first."""
        return tuple(islice(self._seen, count))

    def remove(self, tickets: Iterable[str]) -> None:
        """Remove tickets that were reported."""
        for ticket in tickets:
            self._seen.pop(ticket, None)
