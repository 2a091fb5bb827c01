"""Fill a package whose manifest is known: reuse the chunks that are stored, and verify those that are missing."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from .background_hashing import STEP_BYTES
from .files import create_locked
from .filesystem import ReadStopped
from .manifest import Literal, verified_bytes
from .quota import NoSpace
from .range_set import RangeSet
from .records import PackageCorrupt, VersionPresent
from .staged_file import FillBusy, StagedFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .contents import Contents
    from .digest import Digest
    from .manifest import Chunk, Manifest

logger = logging.getLogger("store")


class Fill(StagedFile):
    """A version being filled, whose manifest is known. Holds the lock of the version until it ends.

    It ends with one of `commit`, `close` (keep the verified chunks, to resume later) or `discard`. A commit, whether it
    succeeds or raises `PackageCorrupt`, ends the writing; the descriptor, `covered` and `missing` stay valid for
    clients that follow the fill, until `close` (or `discard`, which then does the same). Later calls raise
    `ValueError`. A chunk that occurs several times in the package is written everywhere at once.
    """

    def __init__(self, contents: Contents, fd: int, path: Path, manifest: Manifest) -> None:
        super().__init__(contents, fd, path, manifest.size)
        self._manifest = manifest
        self._ranges = RangeSet()
        self._have = bytearray(len(manifest.chunks))
        self._index_at = {chunk.offset: index for index, chunk in enumerate(manifest.chunks)}
        self._twins: dict[Digest, list[int]] = {}  # the chunks of each digest
        for index, chunk in enumerate(manifest.chunks):
            self._twins.setdefault(chunk.digest, []).append(index)

    @classmethod
    def begin(cls, contents: Contents, manifest: Manifest) -> Fill:
        """Lock, reserve, reuse what is stored, and return the fill; see `Store.begin_fill`."""
        fs, digest = contents.fs, manifest.digest
        if contents.is_stored(digest):
            raise VersionPresent(digest)
        path = contents.layout.part(digest)
        fd = create_locked(fs, path)
        if fd is None:
            raise FillBusy(digest)
        try:
            if contents.is_stored(digest):  # committed while the lock was being taken
                fs.unlink(path)
                raise VersionPresent(digest)
            size = fs.fstat(fd).size
            try:
                contents.quota.resume(digest, manifest.size, size)
            except NoSpace:
                if size == 0:
                    fs.unlink(path)
                raise
        except BaseException:
            fs.close(fd)
            raise
        fill = cls(contents, fd, path, manifest)
        try:
            with contents.quota.full_disk_as_no_space(manifest.size):
                fill._prepare(resumed=size == manifest.size)
        except ReadStopped:
            fill._leave()
            raise
        except BaseException:
            fill.discard()
            raise
        return fill

    @property
    def manifest(self) -> Manifest:
        """The manifest of the version."""
        return self._manifest

    @property
    def size(self) -> int:
        """Bytes in the package."""
        return self._manifest.size

    @property
    def filled(self) -> int:
        """Bytes of the package that are verified in the file. Valid after the end, too."""
        return self._ranges.total

    def missing(self) -> Sequence[Chunk]:
        """Return the chunks that are not verified yet, in package order. Raises `ValueError` after the end."""
        self.fileno()
        return tuple(chunk for chunk, have in zip(self._manifest.chunks, self._have, strict=True) if not have)

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on are verified in the file; 0 when the next one is not.

        Raises `ValueError` after the end.
        """
        self.fileno()
        return self._ranges.covered(offset)

    def write(self, chunk: Chunk, data: bytes | bytearray | memoryview) -> None:
        """Verify `data` against `chunk` and write it in place; ignore a chunk that is verified already. *Writes*.

        Raises `ChunkMismatch` (nothing is written), `NoSpace`, and `ValueError` for a chunk of another manifest.
        """
        with self._call():
            chunks = self._manifest.chunks
            index = self._index_at.get(chunk.offset)
            if index is None or chunks[index] != chunk:
                raise ValueError(f"{chunk} is no chunk of {self._manifest.digest}")
            if self._have[index]:
                return
            view = verified_bytes(chunk, data)
            for twin in self._twins[chunk.digest]:
                if not self._have[twin]:
                    with self._contents.quota.full_disk_as_no_space(chunk.size):
                        self._fs.write_at(self._fd, view, chunks[twin].offset)
                    self._count_written(chunk.size)
                    self._mark([twin])

    def commit(self) -> None:
        """Verify the whole and publish it durably; see `Contents.publish`. *Writes*.

        Raises `PackageCorrupt` when chunks are missing or the whole has another digest (the file is then removed).
        After any other error (`NoSpace`, `OSError`) the fill is as it was before.
        """
        with self._committing():
            missing = self.missing()
            if missing:
                raise PackageCorrupt(self._manifest.digest, tuple(missing))
            self._publish(self._manifest.size, self._manifest)

    def close(self) -> None:
        """Release the lock, and park the fill: a later `begin_fill` of the version resumes it. *Writes*.

        Parked bytes count as `filling`, and are removed when their space is needed. After a commit, only close the
        descriptor. Closing or discarding twice is no error.
        """
        try:
            if self._stop_accepting():
                # A fill without a chunk, or of a version that was committed another way, is not worth keeping.
                if any(self._have) and self._manifest.digest not in self._contents.packages:
                    self._contents.quota.park(self._manifest.digest, self._manifest.size)
                else:
                    self._drop()
        finally:
            self._shut()

    def _prepare(self, *, resumed: bool) -> None:
        """Write the literals, verify what an earlier fill left, and copy chunks from other packages."""
        if not resumed:
            self._fs.truncate(self._fd, 0)
        self._fs.allocate(self._fd, self._manifest.size)
        for piece in self._manifest.pieces:
            if isinstance(piece, Literal):
                self._fs.write_at(self._fd, piece.data, piece.offset)
                self._ranges.add(piece.offset, piece.offset + piece.size)
        if resumed:
            self._mark_verified(range(len(self._have)))
        self._mark_verified(index for index, have in enumerate(self._have) if not have and self._copy(index))

    def _mark_verified(self, written: Iterable[int]) -> None:
        """Hash chunks in the background, and mark those that are good. `written` may write each as it is iterated.

        Copied chunks are hashed too, since the package they are copied from may be damaged.
        """
        chunks = self._manifest.chunks
        checks = [(batch, self._hasher.check([chunks[i] for i in batch])) for batch in self._batches(written)]
        for batch, good in checks:
            self._mark([index for index, is_good in zip(batch, good.result(), strict=True) if is_good])

    def _batches(self, written: Iterable[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        size = 0
        for index in written:
            batch.append(index)
            size += self._manifest.chunks[index].size
            if size >= STEP_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _copy(self, index: int) -> bool:
        """Copy a chunk from this package or another; return whether it was found."""
        chunk = self._manifest.chunks[index]
        for twin in self._twins[chunk.digest]:
            if self._have[twin]:
                source = self._manifest.chunks[twin].offset
                self._fs.copy_range(self._fd, source, self._fd, chunk.offset, chunk.size)
                return True
        location = self._contents.manifests.find(chunk.digest)
        if location is None or location.size != chunk.size:
            return False
        try:
            lease = self._contents.packages.lease(location.package, use=False)
        except LookupError:  # removed since it was found
            return False
        with lease:
            try:
                self._fs.copy_range(lease.fileno(), location.offset, self._fd, chunk.offset, chunk.size)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                # The disk cannot read the other package, which the scrub repairs. Here the chunk is missing.
                logger.warning("chunk %s cannot be read from %s: %s", chunk.digest, location.package, error)
                return False
        self._count_written(chunk.size)
        return True

    def _mark(self, indexes: list[int]) -> None:
        """Mark chunks as verified."""
        for index in indexes:
            chunk = self._manifest.chunks[index]
            self._have[index] = 1
            self._ranges.add(chunk.offset, chunk.offset + chunk.size)
        self._hasher.hash_up_to(self._ranges.covered(0))
