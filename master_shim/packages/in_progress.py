"""Which meetings are in progress, and the token that changes with them.

The token is derived from meeting ids, versions and descriptions. So it is the same after a restart and on every master
with the same files, and changes with any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from ..errors import FolderUnreadable, PackageChanging, PackageMissing, PackageUnreadable, RouteMissing
from ..protocol import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .file import PackageVersion
    from .source import ListedMeeting, ListedPackages
    from .versions import PackageVersions


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The meetings in progress at one moment."""

    token: str
    meetings: tuple[ListedMeeting, ...]


def token_of(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return the token for (meeting id, version, fingerprint of its description), in any order."""
    # Ids contain no control characters, so a newline separates the fields.
    lines = sorted("\n".join(entry) for entry in entries)
    return blake3("\n\n".join(lines).encode()).hexdigest()[:32] if lines else NO_TOKEN


class InProgress:
    """The meetings in progress. `packages` is None if they cannot be listed."""

    def __init__(self, packages: ListedPackages | None, versions: PackageVersions) -> None:
        self._packages = packages
        self._versions = versions
        self._paths: frozenset[str] = frozenset()  # of the last snapshot

    async def snapshot(self) -> Snapshot:
        """Return the meetings in progress. Raises `RouteMissing` if they cannot be listed, and `FolderUnreadable`.

        A meeting whose package is unreadable or being overwritten is still in progress: without it, every node would
        take the meeting for ended.
        """
        if self._packages is None:
            raise RouteMissing
        listed = await self._packages.meetings()
        paths = frozenset(meeting.path for meeting in listed)
        for gone in self._paths - paths:
            self._versions.forget(gone)
        self._paths = paths
        meetings = []
        entries = []
        for meeting in listed:
            try:
                found = (
                    self._versions.last(meeting.path) if meeting.kept else await self._versions.current(meeting.path)
                )
            except PackageMissing:
                continue  # ended since the folder was listed
            except (PackageUnreadable, PackageChanging):  # logged by `current`
                found = None
            version = "?" if found is None else str(found.digest)
            meetings.append(meeting)
            entries.append((meeting.id, version, meeting.fingerprint))
        return Snapshot(token_of(entries), tuple(meetings))

    async def known(self) -> list[tuple[ListedMeeting, PackageVersion | None]]:
        """Return the meetings in progress, each with its version, or None if a package must be read for it.

        Raises as `snapshot`.
        """
        if self._packages is None:
            raise RouteMissing
        found: list[tuple[ListedMeeting, PackageVersion | None]] = []
        for meeting in await self._packages.meetings():
            try:
                found.append((meeting, self._known(meeting)))
            except PackageMissing:
                continue  # ended since the folder was listed
            except PackageUnreadable:
                found.append((meeting, None))
        return found

    async def token(self) -> str | None:
        """Return the token, or None if it is not known without reading a package.

        So no heartbeat waits until a new package is hashed. The status requests that follow hash it.
        """
        if self._packages is None:
            return None
        entries = []
        try:
            for meeting in await self._packages.meetings():
                version = self._known(meeting)
                if version is None:
                    return None
                entries.append((meeting.id, version.digest, meeting.fingerprint))
        except (FolderUnreadable, PackageMissing, PackageUnreadable):
            return None  # logged by the next status request
        return token_of(entries)

    def _known(self, meeting: ListedMeeting) -> PackageVersion | None:
        """Return the version of a meeting as far as it is known without reading the package."""
        return self._versions.last(meeting.path) if meeting.kept else self._versions.known(meeting.path)
