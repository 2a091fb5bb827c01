"""Hostile zips: every one is split correctly, and rejected with `PackageRejected` if it is no package."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import (
    PackageRejected,
    zips,
)
from store.zips import check_package, count_files, find_members
from tests.store.helpers import (
    assert_split,
)
from tests.store.samples import (
    VALID_ZIP,
    documents,
    make_zip,
    manifest_of,
    reader_of,
)
from tests.store.strange_zips import NO_PACKAGES, STRANGE, overlapping

MIB = 1024 * 1024


def split_and_check(data: bytes) -> None:
    assert_split(manifest_of(data), data)
    count_files(reader_of(data), len(data))
    for unpack in (False, True):
        with contextlib.suppress(PackageRejected):  # no other error
            check_package(reader_of(data), len(data), unpack=unpack)


@given(st.binary(min_size=1, max_size=2000))
def test_random_bytes(data):
    split_and_check(data)


@given(st.binary(max_size=300), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_end_records_over_random_bytes(body, count, size, offset):
    split_and_check(body + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0))


@given(st.lists(st.tuples(st.integers(0, len(VALID_ZIP) - 1), st.integers(0, 255)), max_size=20))
def test_flipped_bytes_anywhere(changes):
    data = bytearray(VALID_ZIP)
    for at, value in changes:
        data[at] = value
    split_and_check(bytes(data))


DIRECTORY = VALID_ZIP.index(b"PK\1\2")


@given(
    st.lists(st.tuples(st.integers(DIRECTORY, len(VALID_ZIP) - 4), st.integers(0, 2**32 - 1)), min_size=1, max_size=6)
)
def test_false_values_in_the_directory(changes):
    data = bytearray(VALID_ZIP)
    for at, value in changes:
        data[at : at + 4] = struct.pack("<L", value)
    split_and_check(bytes(data))


@given(
    st.sampled_from([*STRANGE]),
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(4, 60), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
    ),
)
def test_false_values_in_the_headers_of_any_zip(name, changes):
    data = bytearray(STRANGE[name])
    records = [found.start() for found in re.finditer(b"PK(\1\2|\3\4|\5\6)", data)]
    for which, offset, value in changes:
        at = records[which % len(records)] + offset
        data[at : at + len(value)] = value
    split_and_check(bytes(data))


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("name", STRANGE)
def test_what_other_programs_open_is_a_package(name, unpack):
    data = STRANGE[name]
    check_package(reader_of(data), len(data), unpack=unpack)
    assert count_files(reader_of(data), len(data)) >= 1


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("name", NO_PACKAGES)
def test_what_is_no_package_says_why(name, unpack):
    data, reason = NO_PACKAGES[name]
    with pytest.raises(PackageRejected) as caught:
        check_package(reader_of(data), len(data), unpack=unpack)
    assert reason in caught.value.reason


def test_an_empty_file_is_no_package():
    with pytest.raises(PackageRejected, match="not a package: it is empty"):
        check_package(reader_of(b""), 0)
    assert count_files(reader_of(b""), 0) == 0


def test_members_that_share_their_bytes_are_not_unpacked():
    data = overlapping(2_000, 100_000_000)
    read = 0

    def reader(view: memoryview, offset: int) -> int:
        nonlocal read
        count = reader_of(data)(view, offset)
        read += count
        return count

    with pytest.raises(PackageRejected, match="overlap"):
        check_package(reader, len(data))
    # The end of the file, the directory, and the header of each member.
    assert read < 2**17 + 2_000 * 100 + 2_000 * 30


@pytest.mark.parametrize("size", [900_000, 0])
def test_a_member_is_unpacked_only_up_to_the_bound(monkeypatch, size):
    monkeypatch.setattr(zips, "SMALL_UNPACKED_BYTES", 1_000_000)
    data = bytearray(make_zip({"a": bytes(2_000_000)}, method=zipfile.ZIP_DEFLATED))
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<L", size)
    monkeypatch.setattr(zips, "MAX_UNPACKED_RATIO", 1)
    with pytest.raises(PackageRejected, match="member 'a' unpacks to more than 9"):
        check_package(reader_of(bytes(data)), len(data))


def test_a_long_directory_is_not_read():
    data = bytearray(VALID_ZIP)
    end = data.rindex(b"PK\5\6")
    data[end:end] = bytes(17 * MIB)
    data[end + 17 * MIB + 12 : end + 17 * MIB + 16] = struct.pack("<L", end + 17 * MIB - DIRECTORY)
    with pytest.raises(PackageRejected, match="bytes, more than"):
        check_package(reader_of(bytes(data)), len(data))


@given(st.integers(1, len(VALID_ZIP)))
def test_truncated(size):
    split_and_check(VALID_ZIP[:size])


@given(st.binary(max_size=3000), st.binary(max_size=300))
def test_with_bytes_before_and_after(before, after):
    split_and_check(before + VALID_ZIP + after)


def test_bytes_before_the_zip_do_not_hide_its_members():
    data = b"#!/bin/sh\n" * 5_000 + VALID_ZIP
    manifest = manifest_of(data)
    assert_split(manifest, data)
    assert {c.digest for c in manifest_of(VALID_ZIP).chunks} <= {c.digest for c in manifest.chunks}


def test_members_that_overlap():
    data = bytearray(VALID_ZIP)
    at = data.index(b"PK\1\2")
    for _ in range(5):  # every entry names the same local header, with its own size
        data[at + 20 : at + 24] = struct.pack("<L", 2_000 + at % 7)
        data[at + 42 : at + 46] = struct.pack("<L", 0)
        at = data.find(b"PK\1\2", at + 4)
        if at < 0:
            break
    split_and_check(bytes(data))


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
    assert_split(manifest, data)
    assert len(manifest.chunks) == 3
    check_package(reader_of(data), len(data))


def test_a_directory_that_is_too_long_is_not_read():
    data = bytearray(VALID_ZIP)
    end = data.rindex(b"PK\5\6")
    filler = bytes(5 * MIB)
    data[end:end] = filler
    end += len(filler)
    data[end + 12 : end + 16] = struct.pack("<L", len(filler) + 100)
    assert find_members(reader_of(bytes(data)), len(data)) is None
    split_and_check(bytes(data))


def test_an_encrypted_member_is_accepted_and_a_truncated_one_is_not():
    data = bytearray(VALID_ZIP)
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    check_package(reader_of(bytes(data)), len(data))
    data[at + 20 : at + 24] = struct.pack("<L", 10 * len(data))
    with pytest.raises(PackageRejected):
        check_package(reader_of(bytes(data)), len(data))


def test_read_errors_are_raised_and_do_not_reject_the_package():
    def reader(view: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, "bad block")

    with pytest.raises(OSError, match="bad block"):
        find_members(reader, len(VALID_ZIP))
    with pytest.raises(OSError, match="bad block"):
        check_package(reader, len(VALID_ZIP))
