from __future__ import annotations

import errno
import os
import random
import threading

import pytest

from store import (
    InvalidManifest,
    PackageChanged,
    split_fd,
    split_file,
)
from store.buffered_reader import BUFFER_BYTES
from store.reading import check, split_bytes
from tests.store.samples import (
    VALID_ZIP,
    documents,
    make_zip,
    manifest_of,
    reader_of,
)

MIB = 1024 * 1024


def test_an_empty_file_is_no_package(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(InvalidManifest):
        split_file(tmp_path / "empty")


def test_a_file_truncated_while_it_is_read_raises(tmp_path):
    path = tmp_path / "package"
    path.write_bytes(random.Random(1).randbytes(3 * BUFFER_BYTES))
    with path.open("rb") as file:
        os.truncate(path, 2 * BUFFER_BYTES)
        with pytest.raises(PackageChanged):
            split_fd(file.fileno(), 3 * BUFFER_BYTES)


def test_a_file_written_to_while_it_is_read_raises(tmp_path, monkeypatch):
    path = tmp_path / "package"
    path.write_bytes(VALID_ZIP)
    real = os.preadv

    def preadv(fd, buffers, offset):
        os.truncate(path, len(VALID_ZIP) + 1)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with path.open("rb") as file, pytest.raises(PackageChanged):
        split_fd(file.fileno(), len(VALID_ZIP))


def test_a_file_is_split_like_its_bytes(tmp_path):
    path = tmp_path / "package"
    path.write_bytes(VALID_ZIP)
    assert split_file(path) == split_file(str(path)) == manifest_of(VALID_ZIP)


def test_a_read_error_in_one_thread_is_raised_and_ends_the_other():
    data = make_zip(documents(8, MIB))
    manifest = manifest_of(data)
    first = manifest.chunks[0]
    failed = threading.Event()  # keeps the other thread from doing all the work

    def reader(view: memoryview, offset: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            failed.wait(30)
        elif offset < first.offset + first.size and offset + len(view) > first.offset:
            failed.set()
            raise OSError(errno.EIO, "bad block")
        return reader_of(data)(view, offset)

    before = threading.active_count()
    with pytest.raises(OSError, match="bad block"):
        split_bytes(reader, len(data))
    failed.clear()
    with pytest.raises(OSError, match="bad block"):
        check(reader, manifest)
    assert threading.active_count() == before


def test_short_reads():
    def few(view: memoryview, offset: int) -> int:
        return reader_of(VALID_ZIP)(view[:777], offset)

    assert split_bytes(few, len(VALID_ZIP)) == manifest_of(VALID_ZIP)


def test_check_returns_the_bad_chunks():
    manifest = manifest_of(VALID_ZIP)
    assert check(reader_of(VALID_ZIP), manifest) == (True, ())
    bad = manifest.chunks[2]
    data = bytearray(VALID_ZIP)
    data[bad.offset] ^= 1
    assert check(reader_of(bytes(data)), manifest) == (False, (bad,))
    assert check(reader_of(VALID_ZIP[: bad.offset + 1]), manifest) == (False, manifest.chunks[2:])
    data = bytearray(VALID_ZIP)
    data[-1] ^= 1  # in a literal
    assert check(reader_of(bytes(data)), manifest) == (False, ())
