"""A file system in memory for power-cut tests; `power_cut_states` derives what a power cut may leave of it."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from store.filesystem import DiskSpace, FileState, FileSystem
from tests.store.power_cut_files import File, Folder


class PowerCutDisk(FileSystem):
    """A file system in memory that calls `watch` after every change. Only one thread may use it."""

    def __init__(self) -> None:
        self.root = Folder()
        self.calls = 0
        self.opened: list[Path] = []
        self.skip: str | None = None
        """A sync, named as in `sites`, that has no effect, as if it were missing in the code."""
        self.sites: set[str] = set()
        self.watch = lambda: None
        self._files = 0
        self._fds: dict[int, tuple[File, Path]] = {}
        self._next_fd = 1000
        self._now = time.time_ns()

    def killed(self) -> PowerCutDisk:
        """Return a copy as the next process finds it after all its users were killed: no locks, nothing lost."""
        disk = PowerCutDisk()
        disk._files, disk._now, disk.skip, disk.sites = self._files, self._now, self.skip, self.sites
        copies: dict[int, File] = {}

        def copy(entry):
            if isinstance(entry, Folder):
                if id(entry) not in copies:
                    made = copies[id(entry)] = Folder()
                    made.names = {name: [copy(e) for e in past] for name, past in entry.names.items()}
                return copies[id(entry)]
            if entry is not None and entry.number not in copies:
                made = copies[entry.number] = File(entry.number, entry.durable, entry.mtime)
                made.data, made.pending = bytearray(entry.data), list(entry.pending)
                made.ctime, made.links = entry.ctime, entry.links
            return None if entry is None else copies[entry.number]

        disk.root = copy(self.root)
        return disk

    def settle(self) -> None:
        """Make everything durable."""
        for _, folder in list(self.folders()):
            folder.sync()
            for entry in folder.listed().values():
                if isinstance(entry, File):
                    entry.durable = bytes(entry.data)
                    entry.pending.clear()

    def folders(self, path: Path = Path("/"), folder: Folder | None = None):
        folder = folder or self.root
        yield path, folder
        for name, past in folder.names.items():
            for entry in {id(e): e for e in past if isinstance(e, Folder)}.values():
                yield from self.folders(path / name, entry)

    def files(self) -> dict[str, bytes]:
        """Return all files by path, as programs see them."""
        return {
            str(path / name): bytes(entry.data)
            for path, folder in self.folders()
            for name, entry in folder.listed().items()
            if isinstance(entry, File)
        }

    def lay_out(self, under: Path) -> None:
        """Write the same files and folders below a real folder."""
        done: dict[int, Path] = {}
        for path, folder in self.folders():
            here = under / path.relative_to("/")
            here.mkdir(parents=True, exist_ok=True)
            for name, entry in folder.listed().items():
                if isinstance(entry, File) and entry.number in done:
                    os.link(done[entry.number], here / name)
                elif isinstance(entry, File):
                    (here / name).write_bytes(entry.data)
                    done[entry.number] = here / name

    def damage(self, path: Path, offset: int) -> None:
        """Flip a byte on the disk, without the knowledge of any program."""
        file = self._file(path)
        durable = bytearray(file.durable)
        durable[offset] ^= 0xFF
        file.durable = bytes(durable)
        file.data[offset] ^= 0xFF
        file.mtime = file.ctime = self._tick()

    # -- the calls of `FileSystem` ------------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        at = self.root
        for name in path.parts[1:]:
            entry = at.get(name)
            if entry is None:
                entry = Folder()
                at.put(name, entry)
                self._changed()
            if not isinstance(entry, Folder):
                raise FileExistsError(errno.EEXIST, "a file", str(path))
            at = entry

    def create(self, path: Path) -> int:
        folder = self._folder(path.parent)
        entry = folder.get(path.name)
        if entry is None:
            self._files += 1
            entry = File(self._files, when=self._tick())
            entry.links = 1
            folder.put(path.name, entry)
            self._changed()
        return self._open(entry, path)

    def open(self, path: Path) -> int:
        self.opened.append(path)
        return self._open(self._file(path), path)

    def open_to_write(self, path: Path) -> int:
        return self._open(self._file(path), path)

    def allocate(self, fd: int, size: int) -> None:
        self.truncate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        self._write(fd, size, None)

    def write_at(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._write(fd, offset, bytes(data))

    def read_into(self, fd: int, view: memoryview, offset: int) -> int:
        found = self._fds[fd][0].data[offset : offset + len(view)]
        view[: len(found)] = found
        return len(found)

    def copy_range(self, source: int, source_offset: int, target: int, target_offset: int, count: int) -> None:
        data = bytes(self._fds[source][0].data[source_offset : source_offset + count])
        self._write(target, target_offset, data)

    def start_writeback(self, fd: int) -> None:
        assert fd in self._fds  # a hint, without effect on what is durable

    def sync(self, fd: int) -> None:
        file, path = self._fds[fd]
        if self._site("sync", path):
            file.durable = bytes(file.data)
            file.pending.clear()
        self._changed()

    def close(self, fd: int) -> None:
        file, _ = self._fds.pop(fd)
        if file.holder == fd:
            file.holder = None

    def rename(self, source: Path, target: Path) -> None:
        file = self._file(source)
        old = self._folder(target.parent).get(target.name)
        if isinstance(old, File):
            old.links -= 1
        self._folder(target.parent).put(target.name, file)
        self._folder(source.parent).put(source.name, None)
        file.ctime = self._tick()
        self._changed()

    def unlink(self, path: Path) -> None:
        folder = self._folder(path.parent)
        entry = folder.get(path.name)
        if entry is None:
            return
        if isinstance(entry, Folder):
            raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        folder.put(path.name, None)
        entry.links -= 1
        entry.ctime = self._tick()
        self._changed()

    def sync_folder(self, path: Path) -> None:
        folder = self._folder(path)
        if self._site("sync_folder", path):
            folder.sync()
        self._changed()

    def list(self, path: Path) -> list[str]:
        return list(self._folder(path).listed())

    def exists(self, path: Path) -> bool:
        return isinstance(self._find(path), File)

    def is_folder(self, path: Path) -> bool:
        return isinstance(self._find(path), Folder)

    def read(self, path: Path) -> bytes:
        return bytes(self._file(path).data)

    def touch(self, path: Path, when: float) -> None:
        self._file(path).mtime = int(when * 1e9)

    def stat(self, path: Path) -> FileState:
        return self._state_of(self._file(path))

    def fstat(self, fd: int) -> FileState:
        return self._state_of(self._fds[fd][0])

    def lock(self, fd: int) -> bool:
        file = self._fds[fd][0]
        if file.holder not in (None, fd):
            return False
        file.holder = fd
        return True

    @contextmanager
    def folder_lock(self, path: Path):
        self._folder(path)
        yield

    def disk_space(self, path: Path) -> DiskSpace:
        return DiskSpace(1 << 30, 1 << 31)

    # -- helpers ------------------------------------------------------------------------------------------------

    def _tick(self) -> int:
        self._now += 1000
        return self._now

    def _changed(self) -> None:
        self.calls += 1
        self.watch()

    def _write(self, fd: int, offset: int, data: bytes | None) -> None:
        file = self._fds[fd][0]
        file.change(offset, data)
        file.mtime = file.ctime = self._tick()
        self._changed()

    def _open(self, entry: File | Folder, path: Path) -> int:
        if isinstance(entry, Folder):
            raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        self._next_fd += 1
        self._fds[self._next_fd] = (entry, path)
        return self._next_fd

    def _find(self, path: Path) -> File | Folder | None:
        at: File | Folder | None = self.root
        for name in path.parts[1:]:
            at = at.get(name) if isinstance(at, Folder) else None
        return at

    def _folder(self, path: Path) -> Folder:
        found = self._find(path)
        if not isinstance(found, Folder):
            raise FileNotFoundError(errno.ENOENT, "no folder", str(path))
        return found

    def _file(self, path: Path) -> File:
        found = self._find(path)
        if not isinstance(found, File):
            raise FileNotFoundError(errno.ENOENT, "no file", str(path))
        return found

    def _state_of(self, file: File) -> FileState:
        return FileState(file.number, len(file.data), file.mtime, file.ctime, file.links)

    def _site(self, call: str, path: Path) -> bool:
        """Record the place in the store's code that syncs; return whether the sync takes effect."""
        frame = sys._getframe(2)
        while Path(frame.f_code.co_filename).name in {"filesystem.py", "files.py", "contextlib.py"}:
            assert frame.f_back is not None
            frame = frame.f_back
        where = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
        what = path.name if call == "sync_folder" else path.suffix
        site = f"{where}: {call} {what}"
        self.sites.add(site)
        return site != self.skip
