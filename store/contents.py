"""The packages, manifests and refs of a storage folder, and the lock under which their names change."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from .layout import parse_name
from .manifest import InvalidManifest
from .manifest_cache import ManifestCache
from .package_table import Entry, PackageTable
from .publishing import publish_file, verify_file
from .records import VersionMissing
from .recovery import load_entry, recover, remake_manifest
from .refs import RefTable, decode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .background_hashing import PrefixHasher
    from .digest import Digest
    from .filesystem import FileSystem
    from .layout import Layout
    from .manifest import Manifest
    from .quota import Quota
    from .records import Ref

logger = logging.getLogger("store")


class Contents:
    """What a store holds. Every method is safe from any thread.

    `_names` is held while packages or refs get or lose their names. The locks of `packages`, `manifests` and `quota`
    may be taken while it is held, one at a time. No lock is held while a package is read or hashed.
    """

    def __init__(self, fs: FileSystem, layout: Layout, quota: Quota) -> None:
        self.fs = fs
        self.layout = layout
        self.quota = quota
        self.packages = PackageTable(fs, layout)
        self.manifests = ManifestCache(fs, layout, self.packages.digests)
        self.refs = RefTable(fs, layout)
        self._names = threading.Lock()

    def load(self) -> None:
        """Read the folder, cleaning it up as `recovery` describes. Raises `UnknownFormat`, `OSError`."""
        with self._names:
            found = recover(self.fs, self.layout)
            for digest in self.packages.digests():
                if digest not in found.entries:
                    self._forget(digest)
            for entry in found.entries.values():
                self._admit(entry)
            self.refs.replace(found.refs)
            self.quota.replace_parked(found.parked)

    def differ_from_disk(self) -> bool:
        """Return whether the folder's packages or refs differ from those in memory. Raises `OSError`."""
        if not self._differ():
            return False
        # Perhaps by a change of this process that is on the disk and not yet in memory.
        with self._names:
            return self._differ()

    def _differ(self) -> bool:
        names = (parse_name(name) for name in self.fs.list(self.layout.packages))
        if {name[0] for name in names if name is not None and name[1] == "zip"} != set(self.packages.digests()):
            return True
        paths = (self.layout.meetings / name for name in self.fs.list(self.layout.meetings))
        try:
            refs = {decode(self.fs.read(path)) for path in paths if path.suffix == ".json"}
        except (FileNotFoundError, ValueError):
            return True
        return refs != set(self.refs.all())

    def is_stored(self, digest: Digest) -> bool:
        """Return whether a package is committed, also if another process committed it since the folder was read."""
        if digest in self.packages:
            return True
        if not self.fs.exists(self.layout.package(digest)):
            return False
        entry = load_entry(self.fs, self.layout, digest)
        if entry is not None:
            # The other process may not have synced the folder yet, and the caller relies on the package from now on.
            self.fs.sync_folder(self.layout.packages)
            self._admit(entry)
        return entry is not None

    def manifest(self, digest: Digest) -> Manifest:
        """Return a package's manifest; see `Store.manifest`."""
        if digest not in self.packages:
            raise VersionMissing(digest)
        try:
            return self.manifests.manifest(digest)
        except (FileNotFoundError, InvalidManifest) as error:
            logger.warning("the manifest of %s cannot be used: %s", digest, error)
        return self.remake_manifest(digest)

    def remake_manifest(self, digest: Digest) -> Manifest:
        """Make a package's manifest again from its bytes, which are thereby verified.

        A package that does not have the digest in its name is removed; then raises `VersionMissing`.
        """
        made = remake_manifest(self.fs, self.layout, digest)
        if made is None:
            self.remove(digest)
            raise VersionMissing(digest)
        manifest, state = made
        self.packages.mark_good(digest, state)
        self.manifests.remove(digest)
        self.manifests.add(digest, manifest)
        return manifest

    def publish(
        self, fd: int, source: Path, size: int, manifest: Manifest | None, hasher: PrefixHasher, reserved: int
    ) -> Manifest:
        """Commit the file `source`, open as `fd`; return its manifest. Errors as `verify_file`, `NoSpace`, `OSError`.

        First the bytes are verified (without a manifest the zip is read whole, and split) and synced, which takes long
        and holds no lock. Then the file is renamed, its manifest written, and their folder synced; only then the
        version is held. When this raises, `source` has its name again.
        """
        before = self.fs.fstat(fd)
        made = verify_file(self.fs, fd, size, manifest, hasher)
        with self.quota.full_disk_as_no_space(size):
            self.fs.sync(fd)
        with self._names:
            if self.is_stored(made.digest):
                self.fs.unlink(source)
            else:
                with self.quota.full_disk_as_no_space(size):
                    now = publish_file(self.fs, self.layout, fd, source, made)
                # Renaming changes the ctime. If nothing else changed, the bytes are those that were hashed.
                same = (before.size, before.mtime_ns) == (now.size, now.mtime_ns)
                self._admit(Entry(made.digest, size, time.time(), now if same else None), made)
            self.quota.release(reserved)
        try:
            self.quota.give_up(made.digest)  # a parked fill of a version that was then streamed
        except OSError as error:  # the package is committed nevertheless; the next opening removes the file
            logger.warning("the parked fill of %s could not be removed: %s", made.digest, error)
        return made

    def remove(self, digest: Digest) -> None:
        """Remove a version, and the refs that still name it.

        Refs first, then the package, then its manifest: a crash in between leaves a version without a ref, or a
        manifest without a package, which the next opening removes; never a ref to a missing version.
        """
        with self._names:
            for ref in self.refs.all():
                if ref.digest == digest:
                    self.refs.drop(ref.meeting_id)
            self.fs.unlink(self.layout.package(digest))
            self._forget(digest)
            self.fs.unlink(self.layout.manifest(digest))
        # Not under the lock: a series of removals would otherwise keep commits waiting.
        self.fs.sync_folder(self.layout.packages)

    def set_ref(self, ref: Ref) -> None:
        """Write a ref; see `Store.set_ref`."""
        with self._names:
            if ref.digest not in self.packages:
                raise VersionMissing(ref.digest)
            with self.quota.full_disk_as_no_space(0):
                self.refs.set(ref)

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        """Change a ref; see `Store.change_ref`."""

        def checked(before: Ref | None) -> Ref | None:
            if before is not None and self.is_stored(before.digest):
                self.refs.take(before)
            after = change(before)
            # On the disk, too: another process may have removed it since the folder was read.
            stored = after is None or (
                self.is_stored(after.digest) and self.fs.exists(self.layout.package(after.digest))
            )
            if after is not None and after != before and not stored:
                raise VersionMissing(after.digest)
            return after

        with self._names, self.quota.full_disk_as_no_space(0):
            return self.refs.change(meeting_id, checked)

    def drop_ref(self, meeting_id: str) -> None:
        """Remove a ref. An unknown meeting is no error."""
        with self._names:
            self.refs.drop(meeting_id)

    def _admit(self, entry: Entry, manifest: Manifest | None = None) -> None:
        """Add a package that is complete on the disk."""
        if self.packages.put(entry):
            self.quota.store(entry.size)
        self.manifests.add(entry.digest, manifest)

    def _forget(self, digest: Digest) -> None:
        entry = self.packages.pop(digest)
        self.manifests.remove(digest)
        if entry is not None:
            self.quota.forget(entry.size)
