"""A disk in memory that knows what a power cut may leave of it.

What a file system promises, and no more: bytes are on the disk once their file was synced, names once their folder
was. Before that each name, for itself, is at any point of its own history (a rename is two of these, and may be seen
half), and bytes are lost, present or torn. Every change is announced to `watch`, which may ask for all that may be
left just then.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from store.filesystem import FileSystem, Room, Seen

SECTOR = 512
"""A write is torn here: what was asked for in one piece is on the disk up to some sector."""


class File:
    """An inode: its bytes as programs see them, those on the disk for sure, and what was done in between."""

    def __init__(self, number: int, data: bytes = b"", when: int = 0) -> None:
        self.number = number
        self.data = bytearray(data)
        self.durable = data
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, bytes) written; (size, None) set
        self.mtime = self.ctime = when
        self.links = 0
        self.holder: int | None = None  # the descriptor that has the lock

    def change(self, offset: int, data: bytes | None) -> None:
        self.pending.append((offset, data))
        _apply(self.data, offset, data)

    def versions(self, pick: random.Random) -> list[bytes]:
        """All that may be left of it: lost, present, and torn in three ways."""
        if not self.pending:
            return [self.durable, self.durable]
        torn = [
            [op for op in self.pending if op[1] is None],  # sizes set, no byte written
            [*self.pending[:-1], _half(self.pending[-1])],
            [op if pick.random() < 0.5 else _half(op) for op in self.pending if pick.random() < 0.7],
        ]
        found = [self.durable, bytes(self.data)]
        for ops in torn:
            data = bytearray(self.durable)
            for op in ops:
                _apply(data, *op)
            found.append(bytes(data))
        return [*found[:2], *(data for data in dict.fromkeys(found[2:]) if data not in found[:2])]


def _plain(path: Path) -> str:
    """A path for comparing: temporary names are drawn at random."""
    return str(path.with_name("x.tmp") if path.suffix == ".tmp" else path)


def _apply(data: bytearray, offset: int, written: bytes | None) -> None:
    end = offset if written is None else offset + len(written)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if written is None:
        del data[offset:]
    else:
        data[offset:end] = written


def _half(op: tuple[int, bytes | None]) -> tuple[int, bytes | None]:
    offset, data = op
    if data is None:
        return op
    cut = len(data) // 2
    return (offset, data[: cut - cut % SECTOR] or data[: len(data) // 2])


class Folder:
    """Names, each with all it stood for since the folder was last synced; None: nothing."""

    def __init__(self) -> None:
        self.names: dict[str, list[File | Folder | None]] = {}

    def get(self, name: str) -> File | Folder | None:
        return self.names.get(name, [None])[-1]

    def put(self, name: str, entry: File | Folder | None) -> None:
        self.names.setdefault(name, [None]).append(entry)

    def listed(self) -> dict[str, File | Folder]:
        return {name: past[-1] for name, past in self.names.items() if past[-1] is not None}

    def sync(self) -> None:
        self.names = {name: [past[-1]] for name, past in self.names.items() if past[-1] is not None}


@dataclass
class Cut:
    """One thing that may be left: in words what was lost and what was not; equal keys leave the same."""

    story: str
    key: object
    make: Callable[[], PowerCutDisk]


class PowerCutDisk(FileSystem):
    """A `FileSystem` in memory. Only one thread may use it."""

    def __init__(self) -> None:
        self.root = Folder()
        self.calls = 0
        self.opened: list[Path] = []
        self.skip: str | None = None
        """A sync, named as in `sites`, that does nothing: as if it were not in the code."""
        self.sites: set[str] = set()
        self.watch = lambda: None
        self._files = 0
        self._fds: dict[int, tuple[File, Path]] = {}
        self._next_fd = 1000
        self._now = time.time_ns()

    # -- what may be left -------------------------------------------------------------------------------------

    def cuts(self, pick: random.Random, extra: int = 4):
        """Yield what a power cut may leave: all lost, all there, each single thing lost or there, some at random."""
        choices = list(self._choices(pick))
        lost = [0] * len(choices)
        there = [1 if kind == "bytes" else n - 1 for _, kind, n in choices]
        picks = {tuple(lost): "all lost", tuple(there): "all there"}
        for index, (name, kind, count) in enumerate(choices):
            for other in range(count):
                for base, word in ((lost, "lost"), (there, "there")):
                    pickd = [*base[:index], other, *base[index + 1 :]]
                    picks.setdefault(tuple(pickd), f"{kind} of {name}: {other} of {count}, all else {word}")
        for _ in range(extra if len(choices) > 1 else 0):
            picks.setdefault(tuple(pick.randrange(count) for _, _, count in choices), "at random")
        always = self._always()
        for picked, story in picks.items():
            what = dict(zip([c[:2] for c in choices], picked, strict=True))
            key = (always, tuple(self._key(name, kind, index) for (name, kind), index in what.items()))
            yield Cut(story, key, partial(self._cut, what))

    def _always(self) -> object:
        """What is left whatever happens, in short."""
        return frozenset(
            (_plain(path / name), *self._short(past[0]))
            for path, folder in self._folders()
            for name, past in folder.names.items()
            if len(past) == 1
        )

    def _key(self, name: str, kind: str, index: int) -> object:
        if kind == "bytes":
            number = int(name.split()[1])
            return (number, hash(self._variants[number][index]))
        path = Path(name)
        return (_plain(path), *self._short(self._folder_at[path.parent].names[path.name][index]))

    def _short(self, entry: File | Folder | None) -> tuple[object, ...]:
        if isinstance(entry, File):
            return (entry.number, None if entry.pending else hash(entry.durable))
        return ("folder" if entry else None,)

    def _choices(self, pick: random.Random):
        seen = set()
        self._variants: dict[int, list[bytes]] = {}
        self._folder_at: dict[Path, Folder] = {}
        for path, folder in self._folders():
            self._folder_at[path] = folder
            for name, past in folder.names.items():
                if len(past) > 1:
                    yield str(path / name), "name", len(past)
                for entry in past:
                    if isinstance(entry, File) and entry.pending and entry.number not in seen:
                        seen.add(entry.number)
                        self._variants[entry.number] = entry.versions(pick)
                        yield f"file {entry.number} ({name[-20:]})", "bytes", len(self._variants[entry.number])

    def _folders(self, path: Path = Path("/"), folder: Folder | None = None):
        folder = folder or self.root
        yield path, folder
        for name, past in folder.names.items():
            for entry in {id(e): e for e in past if isinstance(e, Folder)}.values():
                yield from self._folders(path / name, entry)

    def _cut(self, picked: dict[tuple[str, str], int]) -> PowerCutDisk:
        disk = PowerCutDisk()
        disk._files, disk._now = self._files, self._now + 10**9
        chosen = {name.split()[1]: index for (name, kind), index in picked.items() if kind == "bytes"}
        copies: dict[int, File] = {}

        def copy(path: Path, folder: Folder) -> Folder:
            made = Folder()
            for name, past in folder.names.items():
                entry = past[picked.get((str(path / name), "name"), -1)]
                if isinstance(entry, Folder):
                    made.names[name] = [copy(path / name, entry)]
                elif entry is not None:
                    left = copies.get(entry.number)
                    if left is None:
                        variants = self._variants.get(entry.number)
                        data = variants[chosen[str(entry.number)]] if variants else entry.durable
                        left = copies[entry.number] = File(entry.number, data, entry.mtime)
                    left.links += 1
                    made.names[name] = [left]
            return made

        disk.root = copy(Path("/"), self.root)
        return disk

    def killed(self) -> PowerCutDisk:
        """Return the disk as the next process finds it when all that use it are killed: no lock, nothing lost."""
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
        """Let all of it be on the disk."""
        for _, folder in list(self._folders()):
            folder.sync()
            for entry in folder.listed().values():
                if isinstance(entry, File):
                    entry.durable = bytes(entry.data)
                    entry.pending.clear()

    def files(self) -> dict[str, bytes]:
        """Return all files by path, as programs see them."""
        return {
            str(path / name): bytes(entry.data)
            for path, folder in self._folders()
            for name, entry in folder.listed().items()
            if isinstance(entry, File)
        }

    def lay_out(self, under: Path) -> None:
        """Make it real: the same files and folders under a real one."""
        done: dict[int, Path] = {}
        for path, folder in self._folders():
            here = under / path.relative_to("/")
            here.mkdir(parents=True, exist_ok=True)
            for name, entry in folder.listed().items():
                if isinstance(entry, File) and entry.number in done:
                    os.link(done[entry.number], here / name)
                elif isinstance(entry, File):
                    (here / name).write_bytes(entry.data)
                    done[entry.number] = here / name

    def rot(self, path: Path, offset: int) -> None:
        """Flip a byte on the disk itself, behind everybody's back."""
        file = self._file(path)
        durable = bytearray(file.durable)
        durable[offset] ^= 0xFF
        file.durable = bytes(durable)
        file.data[offset] ^= 0xFF
        file.mtime = file.ctime = self._tick()

    # -- the seam -----------------------------------------------------------------------------------------------

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

    def reserve(self, fd: int, size: int) -> None:
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

    def begin_writing_out(self, fd: int) -> None:
        assert fd in self._fds  # a hint: whether anything of it reaches the disk is what `versions` are about

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

    def look(self, path: Path) -> Seen:
        return self._seen(self._file(path))

    def look_at(self, fd: int) -> Seen:
        return self._seen(self._fds[fd][0])

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

    def room(self, path: Path) -> Room:
        return Room(1 << 30, 1 << 31)

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

    def _seen(self, file: File) -> Seen:
        return Seen(file.number, len(file.data), file.mtime, file.ctime, file.links)

    def _site(self, call: str, path: Path) -> bool:
        """Name the place in the store's code that syncs; tell whether it is to be done."""
        frame = sys._getframe(2)
        while frame.f_code.co_filename.endswith(("filesystem.py", "contextlib.py")):
            assert frame.f_back is not None
            frame = frame.f_back
        where = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
        what = path.name if call == "sync_folder" else path.suffix
        site = f"{where}: {call} {what}"
        self.sites.add(site)
        return site != self.skip
