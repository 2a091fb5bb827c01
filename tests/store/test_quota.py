from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import (
    Digest,
    NeverFits,
    NoSpace,
    Store,
)
from store.filesystem import DiskSpace
from store.quota import Ledger, Quota
from tests.store.helpers import (
    names,
)
from tests.store.samples import (
    fill_whole,
    manifest_of,
    package,
)
from tests.support.faulty_filesystem import FaultyFileSystem

FREE = 10**9


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans())), st.sampled_from([0, 100]), st.integers(0, 30))
def test_the_ledger_never_reserves_more_than_there_is(steps, limit, keep_free):
    ledger = Ledger(limit, keep_free)
    total = 150
    held: list[int] = []
    for size, give_back in steps:
        free = total - sum(held)
        try:
            ledger.reserve(size, free, total)
        except NoSpace:
            assert size > min(free - keep_free, limit - sum(held) if limit else size)
        else:
            held.append(size)
        assert sum(held) <= total - keep_free
        assert not limit or sum(held) <= limit
        assert ledger.filling == sum(held)
        if give_back and held:
            ledger.release(held.pop())


def test_the_ledger_distinguishes_never_from_not_now():
    ledger = Ledger(100, 0)
    ledger.store(60)
    for size, held, error in [(41, 0, NoSpace), (101, 0, NeverFits), (41, 60, NeverFits)]:
        with pytest.raises(error) as caught:
            ledger.reserve(size, FREE, FREE, held)
        assert type(caught.value) is error
    ledger.reserve(40, FREE, FREE)
    assert (ledger.stored, ledger.filling) == (60, 40)


class SmallDisk(FaultyFileSystem):
    def __init__(self, free: int, total: int) -> None:
        super().__init__()
        self.left = DiskSpace(free, total)

    def disk_space(self, path):
        return self.left


def test_free_bytes_are_kept_free(folder):
    data = package()
    fs = SmallDisk(len(data) + 99, 10 * len(data))
    with Store.open(folder, min_free_bytes=100, fs=fs) as store:
        with pytest.raises(NoSpace) as caught:
            store.begin_fill(manifest_of(data))
        assert not isinstance(caught.value, NeverFits)
        stream = store.begin_stream("m")
        with pytest.raises(NoSpace):
            stream.append(data)
        assert stream.size == 0
        stream.append(data[:-1])  # one byte less fits
        stream.discard()
        fs.left = DiskSpace(len(data) + 100, len(data) + 99)
        with pytest.raises(NeverFits):
            store.begin_fill(manifest_of(data))
        fs.left = DiskSpace(len(data) + 100, len(data) + 100)
        fill_whole(store, data)
    assert names(folder, "incoming") == []


def quota(limit: int, removable: set[Digest]) -> Quota:
    return Quota(limit, 0, lambda: DiskSpace(FREE, FREE), lambda digest: digest in removable)


def test_parked_fills_are_given_up_for_others_the_oldest_first():
    one, two, three = (Digest(f"{number:064x}") for number in range(3))
    spaces = quota(100, {one, two, three})
    for digest in (one, two, three):
        spaces.reserve(30)
        spaces.park(digest, 30)
    with pytest.raises(NoSpace):
        spaces.reserve(20, ahead=True)
    assert spaces.usage(0).filling == 90
    spaces.reserve(20)
    assert spaces.usage(0).filling == 80
    spaces.resume(two, 30, has=30)  # its parked reservation is replaced
    assert spaces.usage(0).filling == 80
    with pytest.raises(NoSpace):
        spaces.resume(three, 60, has=30)
    assert spaces.usage(0).filling == 80  # it is parked again
    spaces.resume(one, 20, has=0)
    assert spaces.usage(0).filling == 100


def test_a_parked_fill_that_is_being_resumed_is_not_given_up():
    digest = Digest("0" * 64)
    spaces = quota(100, set())
    spaces.reserve(90)
    spaces.park(digest, 90)
    with pytest.raises(NoSpace):
        spaces.reserve(20)
    spaces.give_up(digest)
    assert spaces.usage(0).filling == 90


def test_what_was_parked_is_replaced_by_what_is_on_the_disk():
    one, two = (Digest(f"{number:064x}") for number in range(2))
    spaces = quota(0, {one, two})
    spaces.reserve(10)
    spaces.replace_parked({one: 30})
    spaces.replace_parked({two: 50})
    assert spaces.usage(0).filling == 60
    spaces.give_up(one)
    assert spaces.usage(0).filling == 60
    spaces.give_up(two)
    assert spaces.usage(0).filling == 10


@pytest.mark.parametrize(("needed", "available"), [(0, 0), (5, 5), (5, 1 << 40)])
def test_a_full_disk_is_not_said_to_have_room(needed, available):
    assert str(NoSpace(needed, available)) == "the disk, or a quota on it, is full"
    assert str(NoSpace(available + 1, available)).endswith(f" are needed and {available} are available")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_the_error_of_a_full_disk_becomes_no_space(code):
    with pytest.raises(OSError if code == errno.EIO else NoSpace) as caught, quota(0, set()).full_disk_as_no_space(7):
        raise OSError(code, os.strerror(code))
    if code != errno.EIO:
        assert (caught.value.needed, caught.value.available) == (7, FREE)
