"""The routes that say what is in progress, for a whole master: status, meeting data, health.

The token is derived from what is there (ids, versions, descriptions), so it is the same after a restart and
on every master that has the same files, and differs as soon as one of them does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from .asgi import Answer, Request, json_answer
from .errors import FolderUnreadable, MeetingMissing, PackageChanging, PackageMissing, PackageUnreadable, RouteMissing
from .protocol import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .packages import ListedPackages, Meeting
    from .registry import Registry
    from .versions import PackageVersions

IN_PROGRESS = "进行中"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is in progress at one moment."""

    token: str
    meetings: tuple[Meeting, ...]


def token_of(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return the token for (meeting id, version, fingerprint of its description) in any order. Pure."""
    # Ids hold no control characters, so a newline keeps the fields apart.
    lines = sorted("\n".join(entry) for entry in entries)
    return blake3("\n\n".join(lines).encode()).hexdigest()[:32] if lines else NO_TOKEN


class StatusRoutes:
    """Handlers of the status routes; without a list of meetings they raise `RouteMissing`."""

    def __init__(
        self,
        packages: ListedPackages | None,
        versions: PackageVersions,
        registry: Registry,
        clock: Callable[[], float],
    ) -> None:
        self._packages = packages
        self._versions = versions
        self._registry = registry
        self._clock = clock

    async def snapshot(self) -> Snapshot:
        """Look what is in progress. Raises `RouteMissing`, `FolderUnreadable`.

        A package that cannot be read, or is being overwritten, is still a meeting in progress: leaving it out
        would tell every node that the meeting has ended.
        """
        if self._packages is None:
            raise RouteMissing
        meetings = []
        entries = []
        for meeting in await self._packages.meetings():
            try:
                version: str = (await self._versions.current(meeting.path)).digest
            except PackageMissing:
                continue  # ended between the two looks
            except (PackageUnreadable, PackageChanging):  # which stands in the log
                version = "?"
            meetings.append(meeting)
            entries.append((meeting.id, version, meeting.fingerprint))
        return Snapshot(token_of(entries), tuple(meetings))

    async def token(self) -> str | None:
        """Return the token for a heartbeat's answer; None when it cannot be told at once.

        A heartbeat is not kept waiting while a new package is hashed: the status calls that follow bring that
        about, and until then the token would be news to nobody.
        """
        if self._packages is None:
            return None
        entries = []
        try:
            for meeting in await self._packages.meetings():
                version = self._versions.known(meeting.path)
                if version is None:
                    return None
                entries.append((meeting.id, version.digest, meeting.fingerprint))
        except (FolderUnreadable, PackageMissing, PackageUnreadable):
            return None  # as the status calls, which come more often, say in the log
        return token_of(entries)

    async def status_node(self, request: Request) -> Answer:
        """Answer `meetings/status/node`."""
        now = await self.snapshot()
        names = [{"id": item.id, "title": item.title} for item in now.meetings]
        value = {"id": now.token, "active_meetings": names, "timestamp": time.time()}
        return json_answer(value, headers=_FRESH)

    async def status_token(self, request: Request) -> Answer:
        """Answer `meetings/status/token`."""
        now = await self.snapshot()
        named = [{"id": item.id, "title": item.title, "time": item.time} for item in now.meetings]
        return json_answer({"id": now.token, "meetings": named}, headers=_FRESH)

    async def data(self, request: Request) -> Answer:
        """Answer `meetings/{id}/data`: the meeting's description over the contract's empty shape."""
        now = await self.snapshot()
        for meeting in now.meetings:
            if meeting.id == request.match.argument:
                value = {
                    "title": meeting.title,
                    "intro": "",
                    "time": meeting.time,
                    "status": IN_PROGRESS,
                    "agenda_items": [],
                    **meeting.details,
                    # Last: without the token as its id a tablet gives up.
                    "id": now.token,
                    "meeting_id": meeting.id,
                }
                return json_answer(value, headers=_FRESH)
        raise MeetingMissing(request.match.argument)

    async def root(self, request: Request) -> Answer:
        """Say that the master is up."""
        return json_answer({"status": "running", "service": "master-shim"})

    async def health(self, request: Request) -> Answer:
        """Say that the master is up, and how many nodes it knows."""
        nodes = len(self._registry.nodes(self._clock()))
        return json_answer({"status": "healthy", "nodes": nodes, "timestamp": time.time()})


_FRESH = ((b"cache-control", b"no-store"),)
