"""The store in memory: the same contract for tests, and a model to hold the disk store against.

Packages are anonymous files (`memfd`), since what is sent needs a descriptor. Nothing outlives the process, so
there is nothing to recover, every package is trusted, and a fill is resumed only within this store.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from .digest import Digest
from .errors import (
    FillBusy,
    NoSpace,
    PackageCorrupt,
    VersionMissing,
    VersionPresent,
)
from .interface import ChunkLocation, Usage, Version
from .manifest import Chunk, Literal, Manifest
from .memory_filling import MemoryFill, MemoryStreamFill
from .mending import examine, find_piece, right_bytes
from .reading import check, read_into
from .space import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from .interface import Ref, Scanned, Store

UNBOUNDED_BYTES = 1 << 40
"""What a store without `max_bytes` says it has left: nothing real bounds it."""


@dataclass(slots=True)
class _Package:
    """A committed package. `fd` closes with the last lease once it is `gone`."""

    manifest: Manifest
    fd: int
    last_used: float
    leases: int = 0
    gone: bool = False
    draining: int = 0
    bad: set[Chunk | Literal] | None = None  # None: trusted. For tests, which can write behind a descriptor
    checked_at: float = 0.0


class MemoryLease:
    """A lease; see `interface.Lease`."""

    def __init__(self, store: MemoryStore, package: _Package) -> None:
        self._store = store
        self._package = package
        self._open = True

    @property
    def digest(self) -> Digest:
        """The version that is held."""
        return self._package.manifest.digest

    @property
    def size(self) -> int:
        """Bytes in the package."""
        return self._package.manifest.size

    @property
    def trusted(self) -> bool:
        """Whether the bytes are right, as far as was last looked: only a test can reach them."""
        return self._package.bad is None

    def fileno(self) -> int:
        """Return the open descriptor."""
        if not self._open:
            raise ValueError("the lease was given back")
        return self._package.fd

    def close(self) -> None:
        """Give the lease back."""
        with self._store.lock:
            if self._open:
                self._open = False
                self._package.leases -= 1
                if self._package.gone and self._package.leases == 0:
                    self._store.draining -= self._package.draining
                _close_if_unused(self._package)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _close_if_unused(package: _Package) -> None:
    if package.gone and package.leases == 0:
        os.close(package.fd)


class MemoryStore:
    """`interface.Store` in memory; a context manager that closes."""

    def __init__(self, *, max_bytes: int = 0) -> None:
        self.lock = threading.RLock()
        self.ledger = Ledger(max_bytes, 0)
        self.draining = 0
        self.busy: set[str] = set()  # digests and stream names that are being acquired
        self._packages: dict[Digest, _Package] = {}
        self._parked: dict[Digest, tuple[int, dict[Digest, bytes]]] = {}
        self._refs: dict[str, Ref] = {}

    # -- what fills ask of their store --------------------------------------------------------------------------

    def reserve(self, size: int, held: int) -> None:
        """Count bytes as being filled, giving up parked fills for them."""
        while True:
            try:
                self.ledger.reserve(size, UNBOUNDED_BYTES, UNBOUNDED_BYTES, held)
            except NoSpace as error:
                if type(error) is not NoSpace or not self._parked:
                    raise
                self._unpark(next(iter(self._parked)))
            else:
                return

    def keep(self, manifest: Manifest, fd: int) -> None:
        """Make the bytes behind a descriptor a package, unless it is here already."""
        self._unpark(manifest.digest)
        if manifest.digest not in self._packages:
            self._packages[manifest.digest] = _Package(manifest, os.dup(fd), time.time(), checked_at=time.time())
            self.ledger.store(manifest.size)

    def park(self, manifest: Manifest, fd: int, have: set[Chunk]) -> None:
        """Keep the verified chunks of an abandoned fill, and their space."""
        self._parked[manifest.digest] = (manifest.size, {c.digest: os.pread(fd, c.size, c.offset) for c in have})
        self.ledger.filling += manifest.size

    def _unpark(self, digest: Digest) -> dict[Digest, bytes]:
        size, parked = self._parked.pop(digest, (0, {}))
        self.ledger.release(size)
        return parked

    # -- the contract -------------------------------------------------------------------------------------------

    def holds(self, digest: Digest) -> bool:
        """Tell whether a package is committed."""
        return digest in self._packages

    def versions(self) -> Sequence[Version]:
        """Return every committed package."""
        with self.lock:
            return [Version(d, p.manifest.size, p.last_used) for d, p in self._packages.items()]

    def manifest(self, digest: Digest) -> Manifest:
        """Return a package's manifest."""
        return self._package(digest).manifest

    def lease(self, digest: Digest) -> MemoryLease:
        """Hold a package open and count it as used."""
        with self.lock:
            self._package(digest).last_used = time.time()
            return self.open_package(digest)

    def open_package(self, digest: Digest) -> MemoryLease:
        """Hold a package open without counting it as used."""
        with self.lock:
            package = self._package(digest)
            package.leases += 1
            return MemoryLease(self, package)

    def verify(self, digest: Digest) -> None:
        """Hash every piece again."""
        with self.lock:
            package = self._package(digest)
            whole, bad = check(partial(read_into, package.fd), package.manifest)
            if not whole:
                package.bad = set(bad)
                raise PackageCorrupt(digest, bad)
            package.bad = None
            package.checked_at = time.time()

    def scan(self, digest: Digest) -> Generator[Scanned, None, None]:
        """Hash every piece again, a step at a time."""
        with self.open_package(digest) as lease:
            package = self._package(digest)
            for step in examine(partial(read_into, lease.fileno()), package.manifest):
                if step.bad is not None:
                    with self.lock:
                        package.bad = {*(package.bad or ()), step.bad}
                yield step
            if digest in self._packages:
                self.verify(digest)

    def repair(self, digest: Digest, piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> bool:
        """Put the right bytes of a bad piece in their place."""
        with self.lock:
            package = self._package(digest)
            find_piece(package.manifest, piece)
            os.pwrite(package.fd, right_bytes(piece, data), piece.offset)
            package.bad = (package.bad or set()) - {piece}
            if package.bad:
                return False
            os.ftruncate(package.fd, package.manifest.size)
            try:
                self.verify(digest)
            except PackageCorrupt:
                return False
            return True

    def checked_at(self, digest: Digest) -> float:
        """Return when the whole was last found right."""
        package = self._packages.get(digest)
        return 0.0 if package is None else package.checked_at

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return where a chunk lies, by looking everywhere."""
        with self.lock:
            for name, package in self._packages.items():
                for chunk in package.manifest.chunks:
                    if chunk.digest == digest and name != besides:
                        return ChunkLocation(name, chunk.offset, chunk.size)
            return None

    def begin_fill(self, manifest: Manifest) -> MemoryFill:
        """Reserve, put in what is here already, and return the fill."""
        digest = manifest.digest
        with self.lock:
            if digest in self._packages:
                raise VersionPresent(digest)
            if digest in self.busy:
                raise FillBusy(digest)
            before = self._parked.get(digest)
            parked = self._unpark(digest)
            try:
                self.reserve(manifest.size, 0)
            except NoSpace:
                if before is not None:
                    self._parked[digest] = before
                    self.ledger.filling += before[0]
                raise
            fill = MemoryFill(self, os.memfd_create(digest), manifest)
            self.busy.add(digest)
            for piece in manifest.pieces:
                if isinstance(piece, Literal):
                    fill.put(piece, piece.data)
                    continue
                place = self.find(piece.digest)
                data = parked.get(piece.digest)
                if data is None and place is not None:
                    data = os.pread(self._packages[place.package].fd, place.size, place.offset)
                if data is not None and Digest.of(data) == piece.digest and len(data) == piece.size:
                    fill.put(piece, data)
            return fill

    def begin_stream(self, name: str) -> MemoryStreamFill:
        """Begin a package of unknown size."""
        with self.lock:
            self.reserve(1, 0)
            self.ledger.release(1)
            if f"stream {name}" in self.busy:
                raise FillBusy(name)
            fill = MemoryStreamFill(self, name, os.memfd_create("stream"))
            self.busy.add(f"stream {name}")
            return fill

    def ref(self, meeting_id: str) -> Ref | None:
        """Return a meeting's ref."""
        return self._refs.get(meeting_id)

    def refs(self) -> Sequence[Ref]:
        """Return all refs."""
        with self.lock:
            return tuple(self._refs.values())

    def set_ref(self, ref: Ref) -> None:
        """Switch a meeting to a version."""
        with self.lock:
            self._package(ref.digest)
            self._refs[ref.meeting_id] = ref

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        """Make of a meeting's ref what `change` makes of it."""
        with self.lock:
            before = self._refs.get(meeting_id)
            after = change(before)
            if after is None or after == before:
                return before
            self.set_ref(after)
            return after

    def drop_ref(self, meeting_id: str) -> None:
        """Forget a meeting."""
        with self.lock:
            self._refs.pop(meeting_id, None)

    def remove(self, digest: Digest) -> None:
        """Forget a version, and the refs that still name it."""
        with self.lock:
            self._refs = {i: ref for i, ref in self._refs.items() if ref.digest != digest}
            package = self._packages.pop(digest, None)
            if package is not None:
                self.ledger.forget(package.manifest.size)
                package.gone = True
                package.draining = package.manifest.size if package.leases else 0
                self.draining += package.draining
                _close_if_unused(package)

    def usage(self) -> Usage:
        """Return how much space is used."""
        with self.lock:
            return Usage(self.ledger.stored, self.ledger.filling, UNBOUNDED_BYTES, self.ledger.limit, self.draining)

    def close(self) -> None:
        """Close every descriptor; leases still out stay readable."""
        with self.lock:
            for package in self._packages.values():
                package.gone = True
                _close_if_unused(package)
            self._packages.clear()

    def _package(self, digest: Digest) -> _Package:
        package = self._packages.get(digest)
        if package is None:
            raise VersionMissing(digest)
        return package

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


if TYPE_CHECKING:

    def _keeps_the_contract(store: MemoryStore) -> Store:
        return store
