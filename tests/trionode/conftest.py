"""Fixtures for tests of the node as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.nodes import OurNode, Start, run_node
from tests.support.packages import make_documents, make_package
from tests.support.room import room_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.support.room import Room

    StartNode = Callable[..., OurNode]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The master's folder of packages."""
    made = tmp_path / "packages"
    made.mkdir()
    return made


@pytest.fixture
def package(folder: Path) -> Package:
    """The package of the meeting m1: a few documents, about 1.2 MB."""
    return make_package(folder / "m1.zip", make_documents(6, 200_000), level=1)


@pytest.fixture
def start_node(spawn: Spawner, tmp_path: Path) -> StartNode:
    """Return a function that starts a node; each call without a `storage` gets a folder of its own."""
    count = iter(range(1000))

    def start(master_url: str, *, how: Start = "serve", storage: Path | None = None, **settings: object) -> OurNode:
        return run_node(spawn, master_url, storage or tmp_path / f"storage-{next(count)}", start=how, **settings)

    return start


@pytest.fixture(params=["shim", "legacy"])
async def room(
    request: pytest.FixtureRequest, spawn: Spawner, fakes: FakeFactory, folder: Path, tmp_path: Path
) -> AsyncIterator[Room]:
    """A master with the shim, then one without, behind a relay, with no nodes yet."""
    async with room_of(request.param, spawn, fakes, folder, tmp_path) as made:
        yield made
