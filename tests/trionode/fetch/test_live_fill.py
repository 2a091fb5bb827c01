"""Downloads that follow a fill: their ranges are fetched first, and sent as soon as they are verified."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from store import Store, split_file
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.relay import relaying
from tests.support.waiting import eventually
from trionode.errors import FillFailed
from trionode.events import Broadcast
from trionode.fetch.live_fill import HOLD_BACK_BYTES, LiveFill
from trionode.fetch.manifest_fetch import END_RECORD_BYTES, ManifestFetcher
from trionode.fetch.source_factory import SourceFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from store import Digest
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

MIB = 1 << 20


class SlowMaster:
    """A master that answers a request for a range when it is told to. `requested` are the ranges, in order."""

    def __init__(self, content: bytes) -> None:
        self.requested: list[tuple[int, int]] = []
        self._content = content
        self._answers = trio.Semaphore(0)
        self._came = Broadcast()

    @asynccontextmanager
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        self.requested.append((start, stop))
        self._came.notify()
        await self._answers.acquire()

        async def body() -> AsyncIterator[bytes]:
            yield self._content[start:stop]

        yield body()

    def answer(self, count: int = 1) -> None:
        for _ in range(count):
            self._answers.release()

    async def until_requested(self, count: int) -> None:
        """Wait for the request of that number."""
        with trio.fail_after(10):
            while len(self.requested) < count:
                await self._came.wait()


async def no_room(needed: int, *, full_disk: bool = False) -> None:
    raise AssertionError("there is room")


@asynccontextmanager
async def filling(tmp_path: Path, count: int = 20, size: int = MIB) -> AsyncIterator[tuple[SlowMaster, LiveFill]]:
    path = make_package(tmp_path / "p.zip", make_documents(count, size), level=0).path
    manifest = split_file(path)
    store = Store.open(tmp_path / "storage")
    master = SlowMaster(path.read_bytes())
    live = LiveFill("m", manifest.digest, manifest.size)

    async def fill() -> None:
        await ManifestFetcher(store, SourceFactory(master, None), Random(1), no_room).run(manifest, live)  # type: ignore[arg-type]
        live.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await master.until_requested(1)
        yield master, live
        master.answer(100)
        with trio.fail_after(20):
            await live.wait_finished()
    store.close()


async def test_ranges_that_downloads_wait_for_are_requested_first(tmp_path: Path):
    async with filling(tmp_path) as (master, live):
        assert live.size is not None
        waiting = [live.size - 2 * MIB, live.size // 2]
        received: list[int] = []

        async def follow(offset: int) -> None:
            assert await live.available(offset) > 0
            received.append(offset)

        async with trio.open_nursery() as nursery:
            for offset in waiting:
                nursery.start_soon(follow, offset)
                await trio.testing.wait_all_tasks_blocked()
            assert live.waiting_offsets() == waiting
            # The range that was requested before any download came, and then those two.
            for count in (2, 3):
                master.answer()
                await master.until_requested(count)
            requested = [range(*span) for span in master.requested[1:3]]
            assert [offset in span for offset, span in zip(waiting, requested, strict=True)] == [True, True]
            master.answer(2)
        assert sorted(received) == sorted(waiting)
        assert live.waiting_offsets() == []


async def test_the_last_bytes_may_be_sent_only_after_the_whole_package_was_verified(tmp_path: Path):
    async with filling(tmp_path) as (master, live):
        assert live.size is not None
        last = live.size - HOLD_BACK_BYTES
        assert live.digest is not None
        with live.followed():
            master.answer(100)
            assert await live.available(last - 1) > 0
            assert await live.available(last) == HOLD_BACK_BYTES
            assert live.finished
        assert live.waiting_offsets() == []


async def test_a_short_package_may_be_sent_only_after_the_whole_was_verified(tmp_path: Path):
    async with filling(tmp_path, 2, 1000) as (master, live):
        assert live.size is not None
        assert live.size < HOLD_BACK_BYTES
        with live.followed():
            master.answer(100)
            assert await live.available(0) == live.size
            assert live.finished


async def test_the_directory_of_a_zip_may_be_sent_at_once(tmp_path: Path):
    async with filling(tmp_path) as (master, live):
        assert live.size is not None
        with trio.fail_after(10):
            assert await live.available(live.size - 22, live.size - 22) == 22
        assert len(master.requested) == 1, "the manifest holds the directory"


async def test_the_end_of_a_package_is_requested_from_the_chunk_that_is_waited_for(tmp_path: Path):
    async with filling(tmp_path) as (master, live):
        assert live.size is not None
        begin = live.size - END_RECORD_BYTES
        received: list[int] = []

        async def follow() -> None:
            while sum(received) < END_RECORD_BYTES:
                received.append(await live.available(begin + sum(received), begin))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            master.answer()
            await master.until_requested(2)
            # The other half of the first range is still to come.
            start, stop = master.requested[1]
            assert start <= begin < stop
            assert stop - start <= MIB + (MIB >> 1), "without the documents before it"
            master.answer()
            with trio.fail_after(10):
                while sum(received) < END_RECORD_BYTES:
                    await trio.sleep(0.01)
            assert not live.finished


class GrowingFile:
    """A file as a fill of the store writes it: `size` bytes, of which the first `written` may be read."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self.written = 0
        self.ended = ""
        self._file = path.open("w+b")
        self._file.write(bytes(size))
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def covered(self, offset: int) -> int:
        return max(0, self.written - offset)

    def close(self) -> None:
        self.ended += "closed"
        self._file.close()

    def discard(self) -> None:
        self.ended += "discarded"
        self._file.close()


