"""Verify a file and publish it as a package. Nothing else creates packages in `packages/`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from .buffered_reader import PackageChanged
from .files import write_atomically
from .reading import split_bytes
from .records import PackageCorrupt
from .zips import check_package

if TYPE_CHECKING:
    from pathlib import Path

    from .background_hashing import PrefixHasher
    from .filesystem import FileState, FileSystem
    from .layout import Layout
    from .manifest import Manifest


def verify_file(fs: FileSystem, fd: int, size: int, manifest: Manifest | None, hasher: PrefixHasher) -> Manifest:
    """Verify a file against its manifest; without one, read the whole zip and split it. Return the manifest.

    Raises `PackageCorrupt` with a manifest, `PackageRejected` without one.
    """
    reader = partial(fs.read_into, fd)
    if manifest is None:
        # Both at once: splitting a package that is then rejected costs little, and uses a core that would be idle.
        with ThreadPoolExecutor(1, thread_name_prefix="store-split") as thread:
            splitting = thread.submit(split_bytes, reader, size, partial(hasher.digest, size))
            check_package(reader, size)
            return splitting.result()
    try:
        good = fs.fstat(fd).size == size and hasher.digest(size) == manifest.digest
    except PackageChanged:
        good = False
    if not good:
        raise PackageCorrupt(manifest.digest)
    return manifest


def publish_file(fs: FileSystem, layout: Layout, fd: int, source: Path, manifest: Manifest) -> FileState:
    """Rename a verified, synced file into `packages/` and write its manifest; return the file's state.

    The package comes first: a package without a manifest can be verified by its name, a manifest alone is useless.
    Both names share one sync of their folder. If this raises, neither is there, and `source` has its name again.
    """
    package, manifest_path = layout.package(manifest.digest), layout.manifest(manifest.digest)
    try:
        fs.rename(source, package)
        write_atomically(fs, manifest.to_json(), layout.temporary(), manifest_path)
        fs.sync_folder(layout.packages)
        return fs.fstat(fd)
    except BaseException:
        if not fs.exists(source):
            fs.rename(package, source)
        fs.unlink(manifest_path)
        raise
