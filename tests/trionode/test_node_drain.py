"""How a node comes to its end, and how it takes over new settings while it runs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, OurNode, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

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


async def until_said(node: OurNode, words: str, *, within: float = 10.0) -> None:
    await eventually(lambda: words in node.process.log(), within=within, what=f"{words!r} in the log")


async def test_a_node_that_is_told_to_end_finishes_its_downloads_and_takes_no_new_assignment(
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
            # Who was sent here just before is served.
            assert digest_of((await node.download("big")).content) == big.digest
            assert node.process.returncode is None
            slowly.cancel()
        nursery.cancel_scope.cancel()
    assert node.process.wait() == 0


async def test_a_slow_download_is_whole_when_the_node_has_ended(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client:
        await client.read_head()
        node.process.send_signal(signal.SIGTERM)
        await until_said(node, "draining")
        with trio.move_on_after(1.5):
            await client.read_slowly(2_000_000)
        assert node.process.returncode is None
        assert digest_of(await client.read_rest()) == big.digest
    assert node.process.wait() == 0
    assert "cut off" not in node.process.log()


async def test_what_lasts_longer_than_drain_seconds_is_cut_off(master: ShimMaster, big: Package, start_node: StartNode):
    node = start_node(master.url, drain_seconds=1)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client:
        await client.read_head()
        node.process.send_signal(signal.SIGTERM)
        with trio.fail_after(15):
            await client.read_slowly(200_000)
        assert len(client.body) < big.size
    assert node.process.wait() == 0
    assert "the time to drain is over" in node.process.log()


async def test_a_second_signal_ends_now(master: ShimMaster, big: Package, start_node: StartNode):
    node = start_node(master.url, drain_seconds=600)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client, trio.open_nursery() as nursery:
        await client.read_head()
        nursery.start_soon(client.read_slowly, 200_000)
        node.process.send_signal(signal.SIGTERM)
        await until_said(node, "draining")
        assert node.process.returncode is None
        node.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(lambda: node.process.wait(within=10)) == 0
    assert len(client.body) < big.size
    assert master.nodes() == []


async def test_a_reload_takes_over_what_can_change_and_says_what_cannot(
    master: ShimMaster, spawn: Spawner, tmp_path: Path
):
    node = configured(spawn, master, tmp_path, max_downloads=5)
    await node.until_synced("big")
    write(tmp_path, node.port, master, max_downloads=7, log_level="debug", max_bytes="2G", sync_interval=9)
    node.process.send_signal(signal.SIGHUP)
    await until_said(node, "needs a restart")
    status = await node.status()
    assert (status["max_downloads"], status["storage_limit"]) == (7, 2 << 30)
    changed = [line.partition("setting=")[2] for line in node.process.log().splitlines() if "setting=" in line]
    assert changed == ["sync_interval", "max_bytes", "max_downloads", "log_level"]
    assert node.process.stop() == 0


async def test_a_wrong_file_changes_nothing_and_is_said_in_words(master: ShimMaster, spawn: Spawner, tmp_path: Path):
    node = configured(spawn, master, tmp_path, max_downloads=5)
    await node.until_synced("big")
    write(tmp_path, node.port, master, max_downloads=7, drain_seconds="soon")
    node.process.send_signal(signal.SIGHUP)
    await until_said(node, "not reloaded; everything stays as it is")
    assert "'drain_seconds'" in node.process.log()
    assert (await node.status())["max_downloads"] == 5
    write(tmp_path, node.port, master, max_downloads=8)
    node.process.send_signal(signal.SIGHUP)
    await until_said(node, "setting changed")
    assert (await node.status())["max_downloads"] == 8
    assert node.process.stop() == 0


def configured(spawn: Spawner, master: ShimMaster, tmp_path: Path, **settings: object) -> OurNode:
    """Start a node from a TOML file."""
    port = free_port()
    write(tmp_path, port, master, **settings)
    process = spawn(BIN / "trionode", "serve", "--config", tmp_path / "node.toml", name="node-configured")
    return OurNode(process, port, tmp_path / "configured")


def write(tmp_path: Path, port: int, master: ShimMaster, **settings: object) -> None:
    table = {
        "main_server": master.url,
        "node_address": f"127.0.0.1:{port}",
        "host": "127.0.0.1",
        "port": port,
        "storage_path": str(tmp_path / "configured"),
        **settings,
    }
    lines = (f"{name} = {value}" if isinstance(value, int) else f'{name} = "{value}"' for name, value in table.items())
    (tmp_path / "node.toml").write_text("\n".join(lines))
