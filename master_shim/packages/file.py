"""A package file: the state that identifies its content, and reading it as one version."""

from __future__ import annotations

import os
from dataclasses import dataclass
from stat import S_ISREG
from typing import TYPE_CHECKING

from store import check_fd, split_fd

from ..errors import PackageMissing, PackageReplaced, PackageUnreadable

if TYPE_CHECKING:
    from pathlib import Path

    from store import Digest, Manifest

FileState = tuple[int, int, int, int, int]
"""What identifies the content of a file: device, inode, size, mtime and ctime (ns)."""


def state_of(path: str) -> FileState:
    """Return the state of a file. Raises `PackageMissing` (also if it is not a regular file), `PackageUnreadable`."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - `Path.stat` takes three times as long, and every redirect calls this
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PackageMissing(path) from error
    except OSError as error:
        raise PackageUnreadable(path, error.strerror or type(error).__name__) from error
    except UnicodeEncodeError as error:  # a callable's path
        raise PackageMissing(path) from error
    if not S_ISREG(stat.st_mode):
        raise PackageMissing(path)
    return _state(stat)


def _state(stat: os.stat_result) -> FileState:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def split_package(path: Path) -> Manifest:
    """Check that a file is a package, as a node does, and split it.

    Raises `PackageRejected`, and as `store.split_file`.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        check_fd(file.fileno(), size, unpack=False)
        return split_fd(file.fileno(), size)


@dataclass(frozen=True, slots=True)
class PackageVersion:
    """The content of a file while it is in `state`."""

    path: str
    state: FileState
    digest: Digest

    @property
    def is_there(self) -> bool:
        """Whether the file still has this version."""
        try:
            return state_of(self.path) == self.state
        except (PackageMissing, PackageUnreadable):
            return False

    @property
    def size(self) -> int:
        """Size of the package in bytes."""
        return self.state[2]

    @property
    def modified(self) -> int:
        """When the content changed, in Unix seconds (for Last-Modified): the later of mtime and ctime.

        A file that is renamed into place keeps its mtime, which may be older than that of the file it replaces.
        """
        return max(self.state[3], self.state[4]) // 10**9

    @property
    def etag(self) -> str:
        """The strong ETag of the package, quoted."""
        return f'"{self.digest}"'


class PackageFile:
    """A package opened as one version. Every read checks that the bytes are still of that version.

    Create, read and close it in worker threads, one at a time. Raises `PackageReplaced`, `PackageUnreadable`.
    """

    def __init__(self, version: PackageVersion) -> None:
        # Without O_NONBLOCK, opening a FIFO that has replaced the file would block the thread forever.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._fd = os.open(version.path, flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PackageReplaced(version.path) from error
        except OSError as error:
            raise PackageUnreadable(version.path, error.strerror or type(error).__name__) from error
        self._path = version.path
        self._stat = os.fstat(self._fd)
        if _state(self._stat) != version.state:
            os.close(self._fd)
            raise PackageReplaced(version.path)

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly `count` bytes. Raises `PackageReplaced` if they may be of another version.

        A file that is replaced by a rename keeps its content. Its ctime changes with its link count, so a ctime that
        changed with the link count is ignored; a write in place changes the size, the mtime or the ctime alone.
        """
        data = os.pread(self._fd, count, offset)
        before, now = self._stat, os.fstat(self._fd)
        same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        if not same or (now.st_ctime_ns != before.st_ctime_ns and now.st_nlink == before.st_nlink):
            raise PackageReplaced(self._path)
        if len(data) != count:
            raise PackageUnreadable(self._path, f"{len(data)} bytes instead of {count} at {offset}")
        self._stat = now
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
