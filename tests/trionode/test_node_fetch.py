"""Ranges from a shim: each chunk counts once it is right, and only what is left is asked for again."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import trio

from store import DiskStore, NoSpace
from store.reading import split_file
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from trionode.errors import OriginUnreachable
from trionode.sync.active import ActiveFill
from trionode.sync.fetch import STORE_BYTES, fill_from_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest
    from trio.testing import MockClock

    from store import Chunk, Digest

PIECE_BYTES = 10_000


class Master:
    """Answers a range in pieces. What `broken` holds of a range's pieces comes to nothing there, once each."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []
        self.cut_at: list[int] = []
        """At these offsets the connection is cut."""
        self.wrong_at: list[int] = []
        """A byte at these offsets is another."""
        self.sent: dict[int, int] = {}
        """How many bytes of the range that begins there were sent."""
        self.outstanding: list[list[tuple[int, int]]] = []
        """At each request: of the ranges not yet sent whole, size and bytes sent."""
        self.pause_at: set[int] = set()
        """A piece ends at each of these offsets, too."""

    @asynccontextmanager
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        going_on = [(stop - start, self.sent[start]) for start, stop in self.asked if self.sent[start] < stop - start]
        self.outstanding.append(going_on)
        self.asked.append((start, stop))
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
    """A fill of a package of `count` documents of `size` bytes each, done at the end of `run`."""

    def __init__(self, tmp_path: Path, count: int, size: int) -> None:
        path = make_package(tmp_path / "p.zip", make_documents(count, size), level=0).path
        self.manifest = split_file(path)
        self.store = DiskStore.open(tmp_path / "storage")
        self.master = Master(path.read_bytes())
        self.active = ActiveFill("m", self.manifest.digest, self.manifest.size)
        self.room_made = 0

    async def make_room(self, needed: int, *, full_disk: bool = False) -> None:
        self.room_made += 1

    async def run(self) -> None:
        await fill_from_manifest(self.store, self.master, self.manifest, self.active, Random(1), self.make_room)  # type: ignore[arg-type]
        with self.store.lease(self.manifest.digest) as lease:
            assert lease.size == len(self.master.content)
        assert self.store.verify(self.manifest.digest) is None
        self.store.close()


def asked_again(asked: list[tuple[int, int]]) -> int:
    """Return how many bytes were asked for more than once."""
    return sum(max(0, before[1] - after[0]) for before, after in pairwise(sorted(asked)))


async def test_after_a_cut_only_what_is_left_is_asked_for(tmp_path: Path, autojump_clock: MockClock):
    filled = Filled(tmp_path, 40, 300_000)
    filled.master.cut_at = [3_000_000, 8_000_000, 8_100_000]
    autojump_clock.autojump_threshold = 0.2  # threads write meanwhile
    await filled.run()
    assert filled.master.cut_at == []
    # What had come since the last chunk that was put in place is lost at each cut, and its chunk has come in part.
    assert 0 < asked_again(filled.master.asked) <= 3 * (2 << 20)
    again = [start for start, _ in filled.master.asked[1:] if start]
    boundaries = {piece.offset for piece in filled.manifest.chunks}
    assert set(again) <= boundaries


async def test_a_wrong_byte_costs_its_chunk_and_those_behind_it(tmp_path: Path, autojump_clock: MockClock):
    filled = Filled(tmp_path, 10, 1_500_000)
    filled.master.wrong_at = [4_000_000]
    autojump_clock.autojump_threshold = 0.2
    await filled.run()
    wrong = next(c for c in filled.manifest.chunks if c.offset <= 4_000_000 < c.offset + c.size)
    assert [start for start, _ in filled.master.asked].count(wrong.offset) >= 1
    assert filled.active.error is None


async def test_a_piece_may_end_between_two_chunks(tmp_path: Path, autojump_clock: MockClock):
    filled = Filled(tmp_path, 10, 700_000)
    ends = {chunk.offset + chunk.size for chunk in filled.manifest.chunks}
    filled.master.pause_at = {end + 1 for end in ends - {chunk.offset for chunk in filled.manifest.chunks}}
    autojump_clock.autojump_threshold = 0.2
    await filled.run()
    assert asked_again(filled.master.asked) == 0


async def test_the_next_range_is_asked_for_when_half_of_one_has_come(tmp_path: Path):
    filled = Filled(tmp_path, 40, 300_000)
    await filled.run()
    first, *later = filled.master.outstanding
    assert first == []
    assert len(later) >= 4
    assert any(later), "the line is not idle between two bodies"
    # This master sends faster than anybody writes, so more than half may have come.
    assert all(size / 2 <= sent for going_on in later for size, sent in going_on)
    assert all(len(going_on) <= 1 for going_on in later)


async def test_small_chunks_are_written_together_and_followers_hear_of_each_such_write(tmp_path: Path):
    filled = Filled(tmp_path, 200, 20_000)
    heard = 0

    async def listen() -> None:
        nonlocal heard
        while True:
            await filled.active._moved.wait()
            heard += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await filled.run()
        nursery.cancel_scope.cancel()
    assert 1 < heard <= 2 * len(filled.master.content) / STORE_BYTES + 4


async def test_a_disk_that_is_full_in_the_middle_of_a_write_is_tried_again_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    filled = Filled(tmp_path, 100, 20_000)
    written: list[int] = []
    fill = type(filled.store.begin_fill(filled.manifest))
    write = fill.write

    def write_or_fail(self: object, chunk: Chunk, data: memoryview) -> None:
        if len(written) == 37 and not filled.room_made:
            raise NoSpace(chunk.size, 0)
        write(self, chunk, data)  # type: ignore[arg-type]
        written.append(chunk.offset)

    filled.store.close()
    filled.store = DiskStore.open(tmp_path / "storage")
    monkeypatch.setattr(fill, "write", write_or_fail)
    await filled.run()
    assert filled.room_made == 1
    assert len(written) == len(set(written)) == len(filled.manifest.chunks)
