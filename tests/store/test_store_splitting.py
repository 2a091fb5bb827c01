from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import random
import struct
import threading
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import (
    Chunk,
    Digest,
    InvalidManifest,
    Literal,
    Manifest,
    PackageChanged,
    PackageRejected,
    split_fd,
    split_file,
)
from store import splitting as cut
from store.reading import check, hash_bytes, split_bytes
from store.splitting import Cut, Region, regions
from store.windows import MAX_VIEW_BYTES, WINDOW_BYTES, Window
from store.zips import Members, check_package, find_members
from tests.store.samples import documents, make_zip, manifest_of, reader_of

MIB = 1024 * 1024


def expect_sound(manifest: Manifest, data: bytes) -> None:
    """The pieces are those of `data`, in order, without gap or overlap."""
    assert manifest.size == len(data)
    assert manifest.digest == Digest.of(data)
    at = 0
    for piece in manifest.pieces:
        assert piece.offset == at
        found = data[at : at + piece.size]
        if isinstance(piece, Literal):
            assert piece.data == found
        else:
            assert piece.digest == Digest.of(found)
            assert cut.INLINE_BYTES < piece.size <= cut.MAX_CHUNK_BYTES
        at += piece.size
    assert at == len(data)
    for one, two in itertools.pairwise(manifest.pieces):
        assert isinstance(one, Chunk) or isinstance(two, Chunk)


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


def test_members_are_regions_and_headers_are_carried():
    found = regions(Members(((30, 1000), (1070, 100), (1240, 2000)), 3240), 3400)
    assert found == (
        Region(0, 30, Cut.INLINE),
        Region(30, 1000, Cut.CHUNKED),
        Region(1030, 210, Cut.INLINE),  # with the member of 100 bytes
        Region(1240, 2000, Cut.CHUNKED),
        Region(3240, 160, Cut.INLINE),
    )


def test_a_long_gap_is_chunked_and_a_long_directory_carried():
    gap, directory = cut.MAX_GAP_BYTES + 1, cut.MAX_DIRECTORY_BYTES
    found = regions(Members(((gap, 1000),), gap + 1000), gap + 1000 + directory)
    assert [region.cut for region in found] == [Cut.CHUNKED, Cut.CHUNKED, Cut.INLINE]
    found = regions(Members(((gap, 1000),), gap + 1000), gap + 1001 + directory)
    assert [region.cut for region in found] == [Cut.CHUNKED] * 3


def test_a_zip_that_would_swell_the_manifest_is_chunked_plainly():
    step = cut.MAX_GAP_BYTES + 129
    count = cut.MAX_INLINE_BYTES // cut.MAX_GAP_BYTES + 2
    members = Members(tuple((number * step, 129) for number in range(count)), count * step)
    assert regions(members, count * step) == (Region(0, count * step, Cut.CHUNKED),)


# -- packages


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [1, 100, 129, 5000, MIB, MIB + 1, 3 * MIB])
def test_a_zip_is_cut_at_its_members(method, size):
    data = make_zip(documents(3, size), method=method)
    manifest = manifest_of(data)
    expect_sound(manifest, data)
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
    expect_sound(new, data)
    here = {chunk.digest for chunk in old.chunks}
    fetched = sum(chunk.size for chunk in new.chunks if chunk.digest not in here)
    compressed = 2 * 41_000 + 200
    assert fetched <= compressed
    assert fetched + len(new.to_json()) <= 1.05 * compressed


def test_a_large_member_gives_the_same_chunks_wherever_it_lies():
    body = random.Random(5).randbytes(9 * MIB + 12_345)
    found = []
    for prefix in (0, 1, 4 * MIB - 40, 5 * MIB + 7):
        data = make_zip({"first": random.Random(prefix).randbytes(prefix), "body": body})
        manifest = manifest_of(data)
        expect_sound(manifest, data)
        start = data.index(body[:64])
        found.append([(c.size, c.digest) for c in manifest.chunks if start <= c.offset < start + len(body)])
    assert all(chunks == found[0] for chunks in found)
    assert len(found[0]) > 3


def test_chunks_average_one_mebibyte():
    manifest = manifest_of(random.Random(6).randbytes(40 * MIB))
    assert 0.8 * MIB < 40 * MIB / len(manifest.chunks) < 1.3 * MIB


@pytest.mark.parametrize("size", [1, 128, 129, MIB, MIB + 1, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES + 5])
def test_bytes_that_are_no_zip_are_chunked_plainly(size):
    data = random.Random(size).randbytes(size)
    manifest = manifest_of(data)
    expect_sound(manifest, data)
    assert len(manifest.chunks) == (size > 128) or (size > MIB and len(manifest.chunks) > 1)


