from __future__ import annotations

import errno
import os

import pytest

from store import (
    Chunk,
    Manifest,
    PackageCorrupt,
    Store,
    VersionMissing,
)
from tests.store.helpers import (
    ABSENT,
    descriptors,
    flip,
    names,
    scrub,
)
from tests.store.samples import (
    fill_whole,
    package,
)
from tests.support.faulty_filesystem import FaultyFileSystem

# -- trust


def test_a_package_is_trusted_only_once_this_process_verified_it(store, folder):
    digest = fill_whole(store, package()).digest
    store.close()
    with Store.open(folder) as again:
        with again.lease(digest) as lease:
            assert not lease.trusted
            again.verify(digest)
            assert lease.trusted
        with again.lease(digest) as lease:
            assert lease.trusted


def test_flipped_bytes_end_the_trust_and_are_found(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    bad = manifest.chunks[2]
    lease = store.lease(manifest.digest)
    path = folder / "packages" / f"{manifest.digest}.zip"
    with path.open("r+b") as file:
        file.seek(bad.offset)
        file.write(bytes([data[bad.offset] ^ 1]))
    assert not lease.trusted
    with pytest.raises(PackageCorrupt) as caught:
        store.verify(manifest.digest)
    assert caught.value.bad == (bad,)
    assert not lease.trusted
    assert store.holds(manifest.digest)
    with path.open("r+b") as file:
        file.seek(bad.offset)
        file.write(bytes([data[bad.offset]]))
    store.verify(manifest.digest)
    assert lease.trusted
    lease.close()


def test_a_write_with_a_restored_mtime_ends_the_trust(store, folder):
    manifest = fill_whole(store, package())
    path = folder / "packages" / f"{manifest.digest}.zip"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with store.lease(manifest.digest) as lease:
        assert not lease.trusted


@pytest.mark.parametrize("size", [0, 1, 50_000])
def test_a_truncated_package_is_corrupt(store, folder, size):
    manifest = fill_whole(store, package())
    os.truncate(folder / "packages" / f"{manifest.digest}.zip", size)
    with pytest.raises(PackageCorrupt) as caught:
        store.verify(manifest.digest)
    assert caught.value.bad == tuple(c for c in manifest.chunks if c.offset + c.size > size)


# -- repair


def test_a_file_of_the_wrong_length_is_repaired(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    path = folder / "packages" / f"{manifest.digest}.zip"
    path.write_bytes(data + b"more")
    with pytest.raises(PackageCorrupt):
        store.verify(manifest.digest)
    first = manifest.pieces[0]
    assert store.repair(manifest.digest, first, data[: first.size])
    assert path.read_bytes() == data
    path.write_bytes(data[:30_000])
    assert scrub(store, manifest.digest, data) == [p for p in manifest.pieces if p.offset + p.size > 30_000]
    assert path.read_bytes() == data
    store.verify(manifest.digest)


@pytest.mark.parametrize("how", ["verify", "scan"])
def test_a_manifest_with_a_wrong_digest_of_a_chunk_is_made_again(store, folder, how):
    data = package()
    manifest = fill_whole(store, data)
    store.close()
    lies = [Chunk(p.offset, p.size, ABSENT) if p == manifest.chunks[1] else p for p in manifest.pieces]
    path = folder / "packages" / f"{manifest.digest}.json"
    path.write_bytes(Manifest(manifest.digest, manifest.size, tuple(lies)).to_json())
    with Store.open(folder) as again:
        if how == "verify":
            again.verify(manifest.digest)
        else:
            assert [step.bad for step in again.scan(manifest.digest) if step.bad is not None] == [lies[3]]
        assert again.manifest(manifest.digest) == manifest
        with again.lease(manifest.digest) as lease:
            assert lease.trusted
    assert path.read_bytes() == manifest.to_json()


@pytest.mark.parametrize("call", ["open_to_write", "write_at", "sync"])
def test_a_failed_repair_can_be_repeated(folder, call):
    data = package()
    fs = FaultyFileSystem()
    with Store.open(folder, fs=fs) as store:
        manifest = fill_whole(store, data)
        chunk = manifest.chunks[2]
        right = data[chunk.offset : chunk.offset + chunk.size]
        before = descriptors()
        with store.lease(manifest.digest) as lease:
            flip(lease, chunk.offset)
            fs.fail(call, code=errno.EIO, once=True)
            with pytest.raises(OSError):
                store.repair(manifest.digest, chunk, right)
            assert not lease.trusted
            fs.clear_faults()
            assert store.repair(manifest.digest, chunk, right)
            assert lease.trusted
        assert descriptors() <= before + 1


def test_a_removed_package_is_not_repaired(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    (folder / "packages" / f"{manifest.digest}.zip").unlink()
    first = manifest.pieces[0]
    with pytest.raises(VersionMissing):
        store.repair(manifest.digest, first, data[: first.size])
    assert names(folder, "packages") == [f"{manifest.digest}.json"]
