"""Fixtures for all tests: real processes, the fakes, packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.running import FakeFactory
from tests.support.processes import Spawner, spawner

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def spawn() -> Iterator[Spawner]:
    """Starts processes, which end with the test: `spawn("curl", ...)`, `spawn.python("-m", "trionode", ...)`."""
    with spawner() as made:
        yield made


@pytest.fixture
def fakes(spawn: Spawner) -> Iterator[FakeFactory]:
    """Starts deployed masters and nodes as processes: `fakes.master(folder, ...)`, `fakes.node(url, ...)`."""
    with FakeFactory(spawn) as factory:
        yield factory
