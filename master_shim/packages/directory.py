"""A folder of packages: which meetings are in progress, and their descriptions."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any

import anyio.to_thread
import msgspec
from blake3 import blake3

from ..errors import FolderMissing, FolderUnreadable
from ..protocol import UNREADABLE, is_meeting_id, one_line
from .source import ListedMeeting

_log = logging.getLogger("master_shim.packages")

MAX_DETAILS_BYTES = 4 * 1024 * 1024
"""A larger `<id>.json` is a mistake: it is logged and not read."""
_MAX_NAME_BYTES = 255 - len(".json")
"""Longest id that fits into a file name of Linux's file systems."""


class DirectoryPackages:
    """A folder in which every `<id>.zip` is a meeting in progress.

    Replace a package by a rename, never in place: write `.new` beside it, then `mv .new <id>.zip`. Names that begin
    with a dot are ignored, so the folder may contain half-written files. The folder may be a symbolic link. Links in it
    are followed to files in it (`m.zip` -> `.builds/7.zip`); a link out of it is ignored, so that write access to the
    folder does not publish files from elsewhere. An optional `<id>.json` describes the meeting: an object with `title`,
    `time` and other fields of the `data` answer (`intro`, `agenda_items`, ...), at the top or in an object `data`.

    Raises `FolderMissing` if the folder does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise FolderMissing(str(self.folder))
        self._prefix = f"{self.folder}/"
        self._details: dict[str, tuple[object, dict[str, Any], str]] = {}
        self._ignored: set[str] = set()

    def __repr__(self) -> str:
        return f"DirectoryPackages({str(self.folder)!r})"

    async def __call__(self, meeting_id: str) -> str | None:
        """Return the path of the meeting's package, which may not exist; None if the id cannot be in the folder."""
        path = f"{self._prefix}{meeting_id}.zip"
        return path if _is_file_stem(meeting_id) and self._is_inside(path) else None

    async def meetings(self) -> tuple[ListedMeeting, ...]:
        """Call `read` in a worker thread."""
        return await anyio.to_thread.run_sync(self.read)

    def read(self) -> tuple[ListedMeeting, ...]:
        """Return the meetings in progress, ordered by id. Raises `FolderUnreadable`."""
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
        except OSError as error:  # such as a link to itself: other names are not affected
            self._log_ignored(entry.path, error.strerror or str(error))
            return False

    def _is_inside(self, path: str) -> bool:
        """Tell whether a name in the folder is not a link out of it. Takes one `lstat` (2 µs) unless it is a link."""
        if not os.path.islink(path):  # noqa: PTH114 - faster than `Path`; called for every redirect
            return True
        folder, target = os.path.realpath(self.folder), os.path.realpath(path)
        inside = target.startswith(f"{folder.rstrip('/')}/")
        if not inside:
            self._log_ignored(path, "it is a symbolic link out of the folder")
        return inside

    def _log_ignored(self, path: str, reason: str) -> None:
        """Log why a name is ignored, once."""
        if path not in self._ignored:
            self._ignored.add(path)
            _log.warning("%s is left out: %s", path, reason)

    def _meeting(self, meeting_id: str) -> ListedMeeting:
        details, fingerprint = self._read_details(meeting_id)
        return ListedMeeting(
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
            stat = os.stat(path)  # noqa: PTH116 - faster than `Path`; called for every status
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
    """Tell whether `<id>.zip` can be a file directly in the folder, from the text alone."""
    if not is_meeting_id(meeting_id) or meeting_id[0] == ".":
        return False
    return len(meeting_id) <= _MAX_NAME_BYTES // 4 or len(meeting_id.encode()) <= _MAX_NAME_BYTES


def _text(value: object, default: str) -> str:
    return value if isinstance(value, str) and value else default
