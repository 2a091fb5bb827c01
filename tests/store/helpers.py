"""What tests of the store have in common."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from store import (
    Chunk,
    ChunkMismatch,
    Digest,
    FillBusy,
    Literal,
    Manifest,
    NoSpace,
    PackageCorrupt,
    PackageRejected,
    VersionMissing,
    VersionPresent,
)
from store.splitting import INLINE_BYTES, MAX_CHUNK_BYTES
from tests.store.samples import (
    manifest_of,
)

ABSENT = Digest("0" * 64)

HOSTILE_IDS = [
    "..", ".", "", "/", "../../etc/passwd", "%2e%2e%2f", "a/b", "\0", "a\0b", "x" * 10_000, "会议", "Ｍ", "a b",
    "~", "%", "\ud800", "A", "a", "con", "-", "_", ".json", "\n", "é", "e\u0301",
]  # fmt: skip


def read_all(readable, size: int) -> bytes:
    return os.pread(readable.fileno(), size + 1, 0)


def flip(readable, offset: int, count: int = 1) -> None:
    """Flip bytes of a package without the store's knowledge, as a bad disk would."""
    fd = os.open(f"/proc/self/fd/{readable.fileno()}", os.O_RDWR)
    try:
        os.pwrite(fd, bytes(byte ^ 0xFF for byte in os.pread(fd, count, offset)), offset)
    finally:
        os.close(fd)


def scrub(store, digest: Digest, data: bytes) -> list[Chunk | Literal]:
    """Scan a version and repair its bad pieces from a good copy, as a scrub does. Returns the bad pieces."""
    bad = []
    for step in store.scan(digest):
        if step.bad is not None:
            bad.append(step.bad)
            store.repair(digest, step.bad, data[step.bad.offset : step.bad.offset + step.bad.size])
    return bad


def names(folder: Path, under: str) -> list[str]:
    return sorted(path.name for path in (folder / under).iterdir())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def half_filled(store, data: bytes):
    """Return a fill of `data` whose first chunk is written, that chunk, and the others."""
    fill = store.begin_fill(manifest_of(data))
    first, *rest = fill.missing()
    fill.write(first, data[first.offset : first.offset + first.size])
    return fill, first, rest


def assert_split(manifest: Manifest, data: bytes) -> None:
    """Check that the pieces of a manifest are those of `data`, in order, without gap or overlap."""
    assert manifest.size == len(data)
    assert manifest.digest == Digest.of(data)
    at = 0
    for piece in manifest.pieces:
        assert piece.offset == at
        found = data[at : at + piece.size]
        if isinstance(piece, Literal):
            assert piece.data == found
        else:
            assert piece.digest == Digest.of(found)
            assert INLINE_BYTES < piece.size <= MAX_CHUNK_BYTES
        at += piece.size
    assert at == len(data)
    for one, two in itertools.pairwise(manifest.pieces):
        assert isinstance(one, Chunk) or isinstance(two, Chunk)


def outcome(call):
    """Return the result of a call, or the type of its error and its fields."""
    try:
        return call()
    except NoSpace as error:
        return type(error), error.needed, error.available
    except PackageCorrupt as error:
        return type(error), error.bad
    except (VersionMissing, VersionPresent, FillBusy, ChunkMismatch, PackageRejected) as error:
        return type(error)
