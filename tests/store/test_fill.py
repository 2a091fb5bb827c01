from __future__ import annotations

import errno

import pytest

from store import (
    NoSpace,
    ReadStopped,
    Store,
)
from tests.store.helpers import (
    descriptors,
    half_filled,
    names,
)
from tests.store.samples import (
    documents,
    fill_whole,
    make_zip,
    manifest_of,
    package,
    stream_whole,
)
from tests.support.faulty_filesystem import FaultyFileSystem


def test_a_resumed_fill_verifies_the_bytes_again(store, folder):
    data = package()
    fill, _, rest = half_filled(store, data)
    for chunk in rest:
        fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
    fill.close()
    with (folder / "incoming" / f"{fill.manifest.digest}.part").open("r+b") as file:
        file.seek(rest[1].offset)
        file.write(b"torn")
    fill = store.begin_fill(fill.manifest)
    assert list(fill.missing()) == [rest[1]]
    fill.close()
    with (folder / "incoming" / f"{fill.manifest.digest}.part").open("r+b") as file:
        file.truncate(1000)
    assert len(store.begin_fill(fill.manifest).missing()) == len(rest) + 1


def test_bad_bytes_of_another_package_are_not_reused(store, folder):
    members = documents(3, 20_000)
    old, new = make_zip(members, minute=1), make_zip(members, minute=2)
    manifest = fill_whole(store, old)
    with (folder / "packages" / f"{manifest.digest}.zip").open("r+b") as file:
        file.seek(manifest.chunks[1].offset)
        file.write(b"rotten")
    fill = store.begin_fill(manifest_of(new))
    assert [chunk.digest for chunk in fill.missing()] == [manifest.chunks[1].digest]
    fill.discard()


def test_an_unreadable_package_is_not_reused(folder):
    fs = FaultyFileSystem()
    members = documents(3, 20_000)
    with Store.open(folder, fs=fs) as store:
        fill_whole(store, make_zip(members, minute=1))
        fs.fail("copy_range", code=errno.EIO)
        fill = store.begin_fill(manifest_of(make_zip(members, minute=2)))
        assert len(fill.missing()) == 3
        fill.discard()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["allocate", "write_at"])
def test_a_full_disk_when_a_fill_begins(folder, call, code):
    data = package()
    fs = FaultyFileSystem()
    with Store.open(folder, fs=fs) as store:
        before = descriptors()
        fs.fail(call, code=code)
        with pytest.raises(NoSpace):
            store.begin_fill(manifest_of(data))
        fs.clear_faults()
        assert descriptors() == before
        assert names(folder, "incoming") == []
        assert store.usage().filling == 0
        fill_whole(store, data)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write_at", "copy_range"])
def test_a_fill_continues_after_the_disk_was_full(folder, call, code):
    """After half a write the disk is full: the chunk stays missing, and is written once there is space."""
    members = documents(3, 20_000)
    old, new = make_zip(members, minute=1), make_zip({**members, "new.pdf": b"n" * 5000}, minute=2)
    fs = FaultyFileSystem()
    with Store.open(folder, fs=fs) as store:
        fill_whole(store, old)
        manifest = manifest_of(new)
        if call == "copy_range":
            fs.fail(call, 2, code, short=True)
            with pytest.raises(NoSpace):
                store.begin_fill(manifest)
            assert store.usage().filling == 0
            fs.clear_faults()
        fill = store.begin_fill(manifest)
        (chunk,) = fill.missing()
        if call == "write_at":
            fs.fail(call, 1, code, short=True)
            with pytest.raises(NoSpace):
                fill.write(chunk, new[chunk.offset : chunk.offset + chunk.size])
            assert fill.covered(chunk.offset) == 0
            assert list(fill.missing()) == [chunk]
            fs.clear_faults()
        store.remove(manifest_of(old).digest)
        fill.write(chunk, new[chunk.offset : chunk.offset + chunk.size])
        fill.commit()
        fill.close()
        store.verify(manifest.digest)


def test_what_was_fetched_and_stored_is_kept_when_reading_is_stopped(folder):
    data, stored = package(), package(seed=1)
    with Store.open(folder) as store:
        digest = fill_whole(store, stored).digest
        fill, _, rest = half_filled(store, data)
        fill.close()
    with Store.open(folder) as store:
        store.stop_reading()
        for read in (
            lambda: store.begin_fill(fill.manifest),  # it verifies what is there
            lambda: store.verify(digest),
            lambda: list(store.scan(digest)),
            lambda: stream_whole(store, "m", package(seed=2)),
        ):
            with pytest.raises(ReadStopped):
                read()
        assert store.holds(digest)
    with Store.open(folder) as store:
        fill = store.begin_fill(fill.manifest)
        assert list(fill.missing()) == rest
        for chunk in rest:
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        store.stop_reading()
        with pytest.raises(ReadStopped):
            fill.commit()
        fill.close()
    with Store.open(folder) as store:
        fill = store.begin_fill(fill.manifest)
        assert not fill.missing()
        fill.commit()
        fill.close()
        store.verify(digest)
