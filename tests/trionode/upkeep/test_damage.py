"""Packages of a running node that are damaged on the disk: never sent, and repaired."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from store import Store
from tests.support.local_master import BLOCK, flip_on_disk, local_master, verify
from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.stored import path_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode

FLIP_DOWNLOADS = int(os.environ.get("TRIONODE_FLIP_DOWNLOADS", "60"))
SEED = int(os.environ.get("TRIONODE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)


@pytest.fixture
def big(folder: Path) -> Package:
    """The package of the meeting big: 32 MB, more than the socket buffers on its way can hold."""
    return make_package(folder / "big.zip", make_documents(32, 1_000_000), level=1)


async def test_clients_never_receive_flipped_bytes_and_they_are_repaired(
    folder: Path, big: Package, start_node: StartNode
):
    rng = random.Random(SEED)
    correct, refused, flips = 0, 0, 0
    async with local_master(folder) as master:
        node = start_node(master.url)
        await node.until_synced("big")
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client, trio.open_nursery() as nursery:
            remaining = iter(range(FLIP_DOWNLOADS))

            async def download() -> None:
                nonlocal correct, refused
                for _ in remaining:
                    try:
                        answer = await client.get(node.package_url("big"))
                    except (httpx.RemoteProtocolError, httpx.ReadError):
                        refused += 1
                        continue
                    if answer.status_code == 200:
                        assert digest_of(answer.content) == big.digest, f"a wrong byte was sent; seed {SEED}"
                        correct += 1
                    else:
                        assert answer.status_code in {503, 404}
                        refused += 1
                done.release()

            async def keep_flipping() -> None:
                nonlocal flips
                while True:
                    await trio.sleep(rng.uniform(0.0, 0.4))
                    for _ in range(rng.choice((1, 1, 3))):
                        await trio.to_thread.run_sync(
                            flip_on_disk, path_of(node.storage, big), rng.randrange(big.size // BLOCK * BLOCK)
                        )
                        flips += 1

            done = trio.Semaphore(0)
            nursery.start_soon(keep_flipping)
            for _ in range(4):
                nursery.start_soon(download)
            for _ in range(4):
                await done.acquire()
            nursery.cancel_scope.cancel()
        # Damage is found without a download, too: the files of advertised versions are checked every few seconds.
        flip_on_disk(path_of(node.storage, big), big.size // 2)

        async def repaired() -> bool:
            return (await verify(node))[0] == 0

        await eventually(repaired, within=30)
        health = (await node.status())["health"]
        print(f"{correct} correct, {refused} refused, {flips} flips, {health}, seed {SEED}")
        assert correct + refused == FLIP_DOWNLOADS
        assert correct > FLIP_DOWNLOADS // 2
        assert health["repaired_chunks"] > 0
        assert await node.synced() == ["big"]


@pytest.mark.parametrize("how", ["serve", "hypercorn"])
async def test_a_byte_that_is_flipped_ahead_of_a_client_is_repaired_before_it_is_sent(
    folder: Path, big: Package, start_node: StartNode, how: Any
):
    async with local_master(folder) as master:
        node = start_node(master.url, how=how)
        await node.until_synced("big")
        fetched = (await node.status())["bytes_fetched"]
        async with (
            httpx.AsyncClient(trust_env=False, timeout=30) as client,
            client.stream("GET", node.package_url("big")) as answer,
        ):
            parts = answer.aiter_raw()
            received = bytearray(await anext(parts))
            flip_on_disk(path_of(node.storage, big), big.size - 3_000_000)
            async for part in parts:
                received += part
        assert digest_of(received) == big.digest
        status = await node.status()
        assert status["health"]["repaired_chunks"] == 1
        assert 0 < status["bytes_fetched"] - fetched < 4 << 20


async def test_damage_that_cannot_be_repaired_now_cuts_answers_off_and_the_package_is_not_advertised(
    folder: Path, big: Package, start_node: StartNode
):
    port = free_port()
    async with local_master(folder, port) as master:
        node = start_node(master.url)
        await node.until_synced("big")
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - it is cut off while it is read
            async with client.stream("GET", node.package_url("big")) as answer:
                parts = answer.aiter_raw()
                await anext(parts)
                flip_on_disk(path_of(node.storage, big), big.size - 3_000_000)
                async for _ in parts:
                    pass
    assert await node.synced() == []
    assert (await node.download("big")).status_code == 503
    assert (await node.status())["health"]["unrepaired"] > 0
    assert path_of(node.storage, big).exists()
    async with local_master(folder, port):
        await node.until_synced("big", within=40)
        assert digest_of((await node.download("big")).content) == big.digest
        status = await node.status()
        assert status["health"]["repaired_chunks"] == 1
        assert status["bytes_fetched"] < big.size + (8 << 20)


async def test_a_node_scrubs_packages_that_no_client_requests(folder: Path, tmp_path: Path, start_node: StartNode):
    storage = tmp_path / "storage"
    Store.open(storage).close()
    for name in ("good", "bad"):
        path = make_package(tmp_path / f"{name}.zip", make_documents(2, 500_000, seed=name)).path
        command = [BIN / "trionode", "import", path, "--meeting", name, "--pin", "--storage-path", storage, "--json"]
        found = await trio.run_process(command, capture_stdout=True)
        digest = json.loads(found.stdout)["version"]
    flip_on_disk(storage / "packages" / f"{digest}.zip", 300_000)
    async with local_master(folder) as master:
        node = start_node(master.url, storage=storage)
        await node.until_up()

        async def scrubbed() -> bool:
            health = (await node.status())["health"]
            return health["unrepairable"] == 1 and health["scrubbed_bytes"] >= 1_000_000

        await eventually(scrubbed, within=20)
        assert (await node.download("bad")).status_code == 404
        assert (await node.download("good")).status_code == 200
        assert (await verify(node))[0] == 0


async def test_a_damaged_package_of_a_deployed_master_is_fetched_again(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode
):
    master = fakes.master(folder)
    started = master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    flip_on_disk(node.storage / "packages" / f"{started['digest']}.zip", package.size // 2 // BLOCK * BLOCK)
    for _ in range(3):
        answer = await node.download("m1")
        assert digest_of(answer.content) == started["digest"]
    assert master.state()["downloads_begun"] >= 2
    await node.until_synced("m1")
    assert (await verify(node))[0] == 0
