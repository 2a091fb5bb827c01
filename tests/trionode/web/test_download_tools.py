"""Download tools, with a node that has the package and with one that still has to fetch it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode


@pytest.fixture
def big(folder: Path) -> Package:
    return make_package(folder / "big.zip", make_documents(8, 3_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


def run(spawn: Spawner, saved: Path, *command: str) -> str:
    """Run a downloader, and return the digest of what it saved."""
    process = spawn(*command, cwd=saved.parent)
    assert process.wait(within=60) == 0, process.log()
    return digest_of(saved.read_bytes())


def aria2c(url: str, saved: Path) -> tuple[str, ...]:
    """Return a command that downloads over sixteen connections, each a range of its own."""
    return ("aria2c", "--no-conf", "-q", "-x16", "-s16", "-k1M", "--all-proxy=", "-o", saved.name, url)


async def test_aria2c_downloads_sixteen_ranges_from_a_node_without_the_package(
    spawn: Spawner, master: ShimMaster, start_node: StartNode, tmp_path: Path, big: Package
):
    node = start_node(master.url)
    await node.until_up()
    url = f"{node.package_url('big')}?v={big.digest}"
    assert run(spawn, tmp_path / "cold.zip", *aria2c(url, tmp_path / "cold.zip")) == big.digest
    # Sixteen ranges at once cost the master no more than one download.
    assert (await node.status())["bytes_fetched"] < 1.05 * big.size
    await node.until_synced("big")
    assert run(spawn, tmp_path / "warm.zip", *aria2c(url, tmp_path / "warm.zip")) == big.digest
    status = await node.status()
    assert (status["active_downloads"], status["queued_downloads"]) == (0, 0)


async def test_aria2c_downloads_from_a_node_whose_master_sends_no_length(
    spawn: Spawner, fakes: FakeFactory, folder: Path, start_node: StartNode, tmp_path: Path, big: Package
):
    master = fakes.master(folder, started=("big",))
    node = start_node(master.url)
    await node.until_up()
    saved = tmp_path / "cold.zip"
    assert run(spawn, saved, *aria2c(node.package_url("big"), saved)) == big.digest


async def test_wget_and_curl_continue_where_they_were_cut_off(
    spawn: Spawner, master: ShimMaster, start_node: StartNode, tmp_path: Path, big: Package
):
    node = start_node(master.url)
    await node.until_synced("big")
    url, saved = node.package_url("big"), tmp_path / "part.zip"
    beginning = big.path.read_bytes()[: big.size // 3]
    for command in (
        ("wget", "-q", "--no-proxy", "-c", "-O", saved.name, url),
        ("curl", "-sS", "--noproxy", "*", "-C", "-", "-o", saved.name, url),
    ):
        saved.write_bytes(beginning)
        assert run(spawn, saved, *command) == big.digest
    rest = 2 * (big.size - len(beginning))
    assert (await node.status())["bytes_sent"] == rest, "only what was missing was sent"


@pytest.mark.parametrize("protocol", [("--h1",), ("-p", "h2c")])
async def test_h2load_counts_every_answer_as_succeeded(
    spawn: Spawner, master: ShimMaster, start_node: StartNode, big: Package, protocol: tuple[str, ...]
):
    node = start_node(master.url)
    await node.until_synced("big")
    process = spawn("h2load", *protocol, "-n", "40", "-c", "8", "-m", "4", node.package_url("big"))
    assert process.wait(within=60) == 0, process.log()
    assert "40 total, 40 started, 40 done, 40 succeeded, 0 failed, 0 errored" in process.log()
    taken = re.search(r"\((\d+)\) data$", process.log(), re.MULTILINE)
    assert taken is not None
    assert int(taken[1]) == 40 * big.size
