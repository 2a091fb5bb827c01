"""The files of `incoming/` as another process sees them that did not begin the fill: read behind the writer.

The map of a fill is a line `trionode map 2 <number of chunks>`, then "0" or "1" for each chunk, a line's end, and the
manifest's JSON. A "1" is written when its chunk is in the file and verified, the literals are there before the map is.
It is true for as long as the system runs, whatever happens to its writer; after a power cut it is evidence of nothing,
so only the map of a fill that is known to go on may be read.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

from .errors import InvalidManifest
from .manifest import Literal, Manifest
from .runs import Runs

if TYPE_CHECKING:
    from pathlib import Path

    from .digest import Digest
    from .filesystem import FileSystem
    from .layout import Layout

MAGIC = b"trionode map 2 "


def map_frame(manifest: Manifest) -> tuple[bytes, bytes]:
    """Return what stands in a map before the marks of its chunks, and behind them."""
    return b"%s%d\n" % (MAGIC, len(manifest.chunks)), b"\n" + manifest.to_json()


class _Peeked:
    """A file that another process writes. `close` it; leases on descriptors end with the object otherwise."""

    def __init__(self, fs: FileSystem, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        self._close = weakref.finalize(self, fs.close, fd)
        self._close.atexit = False

    def fileno(self) -> int:
        """Return the descriptor; valid until `close`, also when the file was published or removed meanwhile."""
        if not self._close.alive:
            raise ValueError("it was closed")
        return self._fd

    def close(self) -> None:
        """Close the descriptor. Closing twice is no error."""
        self._close()


class PeekedFill(_Peeked):
    """A fill of another process, or of one that was killed and may be gone on with; `interface.Readable`."""

    def __init__(self, fs: FileSystem, fd: int, map_fd: int, manifest: Manifest) -> None:
        super().__init__(fs, fd)
        self._map_fd = map_fd
        self._close_map = weakref.finalize(self, fs.close, map_fd)
        self._close_map.atexit = False
        self._manifest = manifest
        self._head = map_frame(manifest)[0]
        self._have = bytes(len(manifest.chunks))
        self._runs = Runs()
        for piece in manifest.pieces:
            if isinstance(piece, Literal):
                self._runs.add(piece.offset, piece.offset + piece.size)

    @property
    def size(self) -> int:
        """Bytes in the package."""
        return self._manifest.size

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on were verified when `refresh` last looked."""
        return self._runs.covered(offset)

    def refresh(self) -> bool:
        """Look at the map; tell whether more is there than before. What was once verified stays so. *Reads*.

        A map that is just being written again, since the fill is gone on with, says nothing new.
        """
        data = memoryview(bytearray(len(self._head) + len(self._have)))
        got = self._fs.read_into(self._map_fd, data, 0)
        marks = bytes(data[len(self._head) :])
        if got < len(data) or data[: len(self._head)] != self._head or marks == self._have:
            return False
        for index, chunk in enumerate(self._manifest.chunks):
            if marks[index] == ord("1") != self._have[index]:
                self._runs.add(chunk.offset, chunk.offset + chunk.size)
        self._have = bytes(max(pair) for pair in zip(marks, self._have, strict=True))
        return True

    def close(self) -> None:
        """Close both descriptors."""
        self._close_map()
        super().close()


class PeekedStream(_Peeked):
    """A stream of another process; `interface.Readable`."""

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return os.fstat(self.fileno()).st_size

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on are in the file."""
        return max(0, self.size - offset)

    def refresh(self) -> bool:
        """Return true: more may be there at any time."""
        return True


def peek_fill(fs: FileSystem, layout: Layout, digest: Digest) -> PeekedFill | None:
    """Open the file and the map of a fill that goes on; None when there are none, or not yet."""
    fds: list[int] = []
    try:
        fds.append(fs.open(layout.part(digest)))
        fds.append(fs.open(layout.map(digest)))
        manifest = _read_manifest(fs, layout.map(digest))
        if manifest is not None and manifest.digest == digest:
            peeked = PeekedFill(fs, fds[0], fds[1], manifest)
            fds.clear()
            peeked.refresh()
            return peeked
    except FileNotFoundError:
        pass
    finally:
        for fd in fds:
            fs.close(fd)
    return None


def _read_manifest(fs: FileSystem, path: Path) -> Manifest | None:
    """Return the manifest in a map, or None for one that is not, or not yet, whole."""
    found = fs.read(path)
    try:
        manifest = Manifest.from_json(found.partition(b"\n")[2].partition(b"\n")[2])
    except InvalidManifest:
        return None
    return manifest if found.startswith(map_frame(manifest)[0]) else None


def peek_stream(fs: FileSystem, layout: Layout, name: str) -> PeekedStream | None:
    """Open the file of a stream; None when there is none."""
    try:
        return PeekedStream(fs, fs.open(layout.stream(name)))
    except FileNotFoundError:
        return None
