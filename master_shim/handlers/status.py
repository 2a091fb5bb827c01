"""The routes that report which meetings are in progress, and health: those of a standalone master."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..asgi import NO_STORE, Answer, Request, json_answer
from ..errors import MeetingMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..packages.in_progress import InProgress
    from ..registry import Registry

IN_PROGRESS = "进行中"
"""The deployed system's status of a meeting that is in progress."""


class StatusHandlers:
    """Handlers of the status routes. Raise `RouteMissing` if the meetings in progress cannot be listed."""

    def __init__(self, in_progress: InProgress, registry: Registry, clock: Callable[[], float]) -> None:
        self._in_progress = in_progress
        self._registry = registry
        self._clock = clock

    async def status_node(self, request: Request) -> Answer:
        """Answer `meetings/status/node`."""
        snapshot = await self._in_progress.snapshot()
        names = [{"id": meeting.id, "title": meeting.title} for meeting in snapshot.meetings]
        value = {"id": snapshot.token, "active_meetings": names, "timestamp": time.time()}
        return json_answer(value, 200, NO_STORE)

    async def status_token(self, request: Request) -> Answer:
        """Answer `meetings/status/token`."""
        snapshot = await self._in_progress.snapshot()
        meetings = [{"id": item.id, "title": item.title, "time": item.time} for item in snapshot.meetings]
        return json_answer({"id": snapshot.token, "meetings": meetings}, 200, NO_STORE)

    async def data(self, request: Request) -> Answer:
        """Answer `meetings/{id}/data`: the meeting's description, with defaults for the fields of the contract."""
        snapshot = await self._in_progress.snapshot()
        for meeting in snapshot.meetings:
            if meeting.id == request.argument:
                value = {
                    "title": meeting.title,
                    "intro": "",
                    "time": meeting.time,
                    "status": IN_PROGRESS,
                    "agenda_items": [],
                    **meeting.details,
                    # Last, so that a description cannot replace it: tablets require the token as the id.
                    "id": snapshot.token,
                    "meeting_id": meeting.id,
                }
                return json_answer(value, 200, NO_STORE)
        raise MeetingMissing(request.argument)

    async def root(self, request: Request) -> Answer:
        """Answer `/`, by which nodes check that the master is running."""
        return json_answer({"status": "running", "service": "master-shim"})

    async def health(self, request: Request) -> Answer:
        """Answer `/health`, with the number of nodes that are alive."""
        nodes = len(self._registry.nodes(self._clock()))
        return json_answer({"status": "healthy", "nodes": nodes, "timestamp": time.time()})
