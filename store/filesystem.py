"""The narrow seam to the operating system: every call by which the disk store changes or reads names and bytes.

Errors are the system's `OSError`s; what they mean is decided above. A test can put another `FileSystem` here that
fails the n-th call, or stops the world before it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .errors import NoSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Bytes = bytes | bytearray | memoryview

_COPY_UNSUPPORTED = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY})
_RESERVE_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_COPY_BYTES = 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2  # <linux/fs.h>
_WHOLE_FILE_BYTES = 128 * 1024 * 1024  # `read` is for the small files; no manifest comes near this


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's `sync_file_range(fd, offset, count, flags)`, which Python does not have; None elsewhere."""
    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        found.restype = ctypes.c_int
    return found


_sync_file_range = _find_sync_file_range()


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes a file system has left for us, and has in all."""

    free: int
    total: int


class Seen(NamedTuple):
    """What identifies the state of a file: when none of these has changed, its bytes have not either.

    A tuple, since one is made and compared for every window that is sent.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int


class FileSystem:
    """The real one."""

    def make_folder(self, path: Path) -> None:
        """Create a folder and those above it; one that is there already is no error."""
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        """Create a file, or open the one that is there, for reading and writing. Return its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def open(self, path: Path) -> int:
        """Open a file for reading; a link or a folder of that name is refused. Return its descriptor."""
        return _open_file(path, os.O_RDONLY)

    def open_to_write(self, path: Path) -> int:
        """Open a file that is there for reading and writing; otherwise as `open`."""
        return _open_file(path, os.O_RDWR)

    def reserve(self, fd: int, size: int) -> None:
        """Make the file `size` bytes long with every block its own, so that writing it cannot fill the disk."""
        os.ftruncate(fd, size)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _RESERVE_UNSUPPORTED:
                raise

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def write_at(self, fd: int, data: Bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)

    def read_into(self, fd: int, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on; return how many bytes came, 0 at the end."""
        return os.preadv(fd, [view], offset)

    def copy_range(self, source: int, source_offset: int, target: int, target_offset: int, count: int) -> None:
        """Copy `count` bytes between files, inside the kernel where it can. A source that ends early copies less."""
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

    def begin_writing_out(self, fd: int) -> None:
        """Let the system begin to write the file's bytes to the disk: a hint, which promises nothing and cannot fail.

        It neither waits nor takes an error off the file, so that a `sync` after it reports all there is to report.
        """
        if _sync_file_range is not None:
            _sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def sync(self, fd: int) -> None:
        """Return when the file's bytes and size are on the disk."""
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor; its lock, if it has one, is given up with it."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of whatever has it."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a name; one that is not there is no error."""
        path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def is_folder(self, path: Path) -> bool:
        """Tell whether there is a folder of that name."""
        return path.is_dir()

    def list(self, path: Path) -> list[str]:
        """Return the names in a folder, in no order."""
        return [entry.name for entry in path.iterdir()]

    def exists(self, path: Path) -> bool:
        """Tell whether there is a file of that name."""
        return path.is_file()

    def read(self, path: Path) -> bytes:
        """Return the whole of a small file. Raises `FileNotFoundError`."""
        with path.open("rb") as file:
            return file.read(_WHOLE_FILE_BYTES)

    def touch(self, path: Path, when: float) -> None:
        """Set a file's time of modification to `when`, in Unix seconds."""
        os.utime(path, (when, when))

    def look(self, path: Path) -> Seen:
        """Return the state of a file by name. Raises `FileNotFoundError`."""
        return _seen(path.stat())

    def look_at(self, fd: int) -> Seen:
        """Return the state of an open file."""
        return _seen(os.fstat(fd))

    def lock(self, fd: int) -> bool:
        """Take the lock of an open file if nobody has it; tell whether it was got. Ends with the process."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def folder_lock(self, path: Path) -> Iterator[None]:
        """Hold a folder's lock, waiting for it: for what two processes that start together must not both do."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def room(self, path: Path) -> Room:
        """Return how much the file system that holds `path` has left for us, and has in all."""
        found = os.statvfs(path)
        return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def _open_file(path: Path, mode: int) -> int:
    fd = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a file", str(path))
    return fd


def _seen(found: os.stat_result) -> Seen:
    return Seen(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink)


def create_locked(fs: FileSystem, path: Path) -> int | None:
    """Create or open a file and take its lock; return its descriptor, or None when another holds the lock.

    A file that lost its name before we had the lock (its holder removed or renamed it) is not the one meant, so
    the name is tried again.
    """
    while True:
        fd = fs.create(path)
        try:
            if not fs.lock(fd):
                fs.close(fd)
                return None
            with suppress(FileNotFoundError):
                if fs.look(path).inode == fs.look_at(fd).inode:
                    return fd
        except BaseException:
            fs.close(fd)
            raise
        fs.close(fd)


def make_folder_durably(fs: FileSystem, path: Path) -> None:
    """Create a folder and those above it, and return when the names of those that were not there are on the disk."""
    made = []
    folder = path
    while not fs.is_folder(folder):
        made.append(folder)
        folder = folder.parent
    fs.make_folder(path)
    for folder in reversed(made):
        fs.sync_folder(folder.parent)


def publish(fs: FileSystem, fd: int, source: Path, target: Path) -> None:
    """Make a finished small file visible under its lasting name; for packages, `DiskStore` does it in two steps.

    Its bytes are synced before it is renamed, so a crash leaves under `target` the whole file, or what was there
    before. The name itself survives a power cut only once `target`'s folder is synced, which is left to the caller:
    one sync does for several files. The caller has verified the bytes, and writes none while this runs.
    """
    fs.sync(fd)
    fs.rename(source, target)


def write_durably(fs: FileSystem, data: bytes, temporary: Path, target: Path) -> None:
    """Put a small file in place, whole or not at all; when this returns it survives a power cut."""
    write_whole(fs, data, temporary, target)
    fs.sync_folder(target.parent)


def write_whole(fs: FileSystem, data: bytes, temporary: Path, target: Path) -> None:
    """Put a small file in place, whole or not at all; its name is safe once its folder is synced.

    The temporary name holds a lock until it is renamed.
    """
    fd = None
    try:
        while fd is None:  # nobody else has this name: only a sweep can hold the lock, for a moment
            fd = create_locked(fs, temporary)
        fs.truncate(fd, 0)
        fs.write_at(fd, data, 0)
        publish(fs, fd, temporary, target)
    except BaseException:
        fs.unlink(temporary)
        raise
    finally:
        if fd is not None:
            fs.close(fd)


@contextmanager
def full_disk(needed: int, room: Callable[[], Room]) -> Iterator[None]:
    """Turn the system's word for a full disk, or a full quota, into `NoSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(needed, room().free) from error
        raise
