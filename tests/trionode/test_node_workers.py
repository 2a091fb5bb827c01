"""Several processes that are one node: one fill, one voice, and one that is killed is missed by nobody for long."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import children
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode


@pytest.fixture
def large(folder: Path) -> Package:
    return make_package(folder / "m1.zip", make_documents(6, 3_000_000), level=1)


async def until_two(node: OurNode) -> None:
    async def two() -> bool:
        return (await node.status())["workers"] == 2

    await eventually(two, within=30)


async def download_all(node: OurNode, count: int) -> set[str]:
    """Download so often at once that every worker gets some; return the digests."""
    digests: set[str] = set()

    async def one() -> None:
        answer = await node.download("m1")
        assert answer.status_code == 200, answer.text
        digests.add(digest_of(answer.content))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return digests


async def test_workers_are_one_node_with_one_fill(spawn: Spawner, folder: Path, large: Package, start_node: StartNode):
    master = ShimMaster(spawn, folder)
    node = start_node(master.url, workers=2)
    await node.until_synced("m1")
    await until_two(node)
    assert await download_all(node, 24) == {large.digest}

    async def counted() -> bool:
        return (await node.status())["downloads_finished"] == 24

    # Whichever worker is asked, it answers for all.
    await eventually(counted)
    status = await node.status()
    assert status["bytes_sent"] == 24 * large.size
    assert status["bytes_fetched"] < large.size * 1.01
    assert len(master.nodes()) == 1
    assert node.process.stop(within=20) == 0
    assert master.nodes() == []


async def test_requests_follow_the_fill_of_another_worker(
    fakes: FakeFactory, folder: Path, large: Package, start_node: StartNode
):
    master = fakes.master(folder, bytes_per_second=6_000_000)
    node = start_node(master.url, workers=2)
    await node.until_up()
    await until_two(node)
    started = master.start("m1")
    await eventually(lambda: master.state()["downloads_begun"])
    assert await download_all(node, 16) == {started["digest"]}
    assert large.size <= master.state()["bytes_sent"] < large.size + 500_000


async def test_a_killed_worker_is_replaced_whichever_it_is(
    spawn: Spawner, folder: Path, large: Package, start_node: StartNode
):
    master = ShimMaster(spawn, folder)
    node = start_node(master.url, workers=2)
    await node.until_synced("m1")
    await until_two(node)
    for place in (0, 1):
        before = sorted(children(node.process.pid))
        os.kill(before[place], signal.SIGKILL)

        async def served() -> bool:
            try:
                answer = await node.download("m1")
            except httpx.HTTPError:
                return False
            return answer.status_code == 200 and digest_of(answer.content) == large.digest

        await eventually(served)
        await eventually(lambda before=before: len(set(children(node.process.pid)) - set(before)) == 1, within=30)

        async def as_before() -> bool:
            status = await node.status()
            return status["workers"] == 2 and status["connected"] and await node.synced() == ["m1"]

        await eventually(as_before, within=30)
    assert node.process.returncode is None
    # One node, under one id, all the time.
    assert len(master.nodes()) == 1
    assert node.process.stop(within=20) == 0
