"""Acquisitions on disk: a file in `incoming/` that is locked, filled, verified piece by piece, and published.

A fill knows its store only as a `Host`. The descriptor of a fill outlives its commit, until `close`: it is then the
package itself, under its lasting name, and those who follow the fill read on from it.
"""

from __future__ import annotations

import errno
import logging
import threading
import weakref
from bisect import bisect_left
from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING

from .acquisition import ENDED, Acquisition, Host
from .behind import STEP_BYTES
from .digest import Digest
from .errors import ChunkMismatch, NoSpace, PackageCorrupt, PackageRejected
from .filesystem import full_disk
from .manifest import Chunk, Literal
from .peeking import map_frame
from .runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from .manifest import Manifest

GROW_BYTES = 8 * 1024 * 1024
"""A stream reserves this much at a time, rather than look at the disk for each read from the network."""

CHECKS_AHEAD = 4
"""Batches of copied chunks that may wait to be hashed: the map, which others follow, is not to lag far behind."""

logger = logging.getLogger("store")


class DiskFill(Acquisition):
    """A fill; see `interface.Fill`. Made by `DiskStore.begin_fill`, which has locked and reserved the file."""

    def __init__(self, host: Host, fd: int, path: Path, map_path: Path, manifest: Manifest) -> None:
        super().__init__(host, fd, path, manifest.size)
        self._manifest = manifest
        self._map_path = map_path
        self._runs = Runs()
        self._have = bytearray(len(manifest.chunks))
        self._offsets = [chunk.offset for chunk in manifest.chunks]
        self._twins: dict[Digest, list[int]] = {}
        for index, chunk in enumerate(manifest.chunks):
            self._twins.setdefault(chunk.digest, []).append(index)
        self._map_fd = -1
        self._map_start = 0
        self._close_map: weakref.finalize[[int], DiskFill] | None = None

    @property
    def manifest(self) -> Manifest:
        """What is being filled."""
        return self._manifest

    def missing(self) -> Sequence[Chunk]:
        """Return the chunks not yet verified here, in package order."""
        self.fileno()
        return tuple(c for c, have in zip(self._manifest.chunks, self._have, strict=True) if not have)

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on are in the file and verified."""
        if self._closed:
            raise ValueError(ENDED)
        return self._runs.covered(offset)

    def write(self, chunk: Chunk, data: bytes | bytearray | memoryview) -> None:
        """Verify `data` against `chunk` and put it wherever the package has that chunk."""
        with self._call():
            index = self._find_chunk(chunk)
            if self._have[index]:
                return
            view = memoryview(data)
            if view.nbytes != chunk.size or Digest.of(view) != chunk.digest:
                raise ChunkMismatch(chunk, view.nbytes)
            for twin in self._twins[chunk.digest]:
                if not self._have[twin]:
                    with full_disk(chunk.size, self._host.room):
                        self._fs.write_at(self._fd, view, self._offsets[twin])
                    self._wrote(chunk.size)
                    self._mark([twin])

    def commit(self) -> None:
        """Verify the whole and publish it; the descriptor stays until `close`. Errors as `interface.Fill`."""
        if not self._stop_accepting():
            raise ValueError(ENDED)
        try:
            missing = self.missing()
            if missing:
                raise PackageCorrupt(self._manifest.digest, tuple(missing))
            self._host.publish(
                self._fd, self._path, self._manifest.size, self._manifest, self._behind.whole, self._reserved
            )
        except PackageCorrupt:
            self._drop()
            raise
        except BaseException:
            self._accept_again()  # nothing was published: the caller may try again, close or discard
            raise
        try:
            self._end_map()
        except OSError as error:  # the package is committed all the same; the next open removes the map
            logger.warning("the map of %s could not be removed: %s", self._manifest.digest, error)

    def close(self) -> None:
        """Keep what is verified for a later fill; after a commit, close the descriptor."""
        try:
            if self._stop_accepting() and not (any(self._have) and self._host.park(self._manifest)):
                self._drop()
        finally:
            self._shut()

    def prepare(self, *, resumed: bool) -> None:
        """Put in what is here already: literals, what an earlier fill left, what other packages hold."""
        if not resumed:
            self._fs.truncate(self._fd, 0)
        self._fs.reserve(self._fd, self._manifest.size)
        for piece in self._manifest.pieces:
            if isinstance(piece, Literal):
                self._fs.write_at(self._fd, piece.data, piece.offset)
                self._runs.add(piece.offset, piece.offset + piece.size)
        # After the literals: who reads the map takes them for there.
        self._begin_map()
        if resumed:
            self._mark_those_there(range(len(self._have)))
        self._mark_those_there(index for index, have in enumerate(self._have) if not have and self._copy(index))

    def _mark_those_there(self, written: Iterable[int]) -> None:
        """Hash chunks that were written, in a thread behind this one, and count those that are there.

        What was copied is not believed: the other file may have gone bad. `written` may write each as it is asked for.
        """
        waiting: deque[tuple[list[int], Future[list[bool]]]] = deque()
        for batch in self._batches(written):
            if len(waiting) == CHECKS_AHEAD:
                self._mark_right(*waiting.popleft())
            waiting.append((batch, self._behind.check([self._manifest.chunks[index] for index in batch])))
        while waiting:
            self._mark_right(*waiting.popleft())

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

    def _mark_right(self, batch: list[int], right: Future[list[bool]]) -> None:
        self._mark([index for index, there in zip(batch, right.result(), strict=True) if there])

    def _copy(self, index: int) -> bool:
        """Put a chunk's bytes in place from this package or another; tell whether they were to be had."""
        chunk = self._manifest.chunks[index]
        for twin in self._twins[chunk.digest]:
            if self._have[twin]:
                self._fs.copy_range(self._fd, self._offsets[twin], self._fd, chunk.offset, chunk.size)
                return True
        place = self._host.find(chunk.digest)
        if place is None or place.size != chunk.size:
            return False
        try:
            lease = self._host.open_package(place.package)
        except LookupError:  # removed since it was found
            return False
        with lease:
            try:
                self._fs.copy_range(lease.fileno(), place.offset, self._fd, chunk.offset, chunk.size)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                # The other package has gone bad: its own affair, and the scrub's. Here the chunk is missing.
                logger.warning("chunk %s cannot be read from %s: %s", chunk.digest, place.package, error)
                return False
        self._wrote(chunk.size)
        return True

    def _find_chunk(self, chunk: Chunk) -> int:
        index = bisect_left(self._offsets, chunk.offset)
        if index == len(self._offsets) or self._manifest.chunks[index] != chunk:
            raise ValueError(f"{chunk} is no chunk of {self._manifest.digest}")
        return index

    def _mark(self, indexes: list[int]) -> None:
        """Count chunks as there. The map comes last: another process may believe it only when it is true."""
        for index in indexes:
            chunk = self._manifest.chunks[index]
            self._have[index] = 1
            self._runs.add(chunk.offset, chunk.offset + chunk.size)
        for start, count in _spans(indexes):
            self._fs.write_at(self._map_fd, b"1" * count, self._map_start + start)
        self._behind.reached(self._runs.covered(0))

    def _begin_map(self) -> None:
        """Write the map: see `peeking`, which reads it."""
        head, tail = map_frame(self._manifest)
        self._map_start = len(head)
        self._map_fd = self._fs.create(self._map_path)
        self._close_map = weakref.finalize(self, self._fs.close, self._map_fd)
        self._close_map.atexit = False
        self._fs.truncate(self._map_fd, 0)
        self._fs.write_at(self._map_fd, head + b"0" * len(self._have) + tail, 0)

    def _end_map(self) -> None:
        try:
            self._fs.unlink(self._map_path)
        finally:
            self._shut_map()

    def _shut_map(self) -> None:
        if self._close_map is not None:
            self._close_map()

    def _drop(self) -> None:
        try:
            self._end_map()
        finally:
            super()._drop()

    def _shut(self) -> None:
        self._shut_map()
        super()._shut()


