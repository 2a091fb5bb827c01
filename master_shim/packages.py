"""Where a master's packages are: a folder that says what is in progress, or a callable that cannot."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol, runtime_checkable

import anyio.to_thread
import msgspec
from blake3 import blake3

from .errors import FolderMissing, FolderUnreadable
from .names import valid_meeting_id
from .protocol import UNREADABLE, one_line

_log = logging.getLogger("master_shim.packages")

PackageFinder = Callable[[str], Awaitable["str | os.PathLike[str] | None"]]
"""Any async callable `meeting_id -> path or None`; None means that no such meeting is in progress."""

MAX_DETAILS_BYTES = 4 * 1024 * 1024
"""A `<id>.json` beyond this is a mistake; it is said in the log and not read."""
_MAX_NAME_BYTES = 255 - len(".json")
"""What a file name of Linux's file systems leaves for the id."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """A meeting in progress.

    `path` is its package; `details` what its `data` answer says beyond the defaults; `fingerprint` is a
    digest of the file `details` came from, empty without one.
    """

    id: str
    title: str
    time: str
    path: str
    details: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


@runtime_checkable
class ListedPackages(Protocol):
    """A `PackageFinder` that can also list what is in progress, so that the shim can tell the status."""

    async def __call__(self, meeting_id: str) -> str | os.PathLike[str] | None:
        """Return where the meeting's package is (the file may be gone by the time it is opened), or None."""
        ...

    async def meetings(self) -> tuple[Meeting, ...]:
        """Return the meetings in progress, ordered by id. Raises `FolderUnreadable`."""
        ...


class DirectoryPackages:
    """Every `<id>.zip` in a folder is a meeting in progress, and no other is.

    Replace a package by a rename, never in place: write `.new` beside it, then `mv .new <id>.zip`. Names that
    begin with a dot are not looked at, so a half-written file can lie in the folder. The folder may be a symbolic
    link, and links in it are followed to files in it (`m.zip` -> `.builds/7.zip`); one that leads out of it is no
    meeting, so that whoever may put a name here publishes no file from elsewhere. An optional `<id>.json`
    describes the meeting: an object with `title`, `time` and whatever else the `data` answer is to have
    (`intro`, `agenda_items`, ...), at its top or in an object `data`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise FolderMissing(str(self.folder))
        self._prefix = f"{self.folder}/"
        self._details: dict[str, tuple[object, dict[str, Any], str]] = {}
        self._refused: set[str] = set()

    def __repr__(self) -> str:
        return f"DirectoryPackages({str(self.folder)!r})"

    async def __call__(self, meeting_id: str) -> str | None:
        """Return the path the meeting's package has if it is in progress; None for what can be none of this folder."""
        path = f"{self._prefix}{meeting_id}.zip"
        return path if _is_file_stem(meeting_id) and self._is_inside(path) else None

    async def meetings(self) -> tuple[Meeting, ...]:
        """Read the folder, in a worker thread. Raises `FolderUnreadable`."""
        return await anyio.to_thread.run_sync(self.read)

    def read(self) -> tuple[Meeting, ...]:
        """Read the folder: the meetings in progress, ordered by id. Raises `FolderUnreadable`."""
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    stem, dot, suffix = entry.name.rpartition(".")
                    if dot and suffix == "zip" and _is_file_stem(stem) and self._is_package(entry):
                        found.append(stem)
        except OSError as error:
            raise FolderUnreadable(str(self.folder), str(error)) from error
        for gone in self._details.keys() - set(found):
            del self._details[gone]
        return tuple(self._meeting(meeting_id) for meeting_id in sorted(found))

    def _is_package(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_file() and self._is_inside(f"{self._prefix}{entry.name}")
        except OSError as error:  # a link to itself: one name must not hide all others
            self._refuse(entry.path, error.strerror or str(error))
            return False

    def _is_inside(self, path: str) -> bool:
        """Tell whether a name of the folder is no link out of it. An `lstat` on this thread, 2 µs, and rarely more."""
        if not os.path.islink(path):  # noqa: PTH114 - every redirect passes here
            return True
        folder, target = os.path.realpath(self.folder), os.path.realpath(path)
        inside = target.startswith(f"{folder.rstrip('/')}/")
        if not inside:
            self._refuse(path, "it is a symbolic link out of the folder")
        return inside

    def _refuse(self, path: str, reason: str) -> None:
        """Say once why a name is left out."""
        if path not in self._refused:
            self._refused.add(path)
            _log.warning("%s is left out: %s", path, reason)

    def _meeting(self, meeting_id: str) -> Meeting:
        details, fingerprint = self._read_details(meeting_id)
        return Meeting(
            id=meeting_id,
            title=one_line(_text(details.get("title"), meeting_id)) or meeting_id,
            time=one_line(_text(details.get("time"), "")),
            path=f"{self._prefix}{meeting_id}.zip",
            details=details,
            fingerprint=fingerprint,
        )

    def _read_details(self, meeting_id: str) -> tuple[dict[str, Any], str]:
        path = f"{self._prefix}{meeting_id}.json"
        try:
            stat = os.stat(path)  # noqa: PTH116 - this module reads by plain paths; every status call passes here
        except FileNotFoundError:
            return {}, ""
        except OSError as error:
            _log.warning("%s cannot be read and is left out: %s", path, error)
            return {}, ""
        if not self._is_inside(path):
            return {}, ""
        key = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        known = self._details.get(meeting_id)
        if known is None or known[0] != key:
            known = self._details[meeting_id] = (key, *_parse_details(path, stat))
        return known[1], known[2]


def _parse_details(path: str, stat: os.stat_result) -> tuple[dict[str, Any], str]:
    if not S_ISREG(stat.st_mode) or stat.st_size > MAX_DETAILS_BYTES:
        _log.warning("%s is left out: not a file of at most %d bytes", path, MAX_DETAILS_BYTES)
        return {}, ""
    try:
        data = Path(path).read_bytes()
        details = msgspec.json.decode(data, type=dict[str, Any])
    except (OSError, *UNREADABLE) as error:
        _log.warning("%s is left out: %s", path, error)
        return {}, ""
    inner = details.pop("data", {})
    if isinstance(inner, dict):
        details |= inner
    return details, blake3(data).hexdigest()


def _is_file_stem(meeting_id: str) -> bool:
    """Tell whether `<id>.zip` names a file of the folder itself. Decided on the text: no disk is touched."""
    if not valid_meeting_id(meeting_id) or meeting_id[0] == ".":
        return False
    return len(meeting_id) <= _MAX_NAME_BYTES // 4 or len(meeting_id.encode()) <= _MAX_NAME_BYTES


def _text(value: object, default: str) -> str:
    return value if isinstance(value, str) and value else default
