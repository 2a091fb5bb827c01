"""All calls by which the store reads and changes files. Of the store it imports only the base class of errors.

Errors are the system's `OSError`s; the callers interpret them. Tests pass a `FileSystem` that fails the n-th call, or
that simulates a power cut.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Bytes = bytes | bytearray | memoryview

_COPY_UNSUPPORTED = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY})
_ALLOCATE_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_COPY_BYTES = 1024 * 1024  # per read, where the kernel cannot copy
_SYNC_FILE_RANGE_WRITE = 2  # <linux/fs.h>
_MAX_READ_BYTES = 128 * 1024 * 1024  # a bound for `read`, above the longest manifest


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's `sync_file_range(fd, offset, count, flags)`, which Python does not wrap; None on other systems."""
    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        found.restype = ctypes.c_int
    return found


_sync_file_range = _find_sync_file_range()


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Bytes of a file system that are free for this user, and its size in bytes."""

    free: int
    total: int


class FileState(NamedTuple):
    """The metadata that changes with every write to a file.

    A tuple, since one is created and compared for each buffer that is sent.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int


class ReadStopped(StoreError):
    """A package was not read to its end, since `Store.stop_reading` was called. Nothing is known about its bytes."""

    def __init__(self) -> None:
        super().__init__("a package was not read to its end: the program is stopping")


class FileSystem:
    """The real file system."""

    stopped = False
    """Whether `read_into` raises `ReadStopped`."""

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents. An existing folder is no error."""
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        """Create a file, or open an existing one, for reading and writing; return the descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def open(self, path: Path) -> int:
        """Open a regular file for reading and return the descriptor. Raises `OSError` for a link or a folder."""
        return _open_file(path, os.O_RDONLY)

    def open_to_write(self, path: Path) -> int:
        """Open an existing regular file for reading and writing; otherwise as `open`."""
        return _open_file(path, os.O_RDWR)

    def allocate(self, fd: int, size: int) -> None:
        """Set the size of a file and allocate its blocks, so that writing to it cannot fill the disk."""
        os.ftruncate(fd, size)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _ALLOCATE_UNSUPPORTED:
                raise

    def truncate(self, fd: int, size: int) -> None:
        """Set the size of a file."""
        os.ftruncate(fd, size)

    def write_at(self, fd: int, data: Bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)

    def read_into(self, fd: int, view: memoryview, offset: int) -> int:
        """Read from `offset` into `view`; return the number of bytes read, 0 at the end of the file.

        All that reads a whole package calls this for each MiB or less. Raises `ReadStopped` once `stopped` is set.
        """
        if self.stopped:
            raise ReadStopped
        return os.preadv(fd, [view], offset)

    def copy_range(self, source: int, source_offset: int, target: int, target_offset: int, count: int) -> None:
        """Copy `count` bytes between files, in the kernel where that is supported; fewer if the source ends early."""
        done = 0
        while done < count:
            try:
                step = os.copy_file_range(source, target, count - done, source_offset + done, target_offset + done)
            except OSError as error:
                if error.errno not in _COPY_UNSUPPORTED:
                    raise
                data = os.pread(source, min(_COPY_BYTES, count - done), source_offset + done)
                self.write_at(target, data, target_offset + done)
                step = len(data)
            if step == 0:
                return
            done += step

    def start_writeback(self, fd: int) -> None:
        """Ask the kernel to start writing a file's dirty pages to the disk, without waiting. Cannot fail.

        It does not consume write errors: a later `sync` still reports them.
        """
        if _sync_file_range is not None:
            _sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def sync(self, fd: int) -> None:
        """Write a file's bytes and size to the disk (`fdatasync`)."""
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor and release its lock, if it has one."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, replacing the target."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a name. A missing name is no error."""
        path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Write the names in a folder to the disk (`fsync`)."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def is_folder(self, path: Path) -> bool:
        """Return whether a path is a folder."""
        return path.is_dir()

    def list(self, path: Path) -> list[str]:
        """Return the names in a folder, in no order."""
        return [entry.name for entry in path.iterdir()]

    def exists(self, path: Path) -> bool:
        """Return whether a path is a regular file."""
        return path.is_file()

    def read(self, path: Path) -> bytes:
        """Return the content of a small file. Raises `FileNotFoundError`."""
        with path.open("rb") as file:
            return file.read(_MAX_READ_BYTES)

    def touch(self, path: Path, when: float) -> None:
        """Set the modification time of a file to `when`, in Unix seconds."""
        os.utime(path, (when, when))

    def stat(self, path: Path) -> FileState:
        """Return the state of a file or folder. Raises `FileNotFoundError`."""
        return _state(path.stat())

    def fstat(self, fd: int) -> FileState:
        """Return the state of an open file."""
        return _state(os.fstat(fd))

    def lock(self, fd: int) -> bool:
        """Try to lock an open file; return whether that succeeded. The lock ends with the descriptor or the process."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def folder_lock(self, path: Path) -> Iterator[None]:
        """Hold a folder's lock, waiting for it: what is done inside is done by one process at a time."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def disk_space(self, path: Path) -> DiskSpace:
        """Return the free space and the size of the file system of `path`."""
        found = os.statvfs(path)
        return DiskSpace(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def _open_file(path: Path, mode: int) -> int:
    fd = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a file", str(path))
    return fd


def _state(found: os.stat_result) -> FileState:
    return FileState(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink)
