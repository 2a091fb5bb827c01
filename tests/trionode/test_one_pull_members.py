"""Which nodes fetch from which: late ones, those that do not take part, other starts and certificates, wrong lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from master_shim.protocol.chain import precedes
from tests.support.certificates import Certificate
from tests.support.fleet import ordered
from tests.support.packages import make_documents, make_package
from tests.support.room import BEGINNING_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import Start
    from tests.support.packages import Package
    from tests.support.room import Room

THREE = ("node-0", "node-1", "node-2")
STARTS: dict[str, tuple[Start, str]] = {
    "serve": ("serve", "http"),
    "serve-tls": ("serve", "https"),
    "asyncio": ("hypercorn", "http"),
    "asyncio-tls": ("hypercorn", "https"),
    "trio-tls": ("hypercorn-trio", "https"),
}
"""How nodes are started and reached, by their ids."""


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of 4 MB that no master has yet."""
    return make_package(tmp_path / "new.zip", make_documents(8, 500_000), level=1)


async def test_a_late_node_fetches_from_nodes_that_have_the_package(room: Room, package: Package):
    late, *early = ordered(room.key(package), THREE)
    await room.fleet.start(*early)
    await room.begin(package)
    await room.settle()
    before = room.relay.received
    await room.fleet.start(late)
    await room.fleet.until_whole(package.digest, late)
    assert room.relay.received - before < 2 * BEGINNING_BYTES, room.fleet.logs()
    assert {*room.fleet.sources(late)} <= {*early}
    assert room.fleet.sources(late) != []


async def test_a_node_with_peers_off_neither_fetches_from_others_nor_sends_to_them(room: Room, package: Package):
    first, apart, last = ordered(room.key(package), THREE)
    await room.fleet.start(first, last)
    await room.fleet.start(apart, peers="off")
    await room.begin(package)
    await room.fleet.until_whole(package.digest)
    assert (await room.fleet.fetched_from(apart)).keys() == {"master"}
    assert (await room.fleet.fetched_from(last)).keys() == {first}, room.fleet.logs()
    assert 1.9 * package.size < room.sent < 2.5 * package.size


async def test_two_meetings_at_once_are_fetched_in_different_orders(room: Room, tmp_path: Path):
    packages: dict[str, Package] = {}
    for number in range(20):
        package = make_package(tmp_path / f"{number}.zip", make_documents(4, 500_000, seed=str(number)), level=1)
        orders = {tuple(ordered(room.key(each, meeting), THREE)[:1]) for meeting, each in packages.items()}
        if tuple(ordered(room.key(package, f"m{number}"), THREE)[:1]) not in orders:
            packages[f"m{number}"] = package
        if len(packages) == 2:
            break
    (one, two) = packages
    await room.fleet.start(*THREE)
    await room.begin(packages[one], one, rate=2e6)
    await room.publish(packages[two], two)
    await room.fleet.look()
    for meeting, package in packages.items():
        await room.fleet.until_whole(package.digest, meeting=meeting)
        first, *others = ordered(room.key(package, meeting), THREE)
        assert (await room.fleet.fetched_from(first, meeting)).keys() == {"master"}, room.fleet.logs()
        for name in others:
            assert "master" not in await room.fleet.fetched_from(name, meeting), room.fleet.logs()


async def test_nodes_of_every_start_with_and_without_certificates_are_one_chain(
    room: Room, package: Package, tmp_path: Path
):
    certificate = Certificate(tmp_path)
    names = [name for name, (_, scheme) in STARTS.items() if room.shim or scheme == "http"]
    for name in names:
        start, scheme = STARTS[name]
        tls: dict[str, Any] = {"certfile": certificate.cert, "keyfile": certificate.key} if scheme == "https" else {}
        room.fleet.run(name, start=start, ca_file=certificate.ca, **tls)
    await room.fleet.until_registered()
    await room.begin(package)
    await room.fleet.until_whole(package.digest)
    first, *others = ordered(room.key(package), names)
    assert (await room.fleet.fetched_from(first)).keys() == {"master"}
    for name in others:
        assert "master" not in await room.fleet.fetched_from(name), room.fleet.logs()
    assert room.sent < 1.5 * package.size + len(others) * BEGINNING_BYTES


async def test_a_list_with_own_addresses_under_other_ids_and_one_id_twice_makes_no_circle(
    room: Room, package: Package, tmp_path: Path
):
    first, last = ordered(room.key(package), THREE[:2])
    await room.fleet.start(first, last)
    room.fleet.run("twin", env={"NODE_ID": last})
    await room.fleet.until(lambda name: "connected to the master" in room.fleet.log(name), "twin")
    ghosts = (name for number in range(1000) if precedes(room.key(package), name := f"ghost-{number}", first))
    for name in (first, last, "twin"):
        # Before all others in the order: each node believes that it can wait for this one, which is itself.
        address = f"127.0.0.1:{room.fleet[name].port}"
        body = {"node_id": next(ghosts), "address": address, "status": "online", "protocol": 1, "packages": {}}
        await room.fleet.client.post(f"{room.relay.url}/api/v1/nodes/register", json=body)
        await room.fleet.client.post(
            f"{room.relay.url}/api/v1/nodes/heartbeat", json={**body, "active_meetings": [], "synced_meetings": []}
        )
    await room.begin(package)
    await room.fleet.until_whole(package.digest)
