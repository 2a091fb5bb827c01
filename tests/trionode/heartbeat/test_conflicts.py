"""Two nodes with one id or one address: what the master and both nodes say."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.fakes.running import FakeFactory
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, STARTS, OurNode, Start
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

SAID = "another node uses this node's id or address"


async def conflict_of(node: OurNode) -> str:
    found: str = (await node.status())["conflict"]
    return found


@pytest.mark.parametrize("how", STARTS)
async def test_a_copied_storage_folder_is_a_conflict_that_the_master_and_both_nodes_name(
    how: Start, spawn: Spawner, folder: Path, package: Package, start_node: StartNode, tmp_path: Path
):
    master = ShimMaster(spawn, folder)
    first = start_node(master.url, how=how)
    await first.until_synced("m1")
    node_id = (await first.status())["node_id"]
    shutil.copytree(first.storage, tmp_path / "copy", ignore=shutil.ignore_patterns("control.sock"))
    second = start_node(master.url, how=how, storage=tmp_path / "copy")
    both = (first, second)
    addresses = ", ".join(sorted(f"at 127.0.0.1:{node.port}" for node in both))
    said = f"several nodes have the id {node_id} ({addresses}); remove node.json from the storage folder"
    for node in both:
        await node.until_logged(SAID, within=30)
        assert said in node.process.log()
        assert said in await conflict_of(node)
        assert node.process.log().count(SAID) == 1
    master.process.wait_line(rf"\[ERROR\] master_shim.activity: several nodes have the id {node_id} ")
    done = spawn(BIN / "trionode", "status", first.url, env={"COLUMNS": "400"})
    assert done.wait() == 0
    assert said in done.log()
    assert {node["conflict"][: len(said)] for node in master.get("/api/v1/nodes/status").json()["nodes"]} == {said}
    # Everything is still served.
    for node in both:
        assert (await node.download("m1")).content == package.path.read_bytes()

    second.process.stop(within=40)
    await first.until_logged("no other node uses this node's id or address any more", within=60)
    assert await conflict_of(first) == ""


async def test_one_address_for_two_nodes_is_a_conflict(
    spawn: Spawner, folder: Path, package: Package, start_node: StartNode
):
    master = ShimMaster(spawn, folder)
    nodes = [start_node(master.url, node_address="127.0.0.1:9") for _ in range(2)]
    for node in nodes:
        await node.until_logged(SAID, within=30)
        assert "several nodes have the address 127.0.0.1:9 (node-" in await conflict_of(node)


async def test_a_restarted_node_is_no_conflict(spawn: Spawner, folder: Path, package: Package, start_node: StartNode):
    master = ShimMaster(spawn, folder)
    node = start_node(master.url)
    for _ in range(2):
        await node.until_synced("m1")
        await eventually(master.nodes, what="the node at the master")
        node.process.kill()
        node = start_node(master.url, storage=node.storage)
    await node.until_logged("connected to the master")
    assert await conflict_of(node) == ""
    assert "several nodes" not in master.process.log()


async def test_a_deployed_master_names_no_conflict(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode
):
    node = start_node(fakes.master(folder, started=("m1",)).url)
    await node.until_synced("m1")
    assert await conflict_of(node) == ""