class DiskStreamFill(Acquisition):
    """A stream; see `interface.StreamFill`. Made by `DiskStore.begin_stream`, which has locked the file."""

    def __init__(self, host: Host, fd: int, path: Path) -> None:
        super().__init__(host, fd, path, 0)
        self._size = 0
        self._order = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return self._size

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data` at the end. On an error nothing of it counts."""
        with self._call(), self._order:
            view = memoryview(data)
            self._grow(self._size + view.nbytes)
            with full_disk(view.nbytes, self._host.room):
                self._fs.write_at(self._fd, view, self._size)
            self._size += view.nbytes
            self._wrote(view.nbytes)
            self._behind.reached(self._size)

    def commit(self) -> Manifest:
        """Check, cut and publish; the descriptor stays until `close`. Errors as `interface.StreamFill`."""
        if not self._stop_accepting():
            raise ValueError(ENDED)
        try:
            self._fs.truncate(self._fd, self._size)  # what a failed append may have left
            return self._host.publish(self._fd, self._path, self._size, None, self._behind.whole, self._reserved)
        except PackageRejected:
            self._drop()
            raise
        except BaseException:
            self._accept_again()
            raise

    def close(self) -> None:
        """Close the descriptor; before a commit, as `discard`: a stream cannot be resumed."""
        self.discard()

    def _grow(self, size: int) -> None:
        if size <= self._reserved:
            return
        short = size - self._reserved
        for step in (max(short, GROW_BYTES), short):
            try:
                self._host.reserve(step, self._reserved, ahead=step > short)
            except NoSpace:
                if step == short:
                    raise
            else:
                self._reserved += step
                return


def _spans(indexes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield first and count of each run of rising indexes that follow each other."""
    for _, run in groupby(enumerate(indexes), key=lambda pair: pair[1] - pair[0]):
        found = [index for _, index in run]
        yield found[0], len(found)
