"""Limits, logs and counters of a running node, and clients that leave at random: everything is given back."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

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

ABORTS = int(os.environ.get("TRIONODE_TEST_ABORTS", "150"))
"""1,000 take half a minute; CI has less time."""


@pytest.fixture
def big(folder: Path) -> Package:
    """A package that fits into no socket's buffers: 24 MB."""
    return make_package(folder / "big.zip", make_documents(6, 4_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


class Reader:
    """A client that has asked for a package, and reads as much of the answer as it is told to."""

    def __init__(self, node: OurNode, *, range_header: str = "", buffer: int = 4096) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", node.port))
        fields = f"Host: x\r\n{range_header and f'Range: {range_header}'}\r\n".rstrip("\r\n")
        self.socket.sendall(f"GET /api/v1/meetings/big/download-package HTTP/1.1\r\n{fields}\r\n\r\n".encode())

    def read(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count and (data := self.socket.recv(min(65536, count - len(got)))):
            got += data
        return bytes(got)

    def leave(self, *, rudely: bool = False) -> None:
        if rudely:  # a reset, and not an orderly end
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


async def metrics(node: OurNode) -> dict[str, float]:
    answer = await node.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in parse_text(answer.text)
        for sample in family.samples
    }


async def all_active(node: OurNode, active: int, queued: int = 0) -> None:
    async def check() -> bool:
        status = await node.status()
        return (status["active_downloads"], status["queued_downloads"]) == (active, queued)

    await eventually(check, what=f"{active} active, {queued} queued")


async def test_counters_say_what_was_done(master: ShimMaster, start_node: StartNode, big: Package):
    node = start_node(master.url)
    await node.until_synced("big")
    assert digest_of((await node.download("big")).content) == big.digest
    part = await node.download("big", headers={"Range": "bytes=0-9,100000-100009"})
    assert part.status_code == 206
    await node.download("big", headers={"If-None-Match": part.headers["etag"]})
    gone = Reader(node)
    await all_active(node, 1)
    gone.leave()
    await all_active(node, 0)
    found = await metrics(node)
    assert found["trionode_downloads_total{outcome=sent}"] == 2
    assert found["trionode_downloads_total{outcome=left}"] == 1
    assert found["trionode_downloads_total{outcome=failed}"] == 0
    whole, parts = big.size, len(part.content)
    # What the third client's kernel took before it left is somewhere below the package's size.
    assert whole + parts < found["trionode_sent_bytes_total"] < 2 * whole
    assert found["trionode_download_seconds_count"] == 2
    assert found["trionode_download_first_byte_seconds_count"] == 3
    assert found["trionode_download_seconds_bucket{le=+Inf}"] == 2
    assert found["trionode_fills_total{outcome=done}"] == 1
    assert whole < found["trionode_fetched_bytes_total{source=origin}"] < 1.05 * whole
    assert found["trionode_storage_bytes{use=stored}"] == whole
    assert found["trionode_meetings{state=current}"] == 1
    assert (found["trionode_downloads_active"], found["trionode_connected"]) == (0, 1)
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = await node.get("/metrics", headers=accept)
    assert answer.headers["vary"] == "Accept"
    names = {family.name for family in parse_openmetrics(answer.text)}
    assert {"trionode_downloads", "trionode_sent_bytes", "trionode_download_seconds"} <= names


async def test_each_download_is_one_line_of_the_log(master: ShimMaster, start_node: StartNode, big: Package):
    node = start_node(master.url)
    await node.until_synced("big")
    await node.download("big")
    await node.download("big", headers={"Range": "bytes=5-14"})
    gone = Reader(node)
    await all_active(node, 1)
    gone.leave()
    await all_active(node, 0)

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


async def test_one_more_than_allowed_waits_for_its_turn_and_two_more_are_refused(
    master: ShimMaster, start_node: StartNode, big: Package
):
    node = start_node(master.url, max_downloads=1, queue_seconds=2)
    await node.until_synced("big")
    first = Reader(node)
    await all_active(node, 1)
    async with trio.open_nursery() as nursery:

        async def wait_and_get() -> None:
            answer = await node.download("big")
            assert (answer.status_code, digest_of(answer.content)) == (200, big.digest)

        nursery.start_soon(wait_and_get)
        await all_active(node, 1, 1)
        # The master hears of both, and sends nobody here.
        await eventually(
            lambda: master.get("/api/v1/meetings/big/download-package", follow_redirects=False).status_code == 200
        )
        refused = await node.download("big")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert list(refused.json()) == ["detail"]
        # What needs no place is answered.
        etag = refused.request.headers.get("x", "") or f'"{big.digest}"'
        assert (await node.download("big", headers={"If-None-Match": etag})).status_code == 304
        first.leave()
    blocker = Reader(node)
    await all_active(node, 1)
    began = time.monotonic()
    assert (await node.download("big")).status_code == 503
    assert time.monotonic() - began >= 1.9
    blocker.leave()
    await all_active(node, 0)
    found = await metrics(node)
    assert found["trionode_downloads_total{outcome=refused}"] == 2
    assert found["trionode_downloads_limit"] == 1


@pytest.mark.parametrize("how", ["serve", "hypercorn"])
async def test_downloads_together_go_no_faster_than_they_may(
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
    # They went side by side: the first was done near the end, and not at half of it.
    assert took[0] >= least * 0.8


async def test_clients_that_leave_at_random_leave_nothing(master: ShimMaster, start_node: StartNode, big: Package):
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
    chance = Random(6)
    ranges = ["", "", "bytes=1000000-", "bytes=-3000000", "bytes=0-99999,5000000-9000000,-500000"]

    async def abort(number: int) -> None:
        reader = await trio.to_thread.run_sync(
            lambda: Reader(node, range_header=chance.choice(ranges), buffer=chance.choice([2048, 65536, 1 << 20]))
        )
        how_much = chance.choice([0, 1, 100, 10_000, 500_000, 5_000_000])
        await trio.to_thread.run_sync(reader.read, how_much)
        reader.leave(rudely=chance.random() < 0.5)

    async def worker(numbers: list[int]) -> None:
        while numbers:
            await abort(numbers.pop())

    numbers = list(range(ABORTS))
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(worker, numbers)
    await all_active(node, 0)
    found = await metrics(node)
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
    # And all is as it was for whoever stays.
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        assert digest_of((await client.get(node.package_url("big"))).content) == big.digest
