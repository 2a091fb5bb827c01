"""A node and a master with the shim: manifests, missing ranges only, exact versions, and redirects to the node."""

from __future__ import annotations

import io
import zipfile
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.support.masters import ShimMaster
from tests.support.nodes import STARTS, Start, digest_of
from tests.support.packages import make_documents, make_package, rebuild
from tests.support.relay import relaying
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode


@pytest.fixture
def master(spawn: Spawner, folder: Path, package: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


_clients = count(1)


async def through_redirect(master: ShimMaster, meeting_id: str = "m1") -> httpx.Response:
    """Download as a tablet with a new address: the shim sends one that comes again to another node."""
    transport = httpx.AsyncHTTPTransport(local_address=f"127.0.9.{next(_clients)}")
    async with httpx.AsyncClient(transport=transport, timeout=30, follow_redirects=True) as client:
        return await client.get(f"{master.url}/api/v1/meetings/{meeting_id}/download-package")


async def until_offered(master: ShimMaster, *ports: int, meeting_id: str = "m1") -> None:
    digest = master.version(meeting_id)

    def offered() -> bool:
        nodes = master.get(f"/api/v1/packages/{digest}/nodes").json()
        return {node["address"] for node in nodes if node["held"]} == {f"127.0.0.1:{port}" for port in ports}

    await eventually(offered, within=30)


async def test_a_node_reports_why_the_master_has_no_package(master: ShimMaster, folder: Path, start_node: StartNode):
    (folder / "empty.zip").touch()
    node = start_node(master.url)
    await node.until_synced("m1")

    async def reported() -> bool:
        meetings = {meeting["id"]: meeting for meeting in (await node.status())["active_meetings"]}
        return "The meeting's package cannot be read: not a package: it is empty" in meetings["empty"]["reason"]

    await eventually(reported, within=20)
    assert "it is empty" in (await node.status())["sync_status"]
    make_package(folder / "empty.zip", make_documents(1, 1_000))
    await node.until_synced("m1", "empty")


@pytest.mark.parametrize("how", STARTS)
async def test_a_tablet_is_redirected_to_the_node_and_gets_the_version_of_the_redirect(
    master: ShimMaster, package: Package, start_node: StartNode, how: Start
):
    node = start_node(master.url, how=how)
    await node.until_synced("m1")
    await until_offered(master, node.port)
    answer = await through_redirect(master)
    assert answer.status_code == 200
    assert answer.url.port == node.port
    assert answer.url.params["v"] == package.digest
    assert digest_of(answer.content) == package.digest
    assert int(answer.headers["content-length"]) == package.size
    assert node.process.stop() == 0
    assert master.nodes() == []
    assert (await through_redirect(master)).url.port == master.port


async def test_an_update_fetches_only_its_new_bytes(spawn: Spawner, folder: Path, start_node: StartNode):
    package = make_package(folder / "m1.zip", make_documents(40, 100_000), level=1)
    master = ShimMaster(spawn, folder)
    node = start_node(master.url)
    await node.until_synced("m1")
    before = (await node.status())["bytes_fetched"]
    assert before < package.size * 1.05
    new = rebuild(package, made_at=package.made_at + timedelta(hours=1), replaced=[17])

    async def updated() -> bool:
        meetings = (await node.status())["active_meetings"]
        return meetings[0]["version"] == new.digest and meetings[0]["state"] == "current"

    await eventually(updated, within=20)
    fetched = (await node.status())["bytes_fetched"] - before
    # Documents of 100 kB: the manifest is 20 times as large as with documents of 2 MB.
    assert new.new_bytes < fetched < new.new_bytes + 20_000
    assert digest_of((await node.download("m1")).content) == new.digest


async def test_the_requested_version_is_exact(master: ShimMaster, package: Package, start_node: StartNode):
    node = start_node(master.url, sync_interval=86400)
    await node.until_synced("m1")
    new = rebuild(package, made_at=package.made_at + timedelta(hours=1))
    # At once, before the next poll: the node asks the master and serves from its own fill.
    answer = await node.download("m1", params={"v": new.digest})
    assert answer.status_code == 200, answer.text
    assert digest_of(answer.content) == new.digest
    old = await node.download("m1", params={"v": package.digest})
    assert digest_of(old.content) == package.digest
    assert (await node.download("m1", params={"v": "f" * 64})).status_code == 404


async def test_a_fill_continues_where_it_was_killed(
    spawn: Spawner, folder: Path, tmp_path: Path, start_node: StartNode
):
    package = make_package(folder / "m1.zip", make_documents(24, 1_000_000), level=1)
    storage = tmp_path / "one-storage"
    async with relaying(ShimMaster(spawn, folder).port, 10_000_000) as relay:
        for _ in range(4):
            received = relay.received
            node = start_node(relay.url, storage=storage)
            await eventually(lambda before=received: relay.received > before + package.size // 5, within=20)
            node.process.kill()
        relay.rate = 1e9
        node = start_node(relay.url, storage=storage)
        await node.until_synced("m1")
        assert digest_of((await node.download("m1")).content) == package.digest
        # If each had begun anew, it would be 1.8 times the size.
        assert relay.received < 1.5 * package.size


async def test_a_fill_of_a_version_that_is_replaced_ends_in_favour_of_the_new_one(
    spawn: Spawner, folder: Path, start_node: StartNode
):
    package = make_package(folder / "m1.zip", make_documents(12, 4_000_000), level=1)
    master = ShimMaster(spawn, folder)
    node = start_node(master.url)
    await node.until_up()
    new = rebuild(package, made_at=package.made_at + timedelta(hours=1), replaced=range(6))

    async def serves_the_new_one() -> bool:
        return digest_of((await node.download("m1")).content) == new.digest

    await eventually(serves_the_new_one, within=30)

    def incoming() -> list[str]:
        return [path.name for path in (node.storage / "incoming").iterdir() if path.suffix != ".lock"]

    await eventually(lambda: not incoming())


async def test_two_meetings_with_one_package_share_it(
    spawn: Spawner, folder: Path, package: Package, start_node: StartNode
):
    (folder / "m2.zip").write_bytes((folder / "m1.zip").read_bytes())
    master = ShimMaster(spawn, folder)
    node = start_node(master.url)
    await node.until_synced("m1", "m2")
    status = await node.status()
    assert status["versions"] == 1
    assert status["bytes_fetched"] < package.size * 1.1
    assert digest_of((await node.download("m2")).content) == package.digest


async def test_simultaneous_first_requests_are_one_fill(spawn: Spawner, folder: Path, start_node: StartNode):
    package = make_package(folder / "m1.zip", make_documents(5, 4_000_000), level=1)
    async with relaying(ShimMaster(spawn, folder).port) as relay:
        node = start_node(relay.url)
        await node.until_up()
        relay.rate = 10_000_000
        answers: list[str] = []

        async def first() -> None:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                answer = await client.get(node.package_url("m1"), params={"v": package.digest})
                assert answer.status_code == 200, answer.text
                answers.append(digest_of(answer.content))

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(first)
        assert answers == [package.digest] * 40
        assert (await node.status())["bytes_fetched"] < package.size * 1.01
        assert relay.received < package.size * 1.05


async def test_ranges_and_lengths_are_served_during_a_fill(spawn: Spawner, folder: Path, start_node: StartNode):
    package = make_package(folder / "m1.zip", make_documents(10, 4_000_000), level=1)
    whole = package.path.read_bytes()
    master = ShimMaster(spawn, folder)
    node = start_node(master.url)
    await node.until_up()
    async with trio.open_nursery() as nursery:
        for start in range(0, package.size, package.size // 10):

            async def part(start: int = start) -> None:
                answer = await node.download(
                    "m1", params={"v": package.digest}, headers={"Range": f"bytes={start}-{start + 999}"}
                )
                assert answer.status_code == 206
                assert answer.content == whole[start : start + 1000]
                assert answer.headers["content-range"].endswith(f"/{package.size}")

            nursery.start_soon(part)


async def test_the_directory_of_a_zip_is_served_long_before_the_end_of_a_fill(
    spawn: Spawner, folder: Path, start_node: StartNode
):
    package = make_package(folder / "m1.zip", make_documents(12, 1_000_000), level=0)
    whole = package.path.read_bytes()
    master = ShimMaster(spawn, folder)
    async with relaying(master.port, 1_500_000) as relay:
        node = start_node(relay.url)
        await node.until_up()
        for count in (22, 65_557):  # what readers of zips ask for first
            answer = await node.download("m1", headers={"Range": f"bytes=-{count}"})
            assert (answer.status_code, answer.content) == (206, whole[-count:])
            assert relay.received < package.size * 2 / 3
        assert digest_of((await node.download("m1")).content) == package.digest
        assert relay.received < package.size * 1.05


@pytest.mark.parametrize("tool", ["curl", "wget"])
async def test_download_tools_continue_where_they_stopped(
    master: ShimMaster, package: Package, start_node: StartNode, spawn: Spawner, tmp_path: Path, tool: str
):
    node = start_node(master.url)
    await node.until_synced("m1")
    await until_offered(master, node.port)
    target = tmp_path / "download.zip"
    target.write_bytes(package.path.read_bytes()[: package.size // 3])
    url = f"{master.url}/api/v1/meetings/m1/download-package"
    command = {
        "curl": ("curl", "-sS", "-L", "-C", "-", "-o", target, url),
        "wget": ("wget", "-q", "-c", "-O", target, url),
    }[tool]
    process = spawn(*command)
    assert process.wait(within=30) == 0, process.log()
    assert digest_of(target.read_bytes()) == package.digest
    assert spawn("unzip", "-tq", target).wait(within=30) == 0


async def test_a_deployed_node_beside_ours_is_offered_and_serves(
    master: ShimMaster, package: Package, start_node: StartNode, fakes: FakeFactory
):
    legacy = fakes.node(master.url)

    node = start_node(master.url)

    def both() -> list[dict[str, str]] | None:
        # Each time as another tablet: one that asks again and again counts as one that no node can serve.
        transport = httpx.HTTPTransport(local_address=f"127.0.9.{next(_clients)}")
        with httpx.Client(transport=transport) as client:
            infos = client.get(f"{master.url}/api/v1/meetings/m1/download-nodes-info").json()
        return infos if {info["ip"] for info in infos} == {legacy.address, f"127.0.0.1:{node.port}"} else None

    for info in await eventually(both, within=30):
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            assert digest_of((await client.get(info["download_url"])).content) == package.digest


def zip_of(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return made.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"no zip", b"x" * 300_000, zip_of("ERROR.txt"), zip_of(), zip_of("a.pdf")[:-30]],
    ids=["text", "long", "error", "nothing", "cut"],
)
async def test_a_file_that_is_no_package_is_not_stored_although_its_digest_is_right(
    master: ShimMaster, package: Package, start_node: StartNode, content: bytes
):
    new = master.folder / ".bad"
    new.write_bytes(content)
    new.replace(master.folder / "bad.zip")
    node = start_node(master.url)
    await node.until_synced("m1")
    await eventually(lambda: "not a package" in node.process.log(), within=30)
    assert await node.synced() == ["m1"]
    assert (await node.download("bad")).status_code == 503
    assert [path.stem for path in (node.storage / "packages").glob("*.zip")] == [package.digest]


async def test_a_node_keeps_the_meetings_of_a_folder_that_vanished(
    master: ShimMaster, folder: Path, package: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("m1")
    await until_offered(master, node.port)
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()
    await eventually(lambda: "stay in progress for 300 s" in master.process.log(), what="a line of the master's log")
    polled = (await node.status())["last_sync"]

    async def polled_again() -> bool:
        return (await node.status())["last_sync"] > polled

    await eventually(polled_again, within=20)
    assert await node.synced() == ["m1"]
    answer = await through_redirect(master)
    assert (str(answer.url).startswith(node.url), digest_of(answer.content)) == (True, package.digest)
    assert master.process.log().count("the packages folder") == 1
