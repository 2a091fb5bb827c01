"""Room is made for what comes and for what must stay free; the plan itself is tested with the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from store import MemoryStore, NoSpace, Ref, Usage
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
