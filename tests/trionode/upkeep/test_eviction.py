"""Eviction: room for new packages, and the limits of the storage. Its plan is tested with the store."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs

from store import NeverFits, NoSpace, Ref, Store, Usage
from tests.store.samples import fill_whole, package
from tests.support.meetings import UnchangedFolder
from tests.support.memory_store import MemoryStore
from trionode.settings import Settings
from trionode.upkeep.eviction import FORCE_SECONDS, Evictor
from trionode.upkeep.folder_watch import FolderWatch

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


class SmallDisk(MemoryStore):
    """A store on a disk with `free` bytes, packages included."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free

    def usage(self) -> Usage:
        found = super().usage()
        return replace(found, free=self.free - found.stored, total=self.free, limit=0)


def evictor_of(store: MemoryStore, keep_free: int = 0) -> Evictor:
    evictor = Evictor(store, UnchangedFolder())  # type: ignore[arg-type]
    evictor.configure(Settings(min_free_bytes=keep_free))
    return evictor


def small_disk(*, ended: bool) -> SmallDisk:
    store = SmallDisk(10_000_000)
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m1", digest, in_progress=not ended, ended_at=1.0 if ended else 0.0))
    return store


async def test_versions_are_evicted_for_the_space_that_must_stay_free():
    store = small_disk(ended=True)
    evictor = evictor_of(store, keep_free=10_000_000)
    await evictor.make_room(0)
    assert (evictor.evicted, store.versions()) == (1, [])


async def test_nothing_is_evicted_while_enough_is_free():
    store = small_disk(ended=True)
    evictor = evictor_of(store, keep_free=9_000_000)
    await evictor.make_room(500_000)
    assert evictor.evicted == 0


async def test_the_package_of_a_meeting_in_progress_stays_and_there_is_no_room():
    store = small_disk(ended=False)
    evictor = evictor_of(store, keep_free=10_000_000)
    with pytest.raises(NoSpace):
        await evictor.make_room(1)
    assert len(store.versions()) == 1


async def test_above_the_high_water_mark_versions_are_evicted_in_advance():
    store = MemoryStore(max_bytes=1_000_000)
    for seed in range(9):
        digest = fill_whole(store, package(seed, count=1, size=107_000)).digest
        store.set_ref(Ref(f"m{seed}", digest, in_progress=False, ended_at=1.0))
    assert 0.95e6 < store.usage().stored < 1e6
    evictor = evictor_of(store)
    await evictor.enforce_limits()
    assert store.usage().stored <= 0.9e6
    before = evictor.evicted
    await evictor.enforce_limits()
    assert evictor.evicted == before


async def test_above_the_high_water_mark_packages_in_progress_stay_without_a_warning():
    store = MemoryStore(max_bytes=1_000_000)
    for seed in range(9):
        store.set_ref(Ref(f"m{seed}", fill_whole(store, package(seed, count=1, size=107_000)).digest))
    with capture_logs() as lines:
        await evictor_of(store).enforce_limits()
    assert (len(store.versions()), lines) == (9, [])


async def test_what_ended_lately_is_not_evicted_in_advance_but_for_the_limits():
    store = MemoryStore(max_bytes=1_000_000)
    for seed in range(9):
        digest = fill_whole(store, package(seed, count=1, size=107_000)).digest
        store.set_ref(Ref(f"m{seed}", digest, in_progress=False, ended_at=time.time()))
    evictor = evictor_of(store)
    await evictor.enforce_limits()
    assert len(store.versions()) == 9
    store.ledger.limit = 900_000
    await evictor.enforce_limits()
    assert len(store.versions()) == 8


async def test_limits_that_cannot_be_kept_are_logged():
    store = MemoryStore(max_bytes=1_000_000)
    store.set_ref(Ref("m", fill_whole(store, package(count=1, size=107_000)).digest))
    store.ledger.limit = 100_000
    with capture_logs() as lines:
        await evictor_of(store).enforce_limits()
    stored = store.usage().stored
    assert [(line["event"], line["stored"], line["max_bytes"]) for line in lines] == [
        ("the storage limits cannot be kept", stored, 100_000)
    ]


async def test_a_disk_that_is_full_whatever_it_reports_evicts_once_a_minute(autojump_clock: MockClock):
    store = MemoryStore()
    for seed in range(3):
        digest = fill_whole(store, package(seed)).digest
        store.set_ref(Ref(f"m{seed}", digest, in_progress=False, ended_at=1.0))
    evictor = evictor_of(store)
    await evictor.make_room(1000, full_disk=True)
    assert len(store.versions()) == 2
    with pytest.raises(NoSpace):
        await evictor.make_room(1000, full_disk=True)
    assert len(store.versions()) == 2
    await evictor.make_room(1000)
    assert len(store.versions()) == 2
    await trio.sleep(FORCE_SECONDS)
    await evictor.make_room(1000, full_disk=True)
    assert len(store.versions()) == 1


async def test_nothing_is_evicted_for_a_package_that_can_never_fit():
    store = MemoryStore(max_bytes=1_000_000)
    store.set_ref(Ref("m", fill_whole(store, package()).digest, in_progress=False, ended_at=1.0))
    with pytest.raises(NeverFits):
        await evictor_of(store).make_room(2_000_000)
    assert len(store.versions()) == 1


async def test_a_pin_that_a_command_has_set_a_moment_ago_holds(tmp_path: Path):
    with Store.open(tmp_path / "storage") as store, Store.open(tmp_path / "storage") as command:
        digest = fill_whole(store, package()).digest
        store.set_ref(Ref("m1", digest, in_progress=False, ended_at=1.0))
        command.refresh()
        command.change_ref("m1", lambda ref: None if ref is None else replace(ref, pinned=True))
        folder = FolderWatch(store)
        with pytest.raises(NoSpace):
            await Evictor(store, folder).make_room(1000, full_disk=True)
        assert len(store.versions()) == 1
        command.change_ref("m1", lambda ref: None if ref is None else replace(ref, pinned=False))
        await Evictor(store, folder).make_room(1000, full_disk=True)
        assert store.versions() == []


async def test_a_failing_disk_is_logged_and_eviction_continues():
    class Broken(MemoryStore):
        def usage(self) -> Usage:
            raise OSError("Input/output error")

    with capture_logs() as lines:
        await evictor_of(Broken()).enforce_limits()
    assert [line["event"] for line in lines] == ["eviction failed"]
