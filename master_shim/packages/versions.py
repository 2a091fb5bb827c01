"""The current version of each package file: its digest and manifest, computed once for each state of the file.

A digest is computed in a worker thread, by one caller for each file at a time; other callers wait for it. A file that
is no package, or that is being written to, does not replace the version before it.
"""

from __future__ import annotations

import gzip
import logging
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from store import StoreError

from ..errors import PackageChanging, PackageMissing, PackageReplaced, PackageUnreadable
from .file import PackageVersion, split_package, state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from store import Digest
    from store.manifest import Manifest

    from .file import FileState

_log = logging.getLogger("master_shim.versions")

HASHING_THREADS = 2
"""Files hashed at once: hashing takes whole cores, and sending needs worker threads too."""
ATTEMPTS = 3
"""How often a file that changes while it is read is read again before the caller gets an error."""
MAX_VERSIONS = 10_000
"""Most files that are remembered, far more than one master has; limits a callable that invents paths."""
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""Manifests cached as JSON (about 1 % of their packages). The least recently used are computed again."""
TICK_SECONDS = 0.02
"""A file is read only if its last change is older than this. Two writes within one kernel tick (up to 10 ms) can leave
the same mtime and ctime; any later change shows."""
STILL_SECONDS = 2.0
"""A file that is written in place is read once it has not changed for this long: programs that copy a file over a
network pause for less. Measured from when a change was seen, since the file may have the times of another clock."""
GZIP_LEVEL = 6
"""Once per version: 9 ms for the 450 kB of a package of 2,000 documents. Level 1 takes half as long and gives 6 % more
bytes, level 9 takes a fifth longer and gives 1 % fewer."""


@dataclass(frozen=True, slots=True)
class ManifestBody:
    """A manifest as it is sent: canonical JSON, and the same by gzip, empty if that is not smaller."""

    plain: bytes
    compressed: bytes

    @property
    def size(self) -> int:
        """Memory it takes, in bytes."""
        return len(self.plain) + len(self.compressed)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a file has no version. It is not read again while in `state`; None: it is read again each time."""

    reason: str
    state: FileState | None


