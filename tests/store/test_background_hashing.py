from __future__ import annotations

import errno
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import (
    Chunk,
    Digest,
    PackageChanged,
)
from store.background_hashing import STEP_BYTES, BackgroundHasher, PrefixHasher
from tests.store.samples import (
    reader_of,
)

MIB = 1024 * 1024


DATA = random.Random(5).randbytes(5 * MIB + 7)


class CountingReader:
    """A reader of DATA that counts the bytes read, and raises an error while `fails` is set."""

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
def test_the_digest_does_not_depend_on_what_was_hashed_before(ends):
    reads = CountingReader()
    whole = PrefixHasher(reads)
    for end in ends:
        whole.advance(end)
    assert whole.digest(len(DATA)) == Digest.of(DATA)
    assert reads.count == len(DATA)


def test_hashing_resumes_after_a_failed_read():
    reads = CountingReader()
    whole = PrefixHasher(reads)
    whole.advance(MIB)
    reads.fails = True
    with pytest.raises(OSError, match="bad block"):
        whole.digest(len(DATA))
    reads.fails = False
    assert whole.digest(len(DATA)) == Digest.of(DATA)
    with pytest.raises(PackageChanged):
        whole.digest(len(DATA) + 1)


def test_the_prefix_is_hashed_in_a_thread_and_again_after_an_error():
    reads = CountingReader()
    hasher = BackgroundHasher(reads)
    before = threading.active_count()
    hasher.hash_up_to(STEP_BYTES - 1)
    assert threading.active_count() == before
    reads.fails = True
    hasher.hash_up_to(STEP_BYTES)
    hasher.hash_up_to(len(DATA))
    assert threading.active_count() == before + 1
    done = threading.Event()
    hasher.run(done.set)  # runs after all earlier requests
    assert done.wait(30)
    reads.fails = False
    assert hasher.prefix.digest(len(DATA)) == Digest.of(DATA)
    hasher.close()
    hasher.close()
    assert threading.active_count() == before


def test_check_finds_the_chunks_that_are_in_the_file():
    hasher = BackgroundHasher(CountingReader())
    there = [Chunk(at, size, Digest.of(DATA[at : at + size])) for at, size in [(0, 10), (MIB + 3, 2 * MIB), (7, 1)]]
    wrong = Chunk(1, 10, there[0].digest)
    beyond = Chunk(len(DATA) - 5, 10, Digest.of(DATA[-5:]))
    assert hasher.check([there[0], wrong, there[1], beyond, there[2]]).result(30) == [True, False, True, False, True]
    hasher.close()


def test_nothing_reads_the_file_after_close():
    reads = CountingReader()
    hasher = BackgroundHasher(reads)
    hasher.hash_up_to(len(DATA))
    hasher.close()
    count = reads.count
    hasher.hash_up_to(len(DATA) + STEP_BYTES)
    hasher.run(lambda: pytest.fail("called after the end"))
    with pytest.raises(ValueError):
        hasher.check([])
    assert reads.count == count


def test_check_raises_read_errors():
    reads = CountingReader()
    reads.fails = True
    hasher = BackgroundHasher(reads)
    with pytest.raises(OSError, match="bad block"):
        hasher.check([Chunk(0, 10, Digest.of(DATA[:10]))]).result(30)
    hasher.close()
