"""Manifests of committed packages, read when they are needed, and the index of their chunks."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from .chunk_index import ChunkIndex
from .errors import InvalidManifest
from .manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .digest import Digest
    from .filesystem import FileSystem
    from .interface import ChunkLocation
    from .layout import Layout

CACHED_MANIFESTS = 16
"""Manifests kept in memory; a node serves a handful of meetings at a time."""

logger = logging.getLogger("store")


class Catalogue:
    """What the manifests on disk say. Every method is safe from any thread.

    The index is built when a chunk is first looked for, since most starts of a node never need one, and kept up to
    date from then on. `digests` tells which packages there are.
    """

    def __init__(self, fs: FileSystem, layout: Layout, digests: Callable[[], Sequence[Digest]]) -> None:
        self._fs = fs
        self._layout = layout
        self._digests = digests
        self._caching = threading.Lock()
        self._cached: OrderedDict[Digest, Manifest] = OrderedDict()
        self._indexing = threading.Lock()
        self._index: ChunkIndex | None = None

    def manifest(self, digest: Digest) -> Manifest:
        """Return a package's manifest. Raises `FileNotFoundError`, or `InvalidManifest` when it is damaged."""
        with self._caching:
            cached = self._cached.get(digest)
        if cached is not None:
            return cached
        manifest = self._read(digest)
        self._remember(manifest)
        return manifest

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return where a chunk lies. The first call reads all manifests, and others wait for it."""
        with self._indexing:
            if self._index is None:
                index = ChunkIndex()
                for package in self._digests():
                    self._add(index, package)
                self._index = index
            return self._index.find(digest, besides)

    def add(self, digest: Digest, manifest: Manifest | None = None) -> None:
        """Let the chunks of a package be found; `manifest` saves reading it. One that is known is no error."""
        if manifest is not None:
            self._remember(manifest)
        with self._indexing:
            if self._index is not None:
                self._add(self._index, digest, manifest)

    def remove(self, digest: Digest) -> None:
        """Forget a package. One that is not known is no error."""
        with self._indexing:
            if self._index is not None:
                self._index.remove(digest)
        with self._caching:
            self._cached.pop(digest, None)

    def _remember(self, manifest: Manifest) -> None:
        with self._caching:
            self._cached[manifest.digest] = manifest
            if len(self._cached) > CACHED_MANIFESTS:
                self._cached.popitem(last=False)

    def _add(self, index: ChunkIndex, digest: Digest, manifest: Manifest | None = None) -> None:
        if digest in index:
            return
        try:
            index.add(manifest or self._read(digest))
        except (OSError, InvalidManifest) as error:  # a lost one is made again when it is next asked for
            logger.warning("the chunks of %s are not found again: %s", digest, error)

    def _read(self, digest: Digest) -> Manifest:
        manifest = Manifest.from_json(self._fs.read(self._layout.manifest(digest)))
        if manifest.digest != digest:
            raise InvalidManifest(f"it is the manifest of {manifest.digest}")
        return manifest
