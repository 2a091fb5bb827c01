"""The contract of the store, for the real one and the one in memory, and tests of the real one alone."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from dataclasses import replace

import pytest

from store import (
    Ref,
    Store,
    VersionMissing,
    VersionPresent,
)
from store.filesystem import FileSystem
from tests.store.contract import StoreContract
from tests.store.helpers import HOSTILE_IDS, half_filled, names
from tests.store.samples import fill_whole, package, stream_whole
from tests.support.memory_store import MemoryStore


class TestStore(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path):
        numbers = itertools.count()
        stores = []

        def make(max_bytes: int = 0):
            stores.append(Store.open(tmp_path / str(next(numbers)), max_bytes=max_bytes))
            return stores[-1]

        yield make
        for store in stores:
            store.close()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self):
        stores = []

        def make(max_bytes: int = 0):
            stores.append(MemoryStore(max_bytes=max_bytes))
            return stores[-1]

        yield make
        for store in stores:
            store.close()


def test_the_files_of_a_store(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    store.set_ref(Ref("a/b", manifest.digest, title="题目", switched_at=5.0))
    assert sorted(path.name for path in folder.iterdir()) == ["format", "incoming", "meetings", "packages"]
    assert (folder / "format").read_text() == "trionode storage 1\n"
    assert names(folder, "packages") == [f"{manifest.digest}.json", f"{manifest.digest}.zip"]
    assert (folder / "packages" / f"{manifest.digest}.zip").read_bytes() == data
    assert (folder / "packages" / f"{manifest.digest}.json").read_bytes() == manifest.to_json()
    assert names(folder, "incoming") == []
    assert json.loads((folder / "meetings" / "a%2Fb.json").read_bytes()) == {
        "meeting_id": "a/b",
        "digest": manifest.digest,
        "title": "题目",
        "in_progress": True,
        "pinned": False,
        "switched_at": 5.0,
        "ended_at": 0.0,
        "token": "",
    }


def test_everything_is_there_after_reopening(store, folder):
    one, two = fill_whole(store, package(1)), stream_whole(store, "m", package(2))
    refs = [Ref(meeting, one.digest, title=str(n)) for n, meeting in enumerate(HOSTILE_IDS)]
    for ref in refs:
        store.set_ref(ref)
    store.close()
    with Store.open(folder) as again:
        assert sorted(again.refs(), key=lambda ref: int(ref.title)) == refs
        assert {v.digest for v in again.versions()} == {one.digest, two.digest}
        assert again.manifest(two.digest) == two
        assert again.usage().stored == one.size + two.size
        assert again.usage().filling == 0
        for ref in refs:
            again.drop_ref(ref.meeting_id)
    assert names(folder, "meetings") == []


def test_refresh_sees_what_another_process_changed(store, folder):
    data = package()
    with Store.open(folder) as other:
        manifest = fill_whole(other, data)
        other.set_ref(Ref("m", manifest.digest))
        assert not store.holds(manifest.digest)
        with pytest.raises(VersionPresent):
            store.begin_fill(manifest)
        assert store.holds(manifest.digest)
        assert store.ref("m") is None
        store.refresh()
        assert store.ref("m") is not None
        other.remove(manifest.digest)
        with pytest.raises(VersionMissing):
            store.lease(manifest.digest)
        store.refresh()
        assert not store.holds(manifest.digest)
        assert store.usage().stored == 0
        assert store.refs() == ()


def test_a_fill_continues_after_a_refresh(store):
    data = package()
    fill, _, rest = half_filled(store, data)
    store.refresh()
    assert store.usage().filling == len(data)
    for chunk in rest:
        fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
    fill.commit()
    fill.close()
    assert store.usage().filling == 0


def test_a_store_that_is_up_to_date_does_not_differ_from_the_disk(store, folder):
    assert not store.differs_from_disk()
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest))
    fill, _, _ = half_filled(store, package(1))
    (folder / "meetings" / "notes.txt").write_text("x")
    (folder / "packages" / "notes.txt").write_text("x")
    assert not store.differs_from_disk()
    fill.discard()


@pytest.mark.parametrize("change", ["commit", "remove", "switch", "pin", "drop", "damage"])
def test_a_change_of_another_process_differs_until_the_refresh(store, folder, change):
    one, two = fill_whole(store, package(1)).digest, fill_whole(store, package(2)).digest
    store.set_ref(Ref("m", one))
    before = store.folder_mtimes()
    time.sleep(0.02)  # twice the longest tick of the clock that file times are taken from
    with Store.open(folder) as other:
        if change == "commit":
            fill_whole(other, package(3))
        elif change == "remove":
            other.remove(two)
        elif change == "switch":
            other.set_ref(Ref("m", two))
        elif change == "pin":
            other.change_ref("m", lambda ref: replace(ref, pinned=True))
        elif change == "drop":
            other.drop_ref("m")
        else:
            (folder / "meetings" / "new.json").write_text("{")
    assert store.folder_mtimes() != before
    assert store.differs_from_disk()
    store.refresh()
    assert not store.differs_from_disk()


def test_a_folder_that_is_gone_raises(store, folder):
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        store.folder_mtimes()
    with pytest.raises(FileNotFoundError):
        store.differs_from_disk()


def test_a_change_in_progress_is_no_difference_from_the_disk(folder):
    class Observed(FileSystem):
        """Compares the folder with the memory of the store when a name is on the disk, and not yet in memory."""

        def sync_folder(self, path):
            super().sync_folder(path)
            if comparing is not None and path.name in {"packages", "meetings"}:
                thread = threading.Thread(target=lambda: differences.append(opened.differs_from_disk()))
                thread.start()
                threads.append(thread)
                thread.join(0.3)  # it may have to wait until the change is complete

    differences, threads, comparing = [], [], None
    with Store.open(folder, fs=Observed()) as opened:
        comparing = True
        digest = fill_whole(opened, package()).digest
        opened.set_ref(Ref("m", digest))
        opened.drop_ref("m")
        opened.remove(digest)
        for thread in threads:
            thread.join()
        assert len(differences) >= 4
        assert not any(differences)


def test_a_ref_is_not_switched_to_a_version_that_another_process_has_removed(store, folder):
    digest = fill_whole(store, package()).digest
    with Store.open(folder) as other:
        other.remove(digest)
    with pytest.raises(VersionMissing):
        store.change_ref("m", lambda _: Ref("m", digest))
    assert store.ref("m") is None
    assert names(folder, "meetings") == []
