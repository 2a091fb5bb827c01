"""A store whose disk fails, or whose process is killed, at any call."""

from __future__ import annotations

import errno
import itertools
from contextlib import suppress

import pytest

from store import (
    Ref,
    Store,
    VersionPresent,
)
from tests.store.helpers import (
    descriptors,
    names,
    read_all,
)
from tests.store.samples import (
    fill_whole,
    manifest_of,
    package,
)
from tests.support.faulty_filesystem import CALLS, FaultyFileSystem, Stopped


@pytest.mark.parametrize("call", CALLS)
def test_no_failing_call_loses_a_package_or_leaks_a_descriptor(folder, call):
    """Each call of each kind fails in turn while a package is filled; another package is stored before and after."""
    here, data = package(1), package(2)
    fs = FaultyFileSystem()
    with Store.open(folder, fs=fs) as store:
        kept = fill_whole(store, here).digest
        store.set_ref(Ref("kept", kept))
        before = descriptors()
        for number in range(1, 40):
            fs.fail(call, number, errno.EIO, once=True)
            try:
                digest = fill_whole(store, data).digest
            except OSError:
                fs.clear_faults()
                store.begin_fill(manifest_of(data)).discard()
            else:
                fs.clear_faults()
                store.remove(digest)
            with store.lease(kept) as lease:
                assert read_all(lease, len(here)) == here
            assert not store.holds(manifest_of(data).digest)
        assert descriptors() <= before + 1
        assert store.usage().filling == 0
    assert names(folder, "incoming") == []
    with Store.open(folder) as again:
        again.verify(kept)
        assert [ref.digest for ref in again.refs()] == [kept]
        assert [v.digest for v in again.versions()] == [kept]


def test_a_kill_before_any_change_loses_no_package(folder):
    """The process stops before each of its changes in turn; another process then opens the folder."""
    here, data = package(1), package(2)
    with Store.open(folder) as store:
        kept = fill_whole(store, here).digest
        store.set_ref(Ref("kept", kept))
    for number in itertools.count(1):
        fs = FaultyFileSystem()
        store = Store.open(folder, fs=fs)
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
        with Store.open(folder) as again:
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
