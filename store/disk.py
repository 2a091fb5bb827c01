"""The store on disk: packages, manifests and refs as plain files, every index rebuilt from them."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .accounts import Accounts
from .catalogue import Catalogue
from .errors import FillBusy, InvalidManifest, NoSpace, VersionMissing, VersionPresent
from .filesystem import FileSystem, create_locked, full_disk
from .filling import DiskFill, DiskStreamFill
from .layout import Layout
from .leases import DiskLease, Entry, Shelf
from .mending import Mender
from .peeking import PeekedFill, PeekedStream, peek_fill, peek_stream
from .publishing import put_in_place, verified
from .recovery import load_entry, recover, remake_manifest
from .ref_table import RefTable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from .behind import WholeHash
    from .digest import Digest
    from .filesystem import Room
    from .interface import ChunkLocation, Ref, Scanned, Store, Usage, Version
    from .manifest import Chunk, Literal, Manifest

logger = logging.getLogger("store")


class DiskStore:
    """`interface.Store` in a folder. Made by `open`; a context manager that closes.

    `_names` is held by what gives and takes names (packages, refs), and may be held when the locks of shelf, catalogue
    and accounts are taken, which are never held together. No lock is held while a package is read or hashed.
    """

    def __init__(self, path: Path, fs: FileSystem, max_bytes: int, min_free_bytes: int) -> None:
        self._layout = Layout(path)
        self._fs = fs
        self._shelf = Shelf(fs, self._layout)
        self._accounts = Accounts(fs, self._layout, max_bytes, min_free_bytes)
        self._names = threading.Lock()
        self._refs = RefTable(fs, self._layout)
        self._catalogue = Catalogue(fs, self._layout, self._shelf.digests)
        self._mender = Mender(fs, self._layout, self._shelf, self.manifest, self._remake)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 0,
        min_free_bytes: int = 0,
        fs: FileSystem | None = None,
    ) -> Self:
        """Open a storage folder, creating what is missing; see `recovery` for what is tidied up. *Writes*.

        `max_bytes` bounds packages and fills together (0: no bound), `min_free_bytes` is left free on the disk.
        Raises `UnknownFormat`, `OSError`.
        """
        store = cls(Path(path), fs or FileSystem(), max_bytes, min_free_bytes)
        store._load()
        return store

    def refresh(self) -> None:
        """Look again at what the folder holds: other processes commit, switch and remove too. *Writes*."""
        self._load()

    def _load(self) -> None:
        with self._names:
            found = recover(self._fs, self._layout)
            for digest in self._shelf.digests():
                if digest not in found.entries:
                    self._forget(digest)
            for entry in found.entries.values():
                self._admit(entry)
            self._refs.replace(found.refs)
            self._accounts.parked_anew(found.parked)

    # -- versions ---------------------------------------------------------------------------------------------

    def holds(self, digest: Digest) -> bool:
        """Tell whether a package is committed."""
        return digest in self._shelf

    def versions(self) -> Sequence[Version]:
        """Return every committed package."""
        return self._shelf.versions()

    def lease(self, digest: Digest) -> DiskLease:
        """Hold a package open and count it as used."""
        return self._shelf.lease(digest)

    def open_package(self, digest: Digest) -> DiskLease:
        """Hold a package open without counting it as used: for looking after it."""
        return self._shelf.lease(digest, use=False)

    def manifest(self, digest: Digest) -> Manifest:
        """Return a package's manifest; one that is lost or damaged on disk is made again from the package."""
        if digest not in self._shelf:
            raise VersionMissing(digest)
        try:
            return self._catalogue.manifest(digest)
        except (FileNotFoundError, InvalidManifest) as error:
            logger.warning("the manifest of %s cannot be used: %s", digest, error)
        return self._remake(digest)

    def _remake(self, digest: Digest) -> Manifest:
        """Write a package's manifest anew; a package that is not what its name says is removed, and missing."""
        try:
            made = remake_manifest(self._fs, self._layout, digest)
        except FileNotFoundError:
            made = None
        if made is None:
            self.remove(digest)
            raise VersionMissing(digest)
        manifest, state = made
        self._mender.found_right(digest, state)
        self._catalogue.remove(digest)
        self._catalogue.add(digest, manifest)
        return manifest

    def verify(self, digest: Digest) -> None:
        """Hash every piece again; on success the version is trusted. Does not count as use."""
        self._mender.verify(digest)

    def scan(self, digest: Digest) -> Generator[Scanned, None, None]:
        """Hash every piece again, a step at a time."""
        return self._mender.scan(digest)

    def repair(self, digest: Digest, piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> bool:
        """Put the right bytes of a bad piece in their place."""
        return self._mender.repair(digest, piece, data)

    def checked_at(self, digest: Digest) -> float:
        """Return when the whole was last found right."""
        return self._mender.checked_at(digest)

    def remove(self, digest: Digest) -> None:
        """Unlink a version, and the refs that still name it.

        Refs first, then the package, then its manifest: a crash between leaves a version no meeting names, or a
        manifest without a package, which the next open removes. Never a ref to nothing.
        """
        with self._names:
            for ref in self._refs.all():
                if ref.digest == digest:
                    self._refs.drop(ref.meeting_id)
            self._fs.unlink(self._layout.package(digest))
            self._forget(digest)
            self._fs.unlink(self._layout.manifest(digest))
        # Not under the lock, which commits wait for: of many removals one after the other they would get none.
        self._fs.sync_folder(self._layout.packages)

    def _admit(self, entry: Entry, manifest: Manifest | None = None) -> None:
        """Count a package that lies complete on the disk as committed."""
        if self._shelf.put(entry):
            self._accounts.store(entry.size)
            if entry.verified is not None:
                self._mender.found_right(entry.digest, entry.verified)
        self._catalogue.add(entry.digest, manifest)

    def _forget(self, digest: Digest) -> None:
        entry = self._shelf.pop(digest)
        self._catalogue.remove(digest)
        self._mender.forget(digest)
        if entry is not None:
            self._accounts.forget(entry.size)

    # -- chunks -----------------------------------------------------------------------------------------------

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return where a chunk lies. The first call reads all manifests."""
        return self._catalogue.find(digest, besides)

    # -- fills ------------------------------------------------------------------------------------------------

    def begin_fill(self, manifest: Manifest) -> DiskFill:
        """Reserve, put in what is here already, and return the fill."""
        digest = manifest.digest
        if self._is_stored(digest):
            raise VersionPresent(digest)
        path = self._layout.part(digest)
        fd = create_locked(self._fs, path)
        if fd is None:
            raise FillBusy(digest)
        try:
            if self._is_stored(digest):  # committed while we took the lock
                self._fs.unlink(path)
                raise VersionPresent(digest)
            resumed = self._fs.look_at(fd).size == manifest.size
            self._reserve_part(manifest, fd)
        except BaseException:
            self._fs.close(fd)
            raise
        fill = DiskFill(self, fd, path, self._layout.map(digest), manifest)
        try:
            with full_disk(manifest.size, self.room):
                fill.prepare(resumed=resumed)
        except BaseException:
            fill.discard()
            raise
        return fill

    def begin_stream(self, name: str) -> DiskStreamFill:
        """Begin a package of unknown size. Raises `NoSpace` when not a byte would fit."""
        path = self._layout.stream(name)
        self.reserve(1, 0)
        self.release(1)
        fd = create_locked(self._fs, path)
        if fd is not None and self._fs.look_at(fd).size:
            # Left by a process that was killed. Others may still be reading it: they must not see another's bytes.
            self._fs.unlink(path)
            self._fs.close(fd)
            fd = create_locked(self._fs, path)
        if fd is None:
            raise FillBusy(name)
        return DiskStreamFill(self, fd, path)

    def peek(self, digest: Digest) -> PeekedFill | None:
        """Look into a fill of another process that has begun; None when there is none. *Reads*."""
        return peek_fill(self._fs, self._layout, digest)

    def peek_stream(self, name: str) -> PeekedStream | None:
        """Look into a stream of another process; None when there is none. *Reads*."""
        return peek_stream(self._fs, self._layout, name)

    def _is_stored(self, digest: Digest) -> bool:
        """Tell whether a package is committed, be it by another process since we last looked."""
        if digest in self._shelf:
            return True
        if not self._fs.exists(self._layout.package(digest)):
            return False
        entry = load_entry(self._fs, self._layout, digest)
        if entry is not None:
            # Whoever commits it may not have come to its sync, and our caller will count on it from now on.
            self._fs.sync_folder(self._layout.packages)
            self._admit(entry)
        return entry is not None

    def _reserve_part(self, manifest: Manifest, fd: int) -> None:
        """Reserve a fill's size; blocks its file has from an earlier fill are not counted twice."""
        digest = manifest.digest
        has = self._fs.look_at(fd).size
        parked = self._accounts.unpark(digest)
        try:
            self._accounts.reserve(manifest.size, 0, has)
        except NoSpace:
            if has == 0:
                self._fs.unlink(self._layout.part(digest))
            elif parked:
                self._accounts.park_again(digest, parked)
            raise

    # -- what fills ask of their host -------------------------------------------------------------------------

    @property
    def fs(self) -> FileSystem:
        """The seam to the file system."""
        return self._fs

    def room(self) -> Room:
        """Return what the file system has left."""
        return self._accounts.room()

    def reserve(self, size: int, held: int, *, ahead: bool = False) -> None:
        """Count bytes as being filled."""
        self._accounts.reserve(size, held, ahead=ahead)

    def release(self, size: int) -> None:
        """Take a reservation back."""
        self._accounts.release(size)

    def park(self, manifest: Manifest) -> bool:
        """Keep an abandoned fill's reservation, unless its version came another way."""
        if manifest.digest in self._shelf:
            return False
        self._accounts.park(manifest.digest, manifest.size)
        return True

    def publish(
        self, fd: int, source: Path, size: int, manifest: Manifest | None, whole: WholeHash, reserved: int
    ) -> Manifest:
        """Make a file a package; see `publishing`.

        In this order: the bytes are verified (against the manifest; without one the zip is read whole and cut) and
        synced, which takes long and holds nobody up; then the file is renamed, then its manifest synced and renamed,
        then their folder is synced; only then is the version held. When this raises, `source` has its name again.
        """
        before = self._fs.look_at(fd)
        made = verified(self._fs, fd, size, manifest, whole)
        with full_disk(size, self.room):
            self._fs.sync(fd)
        with self._names:
            if self._is_stored(made.digest):
                self._fs.unlink(source)
            else:
                with full_disk(size, self.room):
                    now = put_in_place(self._fs, self._layout, fd, source, made)
                # Renaming changes the ctime; the bytes that were hashed are the file's if nothing else has changed.
                same = (before.size, before.mtime_ns) == (now.size, now.mtime_ns)
                self._admit(Entry(made.digest, size, time.time(), now if same else None), made)
            self.release(reserved)
        try:
            self._accounts.give_up(made.digest)  # of a fill that was abandoned before it came another way
        except OSError as error:  # the package is committed all the same; the next open removes it
            logger.warning("the abandoned fill of %s could not be removed: %s", made.digest, error)
        return made

    # -- refs -------------------------------------------------------------------------------------------------

    def ref(self, meeting_id: str) -> Ref | None:
        """Return a meeting's ref."""
        return self._refs.get(meeting_id)

    def refs(self) -> Sequence[Ref]:
        """Return all refs."""
        return self._refs.all()

    def set_ref(self, ref: Ref) -> None:
        """Switch a meeting to a version, atomically and durably."""
        with self._names:
            if ref.digest not in self._shelf:
                raise VersionMissing(ref.digest)
            with full_disk(0, self.room):
                self._refs.set(ref)

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        """Make of a meeting's ref what `change` makes of it, as it is on the disk."""

        def checked(before: Ref | None) -> Ref | None:
            if before is not None and self._is_stored(before.digest):
                self._refs.take(before)
            after = change(before)
            if after is not None and after != before and not self._is_stored(after.digest):
                raise VersionMissing(after.digest)
            return after

        with self._names, full_disk(0, self.room):
            return self._refs.change(meeting_id, checked)

    def drop_ref(self, meeting_id: str) -> None:
        """Forget a meeting."""
        with self._names:
            self._refs.drop(meeting_id)

    # -- the rest ---------------------------------------------------------------------------------------------

    def set_limits(self, *, max_bytes: int, min_free_bytes: int) -> None:
        """Change the limits that `open` was given. What is stored over them stays, until it is evicted."""
        self._accounts.set_limits(max_bytes, min_free_bytes)

    def usage(self) -> Usage:
        """Return how much space is used and left."""
        return replace(self._accounts.usage(), draining=self._shelf.draining)

    def close(self) -> None:
        """Close every descriptor; leases still out stay readable."""
        self._shelf.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


if TYPE_CHECKING:

    def _keeps_the_contract(store: DiskStore) -> Store:
        return store
