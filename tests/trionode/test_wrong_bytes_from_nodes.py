"""A node behind a relay that changes what it sends: wrong bytes reach neither disk nor tablet."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.support.fleet import ordered
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.fleet import Fleet
    from tests.support.packages import Package
    from tests.support.room import Room

THREE = ("node-0", "node-1", "node-2")

BODY_BYTES = 8 << 10
"""Longer parts of an answer are of a package; others may be a head, or how far a fill is."""


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of 4 MB that no master has yet."""
    return make_package(tmp_path / "new.zip", make_documents(8, 500_000), level=1)


def flip_middle(data: bytes) -> bytes:
    """Change a byte of each part of a package."""
    if len(data) < BODY_BYTES:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def change_title(data: bytes) -> bytes:
    """Change the README.txt at the beginning of a package, which has the time of its generation."""
    return data.replace(b"README.txt", b"README.txT")


def change_directory(data: bytes) -> bytes:
    """Change what no checksum of a zip covers: the permissions of its members, in its directory."""
    return re.sub(rb"\x00\x00\xa4\x01(.{4}\d\d\d-document)", b"\0\0\xa4\5" + rb"\1", data, flags=re.DOTALL)


async def download(fleet: Fleet, name: str, into: list[bytes], *, task_status: trio.TaskStatus[None]) -> None:
    """Download as a tablet does, from the moment when the node has it, and keep what arrives complete."""
    task_status.started()
    with trio.move_on_after(30):
        while True:
            try:
                answer = await fleet.client.get(fleet[name].package_url("m1"))
            except httpx.TransportError:
                continue  # cut off, so that the tablet has no zip that opens
            if answer.status_code == 200:
                into.append(answer.content)
                return
            await trio.sleep(0.05)


@pytest.mark.parametrize("room", ["shim"], indirect=True)
async def test_wrong_bytes_from_a_node_reach_neither_disk_nor_tablet(room: Room, package: Package):
    liar, victim, last = ordered(room.key(package), THREE)
    got: list[bytes] = []
    async with room.fleet.behind_relay(liar) as relay, trio.open_nursery() as nursery:
        relay.alter = flip_middle
        await room.fleet.start(victim, last)
        await room.begin(package, rate=2e6)
        await nursery.start(partial(download, room.fleet, victim, got))
        part = room.fleet[victim].storage / "incoming" / f"{package.digest}.part"
        found = await eventually(lambda: "sent wrong bytes" in room.fleet.log(victim) and part.read_bytes(), within=20)
        right = package.path.read_bytes()
        assert all(here in (0, there) for here, there in zip(found, right, strict=True))
        await room.fleet.until_whole(package.digest)
    assert [digest_of(data) for data in got] == [package.digest]
    assert re.search(rf"sent wrong bytes.* node={liar}", room.fleet.log(victim)), room.fleet.logs()
    metrics = await room.fleet[victim].metrics()
    assert metrics[f"trionode_peer_wrong_bytes_total{{peer={liar}}}"] >= 1
    assert metrics["trionode_peers_passed_over_total{reason=wrong bytes}"] >= 1
    assert room.fleet.sources(victim) == [liar, "master"]


@pytest.mark.parametrize("room", ["legacy"], indirect=True)
@pytest.mark.parametrize("alter", [flip_middle, change_directory])
async def test_wrong_bytes_at_a_legacy_master_are_no_package(
    room: Room, package: Package, alter: Callable[[bytes], bytes]
):
    liar, victim, last = ordered(room.key(package), THREE)
    got: list[bytes] = []
    async with room.fleet.behind_relay(liar) as relay, trio.open_nursery() as nursery:
        relay.alter = alter
        await room.fleet.start(victim, last)
        await room.begin(package, rate=4e6)
        await nursery.start(partial(download, room.fleet, victim, got))
        await room.fleet.until_whole(package.digest)
    assert [digest_of(data) for data in got] == [package.digest]
    assert re.search(rf"sent wrong bytes.* node={liar}", room.fleet.log(victim)), room.fleet.logs()
    assert (await room.fleet[victim].metrics())[f"trionode_peer_wrong_bytes_total{{peer={liar}}}"] >= 1
    for name in THREE:
        assert room.stored(name) == {package.digest}


@pytest.mark.parametrize("room", ["legacy"], indirect=True)
async def test_a_package_that_begins_unlike_the_masters_is_not_taken(room: Room, package: Package):
    liar, victim = ordered(room.key(package), THREE[:2])
    async with room.fleet.behind_relay(liar) as relay:
        relay.alter = change_title
        await room.fleet.start(victim)
        await room.begin(package, rate=4e6)
        await room.fleet.until_whole(package.digest)
    assert room.fleet.sources(victim) == [liar, "master"]
    assert "begins differently" in room.fleet.log(victim), room.fleet.logs()
    assert room.stored(victim) == {package.digest}
