"""What many nodes ask their master for when a package is replaced, and after they were restarted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.packages import make_documents, make_package, rebuild
from tests.support.room import BEGINNING_BYTES
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import Package
    from tests.support.room import Room

FOUR = ("node-0", "node-1", "node-2", "node-3")
TWO = FOUR[:2]

CHECKS = ("POST /api/v1/nodes/", "GET /api/v1/meetings/status/", "GET /api/v1/meetings/m1/manifest")
"""The beginnings of the requests by which a node reports, polls and asks for the digest of a version."""


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of 4 MB that no master has yet."""
    return make_package(tmp_path / "new.zip", make_documents(8, 500_000), level=1)


async def test_all_end_on_the_version_that_replaces_another_while_it_is_on_its_way(
    room: Room, package: Package, tmp_path: Path
):
    new = rebuild(package, made_at=package.made_at + timedelta(hours=1), replaced=range(8), path=tmp_path / "newer.zip")
    await room.fleet.start(*FOUR)
    await room.begin(package, rate=2e6)
    await eventually(lambda: room.sent > package.size / 3, within=30)
    await room.publish(new)
    await room.fleet.look()
    await room.fleet.until_whole(new.digest)
    # A deployed master keeps its token until all nodes are synced: what a node has under it may be the old package,
    # which is of no use to one that begins later, and when the token changes all of them look again.
    copies = 1.5 if room.shim else 2.5
    assert room.sent < copies * (package.size + new.size), room.fleet.logs()
    await room.settle()
    await room.fleet.until_whole(new.digest)


async def test_with_the_same_token_the_master_is_only_asked_whether_anything_has_changed(room: Room, package: Package):
    await room.fleet.start(*TWO)
    await room.begin(package)
    await room.settle()
    for name in TWO:
        assert room.fleet[name].process.stop() == 0
    room.relay.requests.clear()
    room.fleet.run(*TWO)
    await room.fleet.until(lambda name: "now=current" in room.fleet.log(name))
    await room.fleet.until_whole(package.digest)
    assert [request for request in room.relay.requests if not request.startswith(CHECKS)] == []


async def test_under_another_token_a_package_is_checked_for_certain_at_another_node(
    room: Room, package: Package, tmp_path: Path
):
    here, away = TWO
    await room.fleet.start(*TWO)
    await room.begin(package)
    await room.settle()
    assert room.fleet[away].process.stop() == 0
    # Its time of generation is the same, and so is its beginning: only the whole shows that it is another one.
    documents = [*package.documents[:4], *(replace(each, seed=f"{each.seed}'") for each in package.documents[4:])]
    new = make_package(tmp_path / "newer.zip", documents, level=1)
    await room.publish(new)
    await room.fleet.until_whole(new.digest, here)
    await room.settle(here)
    before = room.relay.received
    room.fleet.run(away)
    await room.fleet.until(lambda name: "now=current" in room.fleet.log(name), away)
    await room.fleet.until_whole(new.digest, away)
    assert room.relay.received - before < 2 * BEGINNING_BYTES, room.fleet.logs()
    assert room.fleet.sources(away) == [here]
