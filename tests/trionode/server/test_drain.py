"""How a node under our own server ends: it unregisters, finishes its downloads, and has limits for that."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from store import StorageLock
from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import Start
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 4_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


async def test_a_node_that_is_told_to_end_finishes_its_downloads_and_gets_no_new_clients(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client, trio.open_nursery() as nursery:
        assert b" 200 " in await client.read_head()
        with trio.CancelScope() as slowly:
            nursery.start_soon(client.read_slowly, 500_000)
            node.process.send_signal(signal.SIGTERM)
            await eventually(lambda: master.nodes() == [], what="off the master's list")
            ready = await node.get("/ready")
            assert (ready.status_code, ready.json()["detail"]) == (503, "this node is not serving: it is draining")
            assert (await node.get("/health")).status_code == 200
            # A client that was sent here just before is served.
            assert digest_of((await node.download("big")).content) == big.digest
            assert node.process.returncode is None
            slowly.cancel()
        nursery.cancel_scope.cancel()
    assert node.process.wait() == 0


async def test_slow_downloads_are_complete_when_the_node_has_ended(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("big")
    digests: list[str] = []

    async def download() -> None:
        async with asking(node.port, PATH) as client:
            await client.read_head()
            with trio.move_on_after(1.5):
                await client.read_slowly(2_000_000)
            assert node.process.returncode is None
            digests.append(digest_of(await client.read_rest()))

    async def all_active() -> bool:
        return (await node.status())["active_downloads"] == 6

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(download)
        await eventually(all_active)
        node.process.send_signal(signal.SIGTERM)
        await node.until_logged("draining")
    assert digests == [big.digest] * 6
    assert node.process.wait() == 0
    assert "cut off" not in node.process.log()


async def test_downloads_that_last_longer_than_drain_seconds_are_cut_off(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url, drain_seconds=1)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client:
        await client.read_head()
        node.process.send_signal(signal.SIGTERM)
        with trio.fail_after(15):
            await client.read_slowly(200_000)
        assert len(client.body) < big.size
    assert node.process.wait() == 0
    assert "drain_seconds are over; active requests are cut off" in node.process.log()


@pytest.mark.parametrize("how", ["serve", "hypercorn", "hypercorn-trio"])
async def test_a_node_waits_for_one_that_is_ending_on_its_storage_folder(
    master: ShimMaster, big: Package, start_node: StartNode, how: Start
):
    node = start_node(master.url)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client, trio.open_nursery() as nursery:
        await client.read_head()
        nursery.start_soon(client.read_slowly, 200_000)
        node.process.send_signal(signal.SIGTERM)
        await node.until_logged("draining")
        # Hypercorn opens its sockets itself, so only ours can wait for the port.
        port = node.port if how == "serve" else 0
        after = start_node(master.url, how=how, storage=node.storage, port=port)
        await after.until_logged("the last node on this storage folder is ending; waiting for it")
        assert f"pid={node.process.pid}" in after.process.log()
        assert "at_most=40.0" in after.process.log()
        assert node.process.returncode is None
        node.process.send_signal(signal.SIGTERM)
        await after.until_synced("big")
        nursery.cancel_scope.cancel()
    assert node.process.wait() == 0
    assert digest_of((await after.download("big")).content) == big.digest
    assert after.process.stop() == 0


async def test_a_node_waits_no_longer_than_the_one_before_it_may_take(
    master: ShimMaster, start_node: StartNode, tmp_path: Path
):
    with StorageLock(tmp_path) as lock:
        lock.acquire("127.0.0.1:1", "n")
        lock.set_ending(0.5)
        node = start_node(master.url, storage=tmp_path)
        assert await trio.to_thread.run_sync(lambda: node.process.wait(within=20)) == 2
    log = node.process.log()
    assert log.index("waiting for it") < log.index("is in use by the node at 127.0.0.1:1")
    assert log.count("waiting for it") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_wait_for_another_node_ends_with_a_signal(
    master: ShimMaster, start_node: StartNode, tmp_path: Path, number: signal.Signals
):
    with StorageLock(tmp_path) as lock:
        lock.acquire("127.0.0.1:1", "n")
        lock.set_ending(600)
        node = start_node(master.url, storage=tmp_path)
        await node.until_logged("waiting for it")
        node.process.send_signal(number)
        assert await trio.to_thread.run_sync(lambda: node.process.wait(within=20)) in {0, -signal.SIGTERM}
    assert "Traceback" not in node.process.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_node_at_once(
    master: ShimMaster, big: Package, start_node: StartNode, number: signal.Signals
):
    node = start_node(master.url, drain_seconds=600)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client, trio.open_nursery() as nursery:
        await client.read_head()
        nursery.start_soon(client.read_slowly, 200_000)
        node.process.send_signal(number)
        await node.until_logged("draining")
        assert node.process.returncode is None
        node.process.send_signal(number)
        assert await trio.to_thread.run_sync(lambda: node.process.wait(within=10)) == 0
    assert len(client.body) < big.size
    assert master.nodes() == []
