from __future__ import annotations

import io
import itertools
import random
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import splitting as cut
from store.buffered_reader import BUFFER_BYTES
from store.splitting import CHUNK_BYTES, MAX_CHUNK_BYTES, Cut, Region, regions
from store.zips import Members
from tests.store.helpers import (
    assert_split,
)
from tests.store.samples import (
    documents,
    make_zip,
    manifest_of,
)

MIB = 1024 * 1024


# -- regions


sizes = st.integers(0, 300_000)


@given(st.lists(st.tuples(st.integers(-10, 300_000), st.integers(-10, 300_000))), st.integers(-5, 400_000), sizes)
def test_regions_cover_everything_whatever_the_zip_says(ranges, directory, size):
    found = regions(Members(tuple(ranges), directory), size)
    at = 0
    for region in found:
        assert region.offset == at
        assert region.size > 0
        at += region.size
    assert at == size
    for one, two in itertools.pairwise(found):
        assert Cut.CHUNKED in (one.cut, two.cut)


def test_members_are_regions_and_headers_are_inline():
    found = regions(Members(((30, 1000), (1070, 100), (1240, 2000)), 3240), 3400)
    assert found == (
        Region(0, 30, Cut.INLINE),
        Region(30, 1000, Cut.CHUNKED),
        Region(1030, 210, Cut.INLINE),  # with the member of 100 bytes
        Region(1240, 2000, Cut.CHUNKED),
        Region(3240, 160, Cut.INLINE),
    )


def test_a_long_gap_is_chunked_and_a_directory_is_inline():
    gap, directory = cut.MAX_GAP_BYTES + 1, cut.MAX_DIRECTORY_BYTES
    found = regions(Members(((gap, 1000),), gap + 1000), gap + 1000 + directory)
    assert [region.cut for region in found] == [Cut.CHUNKED, Cut.CHUNKED, Cut.INLINE]
    found = regions(Members(((gap, 1000),), gap + 1000), gap + 1001 + directory)
    assert [region.cut for region in found] == [Cut.CHUNKED] * 3


def test_a_zip_with_too_many_inline_bytes_is_chunked_plainly():
    step = cut.MAX_GAP_BYTES + 129
    count = cut.MAX_INLINE_BYTES // cut.MAX_GAP_BYTES + 2
    members = Members(tuple((number * step, 129) for number in range(count)), count * step)
    assert regions(members, count * step) == (Region(0, count * step, Cut.CHUNKED),)


# -- packages


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [1, 100, 129, 5000, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * MIB])
def test_a_zip_is_split_at_its_members(method, size):
    data = make_zip(documents(3, size), method=method)
    manifest = manifest_of(data)
    assert_split(manifest, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            if info.compress_size > cut.INLINE_BYTES:
                assert start in {chunk.offset for chunk in manifest.chunks}
                assert start + info.compress_size in {piece.offset for piece in manifest.pieces}


@given(st.integers(0, 2**32), st.integers(0, 7), st.integers(0, 100))
@settings(max_examples=15)
def test_a_rebuilt_package_shares_all_but_the_new_document(seed, replaced, minute):
    members = documents(8, 40_000, seed)
    old = manifest_of(make_zip(members, minute=0, method=zipfile.ZIP_DEFLATED))
    new_bytes = random.Random(seed + 1).randbytes(41_000)
    members[f"document-{replaced}.pdf"] = new_bytes
    members["document-new.pdf"] = new_bytes[::-1]
    data = make_zip(members, minute=minute % 59 + 1, method=zipfile.ZIP_DEFLATED)
    new = manifest_of(data)
    assert_split(new, data)
    here = {chunk.digest for chunk in old.chunks}
    fetched = sum(chunk.size for chunk in new.chunks if chunk.digest not in here)
    compressed = 2 * 41_000 + 200
    assert fetched <= compressed
    assert fetched + len(new.to_json()) <= 1.05 * compressed


def test_a_large_member_gives_the_same_chunks_at_any_offset():
    body = random.Random(5).randbytes(9 * MIB + 12_345)
    found = []
    for prefix in (0, 1, 4 * MIB - 40, 5 * MIB + 7):
        data = make_zip({"first": random.Random(prefix).randbytes(prefix), "body": body})
        manifest = manifest_of(data)
        assert_split(manifest, data)
        start = data.index(body[:64])
        found.append([(c.size, c.digest) for c in manifest.chunks if start <= c.offset < start + len(body)])
    assert all(chunks == found[0] for chunks in found)
    assert len(found[0]) > 3


def test_chunks_have_the_stated_average_and_longest_size():
    manifest = manifest_of(random.Random(6).randbytes(40 * MIB))
    assert 0.8 * CHUNK_BYTES < 40 * MIB / len(manifest.chunks) < 1.3 * CHUNK_BYTES
    assert max(chunk.size for chunk in manifest.chunks) <= MAX_CHUNK_BYTES


@pytest.mark.parametrize(
    "size", [1, 128, 129, CHUNK_BYTES, CHUNK_BYTES + 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 5]
)
def test_bytes_that_are_no_zip_are_chunked_plainly(size):
    data = random.Random(size).randbytes(size)
    manifest = manifest_of(data)
    assert_split(manifest, data)
    assert len(manifest.chunks) == (size > 128) or (size > CHUNK_BYTES and len(manifest.chunks) > 1)


def test_zeros_are_split():
    data = bytes(10 * MIB)
    assert_split(manifest_of(data), data)


def test_cuts_do_not_depend_on_the_length_of_the_view(monkeypatch):
    """The first view of a long range is short; if it contains no cut, a longer one is used."""
    data = random.Random(7).randbytes(12 * MIB) + bytes(9 * MIB)
    few = manifest_of(data)
    monkeypatch.setattr(cut, "_FIRST_VIEW_BYTES", cut.MAX_CHUNK_BYTES)
    assert manifest_of(data) == few
    assert {chunk.size for chunk in few.chunks} >= {cut.MAX_CHUNK_BYTES}
