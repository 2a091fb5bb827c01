"""A master, with the shim or without, behind a relay, and its nodes as processes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from master_shim.protocol import NO_TOKEN
from master_shim.protocol.chain import legacy_key
from tests.support.fleet import fleet_at
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
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

BEGINNING_BYTES = 256 << 10
"""What a legacy master sends at most to a node that reads the first 64 KiB and then hangs up."""

RANGE_BYTES = 2 << 20


class Room:
    """A master behind a relay, and its nodes."""

    def __init__(self, master: ShimMaster | RunningMaster, relay: Relay, fleet: Fleet, folder: Path) -> None:
        self.master = master
        self.relay = relay
        self.fleet = fleet
        self._folder = folder
        self._before = 0

    @property
    def shim(self) -> bool:
        """Whether the master has the shim."""
        return isinstance(self.master, ShimMaster)

    @property
    def sent(self) -> int:
        """Bytes that the master has sent since the meeting began."""
        return self.relay.received - self._before

    async def begin(self, package: Package, meeting: str = "m1", *, rate: float = 8e6) -> None:
        """Begin a meeting with `package`, at a master that sends so many bytes per second, and let all nodes look."""
        self.relay.rate = rate
        self._before = self.relay.received
        await self.publish(package, meeting)
        await self.fleet.look()

    async def publish(self, package: Package, meeting: str = "m1") -> None:
        """Give the master a package for a meeting, which is in progress then."""
        target = self._folder / f"{meeting}.zip"
        part = self._folder / f".{meeting}"
        part.write_bytes(package.path.read_bytes())
        part.rename(target)
        if isinstance(self.master, ShimMaster):
            master = self.master
            await eventually(lambda: master.version(meeting) == package.digest, within=20)
        else:
            self.master.start(meeting)

    async def settle(self, *names: str, meeting: str = "m1") -> None:
        """Wait until no node (of all by default) has anything more to ask about a meeting that all have."""
        await self.fleet.until_synced(*names, meeting=meeting)
        if not isinstance(self.master, ShimMaster):
            master = self.master
            await eventually(lambda: master.gate_opened(meeting), within=30)
            await self.fleet.until_held(master.state()["token"], *names, meeting=meeting)

    def stored(self, name: str) -> set[str]:
        """Return the digests of the packages that a node has on its disk."""
        return {digest_of(path.read_bytes()) for path in (self.fleet[name].storage / "packages").glob("**/*.zip")}

    def key(self, package: Package, meeting: str = "m1") -> str:
        """Return the key of the order in which nodes fetch."""
        return package.digest if self.shim else legacy_key(meeting, NO_TOKEN)


@asynccontextmanager
async def room_of(kind: str, spawn: Spawner, fakes: FakeFactory, folder: Path, tmp_path: Path) -> AsyncIterator[Room]:
    master = ShimMaster(spawn, folder) if kind == "shim" else fakes.master(folder)
    async with relaying(master.port) as relay, fleet_at(relay.url, spawn, tmp_path) as fleet:
        yield Room(master, relay, fleet, folder)
