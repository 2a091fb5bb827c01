"""Damage to stored packages, and origins to repair them from."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from store.filesystem import FileSystem
from tests.support.nodes import digest_of
from trionode.errors import OriginUnreachable, VersionGone
from trionode.upkeep.repair import Repairer
from trionode.upkeep.scrub import Scrubber, ScrubTimes

if TYPE_CHECKING:
    from pathlib import Path

    from store import Digest
    from tests.support.memory_store import MemoryStore

FAST = 1 << 40
"""A scrub rate without pauses."""


class Origin:
    """A master that has the bytes of some versions, or does not answer. `requested` are the ranges."""

    def __init__(self, *packages: bytes) -> None:
        self.away = False
        self.requested: list[tuple[int, int]] = []
        self._packages = {digest_of(data): data for data in packages}

    async def fetch_range(self, digest: Digest, start: int, stop: int) -> bytes:
        self.requested.append((start, stop))
        if self.away:
            raise OriginUnreachable("it is away")
        if digest not in self._packages:
            raise VersionGone(digest)
        return self._packages[digest][start:stop]


@dataclass(frozen=True)
class Upkeep:
    """A repairer and a scrubber for a store. `lost` are the versions that the repairer has reported."""

    repairer: Repairer
    scrubber: Scrubber
    times: ScrubTimes
    lost: list[Digest]


def upkeep_of(store: Any, origin: Origin, tmp_path: Path, *, rate: int = FAST, recheck_seconds: float = 0.0) -> Upkeep:
    """Return the upkeep of a store, with a scrub without pauses."""
    repairer = Repairer(store, origin)  # type: ignore[arg-type]
    lost: list[Digest] = []
    repairer.subscribe(lost.append)
    times = ScrubTimes(tmp_path / "scrub.json")
    return Upkeep(repairer, Scrubber(store, repairer, times, rate, list, recheck_seconds), times, lost)


def flip_unnoticed(store: MemoryStore, digest: Digest, offset: int) -> None:
    """Flip a bit of a stored package, which stays trusted, as when a disk loses a bit."""
    with store.open_package(digest) as lease:
        (byte,) = os.pread(lease.fileno(), 1, offset)
        os.pwrite(lease.fileno(), bytes([byte ^ 1]), offset)


def is_trusted(store: Any, digest: Digest) -> bool:
    """Return whether a stored package is trusted."""
    with store.open_package(digest) as lease:
        return bool(lease.trusted)


class BadBlocks(FileSystem):
    """A disk that cannot read the byte at `at` until it is written again, or never if `forever`."""

    def __init__(self) -> None:
        super().__init__()
        self.at: int | None = None
        self.forever = False

    def read_into(self, fd: int, view: memoryview, offset: int) -> int:
        if self.at is not None and offset <= self.at < offset + len(view):
            if offset < self.at:  # a disk reads up to the bad block
                return super().read_into(fd, view[: self.at - offset], offset)
            raise OSError(errno.EIO, "Input/output error")
        return super().read_into(fd, view, offset)

    def write_at(self, fd: int, data: Any, offset: int) -> None:
        if self.at is not None and offset <= self.at < offset + len(data) and not self.forever:
            self.at = None
        super().write_at(fd, data, offset)