SIZE = 4 * HOLD_BACK_BYTES


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[GrowingFile]:
    file = GrowingFile(tmp_path / "file", SIZE)
    yield file
    assert file.ended in {"closed", "discarded"}, "a fill closes its file once"


async def test_bytes_may_be_sent_as_they_are_written_except_the_last(growing: GrowingFile):
    live, last = LiveFill("m"), SIZE - HOLD_BACK_BYTES
    received: list[int] = []

    async def wait_for_the_last() -> None:
        received.append(await live.available(last))

    async with trio.open_nursery() as nursery:
        live.begin(growing)
        growing.written = 1000
        live.advance()
        assert (await live.available(0), await live.available(900)) == (1000, 100)
        nursery.start_soon(wait_for_the_last)
        growing.written = SIZE
        live.advance()
        await trio.testing.wait_all_tasks_blocked()
        assert (received, live.waiting_offsets()) == ([], [last])
        assert await live.available(0) == last
        with live.followed():
            live.finish()
            await trio.testing.wait_all_tasks_blocked()
            assert received == [HOLD_BACK_BYTES]
            assert await live.available(SIZE) == 0


async def test_a_failed_fill_ends_those_that_wait_and_those_that_send(growing: GrowingFile):
    live = LiveFill("m")
    live.begin(growing)
    growing.written = 1000
    ended: list[str] = []

    async def wait_for_more() -> None:
        with pytest.raises(FillFailed, match="the master is gone"):
            await live.available(1000)
        ended.append("waited")

    async def send() -> None:
        with live.sending() as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        ended.append("sent")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_more)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        live.finish(OSError("the master is gone"))
        live.finish()  # only the first end counts
    assert sorted(ended) == ["sent", "waited"]
    with pytest.raises(FillFailed):
        await live.available(0)


@pytest.mark.parametrize(("discard", "ended"), [(False, "closed"), (True, "discarded")])
def test_the_file_is_closed_when_the_fill_has_ended_and_nobody_follows(growing: GrowingFile, discard: bool, ended: str):
    live = LiveFill("m")
    live.begin(growing)
    if discard:
        live.discard_at_end()
    with live.followed():
        with live.followed():
            pass
        live.finish()
        assert growing.ended == ""
    assert growing.ended == ended


async def test_a_package_that_changes_after_its_fill_is_no_longer_trusted(growing: GrowingFile, tmp_path: Path):
    live = LiveFill("m")
    live.begin(growing)
    with live.followed():
        assert live.trusted
        live.finish()
        await live.ensure_trusted()
        os.utime(growing.fileno(), ns=(0, 1))
        assert not live.trusted
        with pytest.raises(FillFailed, match="changed on the disk"):
            await live.ensure_trusted()


async def test_a_package_that_is_evicted_after_its_fill_is_still_trusted(growing: GrowingFile, tmp_path: Path):
    live = LiveFill("m")
    live.begin(growing)
    with live.followed():
        live.finish()
        (tmp_path / "file").unlink()
        await live.ensure_trusted()


@pytest.fixture
def big(folder: Path) -> Package:
    return make_package(folder / "big.zip", make_documents(6, 4_000_000), level=1)


async def test_a_range_near_the_end_is_answered_during_the_fill(
    spawn: Spawner, folder: Path, big: Package, start_node: StartNode
):
    content = big.path.read_bytes()
    master = ShimMaster(spawn, folder)
    async with relaying(master.port, 2_000_000) as relay:
        node = start_node(relay.url)

        async def state() -> str:
            meetings = (await node.status())["active_meetings"]
            return str(meetings[0]["state"]) if meetings else ""

        await node.until_up()

        async def filling_now() -> bool:
            return await state() == "filling"

        await eventually(filling_now, within=30)
        stop = len(content) - HOLD_BACK_BYTES
        span = f"bytes={stop - MIB}-{stop - 1}"
        text = f"{span},1000-1999"
        answer = await node.download("big", headers={"Range": span}, params={"v": big.digest})
        assert (answer.status_code, answer.content) == (206, content[stop - MIB : stop])
        parts = await node.download("big", headers={"Range": text}, params={"v": big.digest})
        assert parts.status_code == 206
        assert content[1000:2000] in parts.content
        assert await state() == "filling", "the rest was still on its way"
        relay.rate = 1e12
        whole = await node.download("big")
        assert digest_of(whole.content) == big.digest