def test_zeros_are_cut_too():
    data = bytes(10 * MIB)
    expect_sound(manifest_of(data), data)


def test_nothing_is_no_package(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(InvalidManifest):
        split_file(tmp_path / "empty")


# -- hostile zips


def cut_whatever(data: bytes) -> None:
    expect_sound(manifest_of(data), data)
    with contextlib.suppress(PackageRejected):  # and nothing else
        check_package(reader_of(data), len(data))


@given(st.binary(min_size=1, max_size=2000))
def test_random_bytes(data):
    cut_whatever(data)


@given(st.binary(max_size=300), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_end_records_over_random_bytes(body, count, size, offset):
    cut_whatever(body + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0))


SOUND = make_zip(documents(4, 3_000), comment=b"c" * 20)


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=20))
def test_flipped_bytes_anywhere(changes):
    data = bytearray(SOUND)
    for at, value in changes:
        data[at] = value
    cut_whatever(bytes(data))


DIRECTORY = SOUND.index(b"PK\1\2")


@given(st.lists(st.tuples(st.integers(DIRECTORY, len(SOUND) - 4), st.integers(0, 2**32 - 1)), min_size=1, max_size=6))
def test_lies_in_the_directory(changes):
    data = bytearray(SOUND)
    for at, value in changes:
        data[at : at + 4] = struct.pack("<L", value)
    cut_whatever(bytes(data))


@given(st.integers(1, len(SOUND)))
def test_truncated(size):
    cut_whatever(SOUND[:size])


@given(st.binary(max_size=3000), st.binary(max_size=300))
def test_with_bytes_before_and_after(before, after):
    cut_whatever(before + SOUND + after)


def test_bytes_before_the_zip_do_not_hide_its_members():
    data = b"#!/bin/sh\n" * 5_000 + SOUND
    manifest = manifest_of(data)
    expect_sound(manifest, data)
    assert {c.digest for c in manifest_of(SOUND).chunks} <= {c.digest for c in manifest.chunks}


def test_members_that_overlap():
    data = bytearray(SOUND)
    at = data.index(b"PK\1\2")
    for _ in range(5):  # every entry names the same local header, with sizes of its own
        data[at + 20 : at + 24] = struct.pack("<L", 2_000 + at % 7)
        data[at + 42 : at + 46] = struct.pack("<L", 0)
        at = data.find(b"PK\1\2", at + 4)
        if at < 0:
            break
    cut_whatever(bytes(data))


def test_data_descriptors_and_zip64_members():
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.data += data
            return len(data)

    file = Unseekable()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in documents(3, 5_000).items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(body)
    data = bytes(file.data)
    manifest = manifest_of(data)
    expect_sound(manifest, data)
    assert len(manifest.chunks) == 3
    check_package(reader_of(data), len(data))


def test_a_directory_too_long_to_read_is_not_read():
    data = bytearray(SOUND)
    end = data.rindex(b"PK\5\6")
    filler = bytes(5 * MIB)
    data[end:end] = filler
    end += len(filler)
    data[end + 12 : end + 16] = struct.pack("<L", len(filler) + 100)
    assert find_members(reader_of(bytes(data)), len(data)) is None
    cut_whatever(bytes(data))


def test_a_member_that_is_encrypted_is_taken_on_trust_and_a_cut_one_is_not():
    data = bytearray(SOUND)
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    check_package(reader_of(bytes(data)), len(data))
    data[at + 20 : at + 24] = struct.pack("<L", 10 * len(data))
    with pytest.raises(PackageRejected):
        check_package(reader_of(bytes(data)), len(data))


# -- files that change while they are read


def test_a_file_cut_short_while_it_is_read_raises(tmp_path):
    path = tmp_path / "package"
    path.write_bytes(random.Random(1).randbytes(3 * WINDOW_BYTES))
    with path.open("rb") as file:
        os.truncate(path, 2 * WINDOW_BYTES)
        with pytest.raises(PackageChanged):
            split_fd(file.fileno(), 3 * WINDOW_BYTES)


def test_a_file_written_to_while_it_is_read_raises(tmp_path, monkeypatch):
    path = tmp_path / "package"
    path.write_bytes(SOUND)
    real = os.preadv

    def preadv(fd, buffers, offset):
        os.truncate(path, len(SOUND) + 1)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with path.open("rb") as file, pytest.raises(PackageChanged):
        split_fd(file.fileno(), len(SOUND))


def test_a_file_is_cut_like_its_bytes(tmp_path):
    path = tmp_path / "package"
    path.write_bytes(SOUND)
    assert split_file(path) == split_file(str(path)) == manifest_of(SOUND)


