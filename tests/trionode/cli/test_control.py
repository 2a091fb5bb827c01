"""`trionode drain` and `trionode reload`, with the node that runs on a storage folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, OurNode, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually
from trionode.cli.exits import NOT_RUNNING, OK, USAGE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import Start
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.cli.conftest import Trionode
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 3_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


async def test_drain_returns_when_the_node_has_ended(
    master: ShimMaster, big: Package, start_node: StartNode, trionode: Trionode
):
    node = start_node(master.url)
    await node.until_synced("big")
    async with asking(node.port, PATH) as client, trio.open_nursery() as nursery:
        await client.read_head()

        async def read() -> None:
            """Read slowly until the node drains, and then the rest."""
            async with trio.open_nursery() as reading:
                reading.start_soon(client.read_slowly, 200_000)

                async def draining() -> bool:
                    return (await node.get("/ready")).status_code == 503

                await eventually(draining, within=20)
                # Until the command has reported the download: it reads the status every 0.2 s.
                with trio.move_on_after(0.5):
                    await trio.sleep_forever()
                reading.cancel_scope.cancel()
            assert digest_of(await client.read_rest()) == big.digest

        nursery.start_soon(read)
        done = await trionode("drain", "--storage-path", node.storage)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (OK, "the node has ended"), done.stderr
        assert "draining; active downloads: 1" in done.stdout
    assert node.process.wait(within=5) == 0
    assert master.nodes() == []
    done = await trionode("drain", "--storage-path", node.storage)
    assert done.returncode == NOT_RUNNING
    assert "no node runs on the storage folder" in done.stderr


@pytest.mark.parametrize("how", ["hypercorn", "hypercorn-trio"])
async def test_drain_under_hypercorn_leaves_the_end_to_its_server(
    master: ShimMaster, big: Package, start_node: StartNode, trionode: Trionode, how: Start
):
    node = start_node(master.url, how=how)
    await node.until_synced("big")
    done = await trionode("drain", "--storage-path", node.storage)
    assert done.returncode == OK, done.stderr
    assert "stop the server now" in done.stdout
    assert master.nodes() == []
    assert (await node.get("/ready")).status_code == 503
    assert digest_of((await node.download("big")).content) == big.digest
    assert node.process.stop(within=20) == 0


async def test_reload_prints_what_changed_and_what_needs_a_restart(
    master: ShimMaster, big: Package, spawn: Spawner, tmp_path: Path, trionode: Trionode
):
    port, file, storage = free_port(), tmp_path / "node.toml", tmp_path / "s"

    def write(**settings: object) -> None:
        table = {
            "main_server": master.url,
            "node_address": f"127.0.0.1:{port}",
            "host": "127.0.0.1",
            "port": port,
            "storage_path": str(storage),
            **settings,
        }
        lines = (f"{k} = {v}" if isinstance(v, int) else f'{k} = "{v}"' for k, v in table.items())
        file.write_text("\n".join(lines))

    async def limit() -> int:
        return (await node.status())["max_downloads"]

    write(max_downloads=5)
    node = OurNode(spawn(BIN / "trionode", "serve", "--config", file, name="reloaded"), port, storage)
    await node.until_synced("big")
    write(max_downloads=9, sync_interval=77)
    done = await trionode("reload", "--storage-path", storage)
    assert (done.returncode, done.stdout) == (OK, "changed: max_downloads\nneeds a restart: sync_interval\n")
    assert await limit() == 9
    write(max_downloads="many")
    done = await trionode("reload", "--config", file)
    assert (done.returncode, done.stdout) == (USAGE, "")  # the command reads the same file
    done = await trionode("reload", "--storage-path", storage)
    assert (done.returncode, done.stdout) == (USAGE, ""), done.stderr
    assert "'max_downloads'" in done.stderr
    assert "'many'" in done.stderr
    assert await limit() == 9
    write(max_downloads=9)
    done = await trionode("reload", "--storage-path", storage)
    assert (done.returncode, done.stdout) == (OK, "changed: nothing\n")
    assert node.process.stop(within=15) == 0


async def test_reload_without_a_node_is_reported(tmp_path: Path, trionode: Trionode):
    done = await trionode("reload", "--storage-path", tmp_path / "nowhere")
    assert done.returncode == NOT_RUNNING
    assert f"no node runs on the storage folder {tmp_path / 'nowhere'}" in done.stderr
