"""Which version a package file is now: its digest and manifest, computed once for each state of the file.

A file's state is its inode, size, mtime and ctime. The digest is computed in a worker thread, by one caller
at a time for each file; the others wait for it. Files are opened by the version expected of them, never by
name alone.
"""

from __future__ import annotations

import gzip
import logging
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from store import StoreError, split_file

from .errors import PackageChanging, PackageMissing, PackageReplaced, PackageUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from store import Digest
    from store.manifest import Manifest

_log = logging.getLogger("master_shim.versions")

HASHING_THREADS = 2
"""Files hashed at once: hashing uses whole cores, and the worker threads are needed for sending as well."""
ATTEMPTS = 3
"""How often a file that changes while it is read is read again before the caller is told to come back."""
MAX_VERSIONS = 10_000
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""Manifests kept in memory as JSON (about 1 % of their packages); beyond this the longest unused is made
again."""
TICK_SECONDS = 0.02
"""Two writes within one kernel tick (up to 10 ms) can leave the same mtime and ctime, so a file is read
only when its last change is older than this: from then on every change shows."""
GZIP_LEVEL = 6
"""Once for each version: 9 ms for the 450 kB of a package of 2,000 documents. Level 1 takes half of that and gives 6 %
more bytes, level 9 takes a fifth more and gives 1 % fewer."""


FileState = tuple[int, int, int, int, int]
"""What tells one state of a file from another: device, inode, size, mtime and ctime (ns)."""


def state_of(stat: os.stat_result) -> FileState:
    """Return the state in an `os.stat` result."""
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Version:
    """What a file is while it is in `state`."""

    path: str
    state: FileState
    digest: Digest

    @property
    def size(self) -> int:
        """Bytes in the package."""
        return self.state[2]

    @property
    def modified(self) -> int:
        """When the file last changed, or came to where it is, in Unix seconds (for Last-Modified).

        A file that is renamed into its place keeps its mtime, which may be older than that of the one before it.
        """
        return max(self.state[3], self.state[4]) // 10**9

    @property
    def etag(self) -> str:
        """The strong ETag of the package, with its quotes."""
        return f'"{self.digest}"'


@dataclass(slots=True)
class ManifestBody:
    """A manifest as it is sent: canonical JSON, and the same compressed."""

    plain: bytes
    compressed: bytes


class PackageVersions:
    """The current versions of package files. `split` computes a file's manifest, synchronously."""

    def __init__(self, split: Callable[[Path], Manifest] = split_file) -> None:
        self._split = split
        self._current: OrderedDict[str, Version] = OrderedDict()
        self._paths: dict[str, dict[str, None]] = {}  # digest -> paths, in the order they were seen
        self._bodies: OrderedDict[str, ManifestBody] = OrderedDict()
        self._bodies_bytes = 0
        self._failures: dict[str, _Failure] = {}
        self._locks: dict[str, anyio.Lock] = {}
        self._hashing: anyio.CapacityLimiter | None = None

    async def current(self, path: str | os.PathLike[str]) -> Version:
        """Return which version the file is now.

        Raises `PackageMissing`, `PackageUnreadable`, `PackageChanging`. A file that cannot be used is read no second
        time while it stays as it is, and said to be so once, however often it is asked for.

        The look at a known file is one `stat` on this thread (2 µs; handing it to a worker costs 50 times
        that). A caller that is cancelled while the file is read leaves the work done, or to the next
        caller.
        """
        name = os.fspath(path)
        try:
            state = _look(name)
            version = self._current.get(name)
            if version is not None and version.state == state:
                return version
            version = await self._renew(name)
        except (PackageUnreadable, PackageChanging) as error:
            self._say(name, error)
            raise
        self._failures.pop(name, None)
        return version

    async def _renew(self, name: str) -> Version:
        lock = self._locks.setdefault(name, anyio.Lock())
        try:
            async with lock:
                return await self._refresh(name)
        finally:
            # A lock that others wait for passes to one of them and stays locked; the last one clears up.
            if not lock.locked() and self._locks.get(name) is lock:
                del self._locks[name]

    def known(self, path: str | os.PathLike[str]) -> Version | None:
        """Return which version the file is if that is known without reading it. Raises as `current` does."""
        name = os.fspath(path)
        version = self._current.get(name)
        return version if version is not None and version.state == _look(name) else None

    def find(self, digest: str) -> Version | None:
        """Return the file that is `digest` now, among those ever asked for, or None."""
        for path in tuple(self._paths.get(digest, ())):
            version = self._current[path]
            try:
                if _look(path) == version.state:
                    return version
            except (PackageMissing, PackageUnreadable):
                self._forget(path)
        return None

    async def manifest(self, version: Version) -> ManifestBody:
        """Return a version's manifest as it is sent. Raises `PackageReplaced` if it is gone."""
        body = self._bodies.get(version.digest)
        if body is None:
            renewed, body = await self._read(version.path)
            if renewed.digest != version.digest:
                raise PackageReplaced(version.path)
        self._bodies.move_to_end(version.digest)
        return body

    async def _refresh(self, path: str) -> Version:
        for _ in range(ATTEMPTS):
            state = _look(path)
            version = self._current.get(path)
            if version is not None and version.state == state:
                return version  # another caller was faster
            failure = self._failures.get(path)
            if failure is not None and failure.state == state:
                raise PackageUnreadable(path, failure.reason)
            age = time.time() - max(state[3], state[4]) / 1e9
            if 0 <= age < TICK_SECONDS:
                await anyio.sleep(TICK_SECONDS - age)
                if _look(path) != state:
                    continue
            try:
                return (await self._read(path))[0]
            except PackageReplaced:
                continue
            except PackageUnreadable as error:
                if not isinstance(error.__cause__, OSError):  # which may be over without a change of the file
                    self._failures[path] = _Failure(error.reason, state)
                raise
        raise PackageChanging(path)

    async def _read(self, path: str) -> tuple[Version, ManifestBody]:
        """Read a file whole and remember what it is. Raises `PackageReplaced` if it changed meanwhile."""
        if self._hashing is None:
            self._hashing = anyio.CapacityLimiter(HASHING_THREADS)
        state, digest, body = await anyio.to_thread.run_sync(self._read_here, path, limiter=self._hashing)
        version = Version(path, state, digest)
        self._forget(path)
        self._current[path] = version
        self._paths.setdefault(digest, {})[path] = None
        if len(self._current) > MAX_VERSIONS:
            self._forget(next(iter(self._current)))
        self._keep(digest, body)
        return version, body

    def _read_here(self, path: str) -> tuple[FileState, Digest, ManifestBody]:
        before = _look(path)
        try:
            manifest = self._split(Path(path))
        except FileNotFoundError as error:
            raise PackageMissing(path) from error
        except Exception as error:
            # Whatever a broken file makes of the splitter, it is that file's trouble: no other meeting may
            # suffer.
            if _look(path) != before:
                raise PackageReplaced(path) from error
            raise PackageUnreadable(path, _reason(error, before)) from error
        if _look(path) != before or manifest.size != before[2]:
            raise PackageReplaced(path)
        plain = manifest.to_json()
        return before, manifest.digest, ManifestBody(plain, gzip.compress(plain, GZIP_LEVEL, mtime=0))

    def _say(self, path: str, error: PackageUnreadable | PackageChanging) -> None:
        """Put into the log what is wrong with a file, unless that is what was said of it last."""
        reason = error.reason if isinstance(error, PackageUnreadable) else "it is being written to"
        known = self._failures.get(path)
        if known is None or not known.said or known.reason != reason:
            cause = error.__cause__
            expected = cause is None or isinstance(cause, (OSError, StoreError))
            _log.error("package %s cannot be read: %s", path, reason, exc_info=None if expected else cause)
            state = known.state if known is not None and known.reason == reason else None
            self._failures[path] = _Failure(reason, state, said=True)
            while len(self._failures) > MAX_VERSIONS:
                del self._failures[next(iter(self._failures))]
        if isinstance(error, PackageUnreadable):
            error.said = True

    def _keep(self, digest: Digest, body: ManifestBody) -> None:
        known = self._bodies.pop(digest, None)
        if known is not None:
            self._bodies_bytes -= len(known.plain) + len(known.compressed)
        self._bodies[digest] = body
        self._bodies_bytes += len(body.plain) + len(body.compressed)
        while self._bodies_bytes > MAX_MANIFEST_BYTES and len(self._bodies) > 1:
            _, oldest = self._bodies.popitem(last=False)
            self._bodies_bytes -= len(oldest.plain) + len(oldest.compressed)

    def _forget(self, path: str) -> None:
        version = self._current.pop(path, None)
        if version is None:
            return
        paths = self._paths[version.digest]
        paths.pop(path, None)
        if not paths:
            del self._paths[version.digest]


