"""Looking a package over piece by piece, and putting bad pieces right in place. Reads and writes through the seam.

A repair may happen while others read the package: every byte it writes is the byte that belongs there, so a reader
sees bad bytes turn right and never the reverse, and bytes it has hashed and found right do not change under it.
"""

from __future__ import annotations

import errno
import threading
import time
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

from blake3 import blake3

from .digest import Digest
from .errors import ChunkMismatch, PackageChanged, PackageCorrupt, VersionMissing
from .filesystem import full_disk
from .interface import Scanned
from .leases import unchanged
from .manifest import Chunk
from .reading import check, hash_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from .filesystem import FileSystem, Seen
    from .layout import Layout
    from .leases import DiskLease, Shelf
    from .manifest import Literal, Manifest
    from .windows import ReadInto

STEP_BYTES = 1024 * 1024
"""A scan pauses after so many bytes, and after each bad piece: fine enough for any pace a disk would notice."""

_READ_BYTES = 1024 * 1024

TICK_NS = 10_000_000
"""Longest tick of a Linux clock that file times are taken from (100 Hz)."""


def find_piece(manifest: Manifest, piece: Chunk | Literal) -> None:
    """Raise `ValueError` unless a manifest has this very piece."""
    pieces = manifest.pieces
    index = bisect_left(pieces, piece.offset, key=lambda p: p.offset)
    if index == len(pieces) or pieces[index] != piece:
        raise ValueError(f"{piece} is no piece of {manifest.digest}")


