"""Downloads of a running node: limits, the log, and clients that leave. Everything they held is released."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import memory_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"

ABORTS = int(os.environ.get("TRIONODE_TEST_ABORTS", "150"))
"""1,000 take half a minute; CI has less time."""


@pytest.fixture
def big(folder: Path) -> Package:
    """A package that fits into no socket's buffers: 24 MB."""
    return make_package(folder / "big.zip", make_documents(6, 4_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


async def test_each_download_is_one_line_of_the_log(master: ShimMaster, start_node: StartNode, big: Package):
    node = start_node(master.url)
    await node.until_synced("big")
    await node.download("big")
    await node.download("big", headers={"Range": "bytes=5-14"})
    async with asking(node.port, PATH):
        await node.until_active(1)
    await node.until_active(0)

    def lines() -> list[dict[str, str]]:
        found = [line for line in node.process.log().splitlines() if re.search(r"\] download\b", line)]
        return [dict(re.findall(r"(\w+)='?([^\s']+)", line)) for line in found]

    await eventually(lambda: len(lines()) == 3)
    whole, part, left = lines()
    assert (whole["outcome"], whole["bytes"], whole["meeting"]) == ("sent", str(big.size), "big")
    assert (whole["version"], whole["client"]) == (big.digest, "127.0.0.1")
    assert (part["outcome"], part["bytes"], part["range"]) == ("sent", "10", "bytes=5-14")
    assert left["outcome"] == "left"
    assert 0 <= int(left["bytes"]) < big.size
    assert all({"seconds", "first_byte"} <= line.keys() for line in lines())


async def test_simultaneous_downloads_are_counted_exactly(master: ShimMaster, start_node: StartNode, big: Package):
    node = start_node(master.url)
    await node.until_synced("big")
    digests: list[str] = []

    async def download() -> None:
        digests.append(digest_of((await node.download("big")).content))

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(download)
    assert digests == [big.digest] * 12

    async def counted() -> bool:
        status = await node.status()
        return (status["downloads_finished"], status["bytes_sent"]) == (12, 12 * big.size)

    await eventually(counted)
    assert (await node.metrics())["trionode_downloads_total{outcome=sent}"] == 12


async def test_a_download_above_the_limit_waits_for_a_permit_and_the_next_is_refused(
    master: ShimMaster, start_node: StartNode, big: Package
):
    node = start_node(master.url, max_downloads=1, queue_seconds=2)
    await node.until_synced("big")
    async with trio.open_nursery() as nursery, asking(node.port, PATH):
        await node.until_active(1)

        async def wait_and_get() -> None:
            answer = await node.download("big")
            assert (answer.status_code, digest_of(answer.content)) == (200, big.digest)

        nursery.start_soon(wait_and_get)
        await node.until_active(1, 1)
        # The node reports both to the master, which then redirects no client here.
        await eventually(lambda: master.get(PATH, follow_redirects=False).status_code == 200)
        refused = await node.download("big")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert list(refused.json()) == ["detail"]
        # An answer without a body needs no permit.
        known = await node.download("big", headers={"If-None-Match": f'"{big.digest}"'})
        assert known.status_code == 304
    # Now the queue is empty, and a request that waits too long in it is refused.
    async with asking(node.port, PATH), trio.open_nursery() as nursery:
        await node.until_active(1)

        async def wait_and_be_refused() -> None:
            assert (await node.download("big")).status_code == 503

        nursery.start_soon(wait_and_be_refused)
        await node.until_active(1, 1)
    await node.until_active(0)
    found = await node.metrics()
    assert found["trionode_downloads_total{outcome=refused}"] == 2
    assert found["trionode_downloads_limit"] == 1


async def test_of_many_simultaneous_downloads_as_many_are_served_as_allowed(
    master: ShimMaster, start_node: StartNode, big: Package
):
    node = start_node(master.url, max_downloads=6, queue_seconds=0)
    await node.until_synced("big")
    statuses: list[bytes] = []
    release = trio.Event()

    async def hold() -> None:
        async with asking(node.port, PATH) as client:
            statuses.append((await client.read_head()).split()[1])
            await release.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(hold)
        await eventually(lambda: len(statuses) == 12)
        assert sorted(statuses) == [b"200"] * 6 + [b"503"] * 6
        assert (await node.status())["active_downloads"] == 6
        release.set()
    await node.until_active(0)
    assert (await node.download("big")).status_code == 200


@pytest.mark.parametrize("how", ["serve", "hypercorn"])
async def test_downloads_together_keep_the_total_rate_limit(
    master: ShimMaster, start_node: StartNode, big: Package, how: str
):
    rate = 16 << 20
    node = start_node(master.url, how=how, total_bytes_per_second=rate)
    await node.until_synced("big")
    took: list[float] = []

    async def get() -> None:
        assert digest_of((await node.download("big")).content) == big.digest
        took.append(time.monotonic() - began)

    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(get)
    least = 2 * big.size / rate - 0.25
    assert took[1] >= least * 0.99
    # They ran side by side: the first ended near the end, not at half of it.
    assert took[0] >= least * 0.8


class Reader:
    """A client that has requested a package, with a blocking socket."""

    def __init__(self, node: OurNode, *, range_header: str = "", buffer: int = 4096) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", node.port))
        fields = f"Range: {range_header}\r\n" if range_header else ""
        self.socket.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())

    def read(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count and (data := self.socket.recv(min(65536, count - len(got)))):
            got += data
        return bytes(got)

    def leave(self, *, reset: bool = False) -> None:
        if reset:  # not an orderly end
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


async def test_clients_that_leave_at_random_leave_nothing_behind(
    master: ShimMaster, start_node: StartNode, big: Package
):
    node = start_node(master.url)
    await node.until_synced("big")
    await node.download("big", headers={"Range": "bytes=0-1,1000000-1000001"})
    await node.status()

    def descriptors() -> Counter[str]:
        found: Counter[str] = Counter()
        for link in Path(f"/proc/{node.process.pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue
            found["socket" if target.startswith("socket") else target] += 1
        return found

    before = descriptors()
    rng = Random(6)
    ranges = ["", "", "bytes=1000000-", "bytes=-3000000", "bytes=0-99999,5000000-9000000,-500000"]

    async def abort(number: int) -> None:
        reader = await trio.to_thread.run_sync(
            lambda: Reader(node, range_header=rng.choice(ranges), buffer=rng.choice([2048, 65536, 1 << 20]))
        )
        how_much = rng.choice([0, 1, 100, 10_000, 500_000, 5_000_000])
        await trio.to_thread.run_sync(reader.read, how_much)
        reader.leave(reset=rng.random() < 0.5)

    async def worker(numbers: list[int]) -> None:
        while numbers:
            await abort(numbers.pop())

    numbers = list(range(ABORTS))
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(worker, numbers)
    await node.until_active(0)
    found = await node.metrics()
    assert (found["trionode_downloads_active"], found["trionode_downloads_queued"]) == (0, 0)
    ended = sum(found[f"trionode_downloads_total{{outcome={name}}}"] for name in ("sent", "left", "failed"))
    assert ended <= ABORTS + 1
    assert found["trionode_downloads_total{outcome=failed}"] == 0
    # The node's own connections to its master come and go.
    await eventually(lambda: descriptors()["socket"] <= before["socket"] + 2)
    after = descriptors()
    after["socket"] = before["socket"]
    assert after == before
    assert (await node.status())["sending"] == {}
    assert memory_of(node.process.pid, "VmHWM") < 120 << 20
    log = node.process.log()
    assert "Traceback" not in log
    assert digest_of((await node.download("big")).content) == big.digest


STALLED = 5


async def test_clients_that_stop_reading_do_not_delay_the_end_of_the_node(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("big")
    stalled = [Reader(node) for _ in range(STALLED)]
    await node.until_active(STALLED)
    for reader in stalled[2:]:
        reader.leave()
    await node.until_active(2)
    assert (await node.status())["downloads_broken_off"] == STALLED - 2
    assert node.process.stop(within=10) == 0
    for reader in stalled[:2]:
        reader.leave()


async def test_downloads_that_are_aborted_at_once_leave_no_descriptor_and_no_count(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("big")
    await node.status()

    def descriptors() -> list[str]:
        found = []
        for link in Path(f"/proc/{node.process.pid}/fd").iterdir():
            try:
                found.append(str(link.readlink()))
            except FileNotFoundError:
                continue
        return sorted(name for name in found if ".zip" in name or "socket" in name)

    before = descriptors()
    for _ in range(40):
        readers = [Reader(node) for _ in range(5)]
        for reader in readers:
            reader.leave()
    await node.until_active(0)
    await eventually(lambda: len(descriptors()) <= len(before) + 1)
