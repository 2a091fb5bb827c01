"""Following a fill: what a client waits for is fetched first, and sent as soon as it is verified."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from store import DiskStore
from store.reading import split_file
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from trionode.sync.active import HOLD_BACK_BYTES, ActiveFill
from trionode.sync.fetch import fill_from_manifest
from trionode.sync.order import AHEAD_BYTES, choose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from store import Digest
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

MIB = 1 << 20


@given(
    st.lists(st.integers(1, 3 * MIB), min_size=1, max_size=30),
    st.lists(st.integers(0, 30), max_size=30),
    st.lists(st.integers(0, 60 * MIB), max_size=8),
)
@example([MIB] * 30, [], [29 * MIB, 0])
def test_the_next_part_is_what_a_naive_look_says(sizes: list[int], gone: list[int], wanted: list[int]):
    parts, at = [], 0
    for number, size in enumerate(sizes):
        if number not in gone:
            parts.append(range(at, at + size))
        at += size
    if not parts:
        return
    index = choose(parts, wanted)
    for offset in wanted:
        holding = [i for i, part in enumerate(parts) if offset in part]
        if holding:
            assert index == holding[0]
            return
    for offset in wanted:
        soon = [i for i, part in enumerate(parts) if offset < part.start < offset + AHEAD_BYTES]
        if soon:
            assert index == soon[0]
            return
    assert index == 0


class SlowMaster:
    """Answers a range when it is told to. Keeps what was asked for, in order."""

    def __init__(self, content: bytes) -> None:
        self.asked: list[tuple[int, int]] = []
        self._content = content
        self._answers = trio.Semaphore(0)

    @asynccontextmanager
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((start, stop))
        await self._answers.acquire()

        async def body() -> AsyncIterator[bytes]:
            yield self._content[start:stop]

        yield body()

    def answer(self, count: int = 1) -> None:
        for _ in range(count):
            self._answers.release()


async def no_room(needed: int, *, full_disk: bool = False) -> None:
    raise AssertionError("there is room")


@asynccontextmanager
async def filling(tmp_path: Path) -> AsyncIterator[tuple[SlowMaster, ActiveFill]]:
    path = make_package(tmp_path / "p.zip", make_documents(20, MIB), level=0).path
    manifest = split_file(path)
    store = DiskStore.open(tmp_path / "storage")
    master = SlowMaster(path.read_bytes())
    active = ActiveFill("m", manifest.digest, manifest.size)

    async def fill() -> None:
        await fill_from_manifest(store, master, manifest, active, Random(1), no_room)  # type: ignore[arg-type]
        active.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        with trio.fail_after(10):
            while not master.asked:
                await trio.sleep(0.01)
        yield master, active
        master.answer(100)
        with trio.fail_after(20):
            await active.over()
    store.close()


async def test_who_waits_is_served_before_who_does_not(tmp_path: Path):
    async with filling(tmp_path) as (master, active):
        assert active.size is not None
        wanted = [active.size - 2 * MIB, active.size // 2]
        got: list[int] = []

        async def follow(offset: int) -> None:
            assert await active.available(offset) > 0
            got.append(offset)

        async with trio.open_nursery() as nursery:
            for offset in wanted:
                nursery.start_soon(follow, offset)
                await trio.testing.wait_all_tasks_blocked()
            assert active.wanted() == wanted
            # The one that was asked for before anybody came, and then those two.
            for count in (2, 3):
                master.answer()
                with trio.fail_after(10):
                    while len(master.asked) < count:
                        await trio.sleep(0.01)
            asked = [range(*span) for span in master.asked[1:3]]
            assert [offset in span for offset, span in zip(wanted, asked, strict=True)] == [True, True]
            master.answer(2)
        assert sorted(got) == sorted(wanted)
        assert active.wanted() == []


async def test_the_end_is_held_back_until_the_whole_is_right(tmp_path: Path):
    async with filling(tmp_path) as (master, active):
        assert active.size is not None
        last = active.size - HOLD_BACK_BYTES
        master.answer(2)
        with trio.move_on_after(0.3) as scope:
            await active.available(last)
        assert scope.cancelled_caught
        assert active.wanted() == []


async def carry(stream: trio.SocketStream, to: trio.SocketStream, pause: float) -> None:
    try:
        async for data in stream:
            await to.send_all(data)
            await trio.sleep(pause * len(data))
        await to.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(to)


@asynccontextmanager
async def slowly(port: int, rate: float) -> AsyncIterator[str]:
    """Give the URL of a way to a local port on which each connection gets no more than `rate` bytes/s back."""

    async def handle(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, server, 0.0)
            await carry(server, client, 1 / rate)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.fixture
def big(folder: Path) -> Package:
    return make_package(folder / "big.zip", make_documents(6, 4_000_000), level=1)


async def test_a_range_near_the_end_does_not_wait_for_the_whole(
    spawn: Spawner, folder: Path, big: Package, start_node: StartNode
):
    content = big.path.read_bytes()
    master = ShimMaster(spawn, folder)
    async with slowly(master.port, 2_000_000) as url:
        node = start_node(url)

        async def state() -> str:
            meetings = (await node.status())["active_meetings"]
            return str(meetings[0]["state"]) if meetings else ""

        await node.until_up()
        with trio.fail_after(30):
            while await state() != "filling":
                await trio.sleep(0.02)
        stop = len(content) - HOLD_BACK_BYTES
        span = f"bytes={stop - MIB}-{stop - 1}"
        text = f"{span},1000-1999"
        answer = await node.download("big", headers={"Range": span}, params={"v": big.digest})
        assert (answer.status_code, answer.content) == (206, content[stop - MIB : stop])
        parts = await node.download("big", headers={"Range": text}, params={"v": big.digest})
        assert parts.status_code == 206
        assert content[1000:2000] in parts.content
        assert await state() == "filling", "it was answered while the rest was still on its way"
        whole = await node.download("big")
        assert digest_of(whole.content) == big.digest
