"""Verify packages piece by piece, and repair bad pieces in place.

A package may be repaired while others read it: a repair writes only the bytes that belong in a place, so a reader may
see bad bytes become good, and never the reverse, and verified bytes do not change.
"""

from __future__ import annotations

import errno
import time
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

from blake3 import blake3

from .buffered_reader import BUFFER_BYTES, PackageChanged, hash_bytes
from .digest import Digest
from .manifest import Chunk, verified_bytes
from .package_table import unchanged
from .reading import check
from .records import PackageCorrupt, ScanStep, VersionMissing

if TYPE_CHECKING:
    from collections.abc import Generator

    from .buffered_reader import ReadInto
    from .contents import Contents
    from .filesystem import FileState
    from .manifest import Literal, Manifest
    from .package_table import Lease

STEP_BYTES = 1024 * 1024
"""A scan yields after this many bytes, and after each bad piece, so that the caller can limit its rate."""

TICK_NS = 10_000_000
"""The longest tick of the clock that Linux takes file times from (100 Hz)."""


def require_piece(manifest: Manifest, piece: Chunk | Literal) -> None:
    """Raise `ValueError` unless a manifest has this piece."""
    pieces = manifest.pieces
    index = bisect_left(pieces, piece.offset, key=lambda p: p.offset)
    if index == len(pieces) or pieces[index] != piece:
        raise ValueError(f"{piece} is no piece of {manifest.digest}")


def scan_pieces(reader: ReadInto, manifest: Manifest) -> Generator[ScanStep, None, bool]:
    """Hash every piece of a package, yielding every STEP_BYTES and at each bad piece; return whether all is good.

    The whole is hashed as well: a damaged manifest that still parses may have wrong digests for its pieces, and only
    the digest of the whole shows that.
    """
    whole = blake3()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    done = reported = 0
    for piece in manifest.pieces:
        good = _hash_piece(reader, piece, buffer, whole)
        done += piece.size
        if not good or done - reported >= STEP_BYTES:
            yield ScanStep(done, None if good else piece)
            reported = done
    if done != reported:
        yield ScanStep(done, None)
    beyond = reader(buffer[:1], manifest.size)
    return beyond <= 0 and whole.hexdigest() == manifest.digest


def _hash_piece(reader: ReadInto, piece: Chunk | Literal, buffer: memoryview, whole: blake3) -> bool:
    """Return whether a piece is good, adding its bytes to the hash of the whole.

    A piece that the disk cannot read (EIO) is bad: rewriting it makes the disk remap its blocks.
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
    expected = piece.digest if isinstance(piece, Chunk) else Digest.of(piece.data)
    return hasher.hexdigest() == expected


class Verifier:
    """Verifies, scans and repairs the packages of a store. Every method is safe from any thread.

    Bad pieces are remembered until they are repaired, so that the whole is hashed once, after the last repair.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._packages = contents.packages
        self._fs = contents.fs

    def verify(self, digest: Digest) -> None:
        """Hash every piece; see `Store.verify`."""
        manifest = self._contents.manifest(digest)
        with self._packages.lease(digest, use=False) as lease:
            before = self._settled_state(lease.fileno())
            good, bad = check(partial(self._fs.read_into, lease.fileno()), manifest)
            if not good or before.size != manifest.size:
                if bad and self._has_right_digest(lease, before.size):
                    self._contents.remake_manifest(digest)  # the manifest was wrong, not the package
                    return
                self._packages.mark_bad(digest, bad)
                raise PackageCorrupt(digest, bad)
            # Written to while it was read: the bytes that were hashed may have been replaced.
            if not unchanged(before, self._fs.fstat(lease.fileno())):
                self._packages.mark_bad(digest, ())
                raise PackageCorrupt(digest)
            self._packages.mark_good(digest, before)

    def scan(self, digest: Digest) -> Generator[ScanStep, None, None]:
        """Hash every piece, a step at a time; see `Store.scan`."""
        manifest = self._contents.manifest(digest)
        with self._packages.lease(digest, use=False) as lease:
            before = self._settled_state(lease.fileno())
            steps = scan_pieces(partial(self._fs.read_into, lease.fileno()), manifest)
            found_bad = False
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    good = bool(end.value)
                    break
                if step.bad is not None:
                    found_bad = True
                    self._packages.mark_bad(digest, [step.bad])
                yield step
            now = self._fs.fstat(lease.fileno())
            if good and unchanged(before, now):
                if found_bad:
                    self._contents.remake_manifest(digest)
                else:
                    self._packages.mark_good(digest, now)
            elif not lease.trusted:  # unless it was repaired, and so verified, during the scan
                self._packages.mark_bad(digest, ())
                bad = (piece for piece in self._packages.bad_pieces(digest) if isinstance(piece, Chunk))
                raise PackageCorrupt(digest, tuple(bad))

    def repair(self, digest: Digest, piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> bool:
        """Write a piece in place; see `Store.repair`."""
        manifest = self._contents.manifest(digest)
        require_piece(manifest, piece)
        view = verified_bytes(piece, data)
        try:
            fd = self._fs.open_to_write(self._contents.layout.package(digest))
        except FileNotFoundError:
            raise VersionMissing(digest) from None
        try:
            self._packages.mark_bad(digest, [piece])
            self._write(fd, manifest, piece, view)
            return self._packages.mark_repaired(digest, piece) and self._verify_repaired(digest, fd, manifest)
        finally:
            self._fs.close(fd)

    def _write(self, fd: int, manifest: Manifest, piece: Chunk | Literal, view: memoryview) -> None:
        """Write a piece durably, and cut off bytes beyond the end of the package.

        A power cut before the sync leaves this piece bad, and affects no other.
        """
        with self._contents.quota.full_disk_as_no_space(piece.size):
            if self._fs.fstat(fd).size > manifest.size:
                self._fs.truncate(fd, manifest.size)
            self._fs.write_at(fd, view, piece.offset)
            self._fs.sync(fd)

    def _verify_repaired(self, digest: Digest, fd: int, manifest: Manifest) -> bool:
        """Hash the whole after the last known bad piece was repaired; return whether it is good, and so trusted."""
        before = self._settled_state(fd)
        good, bad = check(partial(self._fs.read_into, fd), manifest)
        if good and unchanged(before, self._fs.fstat(fd)):
            self._packages.mark_good(digest, before)
            return True
        self._packages.mark_bad(digest, bad)
        return False

    def _has_right_digest(self, lease: Lease, size: int) -> bool:
        try:
            return hash_bytes(partial(self._fs.read_into, lease.fileno()), size) == lease.digest
        except PackageChanged:
            return False

    def _settled_state(self, fd: int) -> FileState:
        """Return the state of an open file, waiting until any later write would change its times.

        Before Linux 6.13 file times advance in ticks, and a write within the tick of the last one does not show.
        """
        state = self._fs.fstat(fd)
        if 0 <= time.time_ns() - max(state.mtime_ns, state.ctime_ns) < TICK_NS:
            time.sleep(TICK_NS / 1e9)
            state = self._fs.fstat(fd)
        return state
