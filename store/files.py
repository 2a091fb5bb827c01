"""File operations that take several calls: locked creation, and atomic, durable writes of small files."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .filesystem import FileSystem


def create_locked(fs: FileSystem, path: Path) -> int | None:
    """Create or open a file and lock it; return its descriptor, or None when the lock is held elsewhere.

    The file may be renamed or removed by the previous holder just before it is locked; then the path is opened again.
    """
    while True:
        fd = fs.create(path)
        try:
            if not fs.lock(fd):
                fs.close(fd)
                return None
            with suppress(FileNotFoundError):
                if fs.stat(path).inode == fs.fstat(fd).inode:
                    return fd
        except BaseException:
            fs.close(fd)
            raise
        fs.close(fd)


def remove_unlocked(fs: FileSystem, path: Path) -> bool:
    """Remove a file unless its lock is held; return whether it was removed."""
    fd = create_locked(fs, path)
    if fd is None:
        return False
    try:
        fs.unlink(path)
    finally:
        fs.close(fd)
    return True


def make_folder_durably(fs: FileSystem, path: Path) -> None:
    """Create a folder and its parents, and sync the names that were created."""
    made = []
    folder = path
    while not fs.is_folder(folder):
        made.append(folder)
        folder = folder.parent
    fs.make_folder(path)
    for folder in reversed(made):
        fs.sync_folder(folder.parent)


def write_atomically(fs: FileSystem, data: bytes, temporary: Path, target: Path) -> None:
    """Write a small file: `target` then has its old or its new content, also after a power cut.

    The name is durable once the folder of `target` is synced, which is left to the caller, since one sync is enough
    for several files. The temporary file is locked until it is renamed.
    """
    fd = None
    try:
        while fd is None:  # the name is unique: only a sweep of the folder can hold the lock, and only briefly
            fd = create_locked(fs, temporary)
        fs.truncate(fd, 0)
        fs.write_at(fd, data, 0)
        fs.sync(fd)
        fs.rename(temporary, target)
    except BaseException:
        fs.unlink(temporary)
        raise
    finally:
        if fd is not None:
            fs.close(fd)


def write_durably(fs: FileSystem, data: bytes, temporary: Path, target: Path) -> None:
    """Write a small file as `write_atomically` does, and sync its folder."""
    write_atomically(fs, data, temporary, target)
    fs.sync_folder(target.parent)
