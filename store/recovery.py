"""What is done when a storage folder is opened: read names, undo what a crash left half done. Reads no package.

With one exception: a package whose manifest is missing is hashed, because a crash fell between the two renames of its
commit (or somebody put it there); if its bytes are not what its name says, it is dropped.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from .errors import InvalidManifest, PackageChanged, UnknownFormat
from .filesystem import create_locked, make_folder_durably, write_durably, write_whole
from .layout import FORMAT, Layout, parse_name
from .leases import Entry
from .reading import split_bytes
from .refs import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .digest import Digest
    from .filesystem import FileSystem, Seen
    from .interface import Ref
    from .manifest import Manifest

PARKED_SECONDS = 24 * 3600.0
"""An abandoned fill nobody resumed for this long is of a package nobody wants any more."""

logger = logging.getLogger("store")


@dataclass(slots=True)
class Found:
    """What a storage folder holds: packages, refs by meeting id, and the sizes of abandoned fills."""

    entries: dict[Digest, Entry] = field(default_factory=dict)
    refs: dict[str, Ref] = field(default_factory=dict)
    parked: dict[Digest, int] = field(default_factory=dict)


def recover(fs: FileSystem, layout: Layout) -> Found:
    """Create what is not there, tidy up, and return what is. Raises `UnknownFormat`.

    Safe while other processes use the folder: only what no lock holds is removed, and two recoveries take turns.
    What is returned survives a power cut: another process may have been killed, or be waiting, just before it synced
    the names that are found here.
    """
    make_folder_durably(fs, layout.root)
    with fs.folder_lock(layout.root):
        _check_format(fs, layout)
        found = Found(entries=_packages(fs, layout))
        found.parked = _sweep_incoming(fs, layout, found.entries)
        found.refs = _refs(fs, layout, found.entries)
        fs.sync_folder(layout.packages)
        fs.sync_folder(layout.meetings)
    return found


def _check_format(fs: FileSystem, layout: Layout) -> None:
    """Refuse a layout we do not know before anything is changed in it; mark a new folder as ours."""
    new = not fs.exists(layout.format)
    if not new:
        text = fs.read(layout.format).decode("utf-8", "replace").strip()
        if text != FORMAT:
            raise UnknownFormat(str(layout.root), text[:80], FORMAT)
    for folder in (layout.packages, layout.meetings, layout.incoming):
        fs.make_folder(folder)
    if new:
        write_whole(fs, FORMAT.encode() + b"\n", layout.temporary(), layout.format)
    fs.sync_folder(layout.root)


def _packages(fs: FileSystem, layout: Layout) -> dict[Digest, Entry]:
    names = [parsed for name in fs.list(layout.packages) if (parsed := parse_name(name)) is not None]
    packages = {digest for digest, suffix in names if suffix == "zip"}
    manifests = {digest for digest, suffix in names if suffix == "json"}
    for digest in manifests - packages:
        # Asked again: the package may have been committed while the names were read.
        if fs.exists(layout.package(digest)):
            packages.add(digest)
        else:
            logger.warning("the manifest of %s has no package and is removed", digest)
            fs.unlink(layout.manifest(digest))
    entries: dict[Digest, Entry] = {}
    for digest in packages:
        entry = load_entry(fs, layout, digest)
        if entry is not None:
            entries[digest] = entry
    return entries


def load_entry(fs: FileSystem, layout: Layout, digest: Digest) -> Entry | None:
    """Return what the disk says of one package, or None when there is none.

    One without a manifest is hashed; its manifest is made again, or it is dropped when it is not what its name says.
    """
    try:
        size = fs.look(layout.package(digest)).size
    except FileNotFoundError:
        return None
    try:
        used = fs.look(layout.manifest(digest)).mtime_ns / 1e9
    except FileNotFoundError:
        made = remake_manifest(fs, layout, digest)
        return None if made is None else Entry(digest, made[0].size, time.time(), made[1])
    return Entry(digest, size, used)


def remake_manifest(fs: FileSystem, layout: Layout, digest: Digest) -> tuple[Manifest, Seen] | None:
    """Hash a package against its name and write its manifest anew; drop it and return None if it is another.

    Also returns the state of the file, which is thereby verified.
    """
    fd = fs.open(layout.package(digest))
    try:
        before = fs.look_at(fd)
        manifest: Manifest | None = None
        try:
            manifest = split_bytes(partial(fs.read_into, fd), before.size)
        except (InvalidManifest, PackageChanged) as error:
            logger.warning("package %s cannot be cut: %s", digest, error)
        if manifest is None or manifest.digest != digest:
            logger.warning("package %s is not what its name says and is removed", digest)
            fs.unlink(layout.package(digest))
            fs.unlink(layout.manifest(digest))
            return None
    finally:
        fs.close(fd)
    logger.warning("package %s had no sound manifest; it was hashed, and the manifest made again", digest)
    write_durably(fs, manifest.to_json(), layout.temporary(), layout.manifest(digest))
    return manifest, before


def _sweep_incoming(fs: FileSystem, layout: Layout, committed: Mapping[Digest, Entry]) -> dict[Digest, int]:
    """Remove what no living process holds, but keep fills that can be resumed; return the sizes of those."""
    parked: dict[Digest, int] = {}
    names = fs.list(layout.incoming)
    for name in names:
        path = layout.incoming / name
        parsed = parse_name(name)
        if parsed is not None and parsed[1] == "part":
            size = _keep_part(fs, path, committed=parsed[0] in committed)
            if size is not None:
                parked[parsed[0]] = size
        elif path.suffix in {".tmp", ".stream"}:
            remove_unlocked(fs, path)
    for name in names:
        parsed = parse_name(name)
        if parsed is not None and parsed[1] == "map" and not fs.exists(layout.part(parsed[0])):
            fs.unlink(layout.incoming / name)
    return parked


def _keep_part(fs: FileSystem, path: Path, *, committed: bool) -> int | None:
    """Return the size of a fill that can be resumed; remove one that is of no use. None for one that is going on."""
    fd = create_locked(fs, path)
    if fd is None:
        return None
    try:
        state = fs.look_at(fd)
        if committed or state.size == 0 or time.time() - state.mtime_ns / 1e9 > PARKED_SECONDS:
            fs.unlink(path)
            return None
        return state.size
    finally:
        fs.close(fd)


def remove_unlocked(fs: FileSystem, path: Path) -> bool:
    """Remove a file unless some process holds its lock; tell whether it is gone."""
    fd = create_locked(fs, path)
    if fd is None:
        return False
    try:
        fs.unlink(path)
    finally:
        fs.close(fd)
    return True


def _refs(fs: FileSystem, layout: Layout, committed: dict[Digest, Entry]) -> dict[str, Ref]:
    refs: dict[str, Ref] = {}
    for name in fs.list(layout.meetings):
        path = layout.meetings / name
        if path.suffix != ".json":
            continue
        try:
            ref = decode(fs.read(path))
        except FileNotFoundError:  # dropped by another process just now
            continue
        except ValueError as error:
            logger.warning("%s is put aside as %s.bad: %s", path, name, error)
            fs.rename(path, path.with_name(f"{name}.bad"))
            continue
        if ref.digest not in committed:
            # Looked for again: another process may have committed it since the names were read.
            entry = load_entry(fs, layout, ref.digest)
            if entry is None:
                logger.warning("meeting %r named a version that is not stored, and is forgotten", ref.meeting_id)
                fs.unlink(path)
                continue
            committed[ref.digest] = entry
        right = layout.ref(ref.meeting_id)
        if path != right:  # the id inside decides; somebody copied or renamed the file
            logger.warning("%s holds the ref of meeting %r and should be %s", path, ref.meeting_id, right.name)
            if not fs.exists(right):
                write_durably(fs, encode(ref), layout.temporary(), right)
                refs[ref.meeting_id] = ref
            fs.unlink(path)
            continue
        refs[ref.meeting_id] = ref
    return refs
