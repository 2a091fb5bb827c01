"""Hostile zips: every one is split correctly, and rejected with `PackageRejected` if it is no package."""

from __future__ import annotations

import contextlib
import errno
import io
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import (
    PackageRejected,
)
from store.zips import check_package, find_members
from tests.store.helpers import (
    assert_split,
)
from tests.store.samples import (
    VALID_ZIP,
    documents,
    manifest_of,
    reader_of,
)

MIB = 1024 * 1024


def split_and_check(data: bytes) -> None:
    assert_split(manifest_of(data), data)
    with contextlib.suppress(PackageRejected):  # no other error
        check_package(reader_of(data), len(data))


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
