"""Frozen records that the store returns, and the errors about a version. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol

from .digest import Digest  # noqa: TC001 - read at run time by `msgspec.convert`
from .errors import StoreError

if TYPE_CHECKING:
    from .manifest import Chunk, Literal


CLOCK_STEP_SECONDS = 60.0
"""How far a time stamp may be ahead of the clock and still count as now: time services set clocks back by seconds."""


def age_of(at: float, now: float) -> float:
    """Return the age of a time stamp in seconds, never negative.

    A time stamp in the future was written under a wrong clock. Its true age is unknown, and it counts as old
    (infinite): nothing is kept until a wrong time is reached.
    """
    return max(0.0, now - at) if at - now <= CLOCK_STEP_SECONDS else inf


class VersionMissing(StoreError, LookupError):
    """No committed package has this digest."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"no package {digest} is stored here")
        self.digest = digest


class VersionPresent(StoreError):
    """A fill was begun for a version that is already committed."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"package {digest} is stored already")
        self.digest = digest


class PackageCorrupt(StoreError):
    """A committed or assembled package does not have the digest it is named by.

    `bad` are the chunks that failed; it is empty when only the digest of the whole package is wrong.
    """

    def __init__(self, digest: Digest, bad: tuple[Chunk, ...] = ()) -> None:
        super().__init__(f"package {digest} is corrupt: {len(bad)} bad chunks")
        self.digest = digest
        self.bad = bad


@dataclass(frozen=True, slots=True)
class Ref:
    """The current version of a meeting, and why it is kept.

    `in_progress` is set by the master and `pinned` by an operator; the version of a ref with either is never evicted.
    `switched_at` and `ended_at` are Unix seconds; `ended_at` is 0 while the meeting is in progress. `token` is that of
    a master without manifests under which `digest` was last found to be current; "" if it was not.
    """

    meeting_id: str
    digest: Digest
    title: str = ""
    in_progress: bool = True
    pinned: bool = False
    switched_at: float = 0.0
    ended_at: float = 0.0
    token: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A committed package. `size` in bytes; `last_used` in Unix seconds (the manifest file's mtime).

    `in_use`: this process has a lease on it, other than for maintenance.
    """

    digest: Digest
    size: int
    last_used: float
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class ChunkLocation:
    """The location of a chunk's bytes in the committed package `package`."""

    package: Digest
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of committed packages, bytes reserved by fills, free and all bytes of the file system, the limit (0: none).

    `draining` are bytes of versions that were removed while this process has leases on them: the file system frees
    them with the last lease, so nothing else need be evicted for them.
    """

    stored: int
    filling: int
    free: int
    total: int
    limit: int
    draining: int = 0


@dataclass(frozen=True, slots=True)
class ScanStep:
    """A step of a scan: `done` bytes of the package have been read; `bad` is the piece found wrong, if any."""

    done: int
    bad: Chunk | Literal | None


class Readable(Protocol):
    """A lease or a fill: its bytes can be read with `os.pread` and sent with `os.sendfile`."""

    def fileno(self) -> int:
        """Return the open descriptor. It is valid until `close`; do not seek it, since it is shared."""
        ...
