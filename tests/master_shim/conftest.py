"""Fixtures for tests of `master-shim serve` as a process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.shim_process import ServedShim, serve_shim

if TYPE_CHECKING:
    from tests.support.processes import Spawner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.zip").write_bytes(b"not in the folder")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "m.zip").write_bytes(random.Random(5).randbytes(400_000))
    return tmp_path / "packages"


@pytest.fixture
def served(spawn: Spawner, folder: Path) -> ServedShim:
    return serve_shim(spawn, folder)
