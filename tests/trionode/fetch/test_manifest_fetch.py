"""A fill from a manifest: chunks are verified one by one, and only what is missing is requested again."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from store import PackageRejected, Store, split_file
from store.filesystem import FileSystem
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from trionode.errors import OriginUnreachable
from trionode.fetch.live_fill import LiveFill
from trionode.fetch.manifest_fetch import WRITE_BYTES, ManifestFetcher
from trionode.fetch.source_factory import SourceFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from store import Digest

PIECE_BYTES = 10_000


class Master:
    """A master that answers a range in pieces, with the faults of `cut_at` and `wrong_at`, once each."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.requested: list[tuple[int, int]] = []
        self.cut_at: list[int] = []
        """Offsets at which the connection is cut."""
        self.wrong_at: list[int] = []
        """Offsets of bytes that are changed."""
        self.sent: dict[int, int] = {}
        """Bytes sent of each range, by its first offset."""
        self.outstanding: list[list[tuple[int, int]]] = []
        """At each request: size and bytes sent of the ranges that were not complete."""
        self.pause_at: set[int] = set()
        """Offsets at which a piece ends as well."""

    @asynccontextmanager
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        incomplete = [
            (stop - start, self.sent[start]) for start, stop in self.requested if self.sent[start] < stop - start
        ]
        self.outstanding.append(incomplete)
        self.requested.append((start, stop))
        self.sent[start] = 0
        assert digest == digest_of(self.content)

        async def body() -> AsyncIterator[bytes]:
            ends = {*range(start + PIECE_BYTES, stop, PIECE_BYTES), *(at for at in self.pause_at if start < at < stop)}
            for offset, end in pairwise((start, *sorted(ends), stop)):
                piece = range(offset, end)
                if cuts := [at for at in self.cut_at if at in piece]:
                    self.cut_at.remove(cuts[0])
                    raise OriginUnreachable("it was cut")
                data = bytearray(self.content[piece.start : piece.stop])
                for at in [at for at in self.wrong_at if at in piece]:
                    self.wrong_at.remove(at)
                    data[at - offset] ^= 1
                await trio.lowlevel.checkpoint()
                self.sent[start] += len(data)
                yield bytes(data)

        yield body()


class Filled:
    """A fill of a package of `count` documents of `size` bytes each; `run` completes it."""

    def __init__(self, tmp_path: Path, count: int, size: int, fs: FileSystem | None = None) -> None:
        path = make_package(tmp_path / "p.zip", make_documents(count, size), level=0).path
        self.manifest = split_file(path)
        self.store = Store.open(tmp_path / "storage", fs=fs)
        self.master = Master(path.read_bytes())
        self.live = LiveFill("m", self.manifest.digest, self.manifest.size)
        self.room_made = 0

    async def make_room(self, needed: int, *, full_disk: bool = False) -> None:
        self.room_made += 1

    async def run(self) -> None:
        fetcher = ManifestFetcher(self.store, SourceFactory(self.master, None), Random(1), self.make_room)  # type: ignore[arg-type]
        await fetcher.run(self.manifest, self.live)
        self.live.finish()
        with self.store.lease(self.manifest.digest) as lease:
            assert lease.size == len(self.master.content)
        assert self.store.verify(self.manifest.digest) is None
        self.store.close()


def requested_again(requested: list[tuple[int, int]]) -> int:
    """Return how many bytes were requested more than once."""
    return sum(max(0, before[1] - after[0]) for before, after in pairwise(sorted(requested)))


async def test_after_a_lost_connection_only_missing_chunks_are_requested(tmp_path: Path, autojump_clock: MockClock):
    filled = Filled(tmp_path, 40, 300_000)
    filled.master.cut_at = [3_000_000, 8_000_000, 8_100_000]
    autojump_clock.autojump_threshold = 0.2  # threads write meanwhile
    await filled.run()
    assert filled.master.cut_at == []
    # Each cut loses the bytes since the last chunk that was written.
    assert 0 < requested_again(filled.master.requested) <= 3 * (2 << 20)
    again = [start for start, _ in filled.master.requested[1:] if start]
    boundaries = {piece.offset for piece in filled.manifest.chunks}
    assert set(again) <= boundaries


