"""Nodes at an unmodified master, which cannot resume a package: those that fetch from it are killed, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from master_shim.protocol import NO_TOKEN
from master_shim.protocol.chain import legacy_key
from tests.support.fleet import fleet_at, ordered
from tests.support.packages import make_documents, make_package
from tests.support.relay import relaying
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.processes import Spawner

NODES = tuple(f"node-{number}" for number in range(5))

BEGINNING_BYTES = 256 << 10
"""What the master sends at most to a node that compares the beginning and then hangs up."""


async def test_the_others_finish_when_one_after_the_other_is_killed(
    spawn: Spawner, fakes: FakeFactory, folder: Path, tmp_path: Path
):
    package = make_package(tmp_path / "new.zip", make_documents(12, 1_000_000), level=0)
    master = fakes.master(folder)
    async with relaying(master.port) as relay, fleet_at(relay.url, spawn, tmp_path) as fleet:
        await fleet.start(*NODES)
        package.path.rename(folder / "m1.zip")
        relay.rate, before = 6e6, relay.received
        master.start("m1")
        await fleet.look()
        first, second, third, *rest = ordered(legacy_key("m1", NO_TOKEN), NODES)
        await eventually(lambda: relay.received - before > 0.3 * package.size, within=30)
        fleet[first].process.kill()
        await eventually(lambda: "master" in fleet.sources(second), within=30)
        at_kill = relay.received - before
        await eventually(lambda: relay.received - before > at_kill + 0.6 * package.size, within=30)
        fleet[second].process.kill()
        await fleet.until_whole(package.digest, third, *rest)
        # What the killed nodes had read, and one whole package: never two nodes read it at the same time.
        sent = relay.received - before
        assert package.size < sent < 2.2 * package.size + 8 * BEGINNING_BYTES, fleet.logs()
        assert fleet.sources(third) == [second, first, "master"] or fleet.sources(third) == [second, "master"]
        for name in rest:
            assert "master" not in fleet.sources(name), fleet.logs()
