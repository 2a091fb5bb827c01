"""Many nodes as processes, and a master that sends a package once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import ordered
from tests.support.packages import make_documents, make_package
from tests.support.room import BEGINNING_BYTES, RANGE_BYTES
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import Package
    from tests.support.room import Room

EIGHT = tuple(f"node-{number}" for number in range(8))
FIVE = EIGHT[:5]


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of 12 MB that no master has yet."""
    return make_package(tmp_path / "new.zip", make_documents(12, 1_000_000), level=0)


async def test_the_master_sends_one_copy_to_eight_nodes(room: Room, package: Package):
    await room.fleet.start(*EIGHT)
    await room.begin(package)
    await room.fleet.until_whole(package.digest)
    beginnings = 0 if room.shim else 7 * BEGINNING_BYTES
    assert room.sent < 1.05 * package.size + beginnings, room.fleet.logs()
    first, *others = ordered(room.key(package), EIGHT)
    assert room.fleet.sources(first) == []
    for name in others:
        assert room.fleet.sources(name) not in ([], ["master"]), room.fleet.logs()


async def test_the_others_finish_when_the_first_is_killed(room: Room, package: Package):
    await room.fleet.start(*FIVE)
    await room.begin(package, rate=6e6)
    first, *others = ordered(room.key(package), FIVE)
    await eventually(lambda: room.sent > package.size / 3, within=30)
    room.fleet[first].process.kill()
    await room.fleet.until_whole(package.digest, *others)
    if room.shim:
        # What was on the way to the killed node, and the range that one other node tries at the master.
        assert room.sent < package.size + 2 * RANGE_BYTES, room.fleet.logs()
    else:
        # A stream of an unmodified master cannot be resumed: the next in the order reads it again from its beginning.
        assert room.sent < 2 * package.size + 5 * BEGINNING_BYTES, room.fleet.logs()
    second, *rest = others
    assert room.fleet.sources(second) == [first, "master"]
    for name in rest:
        assert "master" not in room.fleet.sources(name), room.fleet.logs()


async def test_the_others_finish_when_the_first_is_silent(room: Room, package: Package):
    await room.fleet.start(*FIVE)
    await room.begin(package, rate=6e6)
    first, *others = ordered(room.key(package), FIVE)
    await eventually(lambda: room.sent > package.size / 3, within=30)
    room.fleet[first].process.send_signal(signal.SIGSTOP)
    await room.fleet.until_whole(package.digest, *others)
    assert any(f"node={first} reason=unreachable" in room.fleet.log(name) for name in others), room.fleet.logs()
    room.fleet[first].process.send_signal(signal.SIGCONT)
    await room.fleet.until_whole(package.digest, first)


async def test_a_tablet_at_the_last_node_follows_while_the_master_still_sends(room: Room, package: Package):
    await room.fleet.start(*FIVE)
    await room.begin(package, rate=3e6)
    last = ordered(room.key(package), FIVE)[-1]
    received = bytearray()
    async with room.fleet.client.stream("GET", room.fleet[last].package_url("m1")) as answer:
        assert answer.status_code == 200
        async for data in answer.aiter_raw():
            received += data
            if len(received) - len(data) < package.size / 2 <= len(received):
                # Each node before it has more than it has sent on: they pass the bytes on as they arrive.
                assert room.sent < package.size, room.fleet.logs()
    assert received == package.path.read_bytes()
    assert room.fleet.sources(last) not in ([], ["master"]), room.fleet.logs()
