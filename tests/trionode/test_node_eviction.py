"""Room is made for what comes and for what must stay free; the plan itself is tested with the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from store import MemoryStore, NeverFits, NoSpace, Ref, Usage
from tests.store.samples import fill_whole, package
from trionode.sync.eviction import Evictor


class SmallDisk(MemoryStore):
    """A store on a disk that says it has `free` bytes left, and more once packages are gone."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free

    def usage(self) -> Usage:
        found = super().usage()
        return replace(found, free=self.free - found.stored, limit=0)


def small_disk(*, ended: bool) -> SmallDisk:
    store = SmallDisk(10_000_000)
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m1", digest, in_progress=not ended, ended_at=1.0 if ended else 0.0))
    return store


async def test_what_must_stay_free_is_made_free_by_evicting():
    store = small_disk(ended=True)
    evictor = Evictor(store, keep_free=10_000_000)
    await evictor.make_room(0)
    assert (evictor.evicted, store.versions()) == (1, [])


async def test_nothing_goes_while_enough_is_free():
    store = small_disk(ended=True)
    evictor = Evictor(store, keep_free=9_000_000)
    await evictor.make_room(500_000)
    assert evictor.evicted == 0


async def test_a_meeting_in_progress_stays_and_no_room_is_promised():
    store = small_disk(ended=False)
    evictor = Evictor(store, keep_free=10_000_000)
    with pytest.raises(NoSpace):
        await evictor.make_room(1)
    assert len(store.versions()) == 1


async def test_above_the_high_water_mark_versions_go_before_their_room_is_asked_for():
    store = MemoryStore(max_bytes=1_000_000)
    for seed in range(9):
        digest = fill_whole(store, package(seed, count=1, size=107_000)).digest
        store.set_ref(Ref(f"m{seed}", digest, in_progress=False, ended_at=1.0))
    assert 0.95e6 < store.usage().stored < 1e6
    evictor = Evictor(store)
    await evictor.keep_low()
    assert store.usage().stored <= 0.9e6
    before = evictor.evicted
    await evictor.keep_low()
    assert evictor.evicted == before


async def test_above_the_mark_what_is_wanted_stays_without_a_warning(capsys: pytest.CaptureFixture[str]):
    store = MemoryStore(max_bytes=1_000_000)
    for seed in range(9):
        store.set_ref(Ref(f"m{seed}", fill_whole(store, package(seed, count=1, size=107_000)).digest))
    await Evictor(store).keep_low()
    assert len(store.versions()) == 9
    assert "warning" not in capsys.readouterr().out


async def test_a_disk_that_is_full_whatever_it_says_evicts_once_in_a_while():
    store = MemoryStore()
    for seed in range(3):
        digest = fill_whole(store, package(seed)).digest
        store.set_ref(Ref(f"m{seed}", digest, in_progress=False, ended_at=1.0))
    evictor = Evictor(store)
    await evictor.make_room(1000, full_disk=True)
    assert len(store.versions()) == 2
    with pytest.raises(NoSpace):
        await evictor.make_room(1000, full_disk=True)
    assert len(store.versions()) == 2
    await evictor.make_room(1000)
    assert len(store.versions()) == 2


async def test_what_can_never_fit_evicts_nothing():
    store = MemoryStore(max_bytes=1_000_000)
    store.set_ref(Ref("m", fill_whole(store, package()).digest, in_progress=False, ended_at=1.0))
    with pytest.raises(NeverFits):
        await Evictor(store).make_room(2_000_000)
    assert len(store.versions()) == 1


async def test_a_pin_set_by_a_command_a_moment_ago_holds():
    store = small_disk(ended=True)

    async def notice() -> None:
        (ref,) = store.refs()
        store.set_ref(replace(ref, pinned=True))

    with pytest.raises(NoSpace):
        await Evictor(store, 10_000_000, notice).make_room(1)
    assert len(store.versions()) == 1
