"""Where a master's packages come from: the two interfaces that `MasterShim` accepts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Protocol, runtime_checkable

PackageFinder = Callable[[str], Awaitable[str | PathLike[str] | None]]
"""Any async callable `meeting_id -> path or None`; None means that no such meeting is in progress."""


@dataclass(frozen=True, slots=True)
class ListedMeeting:
    """A meeting in progress.

    `path` is its package, `details` are fields of its `data` answer, and `fingerprint` is the digest of the file that
    `details` were read from, empty without one.
    """

    id: str
    title: str
    time: str
    path: str
    details: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


@runtime_checkable
class ListedPackages(Protocol):
    """A `PackageFinder` that can also list the meetings in progress, which the status routes need."""

    async def __call__(self, meeting_id: str) -> str | PathLike[str] | None:
        """Return the path of the meeting's package, or None. The file may be gone by the time it is opened."""
        ...

    async def meetings(self) -> tuple[ListedMeeting, ...]:
        """Return the meetings in progress, ordered by id. Raises `FolderUnreadable`."""
        ...
