"""Fixtures for tests of `master-shim serve` as a process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from master_shim.packages import file
from tests.support.packages import make_documents, make_package
from tests.support.shim_process import ServedShim, serve_shim

if TYPE_CHECKING:
    from tests.support.processes import Spawner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.zip").write_bytes(b"not in the folder")
    (tmp_path / "packages").mkdir()
    make_package(tmp_path / "packages" / "m.zip", make_documents(2, 200_000))
    return tmp_path / "packages"


@pytest.fixture
def served(spawn: Spawner, folder: Path) -> ServedShim:
    return serve_shim(spawn, folder)


@pytest.fixture(autouse=True)
def any_bytes_are_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept short bytes as packages in this process. Tests of what is a package override this."""
    monkeypatch.setattr(file, "check_fd", lambda fd, size, *, unpack: None)
