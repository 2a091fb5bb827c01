"""Fills and streams of the store in memory, models of `store.Fill` and `store.StreamFill`.

All use the lock of their store, since a model need not be fast.
"""

from __future__ import annotations

import os
from functools import partial

from store import Chunk, Literal, Manifest, PackageCorrupt, PackageRejected
from store.manifest import verified_bytes
from store.range_set import RangeSet
from store.reading import check, read_into, split_bytes
from store.zips import check_package

_ENDED = "the fill has ended"


class _StagedFile:
    def __init__(self, store, name: str, fd: int, reserved: int) -> None:
        self._store = store
        self._name = name
        self._fd = fd
        self._reserved = reserved
        self._accepting = True
        self._closed = False

    def fileno(self) -> int:
        if self._closed:
            raise ValueError(_ENDED)
        return self._fd

    def discard(self) -> None:
        with self._store.lock:
            self._stop()
            self._shut()

    def _require_accepting(self) -> None:
        if not self._accepting:
            raise ValueError(_ENDED)

    def _stop(self) -> None:
        """Release name and reservation; the descriptor stays open."""
        if self._accepting:
            self._accepting = False
            self._store.busy.discard(self._name)
            self._store.ledger.release(self._reserved)

    def _shut(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._fd)


class MemoryFill(_StagedFile):
    def __init__(self, store, fd: int, manifest: Manifest) -> None:
        super().__init__(store, manifest.digest, fd, manifest.size)
        self._manifest = manifest
        self._ranges = RangeSet()
        self._have: set[Chunk] = set()

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def size(self) -> int:
        return self.manifest.size

    @property
    def filled(self) -> int:
        return self._ranges.total

    def missing(self) -> tuple[Chunk, ...]:
        self.fileno()
        return tuple(chunk for chunk in self._manifest.chunks if chunk not in self._have)

    def covered(self, offset: int) -> int:
        self.fileno()
        return self._ranges.covered(offset)

    def write(self, chunk: Chunk, data: bytes | bytearray | memoryview) -> None:
        with self._store.lock:
            self._require_accepting()
            if chunk not in self._manifest.chunks:
                raise ValueError(f"{chunk} is no chunk of {self._manifest.digest}")
            if chunk in self._have:
                return
            view = verified_bytes(chunk, data)
            for twin in self._manifest.chunks:
                if twin.digest == chunk.digest:
                    self.put(twin, bytes(view))

    def put(self, piece: Chunk | Literal, data: bytes) -> None:
        """Write verified bytes in place. For the store, under its lock."""
        os.pwrite(self._fd, data, piece.offset)
        self._ranges.add(piece.offset, piece.offset + piece.size)
        if isinstance(piece, Chunk):
            self._have.add(piece)

    def commit(self) -> None:
        with self._store.lock:
            self._require_accepting()
            bad = tuple(self.missing())
            good, _ = check(partial(read_into, self._fd), self._manifest)
            self._stop()
            if bad or not good:
                raise PackageCorrupt(self._manifest.digest, bad)
            self._store.keep(self._manifest, self._fd)

    def close(self) -> None:
        with self._store.lock:
            if self._accepting and self._have and not self._store.holds(self._manifest.digest):
                self._store.park(self._manifest, self._fd, self._have)
            self._stop()
            self._shut()


class MemoryStreamFill(_StagedFile):
    def __init__(self, store, name: str, fd: int) -> None:
        super().__init__(store, f"stream {name}", fd, 0)

    @property
    def size(self) -> int:
        return self._reserved

    @property
    def filled(self) -> int:
        return self.size

    def covered(self, offset: int) -> int:
        return max(0, self.size - offset)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        with self._store.lock:
            self._require_accepting()
            view = memoryview(data)
            self._store.reserve(view.nbytes, self._reserved)
            os.pwrite(self._fd, bytes(view), self._reserved)
            self._reserved += view.nbytes

    def commit(self) -> Manifest:
        with self._store.lock:
            self._require_accepting()
            reader = partial(read_into, self._fd)
            try:
                check_package(reader, self._reserved)
            except PackageRejected:
                self._stop()
                raise
            manifest = split_bytes(reader, self._reserved)
            self._stop()
            self._store.keep(manifest, self._fd)
            return manifest

    def close(self) -> None:
        self.discard()