# -- windows


@given(st.randoms(use_true_random=False), st.integers(1, 3 * WINDOW_BYTES))
@settings(max_examples=30, deadline=None)
def test_a_window_shows_the_bytes_wherever_it_is_moved(source, size):
    data = random.Random(size).randbytes(size)
    window = Window(reader_of(data), size)
    for _ in range(30):
        offset = source.randrange(size)
        count = min(size - offset, source.choice([0, 1, 100, MIB, 3 * MIB // 2, MAX_VIEW_BYTES]))
        assert window.view(offset, count) == data[offset : offset + count]
        assert window.digest(offset, count) == Digest.of(data[offset : offset + count])
    assert window.digest(0, size) == hash_bytes(reader_of(data), size) == Digest.of(data)


def test_a_window_reads_on_from_what_it_has():
    data = random.Random(1).randbytes(4 * MIB)
    read: list[tuple[int, int]] = []

    def reader(view: memoryview, offset: int) -> int:
        read.append((offset, len(view)))
        return reader_of(data)(view, offset)

    window = Window(reader, len(data))
    at = 0
    while at < len(data):
        count = min(300_000, len(data) - at)
        assert window.view(at, count) == data[at : at + count]
        at += count
    assert sum(count for _, count in read) == len(data)


def test_a_window_refuses_what_is_not_there():
    window = Window(reader_of(b"x" * 10), 10)
    for offset, count in [(0, 11), (10, 1), (-1, 2), (5, -1)]:
        with pytest.raises(ValueError):
            window.view(offset, count)
    with pytest.raises(ValueError):
        Window(reader_of(b""), 100 * MIB).view(0, MAX_VIEW_BYTES + 1)


def test_a_window_over_a_file_that_ends_early_raises_and_shows_nothing_wrong():
    data = random.Random(1).randbytes(WINDOW_BYTES + 10)
    window = Window(reader_of(data), 3 * WINDOW_BYTES)
    for _ in range(2):
        with pytest.raises(PackageChanged):
            window.view(20, WINDOW_BYTES)
    with pytest.raises(PackageChanged):
        hash_bytes(reader_of(data), len(data) + 1)


def test_a_failed_pass_raises_and_leaves_no_thread_behind():
    data = make_zip(documents(8, MIB))
    manifest = manifest_of(data)
    first = manifest.chunks[0]

    def reader(view: memoryview, offset: int) -> int:
        if first.offset <= offset < first.offset + first.size and threading.current_thread() is threading.main_thread():
            raise OSError(errno.EIO, "bad block")
        return reader_of(data)(view, offset)

    before = threading.active_count()
    with pytest.raises(OSError, match="bad block"):
        split_bytes(reader, len(data))
    with pytest.raises(OSError, match="bad block"):
        check(reader, manifest)
    assert threading.active_count() == before


def test_a_disk_that_cannot_be_read_does_not_make_a_zip_a_bad_one():
    def reader(view: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, "bad block")

    with pytest.raises(OSError, match="bad block"):
        find_members(reader, len(SOUND))
    with pytest.raises(OSError, match="bad block"):
        check_package(reader, len(SOUND))


def test_a_cut_does_not_depend_on_how_much_is_looked_at(monkeypatch):
    """The first look at a long range is short; where it shows no cut, it is looked at further."""
    data = random.Random(7).randbytes(12 * MIB) + bytes(9 * MIB)
    few = manifest_of(data)
    monkeypatch.setattr(cut, "_LOOK_BYTES", cut.MAX_CHUNK_BYTES)
    assert manifest_of(data) == few
    assert {chunk.size for chunk in few.chunks} >= {cut.MAX_CHUNK_BYTES}


def test_a_reader_of_few_bytes_at_a_time():
    def few(view: memoryview, offset: int) -> int:
        return reader_of(SOUND)(view[:777], offset)

    assert split_bytes(few, len(SOUND)) == manifest_of(SOUND)


def test_check_names_the_bad_chunks():
    manifest = manifest_of(SOUND)
    assert check(reader_of(SOUND), manifest) == (True, ())
    bad = manifest.chunks[2]
    data = bytearray(SOUND)
    data[bad.offset] ^= 1
    assert check(reader_of(bytes(data)), manifest) == (False, (bad,))
    assert check(reader_of(SOUND[: bad.offset + 1]), manifest) == (False, manifest.chunks[2:])
    data = bytearray(SOUND)
    data[-1] ^= 1  # in a literal
    assert check(reader_of(bytes(data)), manifest) == (False, ())
