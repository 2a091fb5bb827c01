from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from store import (
    NoSpace,
    Ref,
    Store,
)
from tests.store.helpers import (
    names,
)
from tests.store.samples import (
    fill_whole,
    package,
)
from tests.support.faulty_filesystem import FaultyFileSystem


def test_no_change_of_a_ref_is_lost_between_processes(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest, title="0"))
    stores = [store, Store.open(folder)]  # they share only the folder, like two processes

    def count(one: Store) -> None:
        for _ in range(20):
            one.change_ref("m", lambda ref: replace(ref, title=str(int(ref.title) + 1)))

    threads = [threading.Thread(target=count, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store.open(folder) as opened:
        assert opened.ref("m") == Ref("m", digest, title="40")
    stores[1].close()


def test_a_change_starts_from_what_another_process_has_written(store, folder):
    with Store.open(folder) as other:
        digest = fill_whole(other, package()).digest
        other.set_ref(Ref("m", digest, pinned=True))
    assert store.ref("m") is None
    changed = store.change_ref("m", lambda ref: replace(ref, title="t"))
    assert changed == store.ref("m") == Ref("m", digest, "t", pinned=True)
    assert store.holds(digest)


@pytest.mark.parametrize(("call", "number"), [("sync", 1), ("rename", 1), ("write_at", 1)])
def test_a_ref_that_cannot_be_written_is_not_switched(folder, call, number):
    fs = FaultyFileSystem()
    with Store.open(folder, fs=fs) as store:
        one, two = fill_whole(store, package(1)).digest, fill_whole(store, package(2)).digest
        store.set_ref(Ref("m", one))
        fs.fail(call, number)
        with pytest.raises(NoSpace):
            store.set_ref(Ref("m", two))
        fs.clear_faults()
        assert store.ref("m") == Ref("m", one)
    assert names(folder, "incoming") == []
    with Store.open(folder) as again:
        assert again.ref("m") == Ref("m", one)
