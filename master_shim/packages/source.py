"""Where a master's packages come from: the two interfaces that `MasterShim` accepts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from inspect import isawaitable, iscoroutinefunction, signature
from os import PathLike
from typing import Any, Protocol, runtime_checkable

import anyio.to_thread

PackageFinder = Callable[[str], Awaitable[str | PathLike[str] | None]]
"""Any async callable `meeting_id -> path or None`; None means that no such meeting is in progress."""
PlainFinder = Callable[[str], str | PathLike[str] | None]
"""The same as a plain function. It is called in a worker thread, since it may wait for a disk or a database."""


@dataclass(frozen=True, slots=True)
class ListedMeeting:
    """A meeting in progress.

    `path` is its package, `details` are fields of its `data` answer, and `fingerprint` is the digest of the file that
    `details` were read from, empty without one. `kept`: the folder is in doubt, and the meeting is as it was before.
    """

    id: str
    title: str
    time: str
    path: str
    details: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    kept: bool = False


@runtime_checkable
class ListedPackages(Protocol):
    """A `PackageFinder` that can also list the meetings in progress, which the status routes need."""

    async def __call__(self, meeting_id: str) -> str | PathLike[str] | None:
        """Return the path of the meeting's package, or None. The file may be gone by the time it is opened."""
        ...

    async def meetings(self) -> tuple[ListedMeeting, ...]:
        """Return the meetings in progress, ordered by id. Raises `FolderUnreadable`."""
        ...


def finder_of(packages: Any) -> PackageFinder:
    """Return the async callable that finds packages. Raises `TypeError` if `packages` cannot be called as one."""
    if not callable(packages) or isinstance(packages, type):
        raise TypeError(f"packages must be a DirectoryPackages or a function of a meeting id, not {packages!r}")
    if isinstance(packages, ListedPackages) and not iscoroutinefunction(packages.meetings):
        raise TypeError(f"meetings of {packages!r} must be an async function")
    try:
        signature(packages).bind("meeting id")
    except ValueError:  # a callable without a signature, such as one written in C
        pass
    except TypeError as error:
        raise TypeError(f"packages is called with a meeting id; {packages!r} cannot be: {error}") from error
    if iscoroutinefunction(packages) or iscoroutinefunction(type(packages).__call__):
        finder: PackageFinder = packages
        return finder

    async def find(meeting_id: str) -> str | PathLike[str] | None:
        # Awaitable: from a lambda that calls an async function. In a tuple, since Trio refuses it as a result.
        (found,) = await anyio.to_thread.run_sync(lambda: (packages(meeting_id),))
        path: str | PathLike[str] | None = await found if isawaitable(found) else found
        return path

    return find
