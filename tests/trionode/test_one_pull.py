"""Many nodes as processes, and a master that sends a package once."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from master_shim.protocol import NO_TOKEN
from master_shim.protocol.chain import legacy_key
from tests.support.fleet import fleet_at, ordered
from tests.support.masters import ShimMaster
from tests.support.packages import make_documents, make_package
from tests.support.relay import relaying
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.fleet import Fleet
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.support.relay import Relay

EIGHT = tuple(f"node-{number}" for number in range(8))
FIVE = EIGHT[:5]

BEGINNING_BYTES = 256 << 10
"""What a legacy master sends at most to a node that reads the first 64 KiB and then hangs up."""

RANGE_BYTES = 2 << 20


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of 12 MB that no master has yet."""
    return make_package(tmp_path / "new.zip", make_documents(12, 1_000_000), level=0)


class Room:
    """A master behind a relay, and its nodes."""

    def __init__(self, master: ShimMaster | RunningMaster, relay: Relay, fleet: Fleet, folder: Path) -> None:
        self.master = master
        self.relay = relay
        self.fleet = fleet
        self._folder = folder
        self._before = 0

    @property
    def sent(self) -> int:
        """Bytes that the master has sent since the meeting began."""
        return self.relay.received - self._before

    async def begin(self, package: Package, meeting: str = "m1", *, rate: float = 8e6) -> None:
        """Begin a meeting with `package`, at a master that sends so many bytes per second, and let all nodes look."""
        target = self._folder / f"{meeting}.zip"
        part = self._folder / f".{meeting}"
        part.write_bytes(package.path.read_bytes())
        part.rename(target)
        self.relay.rate = rate
        self._before = self.relay.received
        if isinstance(self.master, ShimMaster):
            master = self.master
            await eventually(lambda: master.version(meeting) == package.digest, within=20)
        else:
            self.master.start(meeting)
        await self.fleet.look()

    def key(self, package: Package, meeting: str = "m1") -> str:
        """Return the key of the order in which nodes fetch."""
        return package.digest if isinstance(self.master, ShimMaster) else legacy_key(meeting, NO_TOKEN)


@asynccontextmanager
async def room_of(kind: str, spawn: Spawner, fakes: FakeFactory, folder: Path, tmp_path: Path) -> AsyncIterator[Room]:
    master = ShimMaster(spawn, folder) if kind == "shim" else fakes.master(folder)
    async with relaying(master.port) as relay, fleet_at(relay.url, spawn, tmp_path) as fleet:
        yield Room(master, relay, fleet, folder)


@pytest.fixture(params=["shim", "legacy"])
async def room(
    request: pytest.FixtureRequest, spawn: Spawner, fakes: FakeFactory, folder: Path, tmp_path: Path
) -> AsyncIterator[Room]:
    async with room_of(request.param, spawn, fakes, folder, tmp_path) as made:
        yield made


async def test_the_master_sends_one_copy_to_eight_nodes(room: Room, package: Package):
    await room.fleet.start(*EIGHT)
    await room.begin(package)
    await room.fleet.until_whole(package.digest)
    beginnings = 0 if isinstance(room.master, ShimMaster) else 7 * BEGINNING_BYTES
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
    if isinstance(room.master, ShimMaster):
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
