"""Tablets at nodes that are still fetching from each other, and the start gate of a deployed master."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.fakes.running import RunningMaster
from tests.support.fleet import ordered
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.room import BEGINNING_BYTES
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import Package
    from tests.support.room import Room

FOUR = ("node-0", "node-1", "node-2", "node-3")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of 4 MB that no master has yet."""
    return make_package(tmp_path / "new.zip", make_documents(8, 500_000), level=1)


async def assert_one_copy(room: Room, package: Package) -> None:
    """Check that one node has fetched from the master, and the others from nodes."""
    assert room.sent < 1.5 * package.size + len(FOUR) * BEGINNING_BYTES, room.fleet.logs()
    for name in ordered(room.key(package), FOUR)[1:]:
        assert "master" not in await room.fleet.fetched_from(name), room.fleet.logs()


async def test_tablets_at_all_nodes_from_the_first_second_on_get_whole_packages(room: Room, package: Package):
    got: list[tuple[int, str]] = []

    async def download(name: str) -> None:
        answer = await room.fleet.client.get(room.fleet[name].package_url("m1"))
        got.append((answer.status_code, digest_of(answer.content)))

    await room.fleet.start(*FOUR)
    async with trio.open_nursery() as nursery:
        await room.begin(package, rate=2e6)
        for name in FOUR * 4:
            nursery.start_soon(download, name)
        await room.fleet.until_synced()
        await assert_one_copy(room, package)
    assert got == [(200, package.digest)] * 16


async def test_nodes_do_not_wait_for_the_permits_of_tablets(room: Room, package: Package):
    done: list[str] = []

    async def download(name: str) -> None:
        answer = await room.fleet.client.get(room.fleet[name].package_url("m1"))
        assert (answer.status_code, digest_of(answer.content)) == (200, package.digest), room.fleet.log(name)
        done.append(name)

    await room.fleet.start(*FOUR, max_downloads=1, queue_seconds=20)
    async with trio.open_nursery() as nursery:
        await room.begin(package, rate=2e6)
        for name in FOUR * 2:  # one has the permit until the package is whole, and one waits for it
            nursery.start_soon(download, name)
        await room.fleet.until_synced()
        await assert_one_copy(room, package)
    assert sorted(done) == sorted(FOUR * 2)


@pytest.mark.parametrize("room", ["legacy"], indirect=True)
async def test_the_start_gate_opens_for_all_nodes_with_one_copy(room: Room, package: Package):
    master = room.master
    assert isinstance(master, RunningMaster)
    await room.fleet.start(*FOUR)
    await room.begin(package, rate=4e6)
    await eventually(lambda: master.gate_opened("m1"), within=40)
    sent = room.sent
    for name in FOUR:
        answer = await room.fleet.client.get(room.fleet[name].package_url("m1"))
        assert digest_of(answer.content) == package.digest
    assert not master.state()["meetings"]["m1"]["gate"]["gave_up"]
    assert sent < 1.5 * package.size + len(FOUR) * BEGINNING_BYTES, room.fleet.logs()
    await assert_one_copy(room, package)
