"""Requests for packages of meetings that do not exist, and cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest
import trio

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, package: Package) -> RunningMaster:
    return fakes.master(folder, started=("m1",))


@pytest.fixture
async def node(master: RunningMaster, start_node: StartNode) -> OurNode:
    node = start_node(master.url)
    await node.until_synced("m1")
    return node


HOSTILE = [
    "..",
    "%2e%2e",
    "%2e%2e%2f",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..",
    ".",
    "%00",
    "m1%00",
    "%0a",
    "a" * 10_000,
    "%ef%bc%8e%ef%bc%8e",  # full-width dots
    "%e2%80%a4%e2%80%a4",  # one dot leaders
    "m1%e2%81%84",  # a fraction slash
    "m1%ef%bc%8f",  # a full-width slash
    "%252e%252e",  # for a second decoding
    "%ff%fe",
    "",
]


async def test_hostile_ids_touch_neither_disk_nor_master(node: OurNode, master: RunningMaster):
    before = sorted(node.storage.rglob("*"))
    await request_all(node)
    assert asked_about(master) <= {"m1", "status"}
    # For an id that could exist the node asks its master, and for a hostile one it does not.
    master.kill()

    async def asks_master() -> bool:
        return (await node.download("guess")).status_code == 503

    await eventually(asks_master)  # once its last poll is too old
    await request_all(node)
    assert sorted(node.storage.rglob("*")) == before


async def request_all(node: OurNode) -> None:
    """Request a package of each hostile id: there is none."""
    for path in HOSTILE:
        for route in ("/api/v1/meetings/{}/download-package", "/api/meetings/{}/download"):
            # Not through httpx, which normalises paths.
            answer = await ask_raw(node, f"GET {route.format(path)} HTTP/1.1")
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.split()[1] in {b"404", b"400"}, (path, head)
            assert not body or list(json.loads(body)) == ["detail"], (path, body)


def asked_about(master: RunningMaster) -> set[str]:
    """Return what follows `/meetings/` in the paths that the master was asked for."""
    return {path.partition("/meetings/")[2].partition("/")[0] for path in master.state()["requests"]} - {""}


async def ask_raw(node: OurNode, head: str) -> bytes:
    """Send a request literally, and return everything that is received until the node closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    with trio.fail_after(20):
        async with stream:
            await stream.send_all(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return b"".join([part async for part in stream])


async def test_unknown_ids_cause_few_requests_to_the_master(node: OurNode, master: RunningMaster):
    master.reset()

    async def guess(number: int) -> None:
        assert (await node.download(f"guess-{number}")).status_code == 404

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(guess, number)
    assert asked_about(master) <= {"m1", "status"}
    # Its list of meetings is polled again for them, but not for each.
    assert master.state()["requests"]["GET /api/v1/meetings/status/node"] < 100


async def test_names_that_people_have_are_served_and_invalid_ones_logged_once(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode
):
    names = ["board (1)", "会议（一）", "Q3, final", "R&D", "2026#1", "100% done", "x" * 238]
    for name in (*names, "a/b"):
        (folder / f"{quote(name, safe='')[:250]}.zip").write_bytes(package.path.read_bytes())
    master = fakes.master(folder, started=(*names, "a/b"))
    node = start_node(master.url)
    await node.until_synced(*names)
    for name in names:
        answer = await node.download(quote(name, safe=""))
        assert answer.status_code == 200
        disposition = answer.headers["content-disposition"]
        assert f"meeting_{name}.zip" in unquote(disposition)
    master.reset()

    async def polled() -> bool:
        return master.state()["requests"].get("GET /api/v1/meetings/status/node", 0) >= 2

    await eventually(polled, what="two more polls")
    assert node.process.log().count("a meeting of the master is left out") == 1
