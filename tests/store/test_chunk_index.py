from __future__ import annotations

import os
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from store import (
    Chunk,
    ChunkLocation,
    Digest,
    Manifest,
)
from store.chunk_index import ChunkIndex


def digest(number: int) -> Digest:
    return Digest(f"{number:064x}")


def manifest(name: int, chunks: list[int]) -> Manifest:
    return Manifest(
        digest(10**6 + name),
        10 * len(chunks),
        tuple(Chunk(n * 10, 10, digest(chunk)) for n, chunk in enumerate(chunks)),
    )


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30),
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=4, max_size=4),
)
def test_against_a_linear_search(steps, contents):
    index = ChunkIndex()
    there: dict[int, Manifest] = {}
    for add, name in steps:
        if add:
            there[name] = manifest(name, contents[name])
            index.add(there[name])
        else:
            there.pop(name, None)
            index.remove(digest(10**6 + name))
        for chunk in range(7):
            places = {
                ChunkLocation(m.digest, c.offset, c.size)
                for m in there.values()
                for c in m.chunks
                if c.digest == digest(chunk)
            }
            found = index.find(digest(chunk))
            assert found in places if places else found is None
            for besides in map(digest, range(10**6, 10**6 + 4)):
                other = {place for place in places if place.package != besides}
                found = index.find(digest(chunk), besides)
                assert found in other if other else found is None


def test_a_hundred_thousand_chunks_take_little_memory():
    tracemalloc.start()
    try:
        index = ChunkIndex()
        for _ in range(200):
            chunks = [Chunk(n * 10, 10, Digest(os.urandom(32).hex())) for n in range(50)]
            index.add(Manifest(Digest(os.urandom(32).hex()), 500, tuple(chunks)))
        del chunks
        assert tracemalloc.get_traced_memory()[0] * 10 < 64_000_000
    finally:
        tracemalloc.stop()
