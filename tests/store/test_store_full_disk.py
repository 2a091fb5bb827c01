"""A store whose disk is full, or fails, at any call."""

from __future__ import annotations

import errno
import itertools
import logging
import os
from contextlib import suppress

import pytest

from store import (
    DiskStore,
    NeverFits,
    NoSpace,
    Ref,
    VersionPresent,
)
from store.filesystem import Room
from store.testing import CALLS, FaultyFileSystem, Stopped
from tests.store.helpers import ABSENT, descriptors, half_filled, names, read_all
from tests.store.samples import documents, fill_whole, make_zip, manifest_of, package, stream_whole


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def store(folder):
    with DiskStore.open(folder) as opened:
        yield opened


class SmallDisk(FaultyFileSystem):
    def __init__(self, free: int, total: int) -> None:
        super().__init__()
        self.left = Room(free, total)

    def room(self, path):
        return self.left


def test_free_bytes_are_kept_free(folder):
    data = package()
    fs = SmallDisk(len(data) + 99, 10 * len(data))
    with DiskStore.open(folder, min_free_bytes=100, fs=fs) as store:
        with pytest.raises(NoSpace) as caught:
            store.begin_fill(manifest_of(data))
        assert not isinstance(caught.value, NeverFits)
        stream = store.begin_stream("m")
        with pytest.raises(NoSpace):
            stream.append(data)
        assert stream.size == 0
        stream.append(data[:-1])  # the last byte is one too many
        stream.discard()
        fs.left = Room(len(data) + 100, len(data) + 99)
        with pytest.raises(NeverFits):
            store.begin_fill(manifest_of(data))
        fs.left = Room(len(data) + 100, len(data) + 100)
        fill_whole(store, data)
    assert names(folder, "incoming") == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["reserve", "write_at"])
def test_a_full_disk_when_a_fill_begins(folder, call, code):
    data = package()
    fs = FaultyFileSystem()
    with DiskStore.open(folder, fs=fs) as store:
        before = descriptors()
        fs.fail(call, code=code)
        with pytest.raises(NoSpace):
            store.begin_fill(manifest_of(data))
        fs.mend()
        assert descriptors() == before
        assert names(folder, "incoming") == []
        assert store.usage().filling == 0
        fill_whole(store, data)


def test_a_full_disk_in_a_stream_leaves_what_was_appended(folder):
    data = package()
    fs = FaultyFileSystem()
    with DiskStore.open(folder, fs=fs) as store:
        fill = store.begin_stream("m")
        fill.append(data[:50_000])
        fs.fail("write_at")
        with pytest.raises(NoSpace):
            fill.append(data[50_000:])
        assert fill.size == 50_000
        fs.mend()
        fill.append(data[50_000:])
        assert fill.commit() == manifest_of(data)
        fill.close()


PUBLISHING = [
    ("sync", 1),
    ("rename", 1),
    ("write_at", 1),
    ("sync", 2),
    ("rename", 2),
    ("sync_folder", 1),
]


@pytest.mark.parametrize(("call", "number"), PUBLISHING)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_commit_that_fails_leaves_the_fill_as_it_was(folder, call, number, code):
    data = package()
    fs = FaultyFileSystem()
    with DiskStore.open(folder, fs=fs) as store:
        fill, _, rest = half_filled(store, data)
        for chunk in rest:
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        fs.fail(call, number, code, once=True)
        with pytest.raises(NoSpace if code == errno.ENOSPC else OSError):
            fill.commit()
        assert not store.holds(fill.manifest.digest)
        assert store.usage().stored == 0
        assert store.usage().filling == len(data)
        assert names(folder, "packages") == []
        fs.mend()
        with DiskStore.open(folder) as other:  # nor do others see it
            assert not other.holds(fill.manifest.digest)
        fill.commit()
        fill.close()
        assert store.holds(fill.manifest.digest)
        assert store.usage().stored == len(data)
        assert store.usage().filling == 0
    assert names(folder, "incoming") == []


@pytest.mark.parametrize(("call", "number"), [("sync", 1), ("rename", 1), ("write_at", 1)])
def test_a_ref_that_cannot_be_written_is_not_switched(folder, call, number):
    fs = FaultyFileSystem()
    with DiskStore.open(folder, fs=fs) as store:
        one, two = fill_whole(store, package(1)).digest, fill_whole(store, package(2)).digest
        store.set_ref(Ref("m", one))
        fs.fail(call, number)
        with pytest.raises(NoSpace):
            store.set_ref(Ref("m", two))
        fs.mend()
        assert store.ref("m") == Ref("m", one)
    assert names(folder, "incoming") == []
    with DiskStore.open(folder) as again:
        assert again.ref("m") == Ref("m", one)


