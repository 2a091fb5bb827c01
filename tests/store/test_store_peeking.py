"""A fill as another process sees it: what it may believe of the map, and what outlives the fill."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from store import Digest, DiskStore, Manifest
from store.reading import split_bytes
from tests.support.packages import make_documents, make_package


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return make_package(tmp_path / "made.zip", make_documents(5, 60_000)).path.read_bytes()


@pytest.fixture
def manifest(data: bytes) -> Manifest:
    def read_into(view: memoryview, offset: int) -> int:
        part = data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    return split_bytes(read_into, len(data))


def piece(data: bytes, chunk) -> bytes:
    return data[chunk.offset : chunk.offset + chunk.size]


def test_what_is_verified_is_seen_as_it_comes_and_after_the_commit(tmp_path: Path, data: bytes, manifest: Manifest):
    with DiskStore.open(tmp_path / "s") as writer, DiskStore.open(tmp_path / "s") as reader:
        assert reader.peek(manifest.digest) is None
        fill = writer.begin_fill(manifest)
        peeked = reader.peek(manifest.digest)
        assert peeked is not None
        assert peeked.size == manifest.size
        first = manifest.chunks[0]
        assert peeked.covered(0) == first.offset
        for chunk in manifest.chunks:
            before = peeked.covered(0)
            assert not peeked.refresh()
            fill.write(chunk, piece(data, chunk))
            assert peeked.covered(0) == before
            assert peeked.refresh()
            assert peeked.covered(0) >= chunk.offset + chunk.size
            assert os.pread(peeked.fileno(), chunk.size, chunk.offset) == piece(data, chunk)
        fill.commit()
        fill.close()
        peeked.refresh()
        assert peeked.covered(0) == manifest.size
        assert os.pread(peeked.fileno(), manifest.size, 0) == data
        assert reader.peek(manifest.digest) is None
        peeked.close()
        with pytest.raises(ValueError, match="closed"):
            peeked.fileno()


def test_what_was_verified_stays_so_when_another_goes_on_with_the_fill(tmp_path: Path, data: bytes, manifest: Manifest):
    first, second, *_ = manifest.chunks
    with DiskStore.open(tmp_path / "s") as one, DiskStore.open(tmp_path / "s") as other:
        fill = one.begin_fill(manifest)
        fill.write(second, piece(data, second))
        peeked = other.peek(manifest.digest)
        assert peeked is not None
        assert peeked.covered(second.offset) >= second.size
        fill.close()
        again = other.begin_fill(manifest)
        peeked.refresh()
        assert peeked.covered(second.offset) >= second.size
        again.write(first, piece(data, first))
        peeked.refresh()
        assert peeked.covered(0) >= second.offset + second.size
        again.discard()
        peeked.close()


@pytest.mark.parametrize("damage", [lambda raw: raw[:20], lambda raw: b"x" + raw, lambda raw: raw[:-1], lambda _: b""])
def test_a_map_that_is_not_whole_is_none(tmp_path: Path, manifest: Manifest, damage):
    with DiskStore.open(tmp_path / "s") as writer, DiskStore.open(tmp_path / "s") as reader:
        fill = writer.begin_fill(manifest)
        path = tmp_path / "s" / "incoming" / f"{manifest.digest}.map"
        path.write_bytes(damage(path.read_bytes()))
        assert reader.peek(manifest.digest) is None
        fill.discard()


def test_a_stream_is_seen_as_it_grows(tmp_path: Path, data: bytes):
    with DiskStore.open(tmp_path / "s") as writer, DiskStore.open(tmp_path / "s") as reader:
        assert reader.peek_stream("m") is None
        stream = writer.begin_stream("m")
        peeked = reader.peek_stream("m")
        assert peeked is not None
        assert (peeked.size, peeked.covered(5)) == (0, 0)
        stream.append(data)
        assert (peeked.size, peeked.covered(5)) == (len(data), len(data) - 5)
        stream.commit()
        assert os.pread(peeked.fileno(), len(data), 0) == data
        stream.close()
        peeked.close()


def test_the_stream_of_a_killed_process_is_not_written_over(tmp_path: Path, data: bytes):
    with DiskStore.open(tmp_path / "s") as one, DiskStore.open(tmp_path / "s") as other:
        left = tmp_path / "s" / "incoming" / f"{Digest.of(b'm')}.stream"
        left.write_bytes(b"the beginning of one package")
        peeked = other.peek_stream("m")
        assert peeked is not None
        stream = one.begin_stream("m")
        stream.append(data)
        assert os.pread(peeked.fileno(), 1000, 0) == b"the beginning of one package"
        stream.discard()
        peeked.close()
