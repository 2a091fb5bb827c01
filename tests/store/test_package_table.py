from __future__ import annotations

import os
import threading
import time

import pytest

from store import (
    Store,
    VersionMissing,
)
from store.package_table import IDLE_DESCRIPTORS
from tests.store.helpers import (
    descriptors,
    read_all,
)
from tests.store.samples import (
    fill_whole,
    manifest_of,
    package,
)


def test_leases_share_a_descriptor_and_idle_descriptors_are_bounded(store):
    before = descriptors()
    digests = [fill_whole(store, package(n, count=1, size=200)).digest for n in range(IDLE_DESCRIPTORS + 6)]
    assert descriptors() == before
    leases = [store.lease(digests[0]) for _ in range(10)]
    assert len({lease.fileno() for lease in leases}) == 1
    assert descriptors() == before + 1
    for lease in leases:
        lease.close()
    for digest in digests:
        with store.lease(digest) as lease:
            assert lease.trusted
    assert descriptors() == before + IDLE_DESCRIPTORS
    for digest in digests:
        store.remove(digest)
    assert descriptors() == before


@pytest.mark.parametrize("before", [1000, 10_000_000_000], ids=["long ago", "under a clock that was ahead"])
def test_the_last_use_is_written_once_a_minute(store, folder, before):
    digest = fill_whole(store, package()).digest
    manifest = folder / "packages" / f"{digest}.json"
    store.close()
    os.utime(manifest, (before, before))
    with Store.open(folder) as again:
        assert again.versions()[0].last_used == before
        again.open_package(digest).close()
        assert manifest.stat().st_mtime == before
        again.lease(digest).close()
        used = manifest.stat().st_mtime_ns
        assert abs(used - time.time_ns()) < 60e9
        again.lease(digest).close()
        assert manifest.stat().st_mtime_ns == used


def test_leases_from_many_threads_while_the_version_is_removed_and_stored_again(store):
    data = package(count=1)
    digest = manifest_of(data).digest
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                with store.lease(digest) as lease:
                    if read_all(lease, lease.size) != data:
                        wrong.append("bytes")
            except VersionMissing:
                pass

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        fill_whole(store, data)
        store.remove(digest)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
