"""The manifests of committed packages, read from the disk when they are needed, and an index of their chunks."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from .chunk_index import ChunkIndex
from .manifest import InvalidManifest, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .digest import Digest
    from .filesystem import FileSystem
    from .layout import Layout
    from .records import ChunkLocation

CACHED_MANIFESTS = 16
"""Manifests kept in memory: a node serves a handful of meetings at a time."""

logger = logging.getLogger("store")


class ManifestCache:
    """A least-recently-used cache of manifests, and a chunk index. Every method is safe from any thread.

    `digests` returns the committed packages. The index is built by the first `find`, since most runs of a node never
    need one, and is kept up to date from then on.
    """

    def __init__(
        self,
        fs: FileSystem,
        layout: Layout,
        digests: Callable[[], Sequence[Digest]],
        capacity: int = CACHED_MANIFESTS,
    ) -> None:
        self._fs = fs
        self._layout = layout
        self._digests = digests
        self._capacity = capacity
        self._cache_lock = threading.Lock()
        self._cached: OrderedDict[Digest, Manifest] = OrderedDict()  # the least recently used first
        self._index_lock = threading.Lock()
        self._index: ChunkIndex | None = None

    def manifest(self, digest: Digest) -> Manifest:
        """Return a package's manifest. Raises `FileNotFoundError`, or `InvalidManifest` when it is damaged."""
        with self._cache_lock:
            cached = self._cached.get(digest)
            if cached is not None:
                self._cached.move_to_end(digest)
                return cached
        manifest = self._read(digest)
        self._remember(manifest)
        return manifest

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return a location of a chunk. The first call reads all manifests; concurrent calls wait for it."""
        with self._index_lock:
            if self._index is None:
                index = ChunkIndex()
                for package in self._digests():
                    self._add(index, package)
                self._index = index
            return self._index.find(digest, besides)

    def add(self, digest: Digest, manifest: Manifest | None = None) -> None:
        """Add a package; passing its manifest saves reading it. A known package is no error."""
        if manifest is not None:
            self._remember(manifest)
        with self._index_lock:
            if self._index is not None:
                self._add(self._index, digest, manifest)

    def remove(self, digest: Digest) -> None:
        """Remove a package. An unknown package is no error."""
        with self._index_lock:
            if self._index is not None:
                self._index.remove(digest)
        with self._cache_lock:
            self._cached.pop(digest, None)

    def _remember(self, manifest: Manifest) -> None:
        with self._cache_lock:
            self._cached[manifest.digest] = manifest
            self._cached.move_to_end(manifest.digest)
            if len(self._cached) > self._capacity:
                self._cached.popitem(last=False)

    def _add(self, index: ChunkIndex, digest: Digest, manifest: Manifest | None = None) -> None:
        if digest in index:
            return
        try:
            index.add(manifest or self._read(digest))
        except (OSError, InvalidManifest) as error:  # `Contents.manifest` makes it again when it is needed
            logger.warning("the chunks of %s cannot be reused, since its manifest cannot be read: %s", digest, error)

    def _read(self, digest: Digest) -> Manifest:
        manifest = Manifest.from_json(self._fs.read(self._layout.manifest(digest)))
        if manifest.digest != digest:
            raise InvalidManifest(f"it is the manifest of {manifest.digest}")
        return manifest