@pytest.mark.parametrize("call", CALLS)
def test_no_failing_call_loses_a_package_or_a_descriptor(folder, call):
    """Every call of each kind fails in turn while a package is filled; another one is there before and after."""
    here, data = package(1), package(2)
    fs = FaultyFileSystem()
    with DiskStore.open(folder, fs=fs) as store:
        kept = fill_whole(store, here).digest
        store.set_ref(Ref("kept", kept))
        before = descriptors()
        for number in range(1, 40):
            fs.fail(call, number, errno.EIO, once=True)
            try:
                digest = fill_whole(store, data).digest
            except OSError:
                fs.mend()
                store.begin_fill(manifest_of(data)).discard()
            else:
                fs.mend()
                store.remove(digest)
            with store.lease(kept) as lease:
                assert read_all(lease, len(here)) == here
            assert not store.holds(manifest_of(data).digest)
        assert descriptors() <= before + 1
        assert store.usage().filling == 0
    assert names(folder, "incoming") == []
    with DiskStore.open(folder) as again:
        again.verify(kept)
        assert [ref.digest for ref in again.refs()] == [kept]
        assert [v.digest for v in again.versions()] == [kept]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write_at", "copy_range"])
def test_a_disk_that_fills_up_under_a_fill_can_be_helped(folder, call, code):
    """Half a write, then no room: nothing wrong is counted as there, and the fill goes on once room was made."""
    members = documents(3, 20_000)
    old, new = make_zip(members, minute=1), make_zip({**members, "new.pdf": b"n" * 5000}, minute=2)
    fs = FaultyFileSystem()
    with DiskStore.open(folder, fs=fs) as store:
        fill_whole(store, old)
        manifest = manifest_of(new)
        if call == "copy_range":
            fs.fail(call, 2, code, short=True)
            with pytest.raises(NoSpace):
                store.begin_fill(manifest)
            assert store.usage().filling == 0
            fs.mend()
        fill = store.begin_fill(manifest)
        (chunk,) = fill.missing()
        if call == "write_at":
            fs.fail(call, 1, code, short=True)
            with pytest.raises(NoSpace):
                fill.write(chunk, new[chunk.offset : chunk.offset + chunk.size])
            assert fill.covered(chunk.offset) == 0
            assert list(fill.missing()) == [chunk]
            fs.mend()
        store.remove(manifest_of(old).digest)
        fill.write(chunk, new[chunk.offset : chunk.offset + chunk.size])
        fill.commit()
        fill.close()
        store.verify(manifest.digest)


def test_a_short_write_of_the_kernel_is_gone_on_with(folder, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[: max(1, len(data) // 3)], offset))
    with DiskStore.open(folder) as store:
        store.verify(fill_whole(store, package(count=2, size=5000)).digest)
        store.verify(stream_whole(store, "m", package(3, count=2, size=5000)).digest)


def test_stopping_before_any_change_loses_nothing_that_was_there(folder):
    """As if the process were killed before each of its changes in turn; what it leaves is opened by another."""
    here, data = package(1), package(2)
    with DiskStore.open(folder) as store:
        kept = fill_whole(store, here).digest
        store.set_ref(Ref("kept", kept))
    for number in itertools.count(1):
        fs = FaultyFileSystem()
        store = DiskStore.open(folder, fs=fs)
        fs.stop(number)
        try:
            digest = fill_whole(store, data).digest
            store.set_ref(Ref("new", digest))
            store.remove(digest)
        except Stopped:
            done = False
        else:
            done = True
        store.close()
        with DiskStore.open(folder) as again:
            assert again.ref("kept") == Ref("kept", kept)
            for version in again.versions():
                again.verify(version.digest)
            assert all(again.holds(ref.digest) for ref in again.refs())
            again.remove(manifest_of(data).digest)
            with suppress(VersionPresent):
                again.begin_fill(manifest_of(data)).discard()
            assert names(folder, "incoming") == []
        if done:
            break
    assert number > 20


def test_where_the_kernel_cannot_copy_or_reserve_bytes_go_through_us(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    members = documents(3, 3_000_000)
    with DiskStore.open(folder) as store:
        fill_whole(store, make_zip(members, minute=1))
        fill = store.begin_fill(manifest_of(make_zip(members, minute=2)))
        assert fill.missing() == ()
        fill.commit()
        fill.close()


def test_an_abandoned_fill_without_owner_lets_its_lock_go(store):
    fill, _, _ = half_filled(store, package())
    manifest = fill.manifest
    del fill
    store.begin_fill(manifest).discard()


def test_nothing_is_logged_when_all_is_well(folder, caplog):
    with caplog.at_level(logging.DEBUG, "store"), DiskStore.open(folder) as store:
        store.set_ref(Ref("m", fill_whole(store, package()).digest))
        store.find(ABSENT)
    with DiskStore.open(folder) as store:
        store.find(ABSENT)
    assert caplog.text == ""
