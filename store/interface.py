"""Contracts of the store. Pure: Protocols and the frozen data that passes through them.

Every method may be called from any thread, several at once; none waits for the network. All are synchronous,
so an async caller runs those marked *reads* or *writes* in a worker thread. A call either finishes or leaves
the store as it was; there is no cancellation inside one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from .digest import Digest
    from .manifest import Chunk, Literal, Manifest


@dataclass(frozen=True, slots=True)
class Ref:
    """Which version a meeting has now, and why it is kept.

    `in_progress` is the master's wish and `pinned` an operator's; a ref with either is never evicted.
    `switched_at` and `ended_at` are Unix seconds; `ended_at` is 0 while the meeting is in progress.
    """

    meeting_id: str
    digest: Digest
    title: str = ""
    in_progress: bool = True
    pinned: bool = False
    switched_at: float = 0.0
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Version:
    """A committed package. `size` in bytes; `last_used` in Unix seconds (the manifest file's mtime)."""

    digest: Digest
    size: int
    last_used: float


@dataclass(frozen=True, slots=True)
class ChunkLocation:
    """Where the bytes of a chunk lie: inside the committed package `package`."""

    package: Digest
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of committed packages, bytes reserved by fills, bytes the file system has left, and the limit (0: none).

    `draining` are bytes of versions that were removed and are still being read: the file system has them back with
    the last lease, so nothing more need be evicted for them. Those that other processes read are not known here.
    """

    stored: int
    filling: int
    free: int
    limit: int
    draining: int = 0


@dataclass(frozen=True, slots=True)
class Scanned:
    """A step of a scan: `done` bytes of the package were read so far; `bad` is the piece just found wrong, if any."""

    done: int
    bad: Chunk | Literal | None


class Readable(Protocol):
    """Something with a descriptor whose bytes can be sent: a lease or a fill. Read with `os.pread`/`sendfile`."""

    def fileno(self) -> int:
        """Return the open descriptor. Valid until `close`; never seek it, it is shared."""
        ...


class Lease(Readable, Protocol):
    """A committed package held open: eviction unlinks it, and what is being sent stays readable to its end."""

    @property
    def digest(self) -> Digest:
        """The version that is held."""
        ...

    @property
    def size(self) -> int:
        """Bytes in the package."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether the bytes are those this process last verified (same inode, size, mtime and ctime)."""
        ...

    def close(self) -> None:
        """Give the lease back. Closing twice is no error."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        ...


class Fill(Readable, Protocol):
    """The acquisition of a version whose manifest is known. Holds the fill's lock until it ends.

    Ends in exactly one of `commit`, `close` (keep what is verified, to resume later) or `discard`; ending twice
    with `close` or `discard` is no error. A commit, whether it succeeds or raises `PackageCorrupt`, ends the writing
    and leaves the descriptor, `covered` and `missing` to those who follow the fill, until `close` (or `discard`, which
    is then the same). What comes after its end raises `ValueError`. A chunk that the package has several times is
    there everywhere once it was written for one place.
    """

    @property
    def manifest(self) -> Manifest:
        """What is being filled."""
        ...

    def missing(self) -> Sequence[Chunk]:
        """Return the chunks not yet verified here, in package order."""
        ...

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on are in the file and verified (0 when the next is not)."""
        ...

    def write(self, chunk: Chunk, data: bytes | bytearray | memoryview) -> None:
        """Verify `data` against `chunk`, put it in place, count it as there. *Writes*.

        Raises `ChunkMismatch` (nothing written) or `NoSpace`. A chunk that is there already is left alone.
        """
        ...

    def commit(self) -> None:
        """Verify the whole and publish it: sync, rename, sync the folder, then the manifest. *Writes*.

        Raises `PackageCorrupt` when chunks are missing or the whole has another digest (the file is then removed).
        After any other error (`NoSpace`, `OSError`) the fill is as it was.
        """
        ...

    def close(self) -> None:
        """Give the lock up and keep what is verified for a later `begin_fill` of the same version.

        What is kept counts as `filling`, and is given up when its space is needed. After a commit: close the
        descriptor.
        """
        ...

    def discard(self) -> None:
        """Give the lock up and remove the file."""
        ...


class StreamFill(Readable, Protocol):
    """The acquisition of a package of which nothing is known in advance. Ends like `Fill`, but cannot be resumed.

    After a commit, be it accepted or rejected, the descriptor is valid until `close`.
    """

    @property
    def size(self) -> int:
        """Bytes appended so far; all of them are in the file."""
        ...

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data` at the end. Raises `NoSpace`, `NeverFits`; nothing of it is then counted. *Writes*."""
        ...

    def commit(self) -> Manifest:
        """Open the zip and read it whole, cut it, and publish it; return its manifest. *Writes*.

        A version that is stored already is not written again: its manifest is returned and the stream dropped.
        Raises `PackageRejected` (see there); the file is then removed. After any other error the fill is as it was.
        """
        ...

    def close(self) -> None:
        """Close the descriptor. Before a commit, the same as `discard`."""
        ...

    def discard(self) -> None:
        """Give the lock up and remove the file."""
        ...


class Store(Protocol):
    """Packages by digest, chunks by digest wherever they lie, and the refs of meetings."""

    def holds(self, digest: Digest) -> bool:
        """Tell whether a package is committed. No disk access."""
        ...

    def versions(self) -> Sequence[Version]:
        """Return every committed package, in no order."""
        ...

    def manifest(self, digest: Digest) -> Manifest:
        """Return a committed package's manifest. Raises `VersionMissing`. *Reads*.

        One that is lost or damaged is made again from the package; a package that is then found to be another than
        its name says is removed, and missing.
        """
        ...

    def lease(self, digest: Digest) -> Lease:
        """Hold a committed package open and count it as used now. Cheap. Raises `VersionMissing`."""
        ...

    def open_package(self, digest: Digest) -> Lease:
        """Do the same without counting it as used: for looking after it. Raises `VersionMissing`."""
        ...

    def verify(self, digest: Digest) -> None:
        """Hash every piece again; on success the version is trusted, and counts as checked now. *Reads*.

        Raises `VersionMissing`, or `PackageCorrupt` with the bad chunks (the version stays, and is not trusted).
        """
        ...

    def scan(self, digest: Digest) -> Generator[Scanned, None, None]:
        """Hash every piece again, a step (about 1 MiB) at a time, so that the caller sets the pace. *Reads*.

        Yields each bad piece as soon as it is met, be it wrong or not given back by the disk (EIO); from then on the
        version is not trusted, until it is repaired, which may be done between two steps. Ends when the whole is right:
        the version is then trusted and counts as checked now. Else raises `PackageCorrupt` at the end, with the chunks
        that are still bad. Raises `VersionMissing` at the first step. One thread at a time may advance it; closed
        before its end, it gives its lease back. Does not count as use; evicted meanwhile, the version is read to its
        end all the same.
        """
        ...

    def repair(self, digest: Digest, piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> bool:
        """Put a bad piece's right bytes in place, durably; return whether the version is trusted now. *Writes*.

        `data` is verified against the piece (of a literal: its own `data`) before anything is written; a piece that
        was right all along is no error. Meanwhile the version is not trusted, and leases stay valid: whoever reads
        sees bad bytes turn right, never right ones wrong. When no other piece is known to be bad, the whole is hashed
        again: only then is the version trusted, and all else that is bad becomes known.

        Raises `VersionMissing`, `ChunkMismatch` (nothing written), `ValueError` for a piece of another version,
        `NoSpace` for a file that was cut short and cannot grow again, `OSError`. After these the piece is as bad as it
        was, and may be repaired again.
        """
        ...

    def checked_at(self, digest: Digest) -> float:
        """Return when this process last found a whole version right, in Unix seconds; 0.0 for never. No disk access."""
        ...

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return where a chunk lies, in whatever package but `besides`, or None. *Reads, the first time*."""
        ...

    def begin_fill(self, manifest: Manifest) -> Fill:
        """Reserve the package's size, put in what is here already, and return the fill. *Writes*.

        Literals, what an earlier fill of this version verified, and chunks that other versions hold are in the
        file and verified on return. Raises `VersionPresent`, `FillBusy`, `NoSpace`, `NeverFits`.
        """
        ...

    def begin_stream(self, name: str) -> StreamFill:
        """Begin a package of unknown size; `name` (a meeting id) is what the lock is held on. *Writes*.

        Raises `FillBusy`, `NoSpace`.
        """
        ...

    def ref(self, meeting_id: str) -> Ref | None:
        """Return a meeting's ref. No disk access."""
        ...

    def refs(self) -> Sequence[Ref]:
        """Return all refs, in no order. No disk access."""
        ...

    def set_ref(self, ref: Ref) -> None:
        """Switch a meeting to `ref.digest`, atomically and durably. Raises `VersionMissing`. *Writes*."""
        ...

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        """Make of a meeting's ref what `change` makes of it, and return what it is then. *Writes*.

        `change` is given the ref as it is on the disk (None: there is none), whatever this process knew of it, and
        nobody else writes it meanwhile: a pin set a moment ago by another process is not lost. What it returns is
        written as by `set_ref`, and with the same errors; None, or the same, leaves the ref alone. It is called with
        locks held, so it only decides.
        """
        ...

    def drop_ref(self, meeting_id: str) -> None:
        """Forget a meeting; its version stays until evicted. An unknown meeting is no error. *Writes*."""
        ...

    def remove(self, digest: Digest) -> None:
        """Unlink a version; leases on it stay readable. An unknown version is no error. *Writes*.

        Refs to it are the caller's to switch or drop first; one that still points here is dropped with it.
        """
        ...

    def usage(self) -> Usage:
        """Return how much space is used and left. *Reads*."""
        ...

    def close(self) -> None:
        """Close every descriptor. Leases still out stay readable."""
        ...
