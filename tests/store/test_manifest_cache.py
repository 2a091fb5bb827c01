"""The cache of manifests against a model of a least-recently-used cache: a hit reads no file, a miss reads one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import Chunk, Digest, InvalidManifest, Manifest
from store.filesystem import FileSystem
from store.layout import Layout
from store.manifest_cache import CACHED_MANIFESTS, ManifestCache

CAPACITY = 3
CHUNK = Digest("c" * 64)
DIGESTS = [Digest(f"{number:064x}") for number in range(6)]
MANIFESTS = {digest: Manifest(digest, 10, (Chunk(0, 10, CHUNK),)) for digest in DIGESTS}
LAYOUT = Layout(Path("storage"))


class ManifestFiles(FileSystem):
    """The files of all manifests, in memory. Counts the reads."""

    def __init__(self) -> None:
        self.files = {LAYOUT.manifest(digest): manifest.to_json() for digest, manifest in MANIFESTS.items()}
        self.reads = 0

    def read(self, path: Path) -> bytes:
        self.reads += 1
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]


@given(st.lists(st.tuples(st.sampled_from(["get", "add", "add unread", "remove"]), st.sampled_from(DIGESTS))))
def test_the_least_recently_used_manifest_is_dropped_first(steps):
    files = ManifestFiles()
    cache = ManifestCache(files, LAYOUT, lambda: DIGESTS, CAPACITY)
    model: list[Digest] = []  # the least recently used first
    for action, digest in steps:
        reads = files.reads
        hit = digest in model
        if action == "get":
            assert cache.manifest(digest) == MANIFESTS[digest]
            assert files.reads - reads == (0 if hit else 1)
        elif action == "add":
            cache.add(digest, MANIFESTS[digest])
        elif action == "add unread":
            cache.add(digest)
        else:
            cache.remove(digest)
        if action != "get":
            assert files.reads == reads
        if action != "add unread" and hit:
            model.remove(digest)
        if action in {"get", "add"}:
            model.append(digest)
        del model[:-CAPACITY]
    for digest in reversed(model):  # the most recently used first, so that no miss drops one of the others
        reads = files.reads
        cache.manifest(digest)
        assert files.reads == reads


def test_a_manifest_in_use_stays_cached_while_others_are_read():
    files = ManifestFiles()
    cache = ManifestCache(files, LAYOUT, lambda: DIGESTS, CAPACITY)
    for digest in DIGESTS[1:]:
        cache.manifest(DIGESTS[0])
        cache.manifest(digest)
    assert files.reads == len(DIGESTS)
    assert CACHED_MANIFESTS > 1


def test_the_index_reads_each_manifest_once_and_skips_missing_ones(caplog):
    files = ManifestFiles()
    del files.files[LAYOUT.manifest(DIGESTS[0])]
    cache = ManifestCache(files, LAYOUT, lambda: DIGESTS, CAPACITY)
    for _ in range(2):
        found = cache.find(CHUNK)
        assert found is not None
        assert found.package in DIGESTS[1:]
    assert files.reads == len(DIGESTS)
    assert DIGESTS[0] in caplog.text
    for digest in DIGESTS:
        cache.remove(digest)
    assert cache.find(CHUNK) is None


def test_the_manifest_of_another_version_is_refused():
    files = ManifestFiles()
    files.files[LAYOUT.manifest(DIGESTS[0])] = MANIFESTS[DIGESTS[1]].to_json()
    cache = ManifestCache(files, LAYOUT, lambda: DIGESTS, CAPACITY)
    with pytest.raises(InvalidManifest):
        cache.manifest(DIGESTS[0])