@dataclass(slots=True)
class _Failure:
    """Why a file has no version, in words; and in which state it has none for good, if it is that."""

    reason: str
    state: FileState | None
    said: bool = False


def _reason(error: Exception, state: FileState) -> str:
    """Say why a file cannot be read, in words that name no path of this machine."""
    if state[2] == 0:
        return "it is empty"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) if isinstance(error, StoreError) else f"a fault of the program ({type(error).__name__})"


def _look(path: str) -> FileState:
    try:
        stat = os.stat(path)  # noqa: PTH116 - `Path.stat` costs three times as much, and every redirect passes here
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PackageMissing(path) from error
    except OSError as error:
        raise PackageUnreadable(path, error.strerror or type(error).__name__) from error
    if not S_ISREG(stat.st_mode):
        raise PackageMissing(path)
    return state_of(stat)


class PackageFile:
    """A package held open as one version. Reads tell whether the bytes are still that version's.

    Built, read and closed in worker threads; one reader at a time.
    """

    def __init__(self, version: Version) -> None:
        # Without O_NONBLOCK, a FIFO put in the file's place would block the thread for ever.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._fd = os.open(version.path, flags)
        except FileNotFoundError as error:
            raise PackageReplaced(version.path) from error
        except OSError as error:
            raise PackageUnreadable(version.path, error.strerror or type(error).__name__) from error
        self._path = version.path
        stat = os.fstat(self._fd)
        if state_of(stat) != version.state:
            os.close(self._fd)
            raise PackageReplaced(version.path)
        self._stat = stat

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly `count` bytes. Raises `PackageReplaced` if they may be another version's.

        A file replaced by a rename stays what it was: that changes its link count and with it its ctime,
        which then says nothing. Bytes overwritten in place show in the size, the mtime or the ctime.
        """
        data = os.pread(self._fd, count, offset)
        seen, now = self._stat, os.fstat(self._fd)
        same = (now.st_size, now.st_mtime_ns) == (seen.st_size, seen.st_mtime_ns)
        if not same or (now.st_ctime_ns != seen.st_ctime_ns and now.st_nlink == seen.st_nlink):
            raise PackageReplaced(self._path)
        if len(data) != count:
            raise PackageUnreadable(self._path, f"{len(data)} bytes instead of {count} at {offset}")
        self._stat = now
        return data

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
