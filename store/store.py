"""The store: packages by digest, chunks by digest in whatever package they are, and the refs of meetings.

Every method may be called from any thread, several at once; none uses the network. All are synchronous: an async
caller runs those marked *Reads* or *Writes* in a worker thread. A call either finishes or leaves the store as it was;
it cannot be cancelled.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .contents import Contents
from .files import remove_unlocked
from .filesystem import FileSystem
from .fill import Fill
from .layout import Layout
from .quota import Quota
from .records import Version
from .repair import Verifier
from .stream_fill import StreamFill

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from .digest import Digest
    from .manifest import Chunk, Literal, Manifest
    from .package_table import Lease
    from .records import ChunkLocation, Ref, ScanStep, Usage


class Store:
    """A store in a folder of plain files, from which every index is rebuilt. A context manager that closes.

    Made by `open`.
    """

    def __init__(self, path: Path, fs: FileSystem, max_bytes: int, min_free_bytes: int) -> None:
        self._fs = fs
        self._layout = layout = Layout(path)
        self._quota = Quota(
            max_bytes,
            min_free_bytes,
            disk_space=partial(fs.disk_space, path),
            remove_parked=lambda digest: remove_unlocked(fs, layout.part(digest)),
        )
        self._contents = Contents(fs, layout, self._quota)
        self._verifier = Verifier(self._contents)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 0,
        min_free_bytes: int = 0,
        fs: FileSystem | None = None,
    ) -> Self:
        """Open a storage folder, creating what is missing; see `recovery` for what is cleaned up. *Writes*.

        `max_bytes` bounds packages and fills together (0: no bound), `min_free_bytes` is left free on the disk.
        Raises `UnknownFormat`, `OSError`.
        """
        store = cls(Path(path), fs or FileSystem(), max_bytes, min_free_bytes)
        store._contents.load()
        return store

    def close(self) -> None:
        """Close every descriptor that has no lease. Leases stay readable."""
        self._contents.packages.close()

    def stop_reading(self) -> None:
        """Make every call that reads whole packages, in any thread, raise `ReadStopped` soon.

        For the end of the process. What is written stays as it is: a fill can be resumed, a version is not removed.
        Leases stay readable.
        """
        self._fs.stopped = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the folder -------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the folder again: other processes commit, switch and remove too. *Writes*. Errors as `open`."""
        self._contents.load()

    def folder_mtimes(self) -> tuple[int, int]:
        """Return the modification times, in nanoseconds, of the folders of packages and of refs. Two `stat` calls.

        Every change of names and refs changes one of them, unless it follows another within a clock tick (10 ms).
        Raises `OSError`.
        """
        return self._fs.stat(self._layout.packages).mtime_ns, self._fs.stat(self._layout.meetings).mtime_ns

    def differs_from_disk(self) -> bool:
        """Return whether the folder holds other packages or refs than this process knows. *Reads*. Raises `OSError`."""
        return self._contents.differ_from_disk()

    def set_limits(self, *, max_bytes: int, min_free_bytes: int) -> None:
        """Change the limits that were passed to `open`. What is stored beyond them stays until it is evicted."""
        self._quota.set_limits(max_bytes, min_free_bytes)

    def usage(self) -> Usage:
        """Return how much space is used and free. *Reads*."""
        return self._quota.usage(self._contents.packages.draining)

    # -- versions ---------------------------------------------------------------------------------------------

    def holds(self, digest: Digest) -> bool:
        """Return whether a version is committed. No disk access."""
        return digest in self._contents.packages

    def versions(self) -> Sequence[Version]:
        """Return every committed version, in no order. No disk access."""
        return self._contents.packages.versions()

    def manifest(self, digest: Digest) -> Manifest:
        """Return a version's manifest. Raises `VersionMissing`. *Reads*.

        A lost or damaged manifest is made again from the package. If the package does not have the digest in its name,
        it is removed, and missing.
        """
        return self._contents.manifest(digest)

    def lease(self, digest: Digest) -> Lease:
        """Hold a version open, and count it as used now. Cheap. Raises `VersionMissing`."""
        return self._contents.packages.lease(digest, use=True)

    def open_package(self, digest: Digest) -> Lease:
        """Hold a version open without counting it as used, for maintenance. Raises `VersionMissing`."""
        return self._contents.packages.lease(digest, use=False)

    def remove(self, digest: Digest) -> None:
        """Remove a version; leases on it stay readable. An unknown version is no error. *Writes*.

        The caller switches or drops its refs first; a ref that still names the version is dropped with it.
        """
        self._contents.remove(digest)

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return a location of a chunk in any package but `besides`, or None. *Reads, the first time*."""
        return self._contents.manifests.find(digest, besides)

    # -- verification -----------------------------------------------------------------------------------------

    def checked_at(self, digest: Digest) -> float:
        """Return when this process last verified a whole version, in Unix seconds; 0.0 for never. No disk access."""
        return self._contents.packages.checked_at(digest)

    def verify(self, digest: Digest) -> None:
        """Hash every piece of a version, which is then trusted, and counts as checked now. *Reads*.

        Does not count as use. Raises `VersionMissing`, or `PackageCorrupt` with the bad chunks (the version stays, and
        is not trusted).
        """
        self._verifier.verify(digest)

    def scan(self, digest: Digest) -> Generator[ScanStep, None, None]:
        """Hash every piece of a version, about 1 MiB per step, at the caller's pace. *Reads*.

        Yields each bad piece as soon as it is found, whether its bytes are wrong or the disk cannot read them (EIO);
        the version is then not trusted until it is repaired, which may be done between two steps. Ends when the whole
        is good: the version is then trusted, and counts as checked now. Otherwise raises `PackageCorrupt` at the end,
        with the chunks that are still bad. Raises `VersionMissing` at the first step. Only one thread at a time may
        advance the generator; closing it early gives its lease back. Does not count as use. A version that is removed
        during the scan is still read to its end.
        """
        return self._verifier.scan(digest)

    def repair(self, digest: Digest, piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> bool:
        """Write the bytes of a bad piece in place, durably; return whether the version is trusted now. *Writes*.

        `data` is verified against the piece (of a literal: its own `data`) before anything is written; repairing a
        good piece is no error. Until the end the version is not trusted. Leases stay valid: their readers may see bad
        bytes become good, and never the reverse. After the last piece known to be bad the whole is hashed: only then
        is the version trusted, or are further bad pieces found.

        Raises `VersionMissing`, `ChunkMismatch` (nothing is written), `ValueError` for a piece of another version,
        `NoSpace` for a truncated file that cannot grow again, `OSError`. After these the piece is as bad as before,
        and can be repaired again.
        """
        return self._verifier.repair(digest, piece, data)

    # -- fills ------------------------------------------------------------------------------------------------

    def begin_fill(self, manifest: Manifest) -> Fill:
        """Reserve the size of a version, reuse what is stored of it, and return the fill. *Writes*.

        Literals, chunks that an earlier fill of the version verified, and chunks that other versions hold are in the
        file, and verified, on return. Raises `VersionPresent`, `FillBusy`, `NoSpace`, `NeverFits`, `OSError`.
        """
        return Fill.begin(self._contents, manifest)

    def begin_stream(self, name: str) -> StreamFill:
        """Begin a package of unknown size; `name` (a meeting id) is locked until its end. *Writes*.

        Raises `FillBusy`, `NoSpace`, `OSError`.
        """
        return StreamFill.begin(self._contents, name)

    def unfinished(self) -> Sequence[Version]:
        """Return the fills that were abandoned, which a fill of the same version resumes. *Reads*.

        `size` is what they reserve, `last_used` when they were written last.
        """
        found = []
        for digest, size in self._quota.parked().items():
            try:
                written = self._fs.stat(self._layout.part(digest)).mtime_ns
            except FileNotFoundError:  # removed by another process
                continue
            found.append(Version(digest, size, written / 1e9))
        return found

    def give_up(self, digest: Digest) -> None:
        """Remove an abandoned fill, unless it is being resumed. One that is not there is no error. *Writes*."""
        self._quota.give_up(digest)

    # -- refs -------------------------------------------------------------------------------------------------

    def ref(self, meeting_id: str) -> Ref | None:
        """Return a meeting's ref, or None. No disk access."""
        return self._contents.refs.get(meeting_id)

    def refs(self) -> Sequence[Ref]:
        """Return all refs, in no order. No disk access."""
        return self._contents.refs.all()

    def set_ref(self, ref: Ref) -> None:
        """Switch a meeting to `ref.digest`, atomically and durably. Raises `VersionMissing`, `NoSpace`. *Writes*."""
        self._contents.set_ref(ref)

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        """Pass a meeting's ref to `change`, write what it returns, and return the ref as it is then. *Writes*.

        `change` is passed the ref as it is on the disk (None: there is none), and no other process writes it
        meanwhile: a pin that another process has just set is not lost. Its result is written as by `set_ref`, with the
        same errors; None, or an equal ref, leaves the ref alone. It is called with locks held, so it must only decide.
        """
        return self._contents.change_ref(meeting_id, change)

    def drop_ref(self, meeting_id: str) -> None:
        """Remove a meeting's ref; its version stays until it is evicted. An unknown meeting is no error. *Writes*."""
        self._contents.drop_ref(meeting_id)
