from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import (
    Digest,
    PackageChanged,
)
from store.buffered_reader import BUFFER_BYTES, MAX_VIEW_BYTES, BufferedReader, hash_bytes
from tests.store.samples import (
    reader_of,
)

MIB = 1024 * 1024


@given(st.randoms(use_true_random=False), st.integers(1, 3 * BUFFER_BYTES))
@settings(max_examples=30, deadline=None)
def test_views_at_any_offset_in_any_order(source, size):
    data = random.Random(size).randbytes(size)
    buffered = BufferedReader(reader_of(data), size)
    for _ in range(30):
        offset = source.randrange(size)
        count = min(size - offset, source.choice([0, 1, 100, MIB, 3 * MIB // 2, MAX_VIEW_BYTES]))
        assert buffered.view(offset, count) == data[offset : offset + count]
        assert buffered.digest(offset, count) == Digest.of(data[offset : offset + count])
    assert buffered.digest(0, size) == hash_bytes(reader_of(data), size) == Digest.of(data)


def test_no_byte_is_read_twice_in_sequential_use():
    data = random.Random(1).randbytes(4 * MIB)
    read: list[tuple[int, int]] = []

    def reader(view: memoryview, offset: int) -> int:
        read.append((offset, len(view)))
        return reader_of(data)(view, offset)

    buffered = BufferedReader(reader, len(data))
    at = 0
    while at < len(data):
        count = min(300_000, len(data) - at)
        assert buffered.view(at, count) == data[at : at + count]
        at += count
    assert sum(count for _, count in read) == len(data)


def test_an_invalid_range_is_refused():
    buffered = BufferedReader(reader_of(b"x" * 10), 10)
    for offset, count in [(0, 11), (10, 1), (-1, 2), (5, -1)]:
        with pytest.raises(ValueError):
            buffered.view(offset, count)
    with pytest.raises(ValueError):
        BufferedReader(reader_of(b""), 100 * MIB).view(0, MAX_VIEW_BYTES + 1)


def test_a_file_that_ends_early_raises():
    data = random.Random(1).randbytes(BUFFER_BYTES + 10)
    buffered = BufferedReader(reader_of(data), 3 * BUFFER_BYTES)
    for _ in range(2):
        with pytest.raises(PackageChanged):
            buffered.view(20, BUFFER_BYTES)
    with pytest.raises(PackageChanged):
        hash_bytes(reader_of(data), len(data) + 1)