class PackageVersions:
    """The current versions of package files. `split` checks a file and computes its manifest, synchronously."""

    def __init__(
        self, split: Callable[[Path], Manifest] = split_package, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._split = split
        self._clock = clock
        self._current: OrderedDict[str, PackageVersion] = OrderedDict()
        self._paths: dict[str, dict[str, None]] = {}  # digest -> paths, in the order in which they were read
        self._bodies: OrderedDict[str, ManifestBody] = OrderedDict()
        self._bodies_bytes = 0
        self._failures: dict[str, _Failure] = {}  # what was logged last for each path
        self._written: dict[str, tuple[FileState, float]] = {}  # files written in place: since when they have a state
        self._locks: dict[str, anyio.Lock] = {}
        self._hashing: anyio.CapacityLimiter | None = None

    async def current(self, path: str | os.PathLike[str]) -> PackageVersion:
        """Return the current version of a file: the last one that was a package.

        Raises `PackageMissing`, and `PackageUnreadable` and `PackageChanging` if there was none. A file without a
        usable content is read and logged once for each of its states, however often it is requested. When the caller
        is cancelled while the file is read, the result is kept, or the next caller reads it.
        """
        name = os.fspath(path)
        state = None
        try:
            # One `stat` on this thread takes 2 µs; handing it to a worker thread takes 50 times as long.
            state = state_of(name)
            version = self._current.get(name)
            if version is None or version.state != state:
                version = await self._refresh(name)
        except (PackageUnreadable, PackageChanging) as error:
            self._record_failure(name, state, error)
            before = self._current.get(name)
            if before is None:
                raise
            return before
        self._failures.pop(name, None)
        return version

    def known(self, path: str | os.PathLike[str]) -> PackageVersion | None:
        """Return the current version of a file if known without reading it. Raises as `current` does."""
        name = os.fspath(path)
        state = state_of(name)
        version, failure = self._current.get(name), self._failures.get(name)
        kept = failure is not None and failure.state == state  # the version before is still the current one
        return version if version is not None and (kept or version.state == state) else None

    def last(self, path: str) -> PackageVersion | None:
        """Return the last version of a file, whatever has become of the file, or None."""
        return self._current.get(path)

    def forget(self, path: str) -> None:
        """Forget a file of a meeting that has ended: one that begins later with this file has another package."""
        self._forget(path)
        self._failures.pop(path, None)

    def problem(self, path: str | os.PathLike[str]) -> str:
        """Return why the file had no version when it was last read, or an empty text."""
        failure = self._failures.get(os.fspath(path))
        return "" if failure is None else failure.reason

    def find(self, digest: str) -> PackageVersion | None:
        """Return a file whose current version is `digest`, among those requested before, or None."""
        for path in tuple(self._paths.get(digest, ())):
            if self._current[path].is_there:
                return self._current[path]
        return None

    async def manifest(self, version: PackageVersion) -> ManifestBody:
        """Return the manifest of a version. Raises `PackageReplaced` if the file changed, or `PackageUnreadable`."""
        body = self._bodies.get(version.digest)
        if body is None:
            if not version.is_there:
                raise PackageReplaced(version.path)
            try:
                renewed, body = await self._read(version.path)
            except PackageUnreadable as error:
                self._record_failure(version.path, version.state, error)
                raise
            if renewed.digest != version.digest:
                raise PackageReplaced(version.path)
        self._bodies.move_to_end(version.digest)
        return body

    async def _refresh(self, path: str) -> PackageVersion:
        lock = self._locks.setdefault(path, anyio.Lock())
        try:
            async with lock:
                return await self._refresh_locked(path)
        finally:
            # A released lock passes to the next waiting task and stays locked; the last one removes it.
            if not lock.locked() and self._locks.get(path) is lock:
                del self._locks[path]

    async def _refresh_locked(self, path: str) -> PackageVersion:
        for _ in range(ATTEMPTS):
            state = state_of(path)
            version = self._current.get(path)
            if version is not None and version.state == state:
                return version  # read by another caller meanwhile
            failure = self._failures.get(path)
            if failure is not None and failure.state == state:
                raise PackageUnreadable(path, failure.reason)
            if not self._is_still(path, state):
                raise PackageChanging(path)
            age = time.time() - max(state[3], state[4]) / 1e9
            if 0 <= age < TICK_SECONDS:
                await anyio.sleep(TICK_SECONDS - age)
                if state_of(path) != state:
                    continue
            try:
                return (await self._read(path))[0]
            except PackageReplaced:
                if not self._is_still(path, state_of(path), state):
                    break
        raise PackageChanging(path)

    def _is_still(self, path: str, state: FileState, before: FileState | None = None) -> bool:
        """Tell whether nobody writes to a file in place, since the state `before` or the last one seen.

        A file that was renamed to its place has another inode and is complete. A change of the ctime alone is no write.
        """
        written, failure, version = self._written.get(path), self._failures.get(path), self._current.get(path)
        if before is None and written is not None:
            before = written[0]
        before = before or (failure.state if failure is not None else None)
        before = before or (version.state if version is not None else None)
        if before is None or before[:2] != state[:2]:
            return True
        if before[2:4] != state[2:4]:
            self._written[path] = (state, self._clock())
            return False
        return written is None or self._clock() - written[1] >= STILL_SECONDS

    async def _read(self, path: str) -> tuple[PackageVersion, ManifestBody]:
        """Read a file completely and remember its version. Raises `PackageReplaced` if it changed meanwhile."""
        if self._hashing is None:
            self._hashing = anyio.CapacityLimiter(HASHING_THREADS)
        state, digest, body = await anyio.to_thread.run_sync(self._split_file, path, limiter=self._hashing)
        version = PackageVersion(path, state, digest)
        known = self._current.get(path)
        if known is None or known.digest != digest:
            _log.info("package %s: version %s, %d bytes", path, digest[:12], version.size)
        self._forget(path)
        self._current[path] = version
        self._paths.setdefault(digest, {})[path] = None
        if len(self._current) > MAX_VERSIONS:
            self._forget(next(iter(self._current)))
        self._cache(digest, body)
        return version, body

    def _split_file(self, path: str) -> tuple[FileState, Digest, ManifestBody]:
        before = state_of(path)
        try:
            manifest = self._split(Path(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PackageMissing(path) from error
        except Exception as error:
            # Whatever a broken file makes the splitter raise, other meetings must not be affected.
            if state_of(path) != before:
                raise PackageReplaced(path) from error
            raise PackageUnreadable(path, _reason(error, before)) from error
        if state_of(path) != before or manifest.size != before[2]:
            raise PackageReplaced(path)
        plain = manifest.to_json()
        compressed = gzip.compress(plain, GZIP_LEVEL, mtime=0)
        body = ManifestBody(plain, compressed if len(compressed) < len(plain) else b"")
        return before, manifest.digest, body

    def _record_failure(self, path: str, state: FileState | None, error: PackageUnreadable | PackageChanging) -> None:
        """Remember why a file has no version, and log it if it is not what was logged last."""
        cause = error.__cause__
        if isinstance(error, PackageChanging):
            failure = _Failure("it is being written to", None)
        else:
            # An error of the system may pass without a change of the file.
            failure = _Failure(error.reason, None if isinstance(cause, OSError) else state)
        if self._failures.get(path) == failure:
            return
        expected = cause is None or isinstance(cause, (OSError, StoreError))
        kept = "; the version before it stays the current one" if path in self._current else ""
        _log.error("package %s cannot be read: %s%s", path, failure.reason, kept, exc_info=None if expected else cause)
        self._failures[path] = failure
        if len(self._failures) > MAX_VERSIONS:
            del self._failures[next(iter(self._failures))]

    def _cache(self, digest: Digest, body: ManifestBody) -> None:
        known = self._bodies.pop(digest, None)
        self._bodies_bytes += body.size - (0 if known is None else known.size)
        self._bodies[digest] = body
        while self._bodies_bytes > MAX_MANIFEST_BYTES and len(self._bodies) > 1:
            _, oldest = self._bodies.popitem(last=False)
            self._bodies_bytes -= oldest.size

    def _forget(self, path: str) -> None:
        self._written.pop(path, None)
        version = self._current.pop(path, None)
        if version is None:
            return
        paths = self._paths[version.digest]
        paths.pop(path, None)
        if not paths:
            del self._paths[version.digest]


def _reason(error: Exception, state: FileState) -> str:
    """Return why a file cannot be read, without any path of this machine: clients read it."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) if isinstance(error, StoreError) else f"a fault of the program ({type(error).__name__})"