def right_bytes(piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> memoryview:
    """Return `data` as bytes that are the piece's. Raises `ChunkMismatch`, and `ValueError` for a literal's."""
    view = memoryview(data)
    if isinstance(piece, Chunk):
        if view.nbytes != piece.size or Digest.of(view) != piece.digest:
            raise ChunkMismatch(piece, view.nbytes)
    elif view != piece.data:
        raise ValueError(f"a literal is repaired with its own data: the one at {piece.offset}")
    return view


def examine(reader: ReadInto, manifest: Manifest) -> Generator[Scanned, None, bool]:
    """Read every piece of a package, yielding now and then and at each bad piece; return whether the whole is right.

    The whole is hashed beside the pieces. Both are needed: a manifest that was damaged and still parses may call
    right pieces bad, or wrong ones right, and only the digest of the whole tells.
    """
    whole = blake3()
    buffer = memoryview(bytearray(_READ_BYTES))
    done = told = 0
    for piece in manifest.pieces:
        right = _piece_is_right(reader, piece, buffer, whole)
        done += piece.size
        if not right or done - told >= STEP_BYTES:
            yield Scanned(done, None if right else piece)
            told = done
    if done != told:
        yield Scanned(done, None)
    beyond = reader(buffer[:1], manifest.size)
    return beyond <= 0 and whole.hexdigest() == manifest.digest


def _piece_is_right(reader: ReadInto, piece: Chunk | Literal, buffer: memoryview, whole: blake3) -> bool:
    """Tell whether a reader has a piece, hashing its bytes into `whole` on the way.

    One whose blocks the disk does not give back is bad like any other: written anew, they are mapped to good ones.
    """
    hasher = blake3()
    done = 0
    while done < piece.size:
        try:
            got = reader(buffer[: piece.size - done], piece.offset + done)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        if got <= 0:
            return False
        hasher.update(buffer[:got])
        whole.update(buffer[:got])
        done += got
    wanted = piece.digest if isinstance(piece, Chunk) else Digest.of(piece.data)
    return hasher.hexdigest() == wanted


class Mender:
    """What is known of the health of a disk store's packages. Every method is safe from any thread.

    `manifest` returns a committed package's, `remake` writes it anew from a package that is right. Bad pieces are kept
    until they are repaired or the whole is found right, so that the costly look at the whole comes once, after the
    last of them.
    """

    def __init__(
        self,
        fs: FileSystem,
        layout: Layout,
        shelf: Shelf,
        manifest: Callable[[Digest], Manifest],
        remake: Callable[[Digest], Manifest],
    ) -> None:
        self._fs = fs
        self._layout = layout
        self._shelf = shelf
        self._manifest = manifest
        self._remake = remake
        self._lock = threading.Lock()
        self._bad: dict[Digest, set[Chunk | Literal]] = {}
        self._checked: dict[Digest, float] = {}

    def checked_at(self, digest: Digest) -> float:
        """Return when the whole was last found right; 0.0 for never."""
        return self._checked.get(digest, 0.0)

    def found_right(self, digest: Digest, state: Seen | None) -> None:
        """Trust a version whose whole was found right while its file was in `state` (None: it is not known)."""
        with self._lock:
            self._bad.pop(digest, None)
            if digest in self._shelf:
                self._checked[digest] = time.time()
        self._shelf.verified(digest, state)

    def found_bad(self, digest: Digest, pieces: Iterable[Chunk | Literal]) -> None:
        """Trust a version no more."""
        self._shelf.verified(digest, None)
        with self._lock:
            if digest in self._shelf:
                self._bad.setdefault(digest, set()).update(pieces)

    def forget(self, digest: Digest) -> None:
        """Forget a version that was removed."""
        with self._lock:
            self._bad.pop(digest, None)
            self._checked.pop(digest, None)

    def verify(self, digest: Digest) -> None:
        """Hash every piece again; errors as `interface.Store.verify`."""
        manifest = self._manifest(digest)
        with self._shelf.lease(digest, use=False) as lease:
            before = self._look_settled(lease.fileno())
            whole, bad = check(partial(self._fs.read_into, lease.fileno()), manifest)
            if not whole or before.size != manifest.size:
                if bad and self._blames_the_manifest(lease, before.size):
                    self._remake(digest)
                    return
                self.found_bad(digest, bad)
                raise PackageCorrupt(digest, bad)
            # Written to while it was read: what was hashed may be what is no longer there.
            if not unchanged(before, self._fs.look_at(lease.fileno())):
                self.found_bad(digest, ())
                raise PackageCorrupt(digest)
            self.found_right(digest, before)

    def scan(self, digest: Digest) -> Generator[Scanned, None, None]:
        """Hash every piece again, a step at a time; see `interface.Store.scan`."""
        manifest = self._manifest(digest)
        with self._shelf.lease(digest, use=False) as lease:
            before = self._look_settled(lease.fileno())
            steps = examine(partial(self._fs.read_into, lease.fileno()), manifest)
            found = False
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    whole = bool(end.value)
                    break
                if step.bad is not None:
                    found = True
                    self.found_bad(digest, [step.bad])
                yield step
            now = self._fs.look_at(lease.fileno())
            if whole and unchanged(before, now):
                if found:
                    self._remake(digest)
                else:
                    self.found_right(digest, now)
            elif not lease.trusted:  # repaired meanwhile, it was looked at anew and may be
                self.found_bad(digest, ())
                raise PackageCorrupt(digest, self._bad_chunks(digest))

    def _blames_the_manifest(self, lease: DiskLease, size: int) -> bool:
        """Tell whether a package is what its name says although its manifest calls pieces of it bad."""
        try:
            return hash_bytes(partial(self._fs.read_into, lease.fileno()), size) == lease.digest
        except PackageChanged:
            return False

    def _bad_chunks(self, digest: Digest) -> tuple[Chunk, ...]:
        with self._lock:
            chunks = [piece for piece in self._bad.get(digest, ()) if isinstance(piece, Chunk)]
        return tuple(sorted(chunks, key=lambda chunk: chunk.offset))

    def repair(self, digest: Digest, piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> bool:
        """Put a piece right in place; see `interface.Store.repair`."""
        manifest = self._manifest(digest)
        find_piece(manifest, piece)
        view = right_bytes(piece, data)
        try:
            fd = self._fs.open_to_write(self._layout.package(digest))
        except FileNotFoundError:
            raise VersionMissing(digest) from None
        try:
            self.found_bad(digest, [piece])
            self._write(fd, manifest, piece, view)
            with self._lock:
                left = self._bad.get(digest, set())
                left.discard(piece)
                if left:
                    return False
            return self._look_again(digest, fd, manifest)
        finally:
            self._fs.close(fd)

    def _write(self, fd: int, manifest: Manifest, piece: Chunk | Literal, view: memoryview) -> None:
        """Write a piece, durably; what is beyond the package's end goes.

        A power cut before the sync leaves this piece as bad as it was, and touches no other.
        """
        with full_disk(piece.size, lambda: self._fs.room(self._layout.root)):
            if self._fs.look_at(fd).size > manifest.size:
                self._fs.truncate(fd, manifest.size)
            self._fs.write_at(fd, view, piece.offset)
            self._fs.sync(fd)

    def _look_settled(self, fd: int) -> Seen:
        """Return the state of an open file, once any later change would give it other times.

        Before Linux 6.13 a file's times move in ticks: a change within the tick of the last one does not show.
        """
        seen = self._fs.look_at(fd)
        if 0 <= time.time_ns() - max(seen.mtime_ns, seen.ctime_ns) < TICK_NS:
            time.sleep(TICK_NS / 1e9)
            seen = self._fs.look_at(fd)
        return seen

    def _look_again(self, digest: Digest, fd: int, manifest: Manifest) -> bool:
        """Hash the whole after the last known bad piece was repaired; tell whether it is right, and trusted."""
        before = self._look_settled(fd)
        whole, bad = check(partial(self._fs.read_into, fd), manifest)
        if whole and unchanged(before, self._fs.look_at(fd)):
            self.found_right(digest, before)
            return True
        self.found_bad(digest, bad)
        return False
