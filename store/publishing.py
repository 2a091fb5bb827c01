"""The one gate by which a file becomes a package: verified, then named. Nothing else names a file in `packages/`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from .errors import PackageChanged, PackageCorrupt
from .filesystem import write_whole
from .reading import split_bytes
from .zips import check_package

if TYPE_CHECKING:
    from pathlib import Path

    from .behind import WholeHash
    from .filesystem import FileSystem, Seen
    from .layout import Layout
    from .manifest import Manifest


def verified(fs: FileSystem, fd: int, size: int, manifest: Manifest | None, whole: WholeHash) -> Manifest:
    """Compare a file with its manifest, or without one read the zip whole and cut it; return the manifest.

    Raises `PackageCorrupt`, or `PackageRejected` without a manifest.
    """
    reader = partial(fs.read_into, fd)
    if manifest is None:
        # Cutting what may be rejected costs little; cutting only afterwards would leave a core idle.
        with ThreadPoolExecutor(1, thread_name_prefix="store-cut") as thread:
            cutting = thread.submit(split_bytes, reader, size, partial(whole.digest, size))
            check_package(reader, size)
            return cutting.result()
    try:
        right = fs.look_at(fd).size == size and whole.digest(size) == manifest.digest
    except PackageChanged:
        right = False
    if not right:
        raise PackageCorrupt(manifest.digest)
    return manifest


def put_in_place(fs: FileSystem, layout: Layout, fd: int, source: Path, manifest: Manifest) -> Seen:
    """Name a verified package, whose bytes are on the disk, and its manifest; on an error, neither. Return its state.

    The package first: one without its manifest can be hashed against its name, and a manifest alone is nothing. Both
    names share one sync of their folder.
    """
    target, place = layout.package(manifest.digest), layout.manifest(manifest.digest)
    try:
        fs.rename(source, target)
        write_whole(fs, manifest.to_json(), layout.temporary(), place)
        fs.sync_folder(target.parent)
        return fs.look_at(fd)
    except BaseException:
        if not fs.exists(source):
            fs.rename(target, source)
        fs.unlink(place)
        raise
