"""Reading a package as one version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from master_shim.errors import PackageReplaced
from master_shim.packages.file import PackageFile
from master_shim.packages.versions import PackageVersions
from tests.support.shim_app import put

if TYPE_CHECKING:
    pass


async def test_an_open_package_is_unaffected_by_a_rename_over_it(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    put(tmp_path, "m.zip", b"a" * 1000)
    version = await PackageVersions().current(path)
    file = PackageFile(version)
    assert file.read(0, 500) == b"a" * 500
    put(tmp_path, "m.zip", b"b" * 1000)
    assert file.read(500, 500) == b"a" * 500
    file.close()
    with pytest.raises(PackageReplaced):
        PackageFile(version)
    path.unlink()
    with pytest.raises(PackageReplaced):
        PackageFile(version)


async def test_overwriting_an_open_package_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    put(tmp_path, "m.zip", b"a" * 1000)
    version = await PackageVersions().current(path)
    file = PackageFile(version)
    stat = path.stat()
    with path.open("r+b") as target:
        target.write(b"b" * 600)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even if the old mtime is restored
    with pytest.raises(PackageReplaced):
        file.read(500, 500)
    file.close()


async def test_truncating_an_open_package_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    put(tmp_path, "m.zip", b"a" * 1000)
    file = PackageFile(await PackageVersions().current(path))
    os.truncate(path, 100)
    with pytest.raises(PackageReplaced):
        file.read(500, 500)
    file.close()
