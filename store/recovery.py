"""What is done when a storage folder is opened: read its names and refs, and undo what a crash left half done.

Packages are not read, with one exception: a package without a manifest, left by a crash during its commit or copied
into the folder, is hashed; it is removed if it does not have the digest in its name.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from .buffered_reader import PackageChanged
from .errors import StoreError
from .files import create_locked, make_folder_durably, remove_unlocked, write_atomically, write_durably
from .layout import FORMAT, Layout, parse_name
from .manifest import InvalidManifest
from .package_table import Entry
from .reading import split_bytes
from .records import age_of
from .refs import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .digest import Digest
    from .filesystem import FileState, FileSystem
    from .manifest import Manifest
    from .records import Ref

PARKED_SECONDS = 24 * 3600.0
"""How long an abandoned fill is kept to be resumed: after this time its package is unlikely to be requested again."""

logger = logging.getLogger("store")


class UnknownFormat(StoreError):
    """The storage folder has a layout that this program does not know."""

    def __init__(self, path: str, found: str, known: str) -> None:
        super().__init__(f"{path} holds storage format {found!r}; this program knows {known!r} only")
        self.path = path
        self.found = found
        self.known = known


@dataclass(slots=True)
class Recovered:
    """The content of a storage folder: packages, refs by meeting id, and the sizes of parked fills."""

    entries: dict[Digest, Entry] = field(default_factory=dict)
    refs: dict[str, Ref] = field(default_factory=dict)
    parked: dict[Digest, int] = field(default_factory=dict)


def recover(fs: FileSystem, layout: Layout) -> Recovered:
    """Create missing folders, clean up, and return what the storage folder holds. Raises `UnknownFormat`.

    Safe while other processes use the folder: locked files are left alone, and two recoveries do not run at once.
    The names that are returned are synced: the process that created them may have been killed before its own sync.
    """
    make_folder_durably(fs, layout.root)
    with fs.folder_lock(layout.root):
        _check_format(fs, layout)
        found = Recovered(entries=_read_packages(fs, layout))
        found.parked = _sweep_incoming(fs, layout, found.entries)
        found.refs = _read_refs(fs, layout, found.entries)
        fs.sync_folder(layout.packages)
        fs.sync_folder(layout.meetings)
    return found


def _check_format(fs: FileSystem, layout: Layout) -> None:
    """Reject an unknown format before changing anything; write the format of a new folder."""
    new = not fs.exists(layout.format)
    if not new:
        text = fs.read(layout.format).decode("utf-8", "replace").strip()
        if text != FORMAT:
            raise UnknownFormat(str(layout.root), text[:80], FORMAT)
    for folder in (layout.packages, layout.meetings, layout.incoming):
        fs.make_folder(folder)
    if new:
        write_atomically(fs, FORMAT.encode() + b"\n", layout.temporary(), layout.format)
    fs.sync_folder(layout.root)


def _read_packages(fs: FileSystem, layout: Layout) -> dict[Digest, Entry]:
    names = [parsed for name in fs.list(layout.packages) if (parsed := parse_name(name)) is not None]
    packages = {digest for digest, suffix in names if suffix == "zip"}
    manifests = {digest for digest, suffix in names if suffix == "json"}
    for digest in manifests - packages:
        # Check again: the package may have been committed while the names were read.
        if fs.exists(layout.package(digest)):
            packages.add(digest)
        else:
            logger.warning("the manifest of %s has no package and is removed", digest)
            fs.unlink(layout.manifest(digest))
    entries = (load_entry(fs, layout, digest) for digest in packages)
    return {entry.digest: entry for entry in entries if entry is not None}


def load_entry(fs: FileSystem, layout: Layout, digest: Digest) -> Entry | None:
    """Return the entry of a package on the disk, or None when there is none.

    A package without a manifest is hashed; its manifest is made again, or it is removed if its digest is wrong.
    """
    try:
        size = fs.stat(layout.package(digest)).size
    except FileNotFoundError:
        return None
    try:
        used = fs.stat(layout.manifest(digest)).mtime_ns / 1e9
    except FileNotFoundError:
        made = remake_manifest(fs, layout, digest)
        return None if made is None else Entry(digest, made[0].size, time.time(), made[1])
    return Entry(digest, size, used)


def remake_manifest(fs: FileSystem, layout: Layout, digest: Digest) -> tuple[Manifest, FileState] | None:
    """Verify a package by its name and write its manifest anew; return the manifest and the state of the file.

    Return None when there is no package, or when it does not have the digest in its name; it is then removed.
    """
    try:
        fd = fs.open(layout.package(digest))
    except FileNotFoundError:  # removed by another process
        return None
    try:
        before = fs.fstat(fd)
        manifest: Manifest | None = None
        try:
            manifest = split_bytes(partial(fs.read_into, fd), before.size)
        except (InvalidManifest, PackageChanged) as error:
            logger.warning("package %s cannot be split: %s", digest, error)
        if manifest is None or manifest.digest != digest:
            logger.warning("package %s does not have the digest in its name and is removed", digest)
            fs.unlink(layout.package(digest))
            fs.unlink(layout.manifest(digest))
            return None
    finally:
        fs.close(fd)
    logger.warning("package %s had no valid manifest; it was hashed, and its manifest made again", digest)
    write_durably(fs, manifest.to_json(), layout.temporary(), layout.manifest(digest))
    return manifest, before


def _sweep_incoming(fs: FileSystem, layout: Layout, committed: Mapping[Digest, Entry]) -> dict[Digest, int]:
    """Remove files that are not locked, except fills that can be resumed; return the sizes of those."""
    parked: dict[Digest, int] = {}
    for name in fs.list(layout.incoming):
        path = layout.incoming / name
        parsed = parse_name(name)
        if parsed is not None and parsed[1] == "part":
            size = _keep_part(fs, path, committed=parsed[0] in committed)
            if size is not None:
                parked[parsed[0]] = size
        elif path.suffix in {".tmp", ".stream"}:
            remove_unlocked(fs, path)
    return parked


def _keep_part(fs: FileSystem, path: Path, *, committed: bool) -> int | None:
    """Return the size of a fill that can be resumed, or None for a locked one; remove any other and return None."""
    fd = create_locked(fs, path)
    if fd is None:
        return None
    try:
        state = fs.fstat(fd)
        if committed or state.size == 0 or age_of(state.mtime_ns / 1e9, time.time()) > PARKED_SECONDS:
            fs.unlink(path)
            return None
        return state.size
    finally:
        fs.close(fd)


def _read_refs(fs: FileSystem, layout: Layout, committed: dict[Digest, Entry]) -> dict[str, Ref]:
    refs: dict[str, Ref] = {}
    for name in fs.list(layout.meetings):
        path = layout.meetings / name
        if path.suffix != ".json":
            continue
        try:
            ref = decode(fs.read(path))
        except FileNotFoundError:  # just removed by another process
            continue
        except ValueError as error:
            logger.warning("%s is renamed to %s.bad: %s", path, name, error)
            fs.rename(path, path.with_name(f"{name}.bad"))
            continue
        if ref.digest not in committed:
            # Check again: another process may have committed it since the names were read.
            entry = load_entry(fs, layout, ref.digest)
            if entry is None:
                logger.warning("the ref of meeting %r is removed, since its version is not stored", ref.meeting_id)
                fs.unlink(path)
                continue
            committed[ref.digest] = entry
        right = layout.ref(ref.meeting_id)
        if path != right:  # somebody copied or renamed the file: the id inside decides
            logger.warning("%s holds the ref of meeting %r and should be %s", path, ref.meeting_id, right.name)
            if not fs.exists(right):
                write_durably(fs, encode(ref), layout.temporary(), right)
                refs[ref.meeting_id] = ref
            fs.unlink(path)
            continue
        refs[ref.meeting_id] = ref
    return refs
