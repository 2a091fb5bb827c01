"""A folder of packages: which meetings are in progress, and their descriptions."""

from __future__ import annotations

import logging
import os
import time
import unicodedata
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec
from blake3 import blake3

from ..errors import FolderInDoubt, FolderMissing, FolderUnreadable
from ..protocol import UNREADABLE, is_meeting_id, one_line, why_no_meeting_id
from . import KEEP_SECONDS
from .source import ListedMeeting

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("master_shim.packages")

MAX_DETAILS_BYTES = 4 * 1024 * 1024
"""A larger `<id>.json` is a mistake: it is logged and not read."""

_FolderState = tuple[int, int, int]
"""Device, inode and mtime (ns) of a folder."""


class DirectoryPackages:
    """A folder in which every `<id>.zip` (or `.ZIP`) is a meeting in progress.

    Names in it are UTF-8, whatever the locale. The id of a file is its name in the normal form NFC; names from macOS
    are often in another. A file whose name is no valid id is logged and left out.

    Replace a package by a rename, never in place: write `.new` beside it, then `mv .new <id>.zip`. Names that begin
    with a dot are ignored, so the folder may contain half-written files. The folder may be a symbolic link. Links in it
    are followed to files in it (`m.zip` -> `.builds/7.zip`); a link out of it is ignored, so that write access to the
    folder does not publish files from elsewhere. An optional `<id>.json` describes the meeting: an object with `title`,
    `time` and other fields of the `data` answer (`intro`, `agenda_items`, ...), at the top or in an object `data`.

    A folder that is suddenly empty, replaced or missing is perhaps a share that is not mounted: its meetings stay in
    progress for `keep_seconds`. Raises `FolderMissing` if the folder does not exist at first.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep_seconds: float = KEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(folder).absolute()
        self._keep_seconds = keep_seconds
        self._clock = clock
        # An empty path, as of a variable that is not set, would mean the current folder, with all its zip files.
        if not os.fspath(folder) or not self.folder.is_dir():
            raise FolderMissing(str(self.folder) if os.fspath(folder) else "''")
        self._prefix = f"{self.folder}/"
        self._names: dict[str, str] = {}  # id -> name of its file, when the folder was listed last
        self._listed: _FolderState | None = None  # the folder's state then
        self._last: tuple[ListedMeeting, ...] = ()  # the meetings when the folder was listed last without doubt
        self._last_state: _FolderState | None = None
        self._doubt: tuple[str, float] | None = None  # what is wrong with the folder, and since when
        self._details: dict[str, tuple[object, dict[str, Any], str]] = {}
        self._ignored: set[str] = set()

    def __repr__(self) -> str:
        return f"DirectoryPackages({str(self.folder)!r})"

    async def __call__(self, meeting_id: str) -> str | None:
        """Return the path of the meeting's package, which may not exist; None if the id cannot be in the folder.

        Raises `FolderUnreadable`, and `FolderInDoubt` while nobody knows whether the package is there.
        """
        if not is_meeting_id(meeting_id):
            return None
        path = self._path_of(meeting_id)
        # Both calls take 2 µs; handing them to a worker thread takes 50 times as long.
        if not os.path.lexists(path):  # noqa: ASYNC240
            if _folder_state(self.folder) != self._listed:
                # The name may be another than `<id>.zip`, in a folder that changed since it was listed.
                await self.meetings()
                path = self._path_of(meeting_id)
            if self._doubt is not None and not os.path.lexists(path):  # noqa: ASYNC240
                raise FolderInDoubt(path if meeting_id in self._names else "")
        return path if self._is_inside(path) else None

    async def meetings(self) -> tuple[ListedMeeting, ...]:
        """Call `read` in a worker thread."""
        return await anyio.to_thread.run_sync(self.read)

    def read(self) -> tuple[ListedMeeting, ...]:
        """Return the meetings in progress, ordered by id. Raises `FolderUnreadable`."""
        packages: dict[str, str] = {}
        descriptions: dict[str, str] = {}
        state = self._listed = _folder_state(self.folder)
        try:
            with os.scandir(self.folder) as entries:
                names = sorted(entries, key=_order)
            for entry in names:
                self._sort(entry, packages, descriptions)
        except OSError as error:
            if kept := self._keep(f"cannot be read: {error.strerror or error}"):
                return kept
            raise FolderUnreadable(str(self.folder), str(error)) from error
        replaced = state is None or self._last_state is None or state[:2] != self._last_state[:2]
        if self._last and not packages and (replaced or not names) and (kept := self._keep("is empty")):
            return kept
        if self._doubt is not None:
            _log.warning("the packages folder %s has %d meetings now", self.folder, len(packages))
        self._doubt, self._last_state = None, state
        self._names = packages
        for gone in self._details.keys() - packages.keys():
            self._details.pop(gone, None)  # perhaps removed by another thread that reads the folder
        self._last = tuple(self._meeting(name, descriptions.get(name)) for name in sorted(packages))
        return self._last

    def _keep(self, wrong: str) -> tuple[ListedMeeting, ...]:
        """Return the meetings that were in progress before something was wrong with the folder; none after a while."""
        now = self._clock()
        if self._doubt is None or self._doubt[0] != wrong:
            self._doubt = (wrong, now if self._doubt is None else self._doubt[1])
            kept = (
                f"; its meetings ({len(self._last)}) stay in progress for {self._keep_seconds:g} s"
                if self._last
                else ""
            )
            _log.error("the packages folder %s %s%s", self.folder, wrong, kept)
        if now - self._doubt[1] < self._keep_seconds:
            return tuple(replace(meeting, kept=True) for meeting in self._last)
        self._last, self._names = (), {}
        return ()

    def _sort(self, entry: os.DirEntry[str], packages: dict[str, str], descriptions: dict[str, str]) -> None:
        """Add a name of the folder to the packages or the descriptions by meeting id, or log why it is left out."""
        name = _utf8(entry.name)
        stem, dot, suffix = name.rpartition(".")
        kind = suffix.lower()
        if not dot or kind not in {"zip", "json"} or name.startswith("."):
            return
        meeting_id = unicodedata.normalize("NFC", stem)
        if kind == "json":
            descriptions.setdefault(meeting_id, entry.name)
        elif reason := why_no_meeting_id(meeting_id):
            self._log_ignored(entry.path, f"its name is no meeting id, {reason}: rename it")
        elif meeting_id in packages:
            self._log_ignored(entry.path, f"{_shown(packages[meeting_id])} is the same meeting: remove one of them")
        elif self._is_package(entry):
            packages[meeting_id] = entry.name

    def _is_package(self, entry: os.DirEntry[str]) -> bool:
        try:
            if entry.is_file():
                return not entry.is_symlink() or self._is_inside(entry.path)
            reason = "it is not a file"
        except OSError as error:  # such as a link to itself: other names are not affected
            reason = error.strerror or str(error)
        self._log_ignored(entry.path, reason)
        return False

    def _path_of(self, meeting_id: str) -> str:
        return f"{self._prefix}{self._names.get(meeting_id) or os.fsdecode(f'{meeting_id}.zip'.encode())}"

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
            _log.warning("%s is left out: %s", _shown(path), reason)

    def _meeting(self, meeting_id: str, description: str | None) -> ListedMeeting:
        details, fingerprint = ({}, "") if description is None else self._read_details(meeting_id, description)
        return ListedMeeting(
            id=meeting_id,
            title=one_line(_text(details.get("title"), meeting_id)) or meeting_id,
            time=one_line(_text(details.get("time"), "")),
            path=self._path_of(meeting_id),
            details=details,
            fingerprint=fingerprint,
        )

    def _read_details(self, meeting_id: str, name: str) -> tuple[dict[str, Any], str]:
        path = f"{self._prefix}{name}"
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


def _order(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Order the names of a folder so that the first of several for one meeting is the usual one, `<id>.zip` in NFC."""
    name = _utf8(entry.name)
    return (not name.endswith((".zip", ".json")) or not unicodedata.is_normalized("NFC", name), name)


def _folder_state(folder: Path) -> _FolderState | None:
    """Return what changes when a name is added to a folder; None if there is no folder."""
    try:
        stat = os.stat(folder)  # noqa: PTH116 - faster than `Path`; called for every unknown id
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino, stat.st_mtime_ns)


def _shown(path: str) -> str:
    """Return a path for the log: one line, whatever bytes it has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return one_line(text, len(text))


def _utf8(name: str) -> str:
    """Return a name of a folder, which Python has decoded by the locale, decoded as UTF-8."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def _text(value: object, default: str) -> str:
    return value if isinstance(value, str) and value else default
