"""A store in memory with the interface of `store.Store`: a model to compare it with, and a fast substitute in tests.

Packages are anonymous files (`memfd`), since sending needs a descriptor. Nothing is kept after the process, so there is
no recovery, and a fill is resumed only within the same store. The methods are documented in `store.Store`.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from functools import partial

from store import (
    Chunk,
    ChunkLocation,
    Digest,
    FillBusy,
    Literal,
    Manifest,
    NoSpace,
    PackageCorrupt,
    Ref,
    Usage,
    Version,
    VersionMissing,
    VersionPresent,
)
from store.manifest import verified_bytes
from store.quota import Ledger
from store.reading import check, read_into
from store.repair import require_piece, scan_pieces
from tests.support.memory_fill import MemoryFill, MemoryStreamFill

UNBOUNDED_BYTES = 1 << 40
"""Free space of a store without `max_bytes`."""


@dataclass(slots=True)
class _Package:
    """A committed package. After its removal the last lease closes `fd`."""

    manifest: Manifest
    fd: int
    last_used: float
    leases: int = 0
    users: int = 0
    removed: bool = False
    draining: int = 0
    bad: set[Chunk | Literal] | None = None  # None: trusted
    checked_at: float = 0.0

    def close_if_unused(self) -> None:
        if self.removed and self.leases == 0:
            os.close(self.fd)


class MemoryLease:
    def __init__(self, store: MemoryStore, package: _Package, *, use: bool) -> None:
        self._store = store
        self._package = package
        self._use = use
        self._open = True

    @property
    def digest(self) -> Digest:
        return self._package.manifest.digest

    @property
    def size(self) -> int:
        return self._package.manifest.size

    @property
    def trusted(self) -> bool:
        return self._package.bad is None

    def fileno(self) -> int:
        if not self._open:
            raise ValueError("the lease is closed")
        return self._package.fd

    def close(self) -> None:
        with self._store.lock:
            if self._open:
                self._open = False
                self._package.leases -= 1
                self._package.users -= self._use
                if self._package.leases == 0:
                    self._store.draining -= self._package.draining
                self._package.close_if_unused()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryStore:
    def __init__(self, *, max_bytes: int = 0) -> None:
        self.lock = threading.RLock()
        self.ledger = Ledger(max_bytes, 0)
        self.draining = 0
        self.busy: set[str] = set()  # digests and stream names that are being filled
        self._packages: dict[Digest, _Package] = {}
        self._parked: dict[Digest, tuple[int, dict[Digest, bytes]]] = {}
        self._refs: dict[str, Ref] = {}

    # -- for fills ----------------------------------------------------------------------------------------------

    def reserve(self, size: int, held: int = 0) -> None:
        """Reserve bytes for a fill, giving up parked fills for them, the oldest first."""
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
        """Commit the bytes of a descriptor, unless the version is stored already."""
        self._unpark(manifest.digest)
        if manifest.digest not in self._packages:
            self._packages[manifest.digest] = _Package(manifest, os.dup(fd), time.time(), checked_at=time.time())
            self.ledger.store(manifest.size)

    def park(self, manifest: Manifest, fd: int, have: set[Chunk]) -> None:
        """Keep the verified chunks of an abandoned fill, and their reservation."""
        self._parked[manifest.digest] = (manifest.size, {c.digest: os.pread(fd, c.size, c.offset) for c in have})
        self.ledger.filling += manifest.size

    def _unpark(self, digest: Digest) -> dict[Digest, bytes]:
        size, parked = self._parked.pop(digest, (0, {}))
        self.ledger.release(size)
        return parked

    # -- the interface of `store.Store` -------------------------------------------------------------------------

    def holds(self, digest: Digest) -> bool:
        return digest in self._packages

    def versions(self) -> list[Version]:
        with self.lock:
            return [Version(d, p.manifest.size, p.last_used, p.users > 0) for d, p in self._packages.items()]

    def manifest(self, digest: Digest) -> Manifest:
        return self._package(digest).manifest

    def lease(self, digest: Digest) -> MemoryLease:
        with self.lock:
            self._package(digest).last_used = time.time()
            return self._hold(digest, use=True)

    def open_package(self, digest: Digest) -> MemoryLease:
        return self._hold(digest, use=False)

    def _hold(self, digest: Digest, *, use: bool) -> MemoryLease:
        with self.lock:
            package = self._package(digest)
            package.leases += 1
            package.users += use
            return MemoryLease(self, package, use=use)

    def verify(self, digest: Digest) -> None:
        with self.lock:
            package = self._package(digest)
            good, bad = check(partial(read_into, package.fd), package.manifest)
            if not good:
                package.bad = set(bad)
                raise PackageCorrupt(digest, bad)
            package.bad = None
            package.checked_at = time.time()

    def scan(self, digest: Digest):
        with self.open_package(digest) as lease:
            package = self._package(digest)
            for step in scan_pieces(partial(read_into, lease.fileno()), package.manifest):
                if step.bad is not None:
                    with self.lock:
                        package.bad = {*(package.bad or ()), step.bad}
                yield step
            if digest in self._packages:
                self.verify(digest)

    def repair(self, digest: Digest, piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> bool:
        with self.lock:
            package = self._package(digest)
            require_piece(package.manifest, piece)
            os.pwrite(package.fd, verified_bytes(piece, data), piece.offset)
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
        package = self._packages.get(digest)
        return 0.0 if package is None else package.checked_at

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        with self.lock:
            for name, package in self._packages.items():
                for chunk in package.manifest.chunks:
                    if chunk.digest == digest and name != besides:
                        return ChunkLocation(name, chunk.offset, chunk.size)
            return None

    def begin_fill(self, manifest: Manifest) -> MemoryFill:
        digest = manifest.digest
        with self.lock:
            if digest in self._packages:
                raise VersionPresent(digest)
            if digest in self.busy:
                raise FillBusy(digest)
            before = self._parked.get(digest)
            parked = self._unpark(digest)
            try:
                self.reserve(manifest.size)
            except NoSpace:
                if before is not None:
                    self._parked[digest] = before
                    self.ledger.filling += before[0]
                raise
            fill = MemoryFill(self, os.memfd_create(digest), manifest)
            self.busy.add(digest)
            for piece in manifest.pieces:
                data = piece.data if isinstance(piece, Literal) else parked.get(piece.digest) or self._copy_of(piece)
                if isinstance(piece, Literal) or (len(data) == piece.size and Digest.of(data) == piece.digest):
                    fill.put(piece, data)
            return fill

    def _copy_of(self, chunk: Chunk) -> bytes:
        location = self.find(chunk.digest)
        if location is None:
            return b""
        return os.pread(self._packages[location.package].fd, location.size, location.offset)

    def begin_stream(self, name: str) -> MemoryStreamFill:
        with self.lock:
            self.reserve(1)
            self.ledger.release(1)
            if f"stream {name}" in self.busy:
                raise FillBusy(name)
            fill = MemoryStreamFill(self, name, os.memfd_create("stream"))
            self.busy.add(f"stream {name}")
            return fill

    def ref(self, meeting_id: str) -> Ref | None:
        return self._refs.get(meeting_id)

    def refs(self) -> tuple[Ref, ...]:
        with self.lock:
            return tuple(self._refs.values())

    def set_ref(self, ref: Ref) -> None:
        with self.lock:
            self._package(ref.digest)
            self._refs[ref.meeting_id] = ref

    def change_ref(self, meeting_id: str, change) -> Ref | None:
        with self.lock:
            before = self._refs.get(meeting_id)
            after = change(before)
            if after is None or after == before:
                return before
            self.set_ref(after)
            return after

    def drop_ref(self, meeting_id: str) -> None:
        with self.lock:
            self._refs.pop(meeting_id, None)

    def remove(self, digest: Digest) -> None:
        with self.lock:
            self._refs = {i: ref for i, ref in self._refs.items() if ref.digest != digest}
            package = self._packages.pop(digest, None)
            if package is not None:
                self.ledger.forget(package.manifest.size)
                package.removed = True
                package.draining = package.manifest.size if package.leases else 0
                self.draining += package.draining
                package.close_if_unused()

    def usage(self) -> Usage:
        with self.lock:
            return Usage(
                self.ledger.stored,
                self.ledger.filling,
                UNBOUNDED_BYTES,
                UNBOUNDED_BYTES,
                self.ledger.limit,
                self.draining,
            )

    def close(self) -> None:
        with self.lock:
            for package in self._packages.values():
                package.removed = True
                package.close_if_unused()
            self._packages.clear()

    def _package(self, digest: Digest) -> _Package:
        package = self._packages.get(digest)
        if package is None:
            raise VersionMissing(digest)
        return package

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