async def test_after_a_wrong_byte_its_chunk_is_requested_again(tmp_path: Path, autojump_clock: MockClock):
    filled = Filled(tmp_path, 10, 1_500_000)
    filled.master.wrong_at = [4_000_000]
    autojump_clock.autojump_threshold = 0.2
    await filled.run()
    wrong = next(c for c in filled.manifest.chunks if c.offset <= 4_000_000 < c.offset + c.size)
    covering = [start for start, stop in filled.master.requested if start <= wrong.offset < stop]
    assert len(covering) == 2
    assert covering[1] == wrong.offset, "what was verified before it is not requested again"
    assert filled.live.error is None


async def test_a_piece_may_end_between_two_chunks(tmp_path: Path, autojump_clock: MockClock):
    filled = Filled(tmp_path, 10, 700_000)
    ends = {chunk.offset + chunk.size for chunk in filled.manifest.chunks}
    filled.master.pause_at = {end + 1 for end in ends - {chunk.offset for chunk in filled.manifest.chunks}}
    autojump_clock.autojump_threshold = 0.2
    await filled.run()
    assert requested_again(filled.master.requested) == 0


async def test_the_next_range_is_requested_when_half_of_one_has_come(tmp_path: Path):
    filled = Filled(tmp_path, 40, 300_000)
    await filled.run()
    first, *later = filled.master.outstanding
    assert first == []
    assert len(later) >= 4
    assert any(later), "the line is not idle between two bodies"
    # This master sends faster than chunks are written, so more than half may have come.
    assert all(size / 2 <= sent for incomplete in later for size, sent in incomplete)
    assert all(len(incomplete) <= 1 for incomplete in later)


async def test_small_chunks_are_written_together_and_followers_are_woken_once_for_each_write(tmp_path: Path):
    filled = Filled(tmp_path, 200, 20_000)
    reads: list[int] = []

    async def follow() -> None:
        with filled.live.followed():
            while available := await filled.live.available(sum(reads)):
                reads.append(available)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await filled.run()
    assert sum(reads) == len(filled.master.content)
    assert 1 < len(reads) <= 2 * len(filled.master.content) / WRITE_BYTES + 4 < len(filled.manifest.chunks) / 2


class FullDisk(FileSystem):
    """A disk that is full once, at the write of the `full_at`-th chunk. `written` are the offsets of written chunks."""

    def __init__(self, full_at: int) -> None:
        super().__init__()
        self.chunks: set[int] = set()
        self.written: list[int] = []
        self._full_at = full_at

    def write_at(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        if offset in self.chunks and len(self.written) == self._full_at:
            self._full_at = -1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write_at(fd, data, offset)
        if offset in self.chunks:
            self.written.append(offset)


async def test_a_write_that_fails_on_a_full_disk_is_continued_after_room_was_made(tmp_path: Path):
    disk = FullDisk(37)
    filled = Filled(tmp_path, 100, 20_000, disk)
    disk.chunks = {chunk.offset for chunk in filled.manifest.chunks}
    await filled.run()
    assert filled.room_made == 1
    assert len(disk.written) == len(set(disk.written)) == len(filled.manifest.chunks)
    assert requested_again(filled.master.requested) == 0


async def test_what_is_no_package_is_fetched_once_and_nothing_of_it_is_kept(tmp_path: Path):
    filled = Filled(tmp_path, 10, 20_000)
    filled.master.content = filled.master.content.replace(b"PK\3\4", b"PK\3\5", 2)
    (tmp_path / "p.zip").write_bytes(filled.master.content)
    filled.manifest = split_file(tmp_path / "p.zip")
    fetcher = ManifestFetcher(filled.store, SourceFactory(filled.master, None), Random(1), filled.make_room)  # type: ignore[arg-type]
    requests = []
    for _ in range(3):
        with pytest.raises(PackageRejected, match="not where its directory says") as caught:
            await fetcher.run(filled.manifest, live := LiveFill("m", filled.manifest.digest, filled.manifest.size))
        live.finish(caught.value)
        requests.append(len(filled.master.requested))
        assert not any((tmp_path / "storage" / "incoming").iterdir())
        assert filled.store.usage().filling == 0
    assert requests[0] == requests[1] == requests[2] > 0
    filled.store.close()
