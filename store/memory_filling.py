"""Fills and streams of the store in memory. All under the store's one lock: a model need not be fast."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .digest import Digest
from .errors import ChunkMismatch, PackageCorrupt, PackageRejected
from .manifest import Chunk, Literal, Manifest
from .reading import check, read_into, split_bytes
from .runs import Runs
from .zips import check_package

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from .space import Ledger

_ENDED = "the fill has ended"


class Host(Protocol):
    """What fills ask of their store."""

    @property
    def lock(self) -> threading.RLock:
        """Held by whatever reads or changes anything."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What is stored and being filled."""
        ...

    @property
    def busy(self) -> set[str]:
        """Digests and stream names that are being acquired."""
        ...

    def holds(self, digest: Digest) -> bool:
        """Tell whether a package is committed."""
        ...

    def reserve(self, size: int, held: int) -> None:
        """Count bytes as being filled. Raises `NoSpace`, `NeverFits`."""
        ...

    def keep(self, manifest: Manifest, fd: int) -> None:
        """Make the bytes behind a descriptor a package, unless it is here already."""
        ...

    def park(self, manifest: Manifest, fd: int, have: set[Chunk]) -> None:
        """Keep the verified chunks of an abandoned fill, and its space."""
        ...


class _Acquisition:
    """What fills and streams share."""

    def __init__(self, store: Host, name: str, fd: int, reserved: int) -> None:
        self._store = store
        self._name = name
        self._fd = fd
        self._reserved = reserved
        self._accepting = True
        self._closed = False

    def fileno(self) -> int:
        """Return the open descriptor; valid until `close` or `discard`."""
        if self._closed:
            raise ValueError(_ENDED)
        return self._fd

    def discard(self) -> None:
        """Give the lock up and forget the bytes; after a commit, as `close`."""
        with self._store.lock:
            self._stop()
            self._shut()

    def _expect_accepting(self) -> None:
        if not self._accepting:
            raise ValueError(_ENDED)

    def _stop(self) -> None:
        """Take no more bytes and give up name and reservation; the descriptor stays."""
        if self._accepting:
            self._accepting = False
            self._store.busy.discard(self._name)
            self._store.ledger.release(self._reserved)

    def _shut(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._fd)


class MemoryFill(_Acquisition):
    """A fill; see `interface.Fill`."""

    def __init__(self, store: Host, fd: int, manifest: Manifest) -> None:
        super().__init__(store, manifest.digest, fd, manifest.size)
        self._manifest = manifest
        self._runs = Runs()
        self._have: set[Chunk] = set()

    @property
    def manifest(self) -> Manifest:
        """What is being filled."""
        return self._manifest

    def missing(self) -> Sequence[Chunk]:
        """Return the chunks not yet verified here, in package order."""
        self.fileno()
        return tuple(chunk for chunk in self._manifest.chunks if chunk not in self._have)

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on are there."""
        self.fileno()
        return self._runs.covered(offset)

    def write(self, chunk: Chunk, data: bytes | bytearray | memoryview) -> None:
        """Verify `data` against `chunk` and put it wherever the package has that chunk."""
        with self._store.lock:
            self._expect_accepting()
            if chunk not in self._manifest.chunks:
                raise ValueError(f"{chunk} is no chunk of {self._manifest.digest}")
            if chunk in self._have:
                return
            view = memoryview(data)
            if view.nbytes != chunk.size or Digest.of(view) != chunk.digest:
                raise ChunkMismatch(chunk, view.nbytes)
            for twin in self._manifest.chunks:
                if twin.digest == chunk.digest:
                    self.put(twin, bytes(view))

    def put(self, piece: Chunk | Literal, data: bytes) -> None:
        """Put verified bytes in their place. For the store, under its lock."""
        os.pwrite(self._fd, data, piece.offset)
        self._runs.add(piece.offset, piece.offset + piece.size)
        if isinstance(piece, Chunk):
            self._have.add(piece)

    def commit(self) -> None:
        """Verify the whole and make it a package; the descriptor stays until `close`."""
        with self._store.lock:
            self._expect_accepting()
            bad = tuple(self.missing())
            whole, _ = check(partial(read_into, self._fd), self._manifest)
            self._stop()
            if bad or not whole:
                raise PackageCorrupt(self._manifest.digest, bad)
            self._store.keep(self._manifest, self._fd)

    def close(self) -> None:
        """Keep what is verified for a later fill; after a commit, close the descriptor."""
        with self._store.lock:
            if self._accepting and self._have and not self._store.holds(self._manifest.digest):
                self._store.park(self._manifest, self._fd, self._have)
            self._stop()
            self._shut()


class MemoryStreamFill(_Acquisition):
    """A stream; see `interface.StreamFill`."""

    def __init__(self, store: Host, name: str, fd: int) -> None:
        super().__init__(store, f"stream {name}", fd, 0)

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return self._reserved

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data` at the end."""
        with self._store.lock:
            self._expect_accepting()
            view = memoryview(data)
            self._store.reserve(view.nbytes, self._reserved)
            os.pwrite(self._fd, bytes(view), self._reserved)
            self._reserved += view.nbytes

    def commit(self) -> Manifest:
        """Check and cut the zip and make it a package; the descriptor stays until `close`."""
        with self._store.lock:
            self._expect_accepting()
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
        """Close the descriptor; before a commit, as `discard`."""
        self.discard()
