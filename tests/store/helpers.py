"""What tests of the store do to packages behind its back, and look at."""

from __future__ import annotations

import os
from pathlib import Path

from store import (
    Chunk,
    Digest,
    Literal,
)
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
    """Change bytes of a package behind the store's back, as a bad disk would."""
    fd = os.open(f"/proc/self/fd/{readable.fileno()}", os.O_RDWR)
    try:
        os.pwrite(fd, bytes(byte ^ 0xFF for byte in os.pread(fd, count, offset)), offset)
    finally:
        os.close(fd)


def heal(store, digest: Digest, data: bytes) -> list[Chunk | Literal]:
    """What a scrub does: scan, and repair what is bad from a good copy. Returns what was bad."""
    bad = []
    for step in store.scan(digest):
        if step.bad is not None:
            bad.append(step.bad)
            store.repair(digest, step.bad, data[step.bad.offset : step.bad.offset + step.bad.size])
    return bad


def names(folder, under: str) -> list[str]:
    return sorted(path.name for path in (folder / under).iterdir())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def half_filled(store, data: bytes):
    """A fill of `data` with the first of its chunks written, and the others."""
    fill = store.begin_fill(manifest_of(data))
    first, *rest = fill.missing()
    fill.write(first, data[first.offset : first.offset + first.size])
    return fill, first, rest
