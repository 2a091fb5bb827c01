from __future__ import annotations

import errno
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import Chunk, Digest, PackageChanged
from store.behind import STEP_BYTES, Behind, WholeHash
from tests.store.samples import reader_of

MIB = 1024 * 1024
DATA = random.Random(5).randbytes(5 * MIB + 7)


class Reads:
    """A reader of DATA that counts what it read, and fails when it is told to."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False

    def __call__(self, view: memoryview, offset: int) -> int:
        if self.fails:
            raise OSError(errno.EIO, "bad block")
        got = reader_of(DATA)(view, offset)
        self.count += got
        return got


@given(st.lists(st.integers(0, len(DATA))))
@settings(deadline=None)
def test_the_digest_of_the_whole_whatever_was_hashed_before(ends):
    reads = Reads()
    whole = WholeHash(reads)
    for end in ends:
        whole.advance(end)
    assert whole.digest(len(DATA)) == Digest.of(DATA)
    assert reads.count == len(DATA)


def test_a_read_that_fails_can_be_made_good():
    reads = Reads()
    whole = WholeHash(reads)
    whole.advance(MIB)
    reads.fails = True
    with pytest.raises(OSError, match="bad block"):
        whole.digest(len(DATA))
    reads.fails = False
    assert whole.digest(len(DATA)) == Digest.of(DATA)
    with pytest.raises(PackageChanged):
        whole.digest(len(DATA) + 1)


def test_what_was_reached_is_hashed_in_a_thread_and_what_failed_there_again():
    reads = Reads()
    behind = Behind(reads)
    before = threading.active_count()
    behind.reached(STEP_BYTES - 1)
    assert threading.active_count() == before
    reads.fails = True
    behind.reached(STEP_BYTES)
    behind.reached(len(DATA))
    assert threading.active_count() == before + 1
    done = threading.Event()
    behind.call(done.set)  # comes after all that was asked for before
    assert done.wait(30)
    reads.fails = False
    assert behind.whole.digest(len(DATA)) == Digest.of(DATA)
    behind.close()
    behind.close()
    assert threading.active_count() == before


def test_chunks_that_are_there_and_chunks_that_are_not():
    behind = Behind(Reads())
    there = [Chunk(at, size, Digest.of(DATA[at : at + size])) for at, size in [(0, 10), (MIB + 3, 2 * MIB), (7, 1)]]
    wrong = Chunk(1, 10, there[0].digest)
    beyond = Chunk(len(DATA) - 5, 10, Digest.of(DATA[-5:]))
    assert behind.check([there[0], wrong, there[1], beyond, there[2]]).result(30) == [True, False, True, False, True]
    behind.close()


def test_after_the_end_nothing_reads_the_file():
    reads = Reads()
    behind = Behind(reads)
    behind.reached(len(DATA))
    behind.close()
    count = reads.count
    behind.reached(len(DATA) + STEP_BYTES)
    behind.call(lambda: pytest.fail("called after the end"))
    with pytest.raises(ValueError):
        behind.check([])
    assert reads.count == count


def test_a_check_passes_on_what_the_disk_says():
    reads = Reads()
    reads.fails = True
    behind = Behind(reads)
    with pytest.raises(OSError, match="bad block"):
        behind.check([Chunk(0, 10, Digest.of(DATA[:10]))]).result(30)
    behind.close()
